/* backend/wrap.h: what the wrappers share (backend.c, record.c); private to the folder. */
#ifndef KEPT_BACKEND_WRAP_H
#define KEPT_BACKEND_WRAP_H

#include "backend/backend.h"

/* Logs a failure, remembers a lost device, passes the status on. A timeout is neither. */
kept_status wrap_result(struct kept_device *device, kept_status status,
                        const struct kept_error *err);
/* KEPT_E_DEVICE_LOST for a lost device. */
kept_status wrap_usable(const struct kept_device *device, struct kept_error *err);
/* The same, and KEPT_E_STATE for a sealed one; `what` is "a buffer", …. */
kept_status wrap_can_create(const struct kept_device *device, const char *what,
                            struct kept_error *err);

#endif
