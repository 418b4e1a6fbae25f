/* json_out.h: small additions to jansson. */
#ifndef KEPT_TOOL_JSON_OUT_H
#define KEPT_TOOL_JSON_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* A string of any bytes: what is not UTF-8 becomes U+FFFD. n SIZE_MAX: up to the NUL. */
json_t *cli_json_text(const char *bytes, size_t n);

/* One object on standard output (readable: over several lines), and releases it. */
void cli_json_print(json_t *object, bool readable);

/* Copies text to `to` with U+FFFD for what is not UTF-8; returns the bytes written, at most 3
 * n. true in *exact: nothing changed. */
size_t cli_utf8_clean(const char *bytes, size_t n, char *to, bool *exact);

#endif
