/* eval_needle.c: pass-key and multi-key retrieval.
 *
 * A prefix of filler text with sentences that give numbers to names is evaluated, evicting as it
 * goes; then a question is put and answered greedily, nothing being evicted meanwhile.
 *   pass-key   one number, at one depth of the prefix; a prefix for each depth
 *   multi-key  a number at every depth of one prefix, each asked for in turn
 * The answer counts when it begins with the number. Plain text, no chat template: it asks what the
 * memory holds, not how well a model follows instructions.
 */
#include "eval_needle.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval_kl.h"
#include "eval_text.h"
#include "fail.h"
#include "json_out.h"
#include "past.h"
#include "terminal.h"

#define N_DEPTHS      5u
#define N_LENGTHS     3u
#define HOLD_TOKENS   128u
#define ANSWER_TOKENS 10u
#define LEAST_LENGTH  256u
#define BLOCK         64u /* question and answer are held within one: prefixes end with theirs */
#define SENTENCE      64u /* tokens, at most */

static const double depths[N_DEPTHS] = {0.1, 0.3, 0.5, 0.7, 0.9};
static const char *const names[N_DEPTHS] = {"Alice", "Robert", "Diana", "George", "Sofia"};

struct needle {
    struct cli_engine *engine;
    struct cli_tokens text, prefix;
    kept_sampler *sampler;
    uint32_t lengths[N_LENGTHS], n_lengths, n_rounds;
    uint32_t n_prefixes, n_done; /* for the progress line */
    json_t *results;
    uint32_t found, total;
    double prefill_s;
    uint64_t n_prefilled;
    struct kept_slot_counts slots;
};

/* Five digits that differ from round to round, length to length and depth to depth. */
static uint32_t number_of(uint32_t round, uint32_t length, uint32_t depth)
{
    uint32_t x = round * 7919u + length * 104729u + depth * 1299709u + 12345u;
    for (int i = 0; i < 4; i++)
        x = x * 1664525u + 1013904223u;
    return 10000u + (x >> 8) % 90000u;
}

static kept_status add_text(struct needle *needle, const char *text, struct cli_tokens *to,
                            struct kept_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    kept_status status =
        kept_tokenizer_encode(needle->engine->tokenizer, text, strlen(text), 0, &ids, &n, err);
    if (status == KEPT_OK && !cli_tokens_add(to, ids, n))
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", n);
    kept_tokens_free(&ids);
    return status;
}

/* Filler up to `until` tokens of the prefix, from where the filler stands; it begins anew at the
 * text's end. */
static kept_status add_filler(struct needle *needle, size_t until, size_t *at,
                              struct kept_error *err)
{
    while (needle->prefix.n < until) {
        size_t n = until - needle->prefix.n, left = needle->text.n - *at;
        n = n < left ? n : left;
        if (!cli_tokens_add(&needle->prefix, needle->text.ids + *at, n))
            return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for a prefix");
        *at = (*at + n) % needle->text.n;
    }
    return KEPT_OK;
}

/* A prefix of `length` tokens with the numbers of depths first … last. */
static kept_status make_prefix(struct needle *needle, uint32_t round, uint32_t length,
                               uint32_t first, uint32_t last, struct kept_error *err)
{
    size_t at = (size_t)round * needle->text.n / needle->n_rounds;
    char sentence[160];
    needle->prefix.n = 0;
    kept_status status = KEPT_OK;
    for (uint32_t d = first; d <= last && status == KEPT_OK; d++) {
        uint32_t number = number_of(round, length, d);
        snprintf(sentence, sizeof sentence,
                 " The pass key of %s is %u. Remember it: %u is the pass key of %s. ", names[d],
                 number, number, names[d]);
        status = add_filler(needle, (size_t)(depths[d] * (length - SENTENCE)), &at, err);
        if (status == KEPT_OK)
            status = add_text(needle, sentence, &needle->prefix, err);
    }
    if (status == KEPT_OK)
        status = add_filler(needle, length, &at, err);
    needle->prefix.n = needle->prefix.n < length ? needle->prefix.n : length;
    if (status == KEPT_OK && kept_tokenizer_adds_bos(needle->engine->tokenizer))
        needle->prefix.ids[0] = kept_tokenizer_bos(needle->engine->tokenizer);
    return status;
}

static bool progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    const struct needle *needle = user;
    (void)what;
    return cli_progress((void *)needle->engine->settings, "needle", needle->n_done * total + done,
                        needle->n_prefixes * total);
}

static kept_status eval_prefix(struct needle *needle, struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = needle->prefix.ids,
                                      .n_tokens = (uint32_t)needle->prefix.n,
                                      .progress = progress,
                                      .progress_user = needle};
    uint64_t begin_ns = cli_now_ns();
    kept_status status = kept_session_rewind(needle->engine->session, 0, err);
    if (status == KEPT_OK)
        status = kept_session_eval(needle->engine->session, &params, err);
    needle->prefill_s += (double)(cli_now_ns() - begin_ns) / 1e9;
    needle->n_prefilled += needle->prefix.n;
    return status;
}

