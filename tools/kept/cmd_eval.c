/* cmd_eval.c: kept eval: perplexity as llama-perplexity measures it, raw logits for developers,
 * and the way to the other measurements.
 *
 * The text is cut into chunks of --context tokens. Each is evaluated from an empty context,
 * its first token replaced by BOS where the model adds one, and the tokens after its middle
 * are scored: positions context/2 … context-2 predict the next one. The last token predicts
 * nothing that is scored, so it is not evaluated.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "engine.h"
#include "eval_facts.h"
#include "eval_kl.h"
#include "eval_needle.h"
#include "eval_score.h"
#include "eval_sweep.h"
#include "eval_text.h"
#include "json_out.h"
#include "meter.h"
#include "past.h"
#include "stream.h"
#include "terminal.h"

#define DEFAULT_CONTEXT 512u
#define DEFAULT_LOGITS  512u
#define STREAM_STEP     512u /* tokens between entries of the running list of a stream */

struct job {
    struct cli_engine engine;
    struct cli_tokens tokens;
    struct cli_stream stream;
    struct kept_slot_counts slots;
    struct cli_score score;
    const int32_t *chunk; /* tokens under evaluation: position p is chunk[p] */
    uint32_t n_vocab, chunk_done, n_chunks;
    json_t *running;
    bool in_stream;
    FILE *out;
    bool write_failed;
};

static void score_rows(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct job *job = user;
    for (uint32_t i = 0; i < n_rows; i++) {
        cli_score_add(&job->score, cli_nll(logits + (size_t)i * job->n_vocab, job->n_vocab,
                                           job->chunk[first + i + 1]));
        if (job->in_stream && job->score.n % STREAM_STEP == 0)
            json_array_append_new(job->running, json_real(cli_perplexity(&job->score)));
    }
}

static void write_rows(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct job *job = user;
    size_t n = (size_t)n_rows * job->n_vocab;
    (void)first;
    if (!job->write_failed)
        job->write_failed = fwrite(logits, sizeof *logits, n, job->out) != n;
}

/* Progress over all chunks. */
static bool progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct job *job = user;
    (void)what;
    return cli_progress((void *)job->engine.settings, "evaluating", job->chunk_done * total + done,
                        job->n_chunks * total);
}

static kept_status eval(struct job *job, uint32_t n_tokens, uint32_t from, kept_logits_fn on_logits,
                        struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = job->chunk,
                                      .n_tokens = n_tokens,
                                      .on_logits = on_logits,
                                      .logits_from = from,
                                      .logits_user = job,
                                      .progress = progress,
                                      .progress_user = job};
    kept_status status = kept_session_rewind(job->engine.session, 0, err);
    return status == KEPT_OK ? kept_session_eval(job->engine.session, &params, err) : status;
}

static void note_chunk(const struct job *job)
{
    cli_note(job->engine.settings, "[%u] %.4f", job->chunk_done, cli_perplexity(&job->score));
}

static kept_status score_chunks(struct job *job, uint32_t context, struct kept_error *err)
{
    const struct cli_settings *settings = job->engine.settings;
    size_t n = job->tokens.n / context;
    if (n == 0)
        return cli_fail(err, KEPT_E_PROMPT, "the text has %zu tokens, one chunk needs %u",
                        job->tokens.n, context);
    if (context < 4)
        return cli_fail(err, KEPT_E_ARGUMENT, "chunks of %u tokens are too short to score",
                        context);
    job->n_chunks = settings->n_chunks && settings->n_chunks < n ? settings->n_chunks : (uint32_t)n;
    kept_status status = KEPT_OK;
    for (job->chunk_done = 0; job->chunk_done < job->n_chunks && status == KEPT_OK;) {
        int32_t *chunk = job->tokens.ids + (size_t)job->chunk_done * context;
        if (kept_tokenizer_adds_bos(job->engine.tokenizer))
            chunk[0] = kept_tokenizer_bos(job->engine.tokenizer);
        job->chunk = chunk;
        status = eval(job, context - 1, context / 2, score_rows, err);
        if (status != KEPT_OK)
            break;
        json_array_append_new(job->running, json_real(cli_perplexity(&job->score)));
        job->chunk_done++;
        note_chunk(job);
    }
    return status;
}

