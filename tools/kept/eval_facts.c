/* eval_facts.c: whether facts are found, read and used.
 *
 * Every line has two questions about a fact: its own words up to the answer (query) and other words
 * (paraphrase). For each of them
 *     address         the fact is first, or among the first three, of the ranking
 *     in scope        something is read
 *     exact           the answer is what is generated, greedily, with what is read; without facts;
 *                     and with the fact as text in front of the question
 * Raw completion, no chat template: one space before text, question and answer, an empty session
 * for each. An answer is exact when it is what comes first and no further digit follows.
 * --ordinary has sentences that no fact should be read for.
 */
#include "eval_facts.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fact_lines.h"
#include "facts_use.h"
#include "fail.h"
#include "json_out.h"
#include "past.h"
#include "terminal.h"

#define CONTEXT 512u
#define N_FORMS 2u /* query, paraphrase */
#define N_TOP   3u

/* Questions of one form that went well. */
struct tally {
    uint32_t first, first_three, accepted, exact, exact_without, exact_as_text;
};

struct trial {
    struct cli_engine *engine;
    struct cli_fact_lines lines;
    struct cli_buffer ordinary; /* its sentences are separated by NULs */
    struct tally tallies[N_FORMS];
    kept_sampler *sampler;
    json_t *weights[N_FORMS], *ordinary_weights;
    uint32_t n_ordinary, false_accepts, n_searches, n_texts;
    uint64_t n_done, n_steps; /* for the progress line */
    uint64_t search_ns;
    struct kept_facts_written written;
};

static bool progress(const struct trial *trial)
{
    return cli_progress((void *)trial->engine->settings, "facts", trial->n_done, trial->n_steps);
}

/* ---- one question ---- */

/* Each text with a space in front, after BOS where the model adds one. */
static kept_status tokens_of(const struct trial *trial, const char *text, const char *question,
                             struct cli_tokens *out, struct kept_error *err)
{
    struct cli_buffer all = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    bool fine = !text || (cli_buffer_add(&all, " ", 1) && cli_buffer_add(&all, text, strlen(text)));
    fine = fine && cli_buffer_add(&all, " ", 1) && cli_buffer_add(&all, question, strlen(question));
    kept_status status =
        fine ? kept_tokenizer_encode(trial->engine->tokenizer, all.bytes, all.n, 0, &ids, &n, err)
             : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for a question");
    int32_t bos = kept_tokenizer_bos(trial->engine->tokenizer);
    fine = status != KEPT_OK ||
           ((!kept_tokenizer_adds_bos(trial->engine->tokenizer) || cli_tokens_add(out, &bos, 1)) &&
            cli_tokens_add(out, ids, n));
    if (!fine)
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", n);
    kept_tokens_free(&ids);
    cli_buffer_finish(&all);
    return status;
}

enum verdict { UNDECIDED, RIGHT, WRONG };

/* What the text generated so far says of the answer. */
static enum verdict compare(const struct cli_buffer *text, const char *answer)
{
    const char *at = text->n ? text->bytes : "";
    size_t n = strlen(answer), left;
    while (isspace((unsigned char)*at))
        at++;
    left = strlen(at);
    if (strncmp(at, answer, left < n ? left : n) != 0)
        return WRONG;
    if (left <= n)
        return UNDECIDED;
    return isdigit((unsigned char)answer[n - 1]) && isdigit((unsigned char)at[n]) ? WRONG : RIGHT;
}