/* To the end of the prefix; where the rings of sliding windows no longer have it, by evaluating the
 * prefix again. */
static kept_status go_back(struct needle *needle, struct kept_error *err)
{
    uint32_t position = (uint32_t)needle->prefix.n;
    if (kept_session_position(needle->engine->session) == position)
        return KEPT_OK;
    kept_status status = kept_session_rewind(needle->engine->session, position, err);
    return status == KEPT_E_STATE ? eval_prefix(needle, err) : status;
}

/* Greedily, held; the text of up to ANSWER_TOKENS tokens. */
static kept_status generate(struct needle *needle, struct cli_buffer *answer,
                            struct kept_error *err)
{
    const kept_tokenizer *tokenizer = needle->engine->tokenizer;
    struct kept_text_stream stream = {.begun = true};
    size_t cap = kept_tokenizer_max_piece(tokenizer) + 4;
    char *piece = malloc(cap);
    kept_status status =
        piece ? KEPT_OK : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for an answer");
    for (uint32_t i = 0; i < ANSWER_TOKENS && status == KEPT_OK; i++) {
        struct kept_eval_params params = {.n_tokens = 1, .hold = true};
        int32_t token = 0;
        size_t n = 0;
        status = kept_session_sample(needle->engine->session, needle->sampler, &token, err);
        if (status != KEPT_OK || kept_tokenizer_is_end(tokenizer, token))
            break;
        status = kept_text_stream_push(tokenizer, &stream, token, 0, piece, cap, &n, err);
        if (status == KEPT_OK && !cli_buffer_add(answer, piece, n))
            status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for an answer");
        params.tokens = &token;
        if (status == KEPT_OK && i + 1 < ANSWER_TOKENS)
            status = kept_session_eval(needle->engine->session, &params, err);
    }
    free(piece);
    return status;
}

static bool is_number(const struct cli_buffer *answer, uint32_t number)
{
    char wanted[16];
    const char *at = answer->n ? answer->bytes : "";
    int n = snprintf(wanted, sizeof wanted, "%u", number);
    while (isspace((unsigned char)*at))
        at++;
    return strncmp(at, wanted, (size_t)n) == 0 && !isdigit((unsigned char)at[n]);
}

/* Asks for the number of a depth at the end of the prefix. */
static kept_status ask(struct needle *needle, uint32_t depth, uint32_t number, bool *found,
                       struct kept_error *err)
{
    struct cli_tokens question = {0};
    struct cli_buffer answer = {0};
    char text[120];
    snprintf(text, sizeof text, "\nWhat is the pass key of %s? The pass key of %s is", names[depth],
             names[depth]);
    kept_status status = add_text(needle, text, &question, err);
    struct kept_eval_params params = {
        .tokens = question.ids, .n_tokens = (uint32_t)question.n, .hold = true};
    if (status == KEPT_OK)
        status = go_back(needle, err);
    if (status == KEPT_OK)
        status = kept_session_eval(needle->engine->session, &params, err);
    if (status == KEPT_OK)
        status = generate(needle, &answer, err);
    *found = status == KEPT_OK && is_number(&answer, number);
    cli_tokens_finish(&question);
    cli_buffer_finish(&answer);
    return status;
}

static void add_result(struct needle *needle, const char *test, uint32_t length, uint32_t depth,
                       uint32_t found)
{
    json_array_append_new(needle->results,
                          json_pack("{s:s, s:I, s:f, s:I, s:I}", "test", test, "length",
                                    (json_int_t)length, "depth", depths[depth], "found",
                                    (json_int_t)found, "total", (json_int_t)needle->n_rounds));
    needle->found += found;
    needle->total += needle->n_rounds;
}

/* All rounds of one length: found[0] pass-key, found[1] multi-key, by depth. */
static kept_status run_length(struct needle *needle, uint32_t length, struct kept_error *err)
{
    uint32_t found[2][N_DEPTHS] = {{0}};
    kept_status status = KEPT_OK;
    bool right;
    for (uint32_t round = 0; round < needle->n_rounds; round++) {
        for (uint32_t d = 0; d <= N_DEPTHS && status == KEPT_OK; d++) {
            bool all = d == N_DEPTHS; /* after the single ones */
            uint32_t first = all ? 0 : d, last = all ? N_DEPTHS - 1 : d;
            status = make_prefix(needle, round, length, first, last, err);
            if (status == KEPT_OK)
                status = eval_prefix(needle, err);
            needle->n_done++;
            for (uint32_t i = first; i <= last && status == KEPT_OK; i++) {
                status = ask(needle, i, number_of(round, length, i), &right, err);
                found[all][i] += right;
            }
        }
    }
    for (uint32_t d = 0; d < N_DEPTHS && status == KEPT_OK; d++)
        add_result(needle, "passkey", length, d, found[0][d]);
    for (uint32_t d = 0; d < N_DEPTHS && status == KEPT_OK; d++)
        add_result(needle, "multikey", length, d, found[1][d]);
    return status;
}

