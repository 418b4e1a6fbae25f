/* session_io.c: loads and saves what a session holds. */
#include "session_io.h"

#include <unistd.h>

#include "fail.h"

bool cli_session_exists(const struct cli_settings *settings)
{
    return settings->session && access(settings->session, F_OK) == 0;
}

kept_status cli_session_load(struct cli_engine *engine, const char *path, struct cli_tokens *tokens,
                             struct kept_error *err)
{
    kept_status status = kept_session_load(engine->session, path, err);
    tokens->n = 0;
    if (status == KEPT_OK && !cli_tokens_add(tokens, kept_session_tokens(engine->session),
                                             kept_session_position(engine->session)))
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for the tokens of '%.300s'", path);
    return status;
}

kept_status cli_session_save(struct cli_engine *engine, const char *path,
                             const struct cli_tokens *tokens, struct kept_error *err)
{
    uint32_t position = kept_session_position(engine->session);
    uint32_t context = kept_plan_info(engine->plan)->context_tokens;
    kept_status status = KEPT_OK;
    if (tokens->n == position + 1 && position < context) {
        struct kept_eval_params params = {.tokens = tokens->ids + position, .n_tokens = 1};
        status = kept_session_eval(engine->session, &params, err);
    }
    return status == KEPT_OK ? kept_session_save(engine->session, path, err) : status;
}