/* Greedily, until the text decides; an end where it should be is right. */
static kept_status generate(struct trial *trial, const char *answer, bool *right,
                            struct kept_error *err)
{
    const kept_tokenizer *tokenizer = trial->engine->tokenizer;
    struct kept_text_stream stream = {.begun = true};
    struct cli_buffer text = {0};
    size_t cap = kept_tokenizer_max_piece(tokenizer) + 4, most = strlen(answer) + 4;
    char *piece = malloc(cap);
    enum verdict verdict = UNDECIDED;
    kept_status status =
        piece ? KEPT_OK : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for an answer");
    for (size_t i = 0; i < most && verdict == UNDECIDED && status == KEPT_OK; i++) {
        int32_t token = 0;
        size_t n = 0;
        const struct kept_eval_params params = {.tokens = &token, .n_tokens = 1};
        status = kept_session_sample(trial->engine->session, trial->sampler, &token, err);
        if (status != KEPT_OK || kept_tokenizer_is_end(tokenizer, token))
            break;
        status = kept_text_stream_push(tokenizer, &stream, token, 0, piece, cap, &n, err);
        if (status == KEPT_OK && !cli_buffer_add(&text, piece, n))
            status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for an answer");
        verdict = compare(&text, answer);
        if (status == KEPT_OK && verdict == UNDECIDED)
            status = kept_session_eval(trial->engine->session, &params, err);
    }
    const char *said = text.n ? text.bytes + strspn(text.bytes, " \t\r\n") : "";
    *right = verdict == RIGHT || (verdict == UNDECIDED && strcmp(said, answer) == 0);
    cli_buffer_finish(&text);
    free(piece);
    return status;
}

/* An empty session reads the facts found for `find` (NULL: none), then `text` (NULL: none) and the
 * question. */
static kept_status ask(struct trial *trial, const char *find, const char *text,
                       const char *question, const char *answer, uint32_t *right,
                       uint32_t *accepted, struct kept_error *err)
{
    struct cli_engine *engine = trial->engine;
    struct kept_fact_match used[KEPT_FACTS_MAX_TOP];
    struct kept_facts_read_params read = cli_facts_read_params(engine, find, false);
    struct cli_tokens tokens = {0};
    uint32_t n_used = 0;
    bool exact = false;
    kept_status status = tokens_of(trial, text, question, &tokens, err);
    struct kept_eval_params params = {.tokens = tokens.ids, .n_tokens = (uint32_t)tokens.n};
    if (status == KEPT_OK)
        status = kept_session_rewind(engine->session, 0, err);
    kept_session_clear_facts(engine->session);
    if (status == KEPT_OK && find && engine->facts_attached)
        status = kept_facts_read(engine->facts, &read, used, &n_used, NULL, err);
    if (status == KEPT_OK)
        status = kept_session_eval(engine->session, &params, err);
    if (status == KEPT_OK)
        status = generate(trial, answer, &exact, err);
    cli_tokens_finish(&tokens);
    *right += exact;
    *accepted += n_used > 0;
    return status;
}

/* How the facts rank for a text; the time it takes is counted. */
static kept_status search(struct trial *trial, const char *text,
                          struct kept_fact_match matches[N_TOP], uint32_t *n,
                          struct kept_fact_scope *scope, struct kept_error *err)
{
    uint64_t begin_ns = cli_now_ns();
    *n = 0;
    *scope = (struct kept_fact_scope){0};
    kept_status status =
        trial->engine->facts_attached
            ? kept_facts_search(trial->engine->facts, text, matches, N_TOP, n, scope, err)
            : KEPT_OK;
    trial->search_ns += cli_now_ns() - begin_ns;
    trial->n_searches++;
    return status;
}

static kept_status try_form(struct trial *trial, const struct cli_fact_line *line, uint32_t form,
                            struct kept_error *err)
{
    const char *question = form ? line->paraphrase : line->query;
    struct tally *tally = &trial->tallies[form];
    struct kept_fact_match matches[N_TOP];
    struct kept_fact_scope scope;
    uint32_t n = 0, none = 0;
    kept_status status = search(trial, question, matches, &n, &scope, err);
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++) {
        bool same = strcmp(matches[i].id, line->id) == 0;
        tally->first += same && i == 0;
        tally->first_three += same;
    }
    json_array_append_new(trial->weights[form], json_real((double)scope.weight));
    if (status == KEPT_OK)
        status = ask(trial, question, NULL, question, line->answer, &tally->exact, &tally->accepted,
                     err);
    if (status == KEPT_OK)
        status = ask(trial, NULL, NULL, question, line->answer, &tally->exact_without, &none, err);
    if (status == KEPT_OK && line->text)
        status =
            ask(trial, NULL, line->text, question, line->answer, &tally->exact_as_text, &none, err);
    return status;
}