static kept_status score_stream(struct job *job, struct kept_error *err)
{
    job->chunk = job->stream.tokens;
    job->n_chunks = 1;
    job->in_stream = true;
    job->stream.on_logits = score_rows;
    job->stream.user = job;
    job->stream.what = "evaluating";
    return cli_stream_run(&job->stream, err);
}

static json_t *perplexity_json(const struct job *job, double tps)
{
    const struct kept_plan_info *plan = kept_plan_info(job->engine.plan);
    struct kept_session_stats stats;
    kept_session_stats(job->engine.session, &stats);
    json_t *object = json_pack(
        "{s:o, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:O}", "model",
        cli_json_text(kept_model_info(job->engine.model)->path, SIZE_MAX), "device",
        job->engine.profile.id, "tokens", (json_int_t)job->score.n, "chunks",
        (json_int_t)job->n_chunks, "perplexity", cli_perplexity(&job->score), "standard_error",
        cli_standard_error(&job->score), "nll", cli_score_mean(&job->score), "tokens_per_second",
        tps, "planned_bytes", (json_int_t)stats.planned_bytes, "actual_bytes",
        (json_int_t)stats.actual_bytes, "running", job->running);
    json_t *past = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "kv_bytes", (json_int_t)plan->kv_bytes,
        "scorer_bytes", (json_int_t)plan->scorer_bytes, "kv_slots_live",
        (json_int_t)cli_slots_per_head(&job->engine, &job->slots), "evicted",
        (json_int_t)job->slots.evicted, "merged", (json_int_t)job->slots.merged, "consolidated",
        (json_int_t)job->slots.consolidated, "setting", cli_past_json(&job->engine));
    json_t *times = job->in_stream ? cli_stream_json(&job->stream) : NULL;
    if (object && past)
        json_object_update(object, past);
    if (object && times)
        json_object_update(object, times);
    json_decref(past);
    json_decref(times);
    return object;
}

static void say_perplexity(const struct job *job)
{
    const struct cli_settings *settings = job->engine.settings;
    struct kept_session_stats stats;
    kept_session_stats(job->engine.session, &stats);
    double seconds = (double)(stats.prefill_ns + stats.decode_ns) / 1e9;
    double tps = (double)(stats.prefill_tokens + stats.decode_tokens) / (seconds > 0 ? seconds : 1);
    cli_progress_end();
    if (settings->json) {
        cli_json_print(perplexity_json(job, tps), false);
        return;
    }
    printf("perplexity %.4f +/- %.4f over %llu tokens (nll %.5f)\n", cli_perplexity(&job->score),
           cli_standard_error(&job->score), (unsigned long long)job->score.n,
           cli_score_mean(&job->score));
    cli_note(settings, "[%s: %.1f tokens/s, logits included]", job->engine.profile.id, tps);
}

static kept_status run_perplexity(struct job *job, struct kept_error *err)
{
    const struct cli_settings *settings = job->engine.settings;
    uint32_t context = settings->context ? settings->context : DEFAULT_CONTEXT;
    kept_status status = cli_eval_tokens(&job->engine, &job->tokens, err);
    job->stream.engine = &job->engine;
    if (status == KEPT_OK && settings->stream)
        status = cli_stream_choose(&job->stream, &job->tokens, context, err);
    if (status == KEPT_OK)
        status = cli_engine_start(&job->engine, context, CLI_LOGITS_ROWS, err);
    if (status == KEPT_OK)
        status = settings->stream ? score_stream(job, err) : score_chunks(job, context, err);
    if (status == KEPT_OK)
        status = kept_session_slots(job->engine.session, &job->slots, err);
    if (status == KEPT_OK)
        say_perplexity(job);
    return status;
}

