/* tests/unit/test_ref_assoc.c: the references of associative memory on an example small enough to
 * compute by hand.
 *
 * One KV head, d 32, f16, a block of 16 tokens, no sinks, a window of 4 slots, adjacent pairs. Slot
 * s has position s; C = 24 - 4 = 20, so slots 4 … 19 leave and 0 … 3 are compared with. The
 * un-rotated key of slot s is unit vector s, but those of slots 5 and 9 are like that of slot 1:
 * their cosines with it are 0.96 (24 / 25) and 1. Values are constant over the head: slot s has s.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernel/ref/ref.h"
#include "kernel/ref/ref_slots.h"

#define D      32u
#define N      64u /* slots */
#define C      20u
#define SPLITS 2u

struct store {
    uint32_t k[N * D / 2], v[N * D / 2], heads[KEPT_HEAD_WORDS], near[SPLITS * 16 * 2];
    uint32_t step[KEPT_STEP_TOKENS], meta[KEPT_ASSOC_PLANES * N];
    float scores[2 * N], raw[N * D], table[258 * D];
    struct kept_assoc_params p;
};

static struct ref_slots keys_of(struct store *s)
{
    return (struct ref_slots){s->k, KEPT_FMT_F16, KEPT_VECTOR, D};
}

static struct ref_slots values_of(struct store *s)
{
    return (struct ref_slots){s->v, KEPT_FMT_F16, REF_ROWS, D};
}

static void call(void (*reference)(const struct kept_host_call *), uint32_t form,
                 const struct store *s, void *const *binds, uint32_t n)
{
    const uint32_t keys[KEPT_MAX_KEYS] = {
        1, KEPT_VECTOR, D, KEPT_FMT_F16, KEPT_FMT_F16, [KEPT_KEY_ASSOC_FORM] = form};
    struct kept_host_call host = {.keys = keys, .params = &s->p};
    for (uint32_t i = 0; i < n; i++)
        host.bind[i] = binds[i];
    reference(&host);
}

static double angle(uint32_t pair, double position)
{
    return position * pow(10000, -2.0 * pair / D);
}

static void rotate(double *v, double position)
{
    for (uint32_t i = 0; i < D / 2; i++) {
        double c = cos(angle(i, position)), s = sin(angle(i, position)), old = v[2 * i];
        v[2 * i] = old * c - v[2 * i + 1] * s;
        v[2 * i + 1] = old * s + v[2 * i + 1] * c;
    }
}

static void make(struct store *s)
{
    struct ref_slots keys = keys_of(s), values = values_of(s);
    memset(s, 0, sizeof *s);
    s->p = (struct kept_assoc_params){.rows_at = KEPT_STEP_MAINTAIN,
                                      .row_cap = 16,
                                      .n_kv = 1,
                                      .d = D,
                                      .n_rot = D,
                                      .rope_pairs = KEPT_ROPE_ADJACENT,
                                      .total = N,
                                      .raw_stride = N,
                                      .mean_row = 257,
                                      .window = 4,
                                      .n_splits = SPLITS,
                                      .threshold = 0.95f};
    s->step[KEPT_STEP_MAINTAIN] = 16;
    s->step[KEPT_STEP_BASE] = 8;
    s->heads[KEPT_HEAD_CAP] = N;
    for (uint32_t row = 0; row < 257; row++)
        for (uint32_t i = 0; i < D / 2; i++) {
            s->table[row * D + 2 * i] = (float)cos(angle(i, row < 256 ? row : 0));
            s->table[row * D + 2 * i + 1] = (float)sin(angle(i, row < 256 ? row : 0));
        }
    for (uint32_t slot = 0; slot < C + 4; slot++) {
        double k[D] = {0}, v[D];
        k[slot] = 2;
        if (slot == 5 || slot == 9) {
            k[slot] = slot == 5 ? 0.875 : 0;
            k[1] = 3;
        }
        rotate(k, slot);
        for (uint32_t i = 0; i < D; i++)
            v[i] = slot;
        ref_slot_store(&keys, slot, k);
        ref_slot_store(&values, slot, v);
        s->meta[slot] = slot;
        s->scores[slot] = 1;
    }
}

static float meta(const struct store *s, uint32_t plane, uint32_t slot)
{
    float v;
    memcpy(&v, &s->meta[plane * N + slot], 4);
    return v;
}

static void run(struct store *s, uint32_t form)
{
    call(ref_assoc_raw, form, s, (void *[]){s->k, s->meta, s->table, s->heads, s->raw, s->step}, 6);
    call(ref_assoc_match, form, s, (void *[]){s->raw, s->meta, s->heads, s->near, s->step}, 5);
    call(ref_assoc_write, form, s,
         (void *[]){s->k, s->v, s->meta, s->scores, s->raw, s->table, s->heads, s->near, s->step},
         9);
}

#define NEARLY(a, b) assert_true(fabs((double)(a) - (b)) <= 2e-3)

