/* cmd_run.c: kept run: one answer. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "conversation.h"
#include "generate.h"
#include "json_out.h"
#include "memory_out.h"
#include "session_io.h"
#include "terminal.h"

struct job {
    struct cli_engine engine;
    struct cli_buffer prompt;
    struct cli_tokens tokens;
    struct cli_answer answer;
    kept_sampler *sampler;
};

/* Everything that can be wrong before a driver is started. */
static kept_status prepare(struct job *job, const struct cli_settings *settings,
                           struct kept_error *err)
{
    kept_status status = cli_engine_model(&job->engine, settings, err);
    if (status == KEPT_OK)
        status = cli_sampler(&job->engine, &job->sampler, &job->answer.seed, err);
    if (status == KEPT_OK)
        status = cli_read_prompt(settings, &job->prompt, err);
    if (status != KEPT_OK || cli_session_exists(settings))
        return status; /* the session says whether this is the first turn */
    return cli_add_turn(&job->engine, settings->system, &job->prompt, &job->tokens, err);
}

static kept_status go_on(struct job *job, size_t *n_before, struct kept_error *err)
{
    const struct cli_settings *settings = job->engine.settings;
    *n_before = 0;
    if (!cli_session_exists(settings))
        return KEPT_OK;
    kept_status status = cli_session_load(&job->engine, settings->session, &job->tokens, err);
    *n_before = job->tokens.n;
    if (status == KEPT_OK)
        status = cli_add_turn(&job->engine, *n_before ? NULL : settings->system, &job->prompt,
                              &job->tokens, err);
    return status;
}

static kept_status answer(struct job *job, struct kept_error *err)
{
    size_t n_before;
    kept_status status = cli_engine_start(&job->engine, job->engine.settings->context, 0, err);
    if (status == KEPT_OK)
        status = go_on(job, &n_before, err);
    if (status == KEPT_OK)
        status = cli_check_room(&job->engine, n_before, job->tokens.n, err);
    job->answer.query = job->prompt.bytes;
    if (status == KEPT_OK)
        status = cli_generate(&job->engine, &job->tokens, job->sampler, &job->answer, err);
    if (status == KEPT_OK && job->engine.settings->memory_svg)
        status = cli_memory_svg(&job->engine, job->engine.settings->memory_svg, err);
    if (status == KEPT_OK && job->engine.settings->session)
        status = cli_session_save(&job->engine, job->engine.settings->session, &job->tokens, err);
    return status;
}

static void say(const struct job *job)
{
    if (job->engine.settings->json) {
        cli_json_print(cli_answer_json(&job->engine, &job->answer), false);
        return;
    }
    if (job->answer.text.n == 0 || job->answer.text.bytes[job->answer.text.n - 1] != '\n')
        putchar('\n');
    fflush(stdout);
    cli_answer_note(&job->engine, &job->answer);
}

enum cli_exit cli_run(const struct cli_settings *settings)
{
    struct job job = {0};
    struct kept_error err = {0};
    enum cli_exit code = CLI_OK;
    kept_status status = prepare(&job, settings, &err);
    if (status == KEPT_OK)
        status = answer(&job, &err);
    if (job.answer.finish)
        say(&job);
    if (status == KEPT_OK && strcmp(job.answer.finish, "cancelled") == 0)
        code = CLI_CANCELLED;
    if (status != KEPT_OK)
        code = cli_engine_fail(&job.engine, &err);
    kept_sampler_destroy(&job.sampler);
    cli_answer_finish(&job.answer);
    cli_tokens_finish(&job.tokens);
    cli_buffer_finish(&job.prompt);
    cli_engine_finish(&job.engine);
    return code;
}
