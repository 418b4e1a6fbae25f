/* tests/unit/test_registry.c: rows as kernels.def states them, grids, live rows, and what the
 * contract refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernel/contract.h"
#include "kernel/registry.h"

static void rows_are_whole(void **state)
{
    (void)state;
    for (int id = 0; id < KEPT_KERNEL_COUNT; id++) {
        const struct kept_kernel_row *row = kept_kernel_row((enum kept_kernel_id)id);
        assert_int_equal(row->id, id);
        assert_non_null(row->reference);
        assert_true(row->n_binds >= 3 && row->n_binds <= KEPT_MAX_BINDS);
        assert_string_equal(row->bind_names[row->n_binds - 1], "step");
        assert_true(row->n_keys >= 1 && row->n_keys <= KEPT_MAX_KEYS);
        assert_string_equal(row->key_names[0], "WG");
        assert_true(row->key_defaults[0] > 0);
        for (uint32_t i = 0; i < row->n_binds; i++)
            assert_true(row->access[i] != KEPT_ACCESS_NONE && row->bind_names[i][0] != '\0');
    }
    const struct kept_kernel_row *norm = kept_kernel_row(KEPT_KERNEL_NORM);
    assert_string_equal(norm->stem, "norm");
    assert_int_equal(norm->n_binds, 6);
    assert_int_equal(norm->access[0], KEPT_ACCESS_M);
    assert_int_equal(norm->access[4], KEPT_ACCESS_W);
    assert_string_equal(norm->bind_names[2], "w_post");
    assert_int_equal(norm->param_bytes, sizeof(struct kept_norm_params));
    assert_false(norm->has_formats);
    assert_true(kept_kernel_row(KEPT_KERNEL_EMBED)->has_formats);
}

static void keys_are_where_their_names_are(void **state)
{
    (void)state;
    const struct {
        enum kept_kernel_id id;
        const char *name;
        uint32_t at;
    } keys[] = {
        {KEPT_KERNEL_EMBED, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_MATVEC, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_MATMAT, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_SLOT_WRITE, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_ATTN_DECODE, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_ATTN_PREFILL, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_NORM, "MODE", KEPT_KEY_NORM_MODE},
        {KEPT_KERNEL_GLU, "ACT", KEPT_KEY_GLU_ACT},
        {KEPT_KERNEL_MATVEC, "EPI", KEPT_KEY_MATVEC_EPI},
        {KEPT_KERNEL_MATMAT, "EPI", KEPT_KEY_MATMAT_EPI},
        {KEPT_KERNEL_SLOT_WRITE, "QKNORM", KEPT_KEY_SLOT_QKNORM},
        {KEPT_KERNEL_SLOT_WRITE, "BIAS", KEPT_KEY_SLOT_BIAS},
        {KEPT_KERNEL_SLOT_BIRTH, "BIAS", KEPT_KEY_BIRTH_BIAS},
        {KEPT_KERNEL_SLOT_BIRTH, "DMS", KEPT_KEY_BIRTH_DMS},
        {KEPT_KERNEL_ATTN_DECODE, "D", KEPT_KEY_ATTN_D},
        {KEPT_KERNEL_ATTN_DECODE, "G", KEPT_KEY_ATTN_G},
        {KEPT_KERNEL_ATTN_DECODE, "GENERAL", KEPT_KEY_ATTN_GENERAL},
        {KEPT_KERNEL_ATTN_PREFILL, "D", KEPT_KEY_ATTN_D},
        {KEPT_KERNEL_ATTN_PREFILL, "GENERAL", KEPT_KEY_ATTN_GENERAL},
        {KEPT_KERNEL_SLOT_WRITE, "KT", KEPT_KEY_SLOT_KT},
        {KEPT_KERNEL_SLOT_WRITE, "VT", KEPT_KEY_SLOT_VT},
        {KEPT_KERNEL_SLOT_WRITE, "STORE", KEPT_KEY_SLOT_STORE},
        {KEPT_KERNEL_ATTN_DECODE, "KT", KEPT_KEY_ATTN_KT},
        {KEPT_KERNEL_ATTN_DECODE, "VT", KEPT_KEY_ATTN_VT},
        {KEPT_KERNEL_ATTN_PREFILL, "G", KEPT_KEY_ATTN_G},
        {KEPT_KERNEL_ATTN_PREFILL, "KT", KEPT_KEY_ATTN_KT},
        {KEPT_KERNEL_ATTN_PREFILL, "VT", KEPT_KEY_ATTN_VT},
        {KEPT_KERNEL_ATTN_PREFILL, "BQ", KEPT_KEY_ATTN_BQ},
        {KEPT_KERNEL_ATTN_PREFILL, "OUT", KEPT_KEY_ATTN_OUT},
        {KEPT_KERNEL_ATTN_MERGE, "VROT", KEPT_KEY_MERGE_VROT},
        {KEPT_KERNEL_ATTN_PEAK, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_ATTN_PEAK, "D", KEPT_KEY_ATTN_D},
        {KEPT_KERNEL_ATTN_PEAK, "SUM", KEPT_KEY_PEAK_SUM},
        {KEPT_KERNEL_Q_STATS, "D", KEPT_KEY_STATS_D},
        {KEPT_KERNEL_SCORE_EXPECTED, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_SCORE_EXPECTED, "D", KEPT_KEY_SCORE_D},
        {KEPT_KERNEL_SCORE_EXPECTED, "KT", KEPT_KEY_SCORE_KT},
        {KEPT_KERNEL_SCORE_EXPECTED, "VT", KEPT_KEY_SCORE_VT},
        {KEPT_KERNEL_SCORE_KEYDIFF, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_SCORE_KEYDIFF, "D", KEPT_KEY_SCORE_D},
        {KEPT_KERNEL_SCORE_KEYDIFF, "KT", KEPT_KEY_SCORE_KT},
        {KEPT_KERNEL_SLOT_SELECT, "SCORER", KEPT_KEY_SELECT_SCORER},
        {KEPT_KERNEL_SLOT_NEAREST, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_SLOT_NEAREST, "D", KEPT_KEY_SCORE_D},
        {KEPT_KERNEL_SLOT_NEAREST, "KT", KEPT_KEY_SCORE_KT},
        {KEPT_KERNEL_SLOT_MERGE, "D", KEPT_KEY_SLOT_MERGE_D},
        {KEPT_KERNEL_SLOT_MERGE, "VT", KEPT_KEY_SLOT_MERGE_VT},
        {KEPT_KERNEL_SLOT_MOVE, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_SLOT_MOVE, "KT", KEPT_KEY_MOVE_KT},
        {KEPT_KERNEL_SLOT_MOVE, "VT", KEPT_KEY_MOVE_VT},
        {KEPT_KERNEL_SLOT_ROTATE, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_SLOT_ROTATE, "D", KEPT_KEY_SCORE_D},
        {KEPT_KERNEL_SLOT_ROTATE, "KT", KEPT_KEY_SCORE_KT},
        {KEPT_KERNEL_SLOT_ROTATE, "ALWAYS", KEPT_KEY_ROTATE_ALWAYS},
        {KEPT_KERNEL_SLOT_RENUMBER, "ALWAYS", KEPT_KEY_RENUMBER_ALWAYS},
        {KEPT_KERNEL_ASSOC_RAW, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_ASSOC_RAW, "D", KEPT_KEY_SCORE_D},
        {KEPT_KERNEL_ASSOC_RAW, "KT", KEPT_KEY_SCORE_KT},
        {KEPT_KERNEL_ASSOC_MATCH, "D", KEPT_KEY_MATCH_D},
        {KEPT_KERNEL_ASSOC_WRITE, "ORDER", KEPT_KEY_ORDER},
        {KEPT_KERNEL_ASSOC_WRITE, "D", KEPT_KEY_SCORE_D},
        {KEPT_KERNEL_ASSOC_WRITE, "KT", KEPT_KEY_SCORE_KT},
        {KEPT_KERNEL_ASSOC_WRITE, "VT", KEPT_KEY_SCORE_VT},
        {KEPT_KERNEL_ASSOC_WRITE, "FORM", KEPT_KEY_ASSOC_FORM},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_int_equal(kept_kernel_key(keys[i].id, keys[i].name), keys[i].at);
    assert_int_equal(kept_kernel_key(KEPT_KERNEL_NORM, "ORDER"), KEPT_MAX_KEYS);
    assert_int_equal(kept_kernel_key(KEPT_KERNEL_NORM, "MOD"), KEPT_MAX_KEYS);
}

static void live_rows_are_clamped(void **state)
{
    (void)state;
    uint32_t step[16] = {[KEPT_STEP_ROWS] = 10};
    struct kept_glu_params p = {.rows_at = KEPT_STEP_ROWS, .row_first = 0, .row_cap = 4};
    assert_int_equal(kept_live_rows(&p, step), 4);
    p.row_first = 8;
    assert_int_equal(kept_live_rows(&p, step), 2);
    p.row_first = 10;
    assert_int_equal(kept_live_rows(&p, step), 0);
    p.row_first = 4000000000u;
    assert_int_equal(kept_live_rows(&p, step), 0);
}

static void check_grid(enum kept_kernel_id id, const uint32_t *keys, const void *params, uint32_t x,
                       uint32_t y, uint32_t z)
{
    uint32_t grid[3];
    kept_kernel_grid(id, keys, params, grid);
    assert_int_equal(grid[0], x);
    assert_int_equal(grid[1], y);
    assert_int_equal(grid[2], z);
}

static void grids_follow_the_table(void **state)
{
    (void)state;
    const struct kept_matmul_params mm = {.row_cap = 9, .n_rows = 100};
    check_grid(KEPT_KERNEL_MATVEC, (const uint32_t[]){64, 0, 4, 2, 0}, &mm, 4, 3, 1);
    check_grid(KEPT_KERNEL_MATMAT, (const uint32_t[]){64, 0, 64, 4, 0}, &mm, 2, 3, 1);
    const struct kept_matmul_params none = {.row_cap = 0, .n_rows = 0};
    check_grid(KEPT_KERNEL_MATVEC, (const uint32_t[]){64, 0, 1, 1, 0}, &none, 1, 1, 1);
    const struct kept_attn_params at = {.row_cap = 5, .n_head = 9, .n_kv = 3, .n_splits = 7};
    check_grid(KEPT_KERNEL_ATTN_DECODE, (const uint32_t[]){64, 0, 64, 2, 0}, &at, 7, 6, 5);
    check_grid(KEPT_KERNEL_ATTN_PREFILL, (const uint32_t[]){64, 0, 64, 3, 0, 1, 1, 2}, &at, 3, 3,
               1);
    const struct kept_slot_write_params sw = {.row_cap = 5, .n_head = 9, .n_kv = 3};
    check_grid(KEPT_KERNEL_SLOT_WRITE, (const uint32_t[]){32, 0, 0, 0}, &sw, 5, 12, 1);
    const struct kept_birth_params birth = {.row_cap = 65, .n_kv = 3};
    check_grid(KEPT_KERNEL_SLOT_BIRTH, (const uint32_t[]){64, 0, 0}, &birth, 2, 3, 1);
    const struct kept_glu_params glu = {.row_cap = 5, .n = 257};
    check_grid(KEPT_KERNEL_GLU, (const uint32_t[]){64, 0}, &glu, 2, 5, 1);
    const struct kept_merge_params merge = {.row_cap = 5, .n_head = 9};
    check_grid(KEPT_KERNEL_ATTN_MERGE, (const uint32_t[]){64, 1}, &merge, 5, 9, 1);
    const struct kept_peak_params peak = {.row_cap = 5, .n_head = 9, .n_kv = 3, .n_slots = 65};
    check_grid(KEPT_KERNEL_ATTN_PEAK, (const uint32_t[]){64, 0, 64}, &peak, 2, 3, 1);
}

static void grids_of_maintenance_follow_the_table(void **state)
{
    (void)state;
    const uint32_t keys[KEPT_MAX_KEYS] = {64, 0, KEPT_FMT_Q8_0, KEPT_FMT_Q4_0};
    const struct kept_stats_params stats = {.row_cap = 64, .n_head = 9, .d = 96};
    check_grid(KEPT_KERNEL_Q_STATS, keys, &stats, 9, 6, 1);
    const struct kept_score_params score = {.row_cap = 64, .n_head = 9, .n_kv = 3, .z_stride = 320};
    check_grid(KEPT_KERNEL_SCORE_EXPECTED, keys, &score, 5, 3, 1);
    check_grid(KEPT_KERNEL_SCORE_KEYDIFF, keys, &score, 3, 1, 1);
    const struct kept_select_params select = {.row_cap = 64, .n_head = 9, .n_kv = 3};
    check_grid(KEPT_KERNEL_SLOT_SELECT, keys, &select, 3, 1, 1);
    const struct kept_merge_slots_params near = {.row_cap = 64, .n_kv = 3, .n_splits = 7};
    check_grid(KEPT_KERNEL_SLOT_NEAREST, keys, &near, 7, 3, 1);
    check_grid(KEPT_KERNEL_SLOT_MERGE, keys, &near, 64, 3, 1);
    /* 96 elements: K 24 words and 2 of scales, V 12 and 2, then meta and scores */
    const struct kept_move_params move = {.row_cap = 64, .n_kv = 3, .d = 96, .meta_planes = 3};
    check_grid(KEPT_KERNEL_SLOT_MOVE, keys, &move, 24 + 2 + 12 + 2 + 3 + 2, 3, 1);
    const struct kept_rotate_params rotate = {.row_cap = 64, .n_kv = 3, .z_stride = 320};
    check_grid(KEPT_KERNEL_SLOT_RENUMBER, keys, &rotate, 5, 3, 1);
    check_grid(KEPT_KERNEL_SLOT_ROTATE, keys, &rotate, 20, 3, 1);
    const struct kept_assoc_params assoc = {
        .row_cap = 64, .n_kv = 3, .raw_stride = 320, .n_splits = 7};
    check_grid(KEPT_KERNEL_ASSOC_RAW, keys, &assoc, 20, 3, 1);
    check_grid(KEPT_KERNEL_ASSOC_MATCH, keys, &assoc, 7, 3, 1);
    check_grid(KEPT_KERNEL_ASSOC_WRITE, keys, &assoc, 16, 3, 1);
}