static kept_status cancelled(struct trial *trial, struct kept_error *err)
{
    trial->n_done++;
    return progress(trial)
               ? KEPT_OK
               : cli_fail(err, KEPT_E_CANCELLED, "cancelled after %llu of %llu questions",
                          (unsigned long long)trial->n_done, (unsigned long long)trial->n_steps);
}

static kept_status try_ordinary(struct trial *trial, struct kept_error *err)
{
    struct kept_fact_match matches[N_TOP];
    struct kept_fact_scope scope;
    uint32_t n;
    kept_status status = KEPT_OK;
    for (size_t at = 0; at < trial->ordinary.n && status == KEPT_OK;) {
        const char *text = trial->ordinary.bytes + at;
        at += strlen(text) + 1;
        if (!text[strspn(text, " \t\r")])
            continue;
        status = search(trial, text, matches, &n, &scope, err);
        trial->n_ordinary++;
        trial->false_accepts += (double)scope.weight >= trial->engine->settings->facts.scope;
        json_array_append_new(trial->ordinary_weights, json_real((double)scope.weight));
        if (status == KEPT_OK)
            status = cancelled(trial, err);
    }
    return status;
}

/* ---- the result ---- */

static json_t *share(const struct trial *trial, const uint32_t counts[N_FORMS])
{
    double n = trial->lines.n ? (double)trial->lines.n : 1;
    return json_pack("{s:f, s:f}", "query", counts[0] / n, "paraphrase", counts[1] / n);
}

struct row {
    const char *name, *label;
    size_t offset; /* in struct tally */
};
static const struct row rows[] = {
    {"address_top1", "address: the first", offsetof(struct tally, first)},
    {"address_top3", "address: one of three", offsetof(struct tally, first_three)},
    {"accepted", "in scope", offsetof(struct tally, accepted)},
    {"exact", "exact answers", offsetof(struct tally, exact)},
    {"exact_without", "  without facts", offsetof(struct tally, exact_without)},
    {"exact_as_text", "  the fact as text", offsetof(struct tally, exact_as_text)}};

#define N_ROWS (sizeof rows / sizeof *rows)

static uint32_t count_of(const struct trial *trial, const struct row *row, uint32_t form)
{
    return *(const uint32_t *)(const void *)((const char *)&trial->tallies[form] + row->offset);
}

static bool has_row(const struct trial *trial, const struct row *row)
{
    return row->offset != offsetof(struct tally, exact_as_text) || trial->n_texts == trial->lines.n;
}

static json_t *head_json(const struct trial *trial, const struct kept_facts_info *info)
{
    const struct cli_engine *engine = trial->engine;
    const struct cli_fact_options *options = &engine->settings->facts;
    struct kept_session_stats stats;
    kept_session_stats(engine->session, &stats);
    return json_pack(
        "{s:o, s:s, s:o, s:o, s:I, s:s, s:I, s:f, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:I}", "model",
        cli_json_text(kept_model_info(engine->model)->path, SIZE_MAX), "device", engine->profile.id,
        "setting", cli_past_json(engine), "store", cli_json_text(options->store, SIZE_MAX),
        "n_facts", (json_int_t)info->n_facts, "payload", cli_slot_type_name(info->payload),
        "facts_top", (json_int_t)(options->top ? options->top : 1), "scope", options->scope,
        "facts_gap", (json_int_t)(options->gap ? options->gap : KEPT_FACTS_GAP), "written",
        (json_int_t)trial->written.n_written, "write_eval_s", (double)trial->written.eval_ns / 1e9,
        "write_commit_s", (double)trial->written.commit_ns / 1e9, "search_s",
        trial->n_searches ? (double)trial->search_ns / 1e9 / trial->n_searches : 0.0, "questions",
        (json_int_t)trial->lines.n, "planned_bytes", (json_int_t)stats.planned_bytes,
        "actual_bytes", (json_int_t)stats.actual_bytes);
}

