/* terminal.h: what people see while they wait, Ctrl-C, and numbers with units. */
#ifndef KEPT_TOOL_TERMINAL_H
#define KEPT_TOOL_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

#include "kept/log.h"
#include "kept/session.h"

#include "settings.h"

/* Ctrl-C: the first asks the session (NULL: none yet) to stop, a second one while the first is
 * pending ends the process. */
void cli_interrupt_install(void);
void cli_interrupt_session(kept_session *session);
bool cli_interrupted(void);
void cli_interrupt_clear(void);
/* Waits until standard input can be read; false after Ctrl-C. */
bool cli_wait_input(void);

/* Progress on standard error, only where it is a terminal and not --quiet. cli_progress is a
 * kept_progress_fn; its user is the settings. Returns false after Ctrl-C. */
bool cli_progress(void *settings, const char *what, uint64_t done, uint64_t total);
void cli_progress_end(void);

/* A note on standard error, where a person reads it: never where that is no terminal, nor with
 * --quiet or --json. */
void cli_note(const struct cli_settings *settings, const char *fmt, ...) KEPT_PRINTF(2, 3);

/* "kept: warning: …" on standard error, unless --quiet: what goes on, but not as was asked. */
void cli_warn(const struct cli_settings *settings, const char *fmt, ...) KEPT_PRINTF(2, 3);

/* The library's messages on standard error, at the level asked for. */
struct kept_log cli_log(const struct cli_settings *settings);

/* "285.3 MiB"; `to` has room for 32 bytes and is returned. */
const char *cli_bytes(char to[32], uint64_t bytes);

uint64_t cli_now_ns(void);

#endif
