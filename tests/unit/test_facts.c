/* tests/unit/test_facts.c: episodic memory in plans and sessions, with the tiny models: off means
 * off, reading is as good as the text itself, forgetting is exact, updating, what is planned.
 * test_facts [BACKEND]: 77 where it has no device. */
#include "facts_run.h"

#define PATH  "test_facts.kept"
#define OTHER "test_facts_other.kept"

/* ---- off ---- */

/* What a session with facts does between evaluations, without reading any. */
static void be_busy(struct side *side, uint32_t i)
{
    struct found found;
    char text[64];
    find(side, "the boat of someone else", &found);
    write_number(side, i);
    assert_int_equal(read_facts(side, number(i, "text", text), 2, false, NULL), 0);
    assert_int_equal(kept_session_fact_slots(side->run.session), 0);
    if (i % 2)
        assert_int_equal(forget(side, NULL, NULL, number(i, "text", text)), 1);
}

static void off_means_off(void **state)
{
    (void)state;
    static const uint32_t cuts[] = {250, 1, 1, 40, 1, 1, 1, 64, 1, 130, 1};
    for (int c = 0; c < 8; c++) {
        if (strcmp(backend, "cpu") != 0 && c != 1 && c != 5)
            continue;
        struct kept_plan_params p = plain_plan();
        struct side a, b;
        p.context_tokens = 500;
        p.k_type = p.v_type = c & 1 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16;
        if (c >= 4)
            p.retain = (struct kept_retain_params){.mode = KEPT_RETAIN_SCORED,
                                                   .budget_slots = 130,
                                                   .protect = 32,
                                                   .sinks = 4,
                                                   .positions = c >= 6 ? KEPT_POSITIONS_COMPACT
                                                                       : KEPT_POSITIONS_ABSOLUTE};
        open_side(&a, 0, c & 2 ? GEMMA : LLAMA, &p, NULL);
        p.facts_max = 20;
        p.facts_gap = 70;
        open_side(&b, 1, c & 2 ? GEMMA : LLAMA, &p, PATH);
        for (uint32_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            eval_both(&a, &b, cuts[i]);
            if (i % 3 == 2)
                be_busy(&b, i); /* before the logits are looked at, or after */
            if (!same_logits(&a, &b))
                fail_msg("case %d, after %u tokens", c, kept_session_position(a.run.session));
            if (i % 3 == 1)
                be_busy(&b, i);
        }
        /* what was read is gone with the position */
        char text[64];
        assert_int_equal(read_facts(&b, number(4, "text", text), 1e-4f, false, NULL), 1);
        eval_both(&a, &b, 7);
        assert_false(same_logits(&a, &b));
        forget_position(&a);
        forget_position(&b);
        assert_int_equal(kept_session_fact_slots(b.run.session), 0);
        eval_both(&a, &b, 200);
        assert_true(same_logits(&a, &b));
        close_side(&a);
        close_side(&b);
    }
}

/* ---- reading ---- */

/* A fact as text after the sinks, then the prompt; and the prompt alone, reading the fact at
 * positions before 0, with no gap: the same distances. */
