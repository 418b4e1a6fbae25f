/* sidecar_out.h: a sidecar for people and as JSON. */
#ifndef KEPT_TOOL_SIDECAR_OUT_H
#define KEPT_TOOL_SIDECAR_OUT_H

#include <jansson.h>

#include "kept/memory.h"

json_t *cli_sidecar_json(const char *path, const kept_sidecar *sidecar);
void cli_sidecar_print(const char *path, const kept_sidecar *sidecar);

/* One report, with the names of `kept eval`. */
json_t *cli_report_json(const struct kept_sidecar_report_info *report);
void cli_report_heading(void);
void cli_report_print(const struct kept_sidecar_report_info *report);

#endif
