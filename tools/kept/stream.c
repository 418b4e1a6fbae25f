/* stream.c: evaluates a stream in steps, so that each can be timed.
 *
 * A step is a multiple of every block of retention: cutting there changes nothing. Tokens that are
 * evaluated alone take the same way as in generation; their logits are fetched outside the time.
 */
#include "stream.h"

#include <stdlib.h>

#include "fail.h"
#include "terminal.h"

#define STEP 1024u

kept_status cli_stream_choose(struct cli_stream *stream, const struct cli_tokens *tokens,
                              uint32_t context, struct kept_error *err)
{
    const struct cli_settings *settings = stream->engine->settings;
    uint64_t from = settings->from.given ? settings->from.value : context / 2;
    uint32_t n = tokens->n < context ? (uint32_t)tokens->n : context;
    if (n < 2 || from > n - 2)
        return cli_fail(err, KEPT_E_PROMPT,
                        "a stream of %u tokens leaves nothing to score from position %llu", n,
                        (unsigned long long)from);
    stream->tokens = tokens->ids;
    stream->n = n;
    stream->from = (uint32_t)from;
    stream->n_single = settings->n_single < n - 1 ? settings->n_single : n - 1;
    return KEPT_OK;
}

static bool progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    const struct cli_stream *stream = user;
    (void)what;
    (void)done;
    (void)total;
    return cli_progress((void *)stream->engine->settings, stream->what, stream->done,
                        stream->n - 1);
}

static kept_status run_step(struct cli_stream *stream, uint32_t n, struct kept_error *err)
{
    bool scored = stream->done + n > stream->from;
    struct kept_eval_params params = {
        .tokens = stream->tokens + stream->done,
        .n_tokens = n,
        .on_logits = scored ? stream->on_logits : NULL,
        .logits_from = stream->from > stream->done ? stream->from - stream->done : 0,
        .logits_user = stream->user,
        .progress = progress,
        .progress_user = stream};
    uint64_t begin_ns = cli_now_ns();
    kept_status status = kept_session_eval(stream->engine->session, &params, err);
    if (status == KEPT_OK && n == STEP)
        json_array_append_new(stream->steps, json_real((double)(cli_now_ns() - begin_ns) / 1e9));
    return status;
}

static kept_status run_single(struct cli_stream *stream, struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = stream->tokens + stream->done, .n_tokens = 1};
    const float *logits = NULL;
    uint64_t begin_ns = cli_now_ns();
    kept_status status = kept_session_eval(stream->engine->session, &params, err);
    stream->singles[stream->n_singles++] = (double)(cli_now_ns() - begin_ns) / 1e9;
    progress(stream, NULL, 0, 0);
    if (status != KEPT_OK || stream->done < stream->from)
        return status;
    status = kept_session_logits(stream->engine->session, &logits, err);
    if (status == KEPT_OK)
        stream->on_logits(stream->user, stream->done, 1, logits);
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

kept_status cli_stream_run(struct cli_stream *stream, struct kept_error *err)
{
    uint32_t end = stream->n - 1, together = end - stream->n_single;
    stream->steps = json_array();
    stream->singles = calloc(stream->n_single + 1, sizeof *stream->singles);
    stream->done = stream->n_singles = 0;
    if (!stream->steps || !stream->singles)
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for the times of a stream");
    kept_status status = kept_session_rewind(stream->engine->session, 0, err);
    while (stream->done < end && status == KEPT_OK) {
        uint32_t left = stream->done < together ? together - stream->done : 1;
        uint32_t n = stream->done >= together ? 1 : left < STEP ? left : STEP;
        status = stream->done >= together ? run_single(stream, err) : run_step(stream, n, err);
        stream->done += status == KEPT_OK ? n : 0;
        if (status == KEPT_OK && cli_interrupted())
            status = cli_fail(err, KEPT_E_CANCELLED, "cancelled after %u tokens", stream->done);
    }
    qsort(stream->singles, stream->n_singles, sizeof *stream->singles, ascending);
    cli_progress_end();
    return status;
}

json_t *cli_stream_json(const struct cli_stream *stream)
{
    double sum = 0;
    uint32_t n = stream->n_singles;
    for (uint32_t i = 0; i < n; i++)
        sum += stream->singles[i];
    return json_pack("{s:I, s:O, s:I, s:f, s:f}", "step_tokens", (json_int_t)STEP, "step_s",
                     stream->steps, "single_tokens", (json_int_t)n, "single_mean_s",
                     n ? sum / n : 0.0, "single_p99_s",
                     n ? stream->singles[(uint32_t)(0.99 * (n - 1))] : 0.0);
}

void cli_stream_finish(struct cli_stream *stream)
{
    json_decref(stream->steps);
    free(stream->singles);
    stream->steps = NULL;
    stream->singles = NULL;
}
