/* generate.c: sampling, stop texts, streaming.
 *
 * Text is shown as soon as it can be neither part of a character nor the beginning of a stop
 * text: bytes pass two holders, first the library's text stream (whole characters), then the
 * tail kept back here (at most as long as the longest stop text). Ctrl-C is looked at before
 * every token, and stops a running evaluation through the session.
 */
#include "generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fail.h"
#include "json_out.h"
#include "terminal.h"

#define READ_EVERY 32u /* generated tokens */

struct writer {
    const struct cli_engine *engine;
    const struct cli_texts *stops;
    struct kept_text_stream stream;
    struct cli_buffer *text; /* all of the answer */
    size_t n_shown;
    char *piece; /* [cap] */
    size_t cap;
    bool stopped;
};

/* Where the earliest stop text begins in the bytes not shown yet, or SIZE_MAX. */
static size_t find_stop(const struct writer *writer)
{
    const char *from = writer->text->bytes + writer->n_shown;
    size_t n = writer->text->n - writer->n_shown, best = SIZE_MAX;
    for (uint32_t s = 0; s < writer->stops->n; s++) {
        size_t length = strlen(writer->stops->items[s]);
        for (size_t at = 0; at + length <= n && at < best; at++)
            if (memcmp(from + at, writer->stops->items[s], length) == 0)
                best = at;
    }
    return best;
}

/* The longest end of the unshown bytes that begins a stop text. */
static size_t held_back(const struct writer *writer)
{
    const char *end = writer->text->bytes + writer->text->n;
    size_t n = writer->text->n - writer->n_shown, longest = 0;
    for (uint32_t s = 0; s < writer->stops->n; s++) {
        size_t length = strlen(writer->stops->items[s]);
        for (size_t k = longest + 1; k < length && k <= n; k++)
            if (memcmp(end - k, writer->stops->items[s], k) == 0)
                longest = k;
    }
    return longest;
}

static void show(struct writer *writer, size_t until)
{
    if (until > writer->n_shown && !writer->engine->settings->json) {
        fwrite(writer->text->bytes + writer->n_shown, 1, until - writer->n_shown, stdout);
        fflush(stdout);
    }
    writer->n_shown = until;
}

static kept_status add_bytes(struct writer *writer, const char *bytes, size_t n,
                             struct kept_error *err)
{
    if (!cli_buffer_add(writer->text, bytes, n))
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for an answer of %zu bytes",
                        writer->text->n);
    size_t stop = find_stop(writer);
    if (stop != SIZE_MAX) {
        writer->text->n = writer->n_shown + stop;
        writer->text->bytes[writer->text->n] = '\0';
        writer->stopped = true;
        show(writer, writer->text->n);
    } else {
        show(writer, writer->text->n - held_back(writer));
    }
    return KEPT_OK;
}

static kept_status add_token(struct writer *writer, int32_t token, struct kept_error *err)
{
    size_t n = 0;
    kept_status status = kept_text_stream_push(writer->engine->tokenizer, &writer->stream, token, 0,
                                               writer->piece, writer->cap, &n, err);
    return status == KEPT_OK ? add_bytes(writer, writer->piece, n, err) : status;
}

static kept_status flush(struct writer *writer, struct kept_error *err)
{
    char rest[4];
    size_t n = kept_text_stream_flush(&writer->stream, rest);
    kept_status status = KEPT_OK;
    if (!writer->stopped)
        status = add_bytes(writer, rest, n, err);
    if (!writer->stopped)
        show(writer, writer->text->n);
    return status;
}

static kept_status eval(struct cli_engine *engine, const int32_t *ids, size_t n,
                        struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = ids,
                                      .n_tokens = (uint32_t)n,
                                      .progress = n > 1 ? cli_progress : NULL,
                                      .progress_user = (void *)engine->settings};
    kept_status status = kept_session_eval(engine->session, &params, err);
    if (n > 1)
        cli_progress_end();
    return status;
}

static kept_status prefill(struct cli_engine *engine, const struct cli_tokens *tokens,
                           kept_sampler *sampler, struct cli_answer *out, struct kept_error *err)
{
    uint32_t reused = 0;
    uint64_t begin_ns = cli_now_ns();
    kept_status status =
        kept_session_reuse(engine->session, tokens->ids, (uint32_t)tokens->n, &reused, err);
    if (status == KEPT_OK)
        status = out->query ? cli_facts_read(engine, out->query, false, &out->facts, err) : status;
    if (status == KEPT_OK)
        status = eval(engine, tokens->ids + reused, tokens->n - reused, err);
    kept_sampler_reset(sampler);
    for (size_t i = 0; i < tokens->n; i++)
        kept_sampler_accept(sampler, tokens->ids[i]);
    out->prompt_tokens = (uint32_t)tokens->n;
    out->reused_tokens = reused;
    out->prefill_ns = cli_now_ns() - begin_ns;
    return status;
}