static void reading_is_like_text(void **state)
{
    (void)state;
    static const char *const models[] = {LLAMA, GEMMA, "tiny-qwen3"};
    for (int c = 0; c < 3; c++) {
        struct kept_plan_params p = facts_plan(3);
        struct kept_error err = {0};
        struct side a, b;
        int32_t *tokens = NULL;
        size_t n = 0;
        open_side(&b, 1, models[c], &p, PATH);
        b.run.plan->facts.gap = 0;
        open_side(&a, 0, models[c], &p, NULL);
        const char *text = "old tin"; /* short: within gemma's window too */
        write_fact(&b, "one", NULL, text);
        must(kept_facts_tokens(b.facts, text, strlen(text), &tokens, &n, &err), &err, "tokens");
        struct kept_eval_params before[] = {
            {.tokens = b.run.session->facts->sinks, .n_tokens = KEPT_FACT_SINKS},
            {.tokens = tokens, .n_tokens = (uint32_t)n}};
        for (int i = 0; i < 2; i++)
            must(kept_session_eval(a.run.session, &before[i], &err), &err, "text");
        assert_int_equal(read_facts(&b, text, 1e-4f, false, NULL), 1);
        assert_int_equal(kept_session_fact_slots(b.run.session), KEPT_FACT_SINKS + n);
        uint32_t meta = b.run.plan->facts.read.meta; /* facts count for more: not here */
        uint64_t bytes = b.run.plan->regions[meta].bytes;
        void *zeros = calloc(1, bytes);
        must(kept_session_write(b.run.session, meta, 0, zeros, bytes, &err), &err, "biases");
        free(zeros);
        uint32_t total = strcmp(models[c], GEMMA) == 0 ? 12 : 300;
        for (uint32_t at = 0; at < total; at += at == 5 ? 135 : at > 5 ? 1 : 5) {
            uint32_t here = at == 5 && total > 140 ? 135 : at >= 5 ? 1 : 5;
            int32_t prompt[135];
            for (uint32_t i = 0; i < here; i++)
                prompt[i] = run_token(at + i);
            struct kept_eval_params eval = {.tokens = prompt, .n_tokens = here};
            must(kept_session_eval(a.run.session, &eval, &err), &err, "prompt");
            must(kept_session_eval(b.run.session, &eval, &err), &err, "prompt");
            run_assert_close(logits_of(&a), logits_of(&b), kept_model_info(a.run.model)->n_vocab,
                             models[c], at + here);
            if (at > 150)
                break;
        }
        kept_tokens_free(&tokens);
        close_side(&a);
        close_side(&b);
    }
}

/* Types of slots and payloads, positions, several facts: logits change, and are the same ones when
 * the same is done again. */
static void reading_changes_logits(void **state)
{
    (void)state;
    for (int c = 0; c < 8; c++) {
        if (strcmp(backend, "cpu") != 0 && c % 4 != 1)
            continue;
        struct kept_plan_params p = facts_plan(12);
        struct kept_fact_match used[KEPT_FACTS_MAX_TOP];
        struct kept_error err = {0};
        struct side a, b;
        float first[N_VOCAB_MOST];
        char text[64];
        p.k_type = p.v_type = c & 1 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16;
        p.facts_top = c & 2 ? 4 : 1;
        p.facts_gap = c & 1 ? 1 : 0;
        p.context_tokens = c & 4 ? 3000 : 400;
        if (c & 4)
            p.retain = (struct kept_retain_params){.mode = KEPT_RETAIN_SCORED,
                                                   .budget_slots = 130,
                                                   .protect = 32,
                                                   .sinks = 4,
                                                   .positions = KEPT_POSITIONS_COMPACT};
        open_side(&a, 0, LLAMA, &p, NULL);
        open_side(&b, 1, LLAMA, &p, NULL);
        remove(PATH);
        open_store(&b, PATH, c & 2 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16);
        for (uint32_t i = 0; i < 8; i++)
            write_number(&b, i);
        for (int again = 0; again < 2; again++) {
            eval_both(&a, &b, c & 4 ? 900 : 200);
            eval_both(&a, &b, 1);
            uint32_t n = read_facts(&b, number(5, "text", text), 1e-4f, false, used);
            assert_true(n >= 1 && n <= p.facts_top + !p.facts_top);
            assert_string_equal(used[0].id, number(5, "id", text));
            assert_true(used[0].cosine > 0.9999f);
            eval_both(&a, &b, 3);
            assert_false(same_logits(&a, &b));
            eval_both(&a, &b, 1);
            assert_false(same_logits(&a, &b));
            if (again == 0)
                memcpy(first, logits_of(&b), sizeof(float) * 256);
            assert_memory_equal(first, logits_of(&b), sizeof(float) * 256);
            uint32_t slots = kept_session_fact_slots(b.run.session);
            assert_true(slots > KEPT_FACT_SINKS);
            /* what is out of scope leaves it, or ends it */
            assert_int_equal(read_facts(&b, "zzz", 2, true, NULL), 0);
            assert_int_equal(kept_session_fact_slots(b.run.session), slots);
            assert_int_equal(read_facts(&b, "zzz", 2, false, NULL), 0);
            assert_int_equal(kept_session_fact_slots(b.run.session), 0);
            forget_position(&a);
            forget_position(&b);
        }
        struct kept_facts_read_params many = {.query = "a", .top = 1 + (c & 2 ? 4 : 1)};
        uint32_t n = 0;
        assert_int_equal(kept_facts_read(b.facts, &many, used, &n, NULL, &err), KEPT_E_ARGUMENT);
        close_side(&a);
        close_side(&b);
    }
}