/* A valid call, then one thing wrong at a time. */
static struct kept_matmul_params valid_matmul(uint64_t bytes[4])
{
    struct kept_record record = kept_record_of(KEPT_FORMAT_Q4_K, 256);
    struct kept_matmul_params p = {
        .row_cap = 3,
        .x_first_at = KEPT_STEP_ZERO,
        .k = 256,
        .n_rows = 40,
        .x_stride = KEPT_ACT_STRIDE(256u),
        .y_stride = 48,
        .record_words = record.n_words,
        .h_words = record.h.offset_words,
        .s_words = record.s.offset_words,
        .d_words = record.d.offset_words,
    };
    bytes[0] = 3ull * record.n_words * 4;
    bytes[1] = (2 * KEPT_ACT_STRIDE(256u) + 256 + 16) * 4;
    bytes[2] = (2 * 48 + 40) * 4;
    bytes[3] = KEPT_STEP_TOKENS * 4;
    return p;
}

static kept_status check_matvec(const struct kept_matmul_params *p, const uint64_t *bytes)
{
    struct kept_error err = {0};
    const uint32_t keys[KEPT_MAX_KEYS] = {64, KEPT_VECTOR, 1, 1, KEPT_EPI_STORE};
    return kept_kernel_check(KEPT_KERNEL_MATVEC, KEPT_FORMAT_Q4_K, keys, p, bytes, &err);
}