static void say_json(const struct trial *trial, const struct kept_facts_info *info)
{
    json_t *object = head_json(trial, info);
    for (size_t i = 0; i < N_ROWS; i++) {
        uint32_t counts[N_FORMS] = {count_of(trial, &rows[i], 0), count_of(trial, &rows[i], 1)};
        if (has_row(trial, &rows[i]))
            json_object_set_new(object, rows[i].name, share(trial, counts));
    }
    if (trial->engine->settings->facts.ordinary)
        json_object_set_new(object, "ordinary",
                            json_pack("{s:I, s:I, s:O}", "sentences", (json_int_t)trial->n_ordinary,
                                      "false_accepts", (json_int_t)trial->false_accepts, "weights",
                                      trial->ordinary_weights));
    json_object_set_new(
        object, "weights",
        json_pack("{s:O, s:O}", "query", trial->weights[0], "paraphrase", trial->weights[1]));
    cli_json_print(object, false);
}

static void say(const struct trial *trial)
{
    const struct cli_engine *engine = trial->engine;
    const struct cli_fact_options *options = &engine->settings->facts;
    struct kept_facts_info info = {0};
    double n = trial->lines.n ? (double)trial->lines.n : 1;
    if (engine->facts)
        kept_facts_info(engine->facts, &info);
    if (engine->settings->json) {
        say_json(trial, &info);
        return;
    }
    printf("%zu questions about %s (facts: %llu, %s), read %u at a scope of %.2f, gap %u\n\n",
           trial->lines.n, options->store, (unsigned long long)info.n_facts,
           cli_slot_type_name(info.payload), options->top ? options->top : 1, options->scope,
           options->gap ? options->gap : KEPT_FACTS_GAP);
    printf("%-24s %9s %11s\n", "", "query", "paraphrase");
    for (size_t i = 0; i < N_ROWS; i++)
        if (has_row(trial, &rows[i]))
            printf("%-24s %7.1f %% %9.1f %%\n", rows[i].label,
                   100 * count_of(trial, &rows[i], 0) / n, 100 * count_of(trial, &rows[i], 1) / n);
    if (options->ordinary)
        printf("\nOf %u ordinary sentences %u are taken for a question about a fact.\n",
               trial->n_ordinary, trial->false_accepts);
    if (trial->written.n_written)
        printf("\nWritten: %llu, %.1f ms each to evaluate, %.1f ms to store.\n",
               (unsigned long long)trial->written.n_written,
               (double)trial->written.eval_ns / 1e6 / (double)trial->written.n_written,
               (double)trial->written.commit_ns / 1e6 / (double)trial->written.n_written);
    cli_note(engine->settings, "[%s: a search takes %.1f ms]", engine->profile.id,
             trial->n_searches ? (double)trial->search_ns / 1e6 / trial->n_searches : 0.0);
}

/* ---- from files to a trial ---- */

/* Ids of the store, to tell which lines it lacks. */
static bool note_id(void *user, const struct kept_fact *fact)
{
    json_object_set_new(user, fact->id, json_true());
    return true;
}

/* Writes the lines with a text whose ids the store does not have. */
static kept_status add_lacking(struct trial *trial, struct kept_error *err)
{
    struct cli_fact_lines lacking = {0};
    json_t *ids = json_object();
    kept_status status = kept_facts_each(trial->engine->facts, note_id, ids, err);
    lacking.items = calloc(trial->lines.n, sizeof *lacking.items);
    if (status == KEPT_OK && !lacking.items)
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu lines", trial->lines.n);
    for (size_t i = 0; i < trial->lines.n && status == KEPT_OK; i++) {
        const struct cli_fact_line *line = &trial->lines.items[i];
        if (line->text && !json_object_get(ids, line->id))
            lacking.items[lacking.n++] = *line;
    }
    if (status == KEPT_OK && lacking.n > 0)
        status = cli_fact_lines_write(trial->engine, &lacking, &trial->written, err);
    free(lacking.items); /* the lines own their objects */
    json_decref(ids);
    return status;
}