/* What both forms do with slot 1, which stood for one token, and its two hits. */
static void check_average(struct store *s)
{
    struct ref_slots keys = keys_of(s), values = values_of(s);
    double k[D], v[D], turned[D] = {0};
    NEARLY(meta(s, KEPT_ASSOC_COUNT, 1), 3);
    assert_int_equal(s->meta[KEPT_ASSOC_STAMP * N + 1], 24);
    turned[1] = 8.0 / 3; /* (2 + 3 + 3) / 3 */
    turned[5] = 0.875 / 3;
    for (uint32_t i = 0; i < D; i++)
        NEARLY(s->raw[i * 16 + 1], turned[i]);
    rotate(turned, (int32_t)s->meta[1]);
    ref_slot_load(&keys, 1, k);
    ref_slot_load(&values, 1, v);
    for (uint32_t i = 0; i < D; i++) {
        NEARLY(k[i], turned[i]);
        NEARLY(v[i], 5); /* (1 + 5 + 9) / 3 */
    }
    for (uint32_t slot = 0; slot < C + 4; slot++) {
        bool hit = slot == 5 || slot == 9;
        assert_int_equal((int32_t)s->meta[slot] == KEPT_POS_GONE, hit);
        assert_int_equal(s->scores[N + slot] == -INFINITY, hit);
        if (slot >= 4 && slot < C) {
            NEARLY(meta(s, KEPT_ASSOC_COUNT, slot), 1);
            assert_int_equal(s->meta[KEPT_ASSOC_STAMP * N + slot], 24);
        }
    }
}

static void like_tokens_become_one(void **state)
{
    (void)state;
    struct store s;
    make(&s);
    run(&s, 0);
    check_average(&s);
    float like;
    memcpy(&like, &s.near[2], 4); /* token 5 in split 0: slots 0 … 3 are one tile, split 1 has it */
    assert_true(like == -INFINITY);
    memcpy(&like, &s.near[2 * (16 + 1)], 4);
    NEARLY(like, 0.96);
    assert_int_equal(s.near[2 * (16 + 1) + 1], 1);
    assert_int_equal(s.meta[1], 5); /* the mean of 1, 5 and 9 */
    NEARLY(meta(&s, KEPT_ASSOC_FRAC, 1), 0);
    NEARLY(meta(&s, 1, 1), log(3));
    NEARLY(s.scores[1], 3);
    NEARLY(s.scores[N + 1], log(3));
    NEARLY(s.scores[4], 1);
}

/* Later: what stands for three tokens at 5 1/3 takes one at 9: (3 * 16/3 + 9) / 4 = 6.25. */
static void means_carry_on(void **state)
{
    (void)state;
    struct store s;
    const float count = 3, third = 1.0f / 3;
    make(&s);
    s.meta[5] = (uint32_t)KEPT_POS_GONE; /* then token 5 is like none: its key is not turned back */
    s.meta[1] = 5;
    memcpy(&s.meta[KEPT_ASSOC_COUNT * N + 1], &count, 4);
    memcpy(&s.meta[KEPT_ASSOC_FRAC * N + 1], &third, 4);
    struct ref_slots keys = keys_of(&s);
    double k[D] = {0};
    k[1] = 2;
    rotate(k, 5);
    ref_slot_store(&keys, 1, k);
    s.p.threshold = 0.99f;
    run(&s, 0);
    NEARLY(meta(&s, KEPT_ASSOC_COUNT, 1), 4);
    assert_int_equal(s.meta[1], 6);
    NEARLY(meta(&s, KEPT_ASSOC_FRAC, 1), 0.25);
    NEARLY(meta(&s, 1, 1), log(4.0 / 3));
    NEARLY(s.raw[16 + 1], (3 * 2 + 3) / 4.0);
}

static void as_published(void **state)
{
    (void)state;
    struct store s;
    make(&s);
    run(&s, 1);
    check_average(&s);
    assert_int_equal(s.meta[1], 1);
    NEARLY(meta(&s, 1, 1), 0);
    for (uint32_t slot = 0; slot < C; slot++) {
        bool written = slot == 1 || (slot >= 4 && slot != 5 && slot != 9);
        NEARLY(s.scores[slot], written ? 24 : 1);
    }
}

/* No room behind the window, or nothing is like enough. */
static void nothing_to_do(void **state)
{
    (void)state;
    struct store s, before;
    make(&s);
    s.p.window = 24;
    before = s;
    run(&s, 0);
    assert_memory_equal(&s, &before, sizeof s);
    make(&s);
    s.p.threshold = 2;
    run(&s, 0);
    for (uint32_t slot = 0; slot < C + 4; slot++)
        assert_int_equal(s.meta[slot], slot);
    assert_int_equal(s.heads[KEPT_HEAD_CONSOLIDATED], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_tokens_become_one),
        cmocka_unit_test(means_carry_on),
        cmocka_unit_test(as_published),
        cmocka_unit_test(nothing_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