static void contract_bounds_every_binding(void **state)
{
    (void)state;
    uint64_t bytes[4];
    const struct kept_matmul_params p = valid_matmul(bytes);
    assert_int_equal(check_matvec(&p, bytes), KEPT_OK);
    for (int i = 0; i < 4; i++) {
        bytes[i] -= 4;
        assert_int_equal(check_matvec(&p, bytes), KEPT_E_ARGUMENT);
        bytes[i] += 4;
    }
}

static void contract_refuses_parameters(void **state)
{
    (void)state;
    uint64_t bytes[4];
    const struct kept_matmul_params good = valid_matmul(bytes);
    struct kept_matmul_params p = good;
    p.record_words += 16;
    assert_int_equal(check_matvec(&p, bytes), KEPT_E_ARGUMENT);
    p = good;
    p.k = 224; /* no whole block */
    assert_int_equal(check_matvec(&p, bytes), KEPT_E_ARGUMENT);
    p = good;
    p.rows_at = 16;
    assert_int_equal(check_matvec(&p, bytes), KEPT_E_ARGUMENT);
    p = good;
    p.row_first = UINT32_MAX; /* row_first + row_cap does not wrap */
    assert_int_equal(check_matvec(&p, bytes), KEPT_E_ARGUMENT);
    p = good;
    p.x_stride = UINT32_MAX;
    assert_int_equal(check_matvec(&p, bytes), KEPT_E_ARGUMENT);
}