static kept_status read_ordinary(struct trial *trial, const char *path, struct kept_error *err)
{
    kept_status status = cli_read_file(path, &trial->ordinary, err);
    for (size_t i = 0; i < trial->ordinary.n; i++) {
        char *c = &trial->ordinary.bytes[i];
        trial->n_steps += *c == '\n';
        *c = *c == '\n' ? '\0' : *c;
    }
    return status;
}

/* Everything that can be wrong before a device is opened. */
static kept_status prepare(struct trial *trial, struct kept_error *err)
{
    struct cli_engine *engine = trial->engine;
    const struct cli_settings *settings = engine->settings;
    const struct kept_sampler_params greedy = {.temperature = 0};
    if (!settings->facts.store)
        return cli_fail(err, KEPT_E_ARGUMENT, "eval facts needs a store: --facts STORE");
    if (!settings->file)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "eval facts needs questions: -f FILE of JSON lines with id, query, "
                        "paraphrase, answer");
    if (!engine->facts && !settings->facts.add)
        return cli_fail(err, KEPT_E_FORMAT, "%s", engine->facts_warning);
    kept_status status =
        cli_fact_lines_read(settings->file, "id query paraphrase answer", &trial->lines, err);
    for (size_t i = 0; i < trial->lines.n && status == KEPT_OK; i++) {
        trial->n_texts += trial->lines.items[i].text != NULL;
        if (!*trial->lines.items[i].answer)
            status = cli_fail(err, KEPT_E_PROMPT, "'%.200s': the answer of '%.100s' is empty",
                              settings->file, trial->lines.items[i].id);
    }
    trial->n_steps = trial->lines.n;
    if (status == KEPT_OK && settings->facts.ordinary)
        status = read_ordinary(trial, settings->facts.ordinary, err);
    if (status == KEPT_OK)
        status = kept_sampler_create(&greedy, kept_tokenizer_count(engine->tokenizer),
                                     &trial->sampler, err);
    if (status == KEPT_OK && settings->facts.add)
        status = cli_facts_open_writable(engine, trial->lines.n, err);
    return status;
}

static kept_status run(struct trial *trial, struct kept_error *err)
{
    const struct cli_settings *settings = trial->engine->settings;
    kept_status status = prepare(trial, err);
    if (status == KEPT_OK)
        status = cli_engine_start(trial->engine, settings->context ? settings->context : CONTEXT, 0,
                                  err);
    if (status == KEPT_OK && settings->facts.add)
        status = add_lacking(trial, err);
    for (size_t i = 0; i < trial->lines.n && status == KEPT_OK; i++) {
        for (uint32_t form = 0; form < N_FORMS && status == KEPT_OK; form++)
            status = try_form(trial, &trial->lines.items[i], form, err);
        if (status == KEPT_OK)
            status = cancelled(trial, err);
    }
    if (status == KEPT_OK)
        status = try_ordinary(trial, err);
    cli_progress_end();
    return status;
}

kept_status cli_eval_facts(struct cli_engine *engine, struct kept_error *err)
{
    struct trial trial = {.engine = engine,
                          .weights = {json_array(), json_array()},
                          .ordinary_weights = json_array()};
    kept_status status = run(&trial, err);
    if (status == KEPT_OK)
        say(&trial);
    for (uint32_t form = 0; form < N_FORMS; form++)
        json_decref(trial.weights[form]);
    json_decref(trial.ordinary_weights);
    kept_sampler_destroy(&trial.sampler);
    cli_buffer_finish(&trial.ordinary);
    cli_fact_lines_finish(&trial.lines);
    return status;
}