/* ---- forgetting ---- */

static void assert_stores_equal(struct side *a, struct side *b, uint32_t n)
{
    static struct listing x, y;
    static struct found p, q;
    char text[64];
    list_all(a, &x);
    list_all(b, &y);
    assert_string_equal(x.text, y.text);
    for (uint32_t i = 0; i <= n; i++) {
        const char *query = i < n ? number(i, "text", text) : "is the fox of nobody here?";
        find(a, query, &p);
        find(b, query, &q);
        assert_found_equal(&p, &q);
        forget_position(a);
        forget_position(b);
        eval_both(a, b, 9);
        assert_int_equal(read_facts(a, query, 1e-4f, false, NULL),
                         read_facts(b, query, 1e-4f, false, NULL));
        eval_both(a, b, 5);
        assert_true(same_logits(a, b));
        eval_both(a, b, 1);
        assert_true(same_logits(a, b));
    }
}

static void forgetting_is_exact(void **state)
{
    (void)state;
    struct kept_plan_params p = facts_plan(40);
    struct kept_error err = {0};
    struct side a, b;
    struct found found;
    char text[64], id[64];
    p.facts_top = 3;
    open_side(&a, 0, LLAMA, &p, PATH);
    open_side(&b, 1, LLAMA, &p, OTHER);
    for (uint32_t i = 0; i < 10; i++) {
        write_number(&a, 9 - i);
        if (i != 4)
            write_number(&b, i);
    }
    for (uint32_t i = 10; i < 20; i++) /* two tiles of addresses */
        write_number(&a, i);
    for (uint32_t i = 10; i < 20; i++)
        assert_int_equal(forget(&a, NULL, NULL, number(i, "text", text)), 1);
    assert_int_equal(read_facts(&a, number(4, "text", text), 1e-4f, false, NULL) > 0, 1);
    assert_true(kept_session_fact_slots(a.run.session) > 0);
    assert_int_equal(forget(&a, number(4, "id", id), NULL, NULL), 1);
    assert_int_equal(kept_session_fact_slots(a.run.session), 0);
    assert_int_equal(forget(&a, id, NULL, NULL), 0);
    find(&a, text, &found);
    assert_int_equal(found.n, 9);
    assert_null(find_id(&found, id));
    assert_stores_equal(&a, &b, 10);
    must(kept_facts_compact(a.facts, &err), &err, "compact");
    assert_stores_equal(&a, &b, 5);
    for (int again = 0; again < 2; again++) { /* another order on the device; attached again */
        if (again == 0) {
            kept_facts_close(&a.facts);
            open_store(&a, PATH, KEPT_SLOT_F16);
        } else {
            must(kept_facts_attach(a.facts, NULL, &err), &err, "detach");
            must(kept_facts_attach(a.facts, a.run.session, &err), &err, "attach");
        }
        assert_stores_equal(&a, &b, 10);
    }
    /* several at once, named by what the store itself says */
    const struct kept_fact *facts[] = {&a.facts->entries[8]->fact, &a.facts->entries[2]->fact,
                                       &a.facts->entries[3]->fact};
    struct kept_fact_choice choices[] = {
        {.id = facts[0]->id}, {.text = facts[1]->text}, {.id = facts[2]->id}, {.tag = ""}};
    uint64_t n = 0;
    must(kept_facts_forget(a.facts, choices, 4, &n, &err), &err, "forget");
    assert_int_equal(n, 3);
    assert_int_equal(forget(&b, "fact-09", NULL, NULL) + forget(&b, "fact-02", NULL, NULL) +
                         forget(&b, "fact-03", NULL, NULL),
                     3);
    assert_stores_equal(&a, &b, 10);
    choices[0].tag = "and a tag";
    assert_int_equal(kept_facts_forget(a.facts, choices, 4, &n, &err), KEPT_E_ARGUMENT);
    close_side(&a);
    close_side(&b);
}