/* Evaluates a generated token; every READ_EVERY of them, facts are looked for by what was said
 * last. */
static kept_status go_on(struct cli_engine *engine, int32_t token, struct cli_answer *out,
                         struct kept_error *err)
{
    kept_status status = KEPT_OK;
    if (out->query && out->ids.n % READ_EVERY == 0)
        status = cli_facts_read_tail(engine, &out->ids, &out->facts, err);
    if (status == KEPT_OK)
        status = eval(engine, &token, 1, err);
    out->evaluated += status == KEPT_OK;
    return status;
}

/* Samples until something ends the answer; *finish says what. */
static kept_status decode(struct cli_engine *engine, struct cli_tokens *tokens,
                          kept_sampler *sampler, struct writer *writer, struct cli_answer *out,
                          struct kept_error *err)
{
    uint32_t context = kept_plan_info(engine->plan)->context_tokens;
    kept_status status = KEPT_OK;
    while (!out->finish && status == KEPT_OK) {
        int32_t token = 0;
        if (out->ids.n >= engine->settings->n_predict) {
            out->finish = "length";
            break;
        }
        status = kept_session_sample(engine->session, sampler, &token, err);
        if (status != KEPT_OK)
            break;
        if (out->ids.n == 0)
            out->first_token_ns = cli_now_ns() - engine->begin_ns;
        if (kept_tokenizer_is_end(engine->tokenizer, token)) {
            out->finish = "stop";
            break;
        }
        kept_sampler_accept(sampler, token);
        if (!cli_tokens_add(&out->ids, &token, 1) || !cli_tokens_add(tokens, &token, 1))
            return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", tokens->n);
        status = add_token(writer, token, err);
        if (writer->stopped)
            out->finish = "stop";
        else if (out->ids.n >= engine->settings->n_predict)
            out->finish = "length";
        else if (kept_session_position(engine->session) >= context)
            out->finish = "context";
        else if (cli_interrupted())
            out->finish = "cancelled";
        else if (status == KEPT_OK) {
            status = go_on(engine, token, out, err);
        }
    }
    return status;
}

kept_status cli_generate(struct cli_engine *engine, struct cli_tokens *tokens,
                         kept_sampler *sampler, struct cli_answer *out, struct kept_error *err)
{
    struct writer writer = {.engine = engine, .stops = &engine->settings->stop, .text = &out->text};
    /* The answer goes on from a prompt: a leading space of it is meant. */
    writer.stream.begun = true;
    writer.cap = kept_tokenizer_max_piece(engine->tokenizer) + 4;
    writer.piece = malloc(writer.cap);
    if (!writer.piece || !cli_buffer_add(&out->text, "", 0)) {
        free(writer.piece);
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for an answer");
    }
    kept_status status = prefill(engine, tokens, sampler, out, err);
    uint64_t begin_ns = cli_now_ns();
    if (status == KEPT_OK)
        status = decode(engine, tokens, sampler, &writer, out, err);
    out->decode_ns = cli_now_ns() - begin_ns;
    if (status == KEPT_E_CANCELLED) {
        out->finish = "cancelled";
        status = KEPT_OK;
    }
    if (status == KEPT_OK)
        status = flush(&writer, err);
    if (status == KEPT_OK)
        status = kept_session_slots(engine->session, &out->slots, err);
    free(writer.piece);
    return status;
}

void cli_answer_finish(struct cli_answer *answer)
{
    cli_tokens_finish(&answer->ids);
    cli_buffer_finish(&answer->text);
    cli_facts_used_finish(&answer->facts);
}

kept_status cli_sampler(const struct cli_engine *engine, kept_sampler **out, uint64_t *seed,
                        struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    /* 48 bits: a seed that JSON readers with doubles do not change. */
    *seed = settings->seed.given
                ? settings->seed.value
                : ((uint64_t)time(NULL) << 20 ^ cli_now_ns() ^ (uint64_t)getpid() << 32) &
                      0xFFFFFFFFFFFF;
    struct kept_sampler_params params = {.temperature = (float)settings->temperature,
                                         .top_k = settings->top_k,
                                         .top_p = (float)settings->top_p,
                                         .min_p = (float)settings->min_p,
                                         .repeat_penalty = (float)settings->repeat_penalty,
                                         .seed = *seed};
    return kept_sampler_create(&params, kept_tokenizer_count(engine->tokenizer), out, err);
}

static double per_second(uint64_t n, uint64_t ns)
{
    return ns ? (double)n * 1e9 / (double)ns : 0;
}