static void print_table(const struct needle *needle)
{
    printf("%-10s %8s", "", "length");
    for (uint32_t d = 0; d < N_DEPTHS; d++)
        printf(" %6.0f %%", 100 * depths[d]);
    for (size_t i = 0; i < json_array_size(needle->results); i++) {
        const json_t *r = json_array_get(needle->results, i);
        if (i % N_DEPTHS == 0)
            printf("\n%-10s %8lld", json_string_value(json_object_get(r, "test")),
                   (long long)json_integer_value(json_object_get(r, "length")));
        printf("  %2lld/%-3lld", (long long)json_integer_value(json_object_get(r, "found")),
               (long long)json_integer_value(json_object_get(r, "total")));
    }
    printf("\nfound %u of %u\n", needle->found, needle->total);
}

static void say(const struct needle *needle, uint64_t kv_bytes_full)
{
    const struct cli_engine *engine = needle->engine;
    const struct kept_plan_info *plan = kept_plan_info(engine->plan);
    if (!engine->settings->json) {
        print_table(needle);
        return;
    }
    cli_json_print(
        json_pack("{s:o, s:s, s:o, s:I, s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "model",
                  cli_json_text(kept_model_info(engine->model)->path, SIZE_MAX), "device",
                  engine->profile.id, "setting", cli_past_json(engine), "context",
                  (json_int_t)plan->context_tokens, "results", needle->results, "found",
                  (json_int_t)needle->found, "total", (json_int_t)needle->total, "kv_bytes",
                  (json_int_t)plan->kv_bytes, "kv_bytes_full", (json_int_t)kv_bytes_full,
                  "scorer_bytes", (json_int_t)plan->scorer_bytes, "slots_live",
                  (json_int_t)needle->slots.live, "evicted", (json_int_t)needle->slots.evicted,
                  "consolidated", (json_int_t)needle->slots.consolidated, "prefill_tps",
                  needle->prefill_s > 0 ? (double)needle->n_prefilled / needle->prefill_s : 0.0),
        false);
}

static kept_status prepare(struct needle *needle, uint32_t context, struct kept_error *err)
{
    struct cli_engine *engine = needle->engine;
    struct kept_sampler_params greedy = {.temperature = 0};
    if (context < LEAST_LENGTH)
        return cli_fail(err, KEPT_E_ARGUMENT, "needles need a --context of %u or more",
                        LEAST_LENGTH);
    for (uint32_t part = 4; part >= 1; part /= 2)
        if (context / part >= LEAST_LENGTH)
            needle->lengths[needle->n_lengths++] = context / part / BLOCK * BLOCK;
    needle->n_rounds = engine->settings->n_places ? engine->settings->n_places : 1;
    needle->n_prefixes = needle->n_lengths * needle->n_rounds * (N_DEPTHS + 1);
    needle->results = json_array();
    kept_status status = cli_eval_tokens(engine, &needle->text, err);
    if (status == KEPT_OK && needle->text.n < LEAST_LENGTH)
        status = cli_fail(err, KEPT_E_PROMPT, "the text has %zu tokens, %u are needed to fill in",
                          needle->text.n, LEAST_LENGTH);
    if (status == KEPT_OK)
        status = kept_sampler_create(&greedy, kept_tokenizer_count(engine->tokenizer),
                                     &needle->sampler, err);
    return status;
}

kept_status cli_eval_needle(struct cli_engine *engine, struct kept_error *err)
{
    struct needle needle = {.engine = engine};
    uint32_t context = cli_kl_context(engine);
    uint64_t kv_bytes_full = 0;
    kept_status status = prepare(&needle, context, err);
    if (status == KEPT_OK)
        status = cli_engine_device(engine, err);
    if (status == KEPT_OK)
        status = cli_kv_bytes_full(engine, context, &kv_bytes_full, err);
    struct kept_plan_params params = cli_engine_params(engine, context, 0);
    params.retain.hold_tokens = HOLD_TOKENS;
    if (status == KEPT_OK)
        status = cli_engine_replan(engine, &params, err);
    if (status == KEPT_OK) {
        cli_past_notes(engine);
        status = cli_engine_load(engine, err);
    }
    for (uint32_t i = 0; i < needle.n_lengths && status == KEPT_OK; i++)
        status = run_length(&needle, needle.lengths[i], err);
    cli_progress_end();
    if (status == KEPT_OK)
        status = kept_session_slots(engine->session, &needle.slots, err);
    if (status == KEPT_OK)
        say(&needle, kv_bytes_full);
    json_decref(needle.results);
    kept_sampler_destroy(&needle.sampler);
    cli_tokens_finish(&needle.text);
    cli_tokens_finish(&needle.prefix);
    return status;
}