static void updating(void **state)
{
    (void)state;
    struct kept_plan_params p = facts_plan(4);
    struct kept_error err = {0};
    struct kept_facts_written written;
    struct side a;
    struct found found;
    open_side(&a, 0, LLAMA, &p, PATH);
    write_fact(&a, NULL, "address", "the house is at old lane 4");
    write_fact(&a, "cat", NULL, "the cat is called tom");
    assert_int_equal(read_facts(&a, "the house is at old lane 4", 1e-4f, false, NULL), 1);
    struct kept_fact_input input = {.tag = "address", .text = "the house is at mill road 9"};
    must(kept_facts_write(a.facts, &input, 1, NULL, NULL, &written, &err), &err, "update");
    assert_int_equal(written.n_superseded, 1);
    assert_int_equal(kept_session_fact_slots(a.run.session), 0); /* the old one was read */
    assert_int_equal(count_facts(&a), 2);
    find(&a, "the house is at old lane 4", &found);
    assert_int_equal(found.n, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(found.matches[i].cosine < 0.99999f);
    assert_int_equal(forget(&a, NULL, NULL, "the house is at old lane 4"), 0);
    /* the same id: another text in its place, and what is read is not what it was */
    assert_int_equal(read_facts(&a, "the cat is called tom", 1e-4f, false, NULL), 1);
    uint32_t slots = kept_session_fact_slots(a.run.session);
    assert_int_equal(read_facts(&a, "the cat is called tom", 1e-4f, true, NULL), 1);
    assert_int_equal(kept_session_fact_slots(a.run.session), slots);
    write_fact(&a, "cat", NULL, "the cat is called sir walter");
    assert_int_equal(kept_session_fact_slots(a.run.session), 0);
    assert_int_equal(count_facts(&a), 2);
    assert_int_equal(read_facts(&a, "the cat is called sir walter", 1e-4f, true, NULL), 1);
    assert_true(kept_session_fact_slots(a.run.session) > slots);
    /* a full store can still be updated, a batch may supersede itself */
    write_fact(&a, "x", "", "x has no tag");
    write_fact(&a, "y", "ytag", "y has one");
    assert_int_equal(count_facts(&a), 4);
    write_fact(&a, "y2", "ytag", "y has another");
    struct kept_fact_input both[] = {{.tag = "ytag", .text = "y is three"},
                                     {.tag = "ytag", .text = "y is four"}};
    must(kept_facts_write(a.facts, both, 2, NULL, NULL, &written, &err), &err, "update twice");
    assert_int_equal(written.n_written, 2);
    assert_int_equal(count_facts(&a), 4);
    assert_int_equal(forget(&a, NULL, "ytag", NULL), 1);
    close_side(&a);
}

/* ---- plans ---- */

static void what_is_planned(void **state)
{
    (void)state;
    struct kept_plan_params p = plain_plan();
    struct kept_error err = {0};
    struct kept_fact_input inputs[4];
    struct kept_facts_info info;
    struct side a;
    char texts[4][64];
    open_side(&a, 0, LLAMA, &p, NULL);
    assert_int_equal(kept_plan_info(a.run.plan)->episodic_bytes, 0);
    remove(OTHER);
    assert_int_equal(kept_facts_open(OTHER, a.run.model, NULL, &a.facts, &err), KEPT_E_IO);
    remove(PATH);
    struct kept_facts_open_params create = {.create = true};
    must(kept_facts_open(PATH, a.run.model, &create, &a.facts, &err), &err, "open");
    assert_int_equal(kept_facts_attach(a.facts, a.run.session, &err), KEPT_E_STATE);
    close_side(&a);
    p = facts_plan(5);
    open_side(&a, 0, LLAMA, &p, PATH);
    assert_true(kept_plan_info(a.run.plan)->episodic_bytes > 0);
    for (uint32_t i = 0; i < 4; i++)
        inputs[i] = (struct kept_fact_input){.text = number(i, "text", texts[i])};
    must(kept_facts_write(a.facts, inputs, 3, NULL, NULL, NULL, &err), &err, "write");
    must(kept_facts_write(a.facts, NULL, 0, NULL, NULL, NULL, &err), &err, "write nothing");
    for (uint32_t i = 0; i < 3; i++)
        inputs[i].id = i == 0 ? "p" : i == 1 ? "q" : "r";
    assert_int_equal(kept_facts_write(a.facts, inputs, 3, NULL, NULL, NULL, &err), KEPT_E_BUDGET);
    assert_int_equal(count_facts(&a), 3);
    kept_facts_info(a.facts, &info);
    assert_int_equal(info.n_facts, 3);
    assert_int_equal(info.n_damaged, 0);
    assert_true(info.host_bytes > 3 * info.host_bytes_per_fact);
    kept_facts_close(&a.facts);
    close_side(&a);
    p.facts_max = 2; /* a file with more facts than there is room for */
    *(&a) = (struct side){0};
    open_run(&a.run, 0, LLAMA, &p);
    must(kept_facts_open(PATH, a.run.model, NULL, &a.facts, &err), &err, "open");
    assert_int_equal(kept_facts_attach(a.facts, a.run.session, &err), KEPT_E_BUDGET);
    close_side(&a);
}

static void plans_that_are_refused(void **state)
{
    (void)state;
    struct kept_plan_params p = facts_plan(10);
    p.facts_top = 9;
    run_refused(devices[0], LLAMA, &p, KEPT_E_ARGUMENT, "at most");
    p = facts_plan(10);
    p.facts_gap = 65537;
    run_refused(devices[0], LLAMA, &p, KEPT_E_ARGUMENT, "at most");
    p = facts_plan(UINT32_MAX);
    run_refused(devices[0], LLAMA, &p, KEPT_E_ARGUMENT, "at most");
    p = facts_plan(10);
    p.context_tokens = 127;
    run_refused(devices[0], LLAMA, &p, KEPT_E_ARGUMENT, "127");
    p = facts_plan(10);
    p.calibrate_tokens = 64;
    run_refused(devices[0], LLAMA, &p, KEPT_E_ARGUMENT, "");
}

static int tear_down(void **state)
{
    (void)state;
    kept_device_destroy(&devices[0]);
    kept_device_destroy(&devices[1]);
    remove(PATH);
    remove(OTHER);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_means_off),
        cmocka_unit_test(reading_is_like_text),
        cmocka_unit_test(reading_changes_logits),
        cmocka_unit_test(forgetting_is_exact),
        cmocka_unit_test(updating),
        cmocka_unit_test(what_is_planned),
        cmocka_unit_test(plans_that_are_refused),
    };
    struct kept_device_options options = {.n_threads = 2, .cache_dir = ""};
    backend = argc > 1 ? argv[1] : backend;
    for (int i = 0; i < 2; i++)
        if (kept_device_create(backend, &options, &devices[i], NULL, NULL) != KEPT_OK)
            return 77;
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
