/* profile.h: devices as JSON, and profiles read back from it. */
#ifndef KEPT_TOOL_PROFILE_H
#define KEPT_TOOL_PROFILE_H

#include <jansson.h>

#include "kept/device.h"

/* One entry of "devices". */
json_t *cli_device_json(const struct kept_device_info *info);

/* Reads what `kept devices --json` wrote, or one entry of it: the device with this id; NULL or
 * "auto": the first usable one of the best type. KEPT_E_IO, KEPT_E_FORMAT (with the line, or
 * the field), KEPT_E_NO_DEVICE (the ids there are). */
kept_status cli_profile_read(const char *path, const char *id, struct kept_profile *out,
                             struct kept_error *err);

#endif
