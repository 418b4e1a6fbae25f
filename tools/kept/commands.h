/* commands.h: the subcommands. Each gets its settings and returns the program's exit code. */
#ifndef KEPT_TOOL_COMMANDS_H
#define KEPT_TOOL_COMMANDS_H

#include "fail.h"
#include "settings.h"

enum cli_exit cli_run(const struct cli_settings *settings);
enum cli_exit cli_chat(const struct cli_settings *settings);
enum cli_exit cli_plan(const struct cli_settings *settings);
enum cli_exit cli_devices(const struct cli_settings *settings);
enum cli_exit cli_inspect(const struct cli_settings *settings);
enum cli_exit cli_tokenize(const struct cli_settings *settings);
enum cli_exit cli_eval(const struct cli_settings *settings);
enum cli_exit cli_fit(const struct cli_settings *settings);
enum cli_exit cli_facts(const struct cli_settings *settings);
enum cli_exit cli_selftest(const struct cli_settings *settings);

#endif
