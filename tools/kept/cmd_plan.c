/* cmd_plan.c: kept plan: every byte, before anything is loaded. */
#include <stdio.h>

#include "commands.h"
#include "engine.h"
#include "json_out.h"
#include "plan_out.h"
#include "profile.h"

static kept_status make(struct cli_engine *engine, const struct cli_settings *settings,
                        struct kept_error *err)
{
    kept_status status = cli_engine_model(engine, settings, err);
    if (status != KEPT_OK)
        return status;
    status = settings->profile
                 ? cli_profile_read(settings->profile, settings->device, &engine->profile, err)
                 : cli_engine_device(engine, err);
    return status == KEPT_OK ? cli_engine_plan(engine, settings->context, 0, err) : status;
}

enum cli_exit cli_plan(const struct cli_settings *settings)
{
    struct cli_engine engine = {.settings = settings};
    struct kept_error err = {0};
    enum cli_exit code = CLI_OK;
    kept_status status = make(&engine, settings, &err);
    if (!engine.plan) { /* a plan that does not fit is shown, too */
        return cli_engine_fail(&engine, &err);
    }
    const char *path = kept_model_info(engine.model)->path;
    if (settings->json)
        cli_json_print(cli_plan_json(engine.plan), true);
    else
        cli_plan_print(stdout, engine.plan, path, settings->regions);
    if (status != KEPT_OK)
        code = CLI_NO_ROOM;
    if (settings->svg && cli_plan_svg(engine.plan, path, settings->svg, &err) != KEPT_OK) {
        fprintf(stderr, "kept: %s\n", err.message);
        code = CLI_FAILED;
    }
    cli_engine_finish(&engine);
    return code;
}