/* A valid assoc_write; one thing wrong at a time. */
static kept_status check_assoc(const struct kept_assoc_params *p, const uint64_t *bytes)
{
    struct kept_error err = {0};
    const uint32_t keys[KEPT_MAX_KEYS] = {
        64, KEPT_VECTOR, 64, KEPT_FMT_Q8_0, KEPT_FMT_F16, [KEPT_KEY_ASSOC_FORM] = 1};
    return kept_kernel_check(KEPT_KERNEL_ASSOC_WRITE, 0, keys, p, bytes, &err);
}

static void contract_of_associative_memory(void **state)
{
    (void)state;
    const struct kept_assoc_params good = {.row_cap = 64,
                                           .n_kv = 2,
                                           .d = 64,
                                           .n_rot = 32,
                                           .rope_pairs = KEPT_ROPE_HALVES,
                                           .total = 128,
                                           .raw_stride = 96,
                                           .mean_row = 260,
                                           .n_splits = 3,
                                           .sub = 3,
                                           .threshold = -1};
    uint64_t bytes[9] = {8 * KEPT_TILE_WORDS(KEPT_FMT_Q8_0, 64) * 4ull,
                         8 * KEPT_TILE_WORDS(KEPT_FMT_F16, 64) * 4ull,
                         KEPT_ASSOC_PLANES * 128 * 4ull,
                         2 * 128 * 4ull,
                         2 * 96 * 64 * 4ull,
                         261 * 32 * 4ull,
                         2 * KEPT_HEAD_WORDS * 4ull,
                         2 * 3 * 64 * 2 * 4ull,
                         KEPT_STEP_TOKENS * 4ull};
    assert_int_equal(check_assoc(&good, bytes), KEPT_OK);
    for (int i = 0; i < 9; i++) {
        bytes[i] -= 4;
        assert_int_equal(check_assoc(&good, bytes), KEPT_E_ARGUMENT);
        bytes[i] += 4;
    }
    struct kept_assoc_params wrong[7];
    for (int i = 0; i < 7; i++)
        wrong[i] = good;
    wrong[0].row_cap = 72; /* not of whole sub-batches */
    wrong[1].sub = 4;
    wrong[2].raw_stride = 90;
    wrong[3].n_splits = 0;
    wrong[4].threshold = -1.5f;
    wrong[5].mean_row = UINT32_MAX;
    wrong[6].n_rot = 0;
    for (int i = 0; i < 7; i++)
        assert_int_equal(check_assoc(&wrong[i], bytes), KEPT_E_ARGUMENT);
}

