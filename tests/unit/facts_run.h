/* tests/unit/facts_run.h: a tiny model's session with a store of facts, for tests of them. */
#ifndef KEPT_TESTS_FACTS_RUN_H
#define KEPT_TESTS_FACTS_RUN_H

#include "core_run.h"

#include "base/alloc.h"
#include "core/facts_internal.h"

#define LLAMA "tiny-llama-plain"
#define GEMMA "tiny-gemma3"

static kept_device *devices[2]; /* one carries one session */
static const char *backend = "cpu";

/* A session, with or without a store. */
struct side {
    struct run run;
    kept_facts *facts;
};

static inline void must(kept_status status, const struct kept_error *err, const char *what)
{
    if (status != KEPT_OK)
        fail_msg("%s: %s", what, err->message);
}

static inline struct kept_plan_params plain_plan(void)
{
    return (struct kept_plan_params){.context_tokens = 400, .chunk_tokens = 128};
}

static inline struct kept_plan_params facts_plan(uint32_t max)
{
    struct kept_plan_params params = plain_plan();
    params.facts_max = max;
    return params;
}

static inline void assert_as_planned(struct side *side)
{
    struct kept_session_stats stats;
    kept_session_stats(side->run.session, &stats);
    assert_int_equal(stats.planned_bytes, stats.actual_bytes);
    assert_int_equal(stats.planned_bytes, kept_plan_info(side->run.plan)->planned_bytes);
    assert_int_equal(stats.allocations_after_commit, 0);
}

static inline void open_run(struct run *run, int on, const char *model,
                            const struct kept_plan_params *params)
{
    struct kept_profile profile = run_profile(devices[on]);
    struct kept_error err = {0};
    run->model = run_model(model);
    must(kept_plan_create(run->model, &profile, params, &run->plan, &err), &err, "plan");
    must(kept_session_create(run->plan, devices[on], NULL, NULL, &run->session, &err), &err,
         "commit");
}

static inline void open_store(struct side *side, const char *path, enum kept_slot_type payload)
{
    struct kept_facts_open_params params = {.create = true, .payload = payload};
    struct kept_error err = {0};
    must(kept_facts_open(path, side->run.model, &params, &side->facts, &err), &err, "open");
    must(kept_facts_attach(side->facts, side->run.session, &err), &err, "attach");
}

/* path: of a new store; NULL: none. */
static inline void open_side(struct side *side, int on, const char *model,
                             const struct kept_plan_params *params, const char *path)
{
    *side = (struct side){0};
    open_run(&side->run, on, model, params);
    if (path) {
        remove(path);
        open_store(side, path, KEPT_SLOT_F16);
    }
    assert_as_planned(side);
}

static inline void close_side(struct side *side)
{
    kept_facts_close(&side->facts);
    assert_null(side->facts);
    if (side->run.session)
        assert_as_planned(side);
    run_close(&side->run);
}

static inline void write_fact(struct side *side, const char *id, const char *tag, const char *text)
{
    struct kept_fact_input input = {.id = id, .tag = tag, .text = text, .time_s = 1700000000};
    struct kept_error err = {0};
    struct kept_facts_written written;
    must(kept_facts_write(side->facts, &input, 1, NULL, NULL, &written, &err), &err, "write");
    assert_int_equal(written.n_written, 1);
    assert_true(!id || !id[0] || strcmp(id, written.id) == 0);
}

/* Fact number i: its id and text. The tiny models spell letters: about one token each. */
static inline const char *number(uint32_t i, const char *what, char out[64])
{
    static const char *const things[] = {"boat", "lamp", "harp", "fox", "well", "gate", "bread"};
    if (what[0] == 'i')
        snprintf(out, 64, "fact-%02u", i);
    else
        snprintf(out, 64, "the %s of %c%c is %u", things[i % 7], (int)('a' + i % 23),
                 (int)('a' + i * 7 % 26), i * 7919 % 10007);
    return out;
}

static inline void write_number(struct side *side, uint32_t i)
{
    char id[64], text[64];
    write_fact(side, number(i, "id", id), NULL, number(i, "text", text));
}

