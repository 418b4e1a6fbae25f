/* base/env.h: the one place that reads environment variables; docs/env.md lists every name. */
#ifndef KEPT_BASE_ENV_H
#define KEPT_BASE_ENV_H

const char *kept_env(const char *name); /* NULL when unset or empty */

#endif