/* How well the prompt matched, and what is wrong with the store. */
static void add_facts(const struct cli_engine *engine, const struct cli_facts_used *used,
                      json_t *to)
{
    if (used->read) {
        json_object_set_new(to, "facts_weight", json_real((double)used->scope.weight));
        json_object_set_new(to, "facts_residual", json_real((double)used->scope.residual));
    }
    if (engine->facts_warning[0])
        json_object_set_new(to, "facts_warning", cli_json_text(engine->facts_warning, SIZE_MAX));
}

json_t *cli_answer_json(const struct cli_engine *engine, const struct cli_answer *answer)
{
    const struct kept_model_info *model = kept_model_info(engine->model);
    struct kept_session_stats stats;
    json_t *ids = json_array();
    kept_session_stats(engine->session, &stats);
    for (size_t i = 0; i < answer->ids.n; i++)
        json_array_append_new(ids, json_integer(answer->ids.ids[i]));
    uint32_t position = kept_session_position(engine->session);
    json_t *object =
        json_pack("{s:o, s:s, s:o, s:I, s:I, s:I, s:o, s:o, s:s, s:I}", "model",
                  cli_json_text(model->path, SIZE_MAX), "device", engine->profile.id, "driver",
                  cli_json_text(engine->profile.driver, SIZE_MAX), "prompt_tokens",
                  (json_int_t)answer->prompt_tokens, "reused_tokens",
                  (json_int_t)answer->reused_tokens, "generated_tokens", (json_int_t)answer->ids.n,
                  "tokens", ids, "text", cli_json_text(answer->text.bytes, answer->text.n),
                  "finish_reason", answer->finish, "seed", (json_int_t)answer->seed);
    json_t *figures =
        json_pack("{s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "load_s",
                  (double)stats.load_ns / 1e9, "first_token_s",
                  (double)answer->first_token_ns / 1e9, "prefill_tps",
                  per_second(answer->prompt_tokens - answer->reused_tokens, answer->prefill_ns),
                  "decode_tps", per_second(answer->evaluated, answer->decode_ns), "planned_bytes",
                  (json_int_t)stats.planned_bytes, "actual_bytes", (json_int_t)stats.actual_bytes,
                  "driver_overhead_bytes", (json_int_t)stats.driver_bytes, "kv_tokens_seen",
                  (json_int_t)position, "kv_slots_live",
                  (json_int_t)cli_slots_per_head(engine, &answer->slots), "evicted",
                  (json_int_t)answer->slots.evicted, "merged", (json_int_t)answer->slots.merged,
                  "consolidated", (json_int_t)answer->slots.consolidated, "facts_used",
                  cli_facts_used_json(&answer->facts));
    if (figures)
        add_facts(engine, &answer->facts, figures);
    if (object && figures)
        json_object_update(object, figures);
    json_decref(figures);
    return object;
}

static void note_memory(const struct cli_engine *engine, const struct kept_slot_counts *slots)
{
    uint64_t replaced =
        slots->evicted > slots->consolidated ? slots->evicted - slots->consolidated : 0;
    cli_note(engine->settings,
             "[%llu slots per KV head are live; of the past of all heads, %llu tokens were "
             "consolidated into slots of memory like them, %llu slots replaced]",
             (unsigned long long)cli_slots_per_head(engine, slots),
             (unsigned long long)slots->consolidated, (unsigned long long)replaced);
}

void cli_answer_note(const struct cli_engine *engine, const struct cli_answer *answer)
{
    struct kept_session_stats stats;
    char planned[32], actual[32];
    kept_session_stats(engine->session, &stats);
    cli_note(
        engine->settings,
        "[%s: %u prompt tokens at %.1f tokens/s, %zu generated at %.1f tokens/s, memory %s %s %s]",
        engine->profile.id, answer->prompt_tokens - answer->reused_tokens,
        per_second(answer->prompt_tokens - answer->reused_tokens, answer->prefill_ns),
        answer->ids.n, per_second(answer->evaluated, answer->decode_ns),
        cli_bytes(planned, stats.planned_bytes),
        stats.planned_bytes == stats.actual_bytes ? "= planned" : "planned, actual",
        stats.planned_bytes == stats.actual_bytes ? "" : cli_bytes(actual, stats.actual_bytes));
    cli_facts_used_note(engine, &answer->facts);
    if (kept_plan_info(engine->plan)->memory_slots)
        note_memory(engine, &answer->slots);
    else if (kept_plan_info(engine->plan)->retains)
        cli_note(engine->settings,
                 "[%llu slots per KV head are live, %llu were evicted, %llu of "
                 "those merged into others]",
                 (unsigned long long)cli_slots_per_head(engine, &answer->slots),
                 (unsigned long long)answer->slots.evicted,
                 (unsigned long long)answer->slots.merged);
    if (strcmp(answer->finish, "context") == 0)
        cli_note(engine->settings, "The context of %u tokens is full: give a larger --context%s.",
                 kept_plan_info(engine->plan)->context_tokens,
                 strcmp(engine->settings->command, "chat") == 0 ? ", or /reset" : "");
}