static inline uint64_t forget(struct side *side, const char *id, const char *tag, const char *text)
{
    struct kept_fact_choice choice = {id, tag, text};
    struct kept_error err = {0};
    uint64_t n = 99;
    must(kept_facts_forget(side->facts, &choice, 1, &n, &err), &err, "forget");
    return n;
}

/* Reads with this least weight; how many were used. */
static inline uint32_t read_facts(struct side *side, const char *query, float scope, bool keep,
                                  struct kept_fact_match *used)
{
    struct kept_facts_read_params params = {.query = query, .scope = scope, .keep = keep};
    struct kept_fact_match here[KEPT_FACTS_MAX_TOP];
    struct kept_error err = {0};
    uint32_t n = 99;
    memset(here, 0, sizeof here);
    must(kept_facts_read(side->facts, &params, here, &n, NULL, &err), &err, "read");
    assert_true(n <= KEPT_FACTS_MAX_TOP);
    if (used)
        memcpy(used, here, n * sizeof *here);
    return n;
}

struct found {
    struct kept_fact_match matches[KEPT_NEAREST];
    struct kept_fact_scope scope;
    uint32_t n;
};

static inline void find(struct side *side, const char *query, struct found *out)
{
    struct kept_error err = {0};
    memset(out, 0, sizeof *out);
    must(kept_facts_search(side->facts, query, out->matches, KEPT_NEAREST, &out->n, &out->scope,
                           &err),
         &err, "search");
    assert_true(out->n <= KEPT_NEAREST);
}

static inline const struct kept_fact_match *find_id(const struct found *found, const char *id)
{
    for (uint32_t i = 0; i < found->n; i++)
        if (strcmp(found->matches[i].id, id) == 0)
            return &found->matches[i];
    return NULL;
}

/* Bytes behind an id's end are nobody's. */
static inline void assert_found_equal(const struct found *a, const struct found *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(&a->scope, &b->scope, sizeof a->scope);
    for (uint32_t i = 0; i < a->n; i++) {
        assert_string_equal(a->matches[i].id, b->matches[i].id);
        assert_memory_equal(&a->matches[i].cosine, &b->matches[i].cosine, sizeof(float));
        assert_memory_equal(&a->matches[i].weight, &b->matches[i].weight, sizeof(float));
    }
}

static inline const float *logits_of(struct side *side)
{
    struct kept_error err = {0};
    const float *logits = NULL;
    must(kept_session_logits(side->run.session, &logits, &err), &err, "logits");
    for (uint32_t i = 0; i < kept_model_info(side->run.model)->n_vocab; i++)
        assert_true(isfinite(logits[i]));
    return logits;
}

static inline bool same_logits(struct side *a, struct side *b)
{
    size_t bytes = kept_model_info(a->run.model)->n_vocab * sizeof(float);
    return memcmp(logits_of(a), logits_of(b), bytes) == 0;
}

static inline void eval_both(struct side *a, struct side *b, uint32_t n)
{
    run_must_eval(a->run.session, n);
    run_must_eval(b->run.session, n);
}

static inline void forget_position(struct side *side)
{
    struct kept_error err = {0};
    must(kept_session_rewind(side->run.session, 0, &err), &err, "rewind");
}

/* All facts, one line each. */
struct listing {
    char text[65536];
    size_t n;
    uint32_t facts;
};

static inline bool list_one(void *user, const struct kept_fact *fact)
{
    struct listing *list = user;
    list->n +=
        (size_t)snprintf(list->text + list->n, sizeof list->text - list->n, "%s|%s|%s|%lld|%u\n",
                         fact->id, fact->tag, fact->text, (long long)fact->time_s, fact->n_tokens);
    assert_true(list->n < sizeof list->text);
    list->facts++;
    return true;
}

static inline void list_all(struct side *side, struct listing *out)
{
    struct kept_error err = {0};
    memset(out, 0, sizeof *out);
    must(kept_facts_each(side->facts, list_one, out, &err), &err, "each");
}

static inline uint32_t count_facts(struct side *side)
{
    static struct listing list;
    list_all(side, &list);
    return list.facts;
}

#endif