/* What attn_prefill writes decides which parameters and how large an output it needs. */
static kept_status check_prefill(const struct kept_attn_params *p, uint32_t out, uint64_t out_bytes)
{
    struct kept_error err = {0};
    const uint32_t keys[KEPT_MAX_KEYS] = {64,           KEPT_VECTOR,  32, 1,  KEPT_SLOTS_PLAIN,
                                          KEPT_FMT_F16, KEPT_FMT_F16, 8,  out};
    uint64_t tiles = 4 * KEPT_TILE_WORDS(KEPT_FMT_F16, 32) * 4ull;
    const uint64_t bytes[7] = {
        5 * 64 * 4, tiles, tiles, 0, 0, out_bytes, (KEPT_STEP_TOKENS + 10) * 4};
    return kept_kernel_check(KEPT_KERNEL_ATTN_PREFILL, 0, keys, p, bytes, &err);
}

static void contract_of_prefill_outputs(void **state)
{
    (void)state;
    const struct kept_attn_params good = {.row_cap = 5,
                                          .chunk = 5,
                                          .n_head = 1,
                                          .n_kv = 1,
                                          .d = 32,
                                          .q_stride = 64,
                                          .cap = 64,
                                          .n_splits = 1,
                                          .parts = 3,
                                          .part_first = 2,
                                          .out_stride = 36};
    uint64_t rows = (4 * 36 + 34) * 4ull, parts = 5 * 3 * 36 * 4ull;
    assert_int_equal(check_prefill(&good, 0, rows), KEPT_OK);
    assert_int_equal(check_prefill(&good, 0, rows - 4), KEPT_E_ARGUMENT);
    assert_int_equal(check_prefill(&good, 1, parts), KEPT_OK);
    assert_int_equal(check_prefill(&good, 1, parts - 4), KEPT_E_ARGUMENT);
    assert_int_equal(check_prefill(&good, 2, parts), KEPT_E_ARGUMENT);
    struct kept_attn_params p = good;
    p.part_first = 3;
    assert_int_equal(check_prefill(&p, 1, parts), KEPT_E_ARGUMENT);
    p = good;
    p.part_first = 0;
    p.n_splits = 2;
    assert_int_equal(check_prefill(&p, 1, parts), KEPT_E_ARGUMENT);
    assert_int_equal(check_prefill(&p, 0, rows), KEPT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_whole),
        cmocka_unit_test(keys_are_where_their_names_are),
        cmocka_unit_test(live_rows_are_clamped),
        cmocka_unit_test(grids_follow_the_table),
        cmocka_unit_test(grids_of_maintenance_follow_the_table),
        cmocka_unit_test(contract_bounds_every_binding),
        cmocka_unit_test(contract_refuses_parameters),
        cmocka_unit_test(contract_of_associative_memory),
        cmocka_unit_test(contract_of_prefill_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