static kept_status write_logits(struct job *job, uint32_t n, struct kept_error *err)
{
    const char *path = job->engine.settings->out;
    job->out = fopen(path, "wb");
    if (!job->out)
        return cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", path, strerror(errno));
    job->chunk = job->tokens.ids;
    job->n_chunks = 1;
    kept_status status = eval(job, n, 0, write_rows, err);
    if ((fclose(job->out) != 0 || job->write_failed) && status == KEPT_OK)
        status = cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", path, strerror(errno));
    return status;
}

static kept_status run_logits(struct job *job, struct kept_error *err)
{
    const struct cli_settings *settings = job->engine.settings;
    kept_status status = cli_eval_tokens(&job->engine, &job->tokens, err);
    if (status == KEPT_OK && !settings->out)
        status = cli_fail(err, KEPT_E_ARGUMENT, "eval logits needs --out FILE");
    if (status != KEPT_OK)
        return status;
    size_t most = settings->n_tokens ? settings->n_tokens
                  : settings->ids    ? job->tokens.n
                                     : DEFAULT_LOGITS;
    size_t n = job->tokens.n < most ? job->tokens.n : most;
    uint32_t context = settings->context ? settings->context : (uint32_t)n;
    if (n == 0 || n > context)
        return cli_fail(err, KEPT_E_PROMPT, "%zu tokens do not fit a context of %u", n, context);
    status = cli_engine_start(&job->engine, context, CLI_LOGITS_ROWS, err);
    if (status == KEPT_OK)
        status = write_logits(job, (uint32_t)n, err);
    if (status == KEPT_OK && settings->json)
        cli_json_print(json_pack("{s:I, s:I, s:s}", "tokens", (json_int_t)n, "vocabulary",
                                 (json_int_t)job->n_vocab, "device", job->engine.profile.id),
                       false);
    return status;
}

static kept_status run(struct job *job, const char *what, struct kept_error *err)
{
    static const char *const names[] = {"ppl", "kl", "copy", "needle", "facts", "logits", NULL};
    const struct cli_settings *settings = job->engine.settings;
    bool kl = strcmp(what, "kl") == 0, copy = strcmp(what, "copy") == 0;
    bool facts = strcmp(what, "facts") == 0;
    const char *const *name = names;
    while (*name && strcmp(*name, what) != 0)
        name++;
    if (!*name)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "eval has no '%.60s': ppl, kl, copy, needle and facts are what it measures",
                        what);
    if (!facts && (settings->facts.store || settings->facts.add || settings->facts.ordinary ||
                   settings->facts.payload != CLI_NO_LIMIT))
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "--facts, --add, --ordinary and --payload go with eval facts, not with "
                        "eval %s",
                        what);
    if (settings->sweep && !kl && !copy)
        return cli_fail(err, KEPT_E_ARGUMENT, "--sweep goes with eval kl, not with eval %s", what);
    kept_status status = cli_engine_model(&job->engine, settings, err);
    if (status != KEPT_OK)
        return status;
    job->n_vocab = kept_model_info(job->engine.model)->n_vocab;
    return settings->sweep               ? cli_eval_sweep(&job->engine, err)
           : kl || copy                  ? cli_eval_kl(&job->engine, copy, err)
           : facts                       ? cli_eval_facts(&job->engine, err)
           : strcmp(what, "needle") == 0 ? cli_eval_needle(&job->engine, err)
           : strcmp(what, "ppl") == 0    ? run_perplexity(job, err)
                                         : run_logits(job, err);
}

enum cli_exit cli_eval(const struct cli_settings *settings)
{
    struct job job = {.engine = {.settings = settings}, .running = json_array()};
    struct kept_error err = {0};
    enum cli_exit code = CLI_OK;
    if (run(&job, settings->args[0], &err) != KEPT_OK)
        code = cli_engine_fail(&job.engine, &err);
    json_decref(job.running);
    cli_stream_finish(&job.stream);
    cli_tokens_finish(&job.tokens);
    cli_engine_finish(&job.engine);
    return code;
}
