/* tests/kernels/decisions.c: a device drops the slots that the references drop.
 *
 *   decisions cpu|vulkan|opencl        exit code 77 where the backend has no device
 *
 * A bounded store of real size (9 query heads, 3 KV heads of 64, 512 to 1,024 slots a head) takes
 * in 64 tokens at a time and is maintained by the calls that retain.c emits. The references carry
 * the state from block to block; the device gets a copy of it before each maintenance, so that what
 * it decided otherwise does not add up. Of all slots that the references evict the device must
 * evict 99.9 %, of each head the same number.
 *
 * Queries, keys and values are made: channels of very different spread around a mean of the head's,
 * a few of them far out, a topic that drifts from token to token; keys are rotated as a model's
 * are.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/plan_internal.h"
#include "memory/retain.h"
#include "tune/check_run.h"

#define EXIT_SKIP 77
#define N_HEAD    9u
#define N_KV      3u
#define D         64u
#define BLOCK     64u
#define BLOCKS    60u /* of which all but the first 15 evict in every head */
#define WIDTH     ((N_HEAD + 2 * N_KV) * D)
#define HI_ROWS   (BLOCKS * BLOCK / 256 + 1)
#define MAX_CALLS 8u
#define WAIT_NS   60000000000u

static const uint32_t budgets[N_KV] = {512, 700, 960};

enum region {
    K_SLOTS,
    V_SLOTS,
    META,
    TABLE,
    HEADS,
    SCORES,
    STATS,
    QUERIES,
    Z,
    MOVES,
    NEAR,
    STEP,
    QKV,
    N_REGIONS
};

/* One store. All of it lies in one image, of which the device's buffer is a copy. */
struct bench {
    struct kept_retention retention;
    struct kept_head_slots heads[N_KV];
    struct kept_store store;
    uint32_t order, wg;
    uint64_t at[N_REGIONS + 1]; /* bytes */
    uint8_t *image;
    struct kept_call calls[MAX_CALLS];
    uint32_t n_calls;
    uint64_t rng;
    float *shape; /* per head of q, k and v: the mean, the spread, the topic */
};

/* A maintenance recorded on a device. */
struct run {
    struct kept_device *device;
    struct kept_buf *buf;
    struct kept_kernel *kernels[MAX_CALLS];
    struct kept_recording *recording;
    uint8_t *moves;
    uint64_t n_evicted, n_same;
    bool counts_differ;
};

static void *words(const struct bench *b, enum region region)
{
    return b->image + b->at[region];
}

static struct kept_arg region(const struct bench *b, enum region i)
{
    return (struct kept_arg){i, 0, b->at[i + 1] - b->at[i]};
}

/* ---- made tokens ---- */

static double uniform(struct bench *b)
{
    b->rng = kept_check_mix(b->rng, 1);
    return ((double)(b->rng >> 11) + 0.5) * 0x1p-53;
}

static double normal(struct bench *b)
{
    double r = sqrt(-2 * log(uniform(b)));
    return r * cos(6.283185307179586 * uniform(b));
}

static void make_shape(struct bench *b)
{
    float *mean = b->shape, *spread = mean + WIDTH, *topic = spread + WIDTH;
    for (uint32_t i = 0; i < WIDTH; i++) {
        bool far = i % D % 21 == 5;
        mean[i] = i < (N_HEAD + N_KV) * D ? (float)((far ? 4 : 0.7) * normal(b)) : 0;
        spread[i] = (float)(0.8 * exp(0.7 * normal(b)));
        topic[i] = (float)normal(b);
    }
}

static void make_tokens(struct bench *b)
{
    const float *mean = b->shape, *spread = mean + WIDTH;
    float *topic = b->shape + 2 * WIDTH, *row = words(b, QKV);
    for (uint32_t r = 0; r < BLOCK; r++, row += WIDTH) {
        double size = exp(0.4 * normal(b)); /* values differ in length */
        for (uint32_t i = 0; i < WIDTH; i++) {
            topic[i] = (float)(0.97 * (double)topic[i] + 0.24 * normal(b));
            double v = spread[i] * (0.7 * normal(b) + 0.7 * (double)topic[i]) + mean[i];
            row[i] = (float)(i < (N_HEAD + N_KV) * D ? v : v * size);
        }
    }
}

/* ---- the store ---- */

static void add_call(void *user, struct kept_call *call, const void *params, uint32_t live_slots)
{
    struct bench *b = user;
    (void)live_slots;
    memcpy(call->params, params, kept_kernel_row(call->id)->param_bytes);
    if (b->n_calls < MAX_CALLS)
        b->calls[b->n_calls++] = *call;
}

static void by_reference(const struct bench *b, const struct kept_call *call)
{
    const struct kept_kernel_row *row = kept_kernel_row(call->id);
    struct kept_host_call host = {.keys = call->keys, .params = call->params};
    for (uint32_t i = 0; i < row->n_binds; i++) {
        host.bind[i] = b->image + b->at[call->args[i].region];
        host.bind_bytes[i] = call->args[i].n_bytes;
    }
    row->reference(&host);
}

static void lay_out(struct bench *b, uint32_t type)
{
    struct kept_store *s = &b->store;
    struct kept_retain_words scratch = kept_retain_words(&b->retention, s);
    uint64_t slots = s->total / 16ull * KEPT_TILE_WORDS(type, D);
    const uint64_t n_words[N_REGIONS] = {
        [K_SLOTS] = slots,
        [V_SLOTS] = slots,
        [META] = 2ull * s->total,
        [TABLE] = (256 + HI_ROWS + 1) * (uint64_t)D,
        [HEADS] = N_KV * KEPT_HEAD_WORDS,
        [SCORES] = 2ull * s->total,
        [STATS] = N_HEAD * (uint64_t)KEPT_STATS_STRIDE(D),
        [QUERIES] = BLOCK * N_HEAD * (uint64_t)D,
        [Z] = scratch.z,
        [MOVES] = scratch.moves,
        [NEAR] = scratch.near,
        [STEP] = KEPT_STEP_TOKENS + 2 * BLOCK,
        [QKV] = BLOCK * (uint64_t)WIDTH,
    };
    for (uint32_t i = 0; i < N_REGIONS; i++)
        b->at[i + 1] = (b->at[i] + n_words[i] * 4 + 4095) / 4096 * 4096;
}

static bool make(struct bench *b, enum kept_retain mode, enum kept_scorer scorer, uint32_t type)
{
    const struct kept_rope rope = {
        .n_rot = D, .pairs = KEPT_ROPE_ADJACENT, .base = 100000, .scale = 1};
    bool merge = mode == KEPT_RETAIN_SCORED && scorer == KEPT_SCORER_BY_EXPECTED;
    b->retention = (struct kept_retention){.on = true,
                                           .mode = mode,
                                           .scorer = scorer,
                                           .merge = merge,
                                           .sinks = 4,
                                           .window = 128,
                                           .block = BLOCK,
                                           .refresh = 256,
                                           .keep = 1};
    b->store = (struct kept_store){.n_head = N_HEAD,
                                   .n_kv = N_KV,
                                   .d = D,
                                   .k_type = type,
                                   .v_type = type,
                                   .heads = b->heads,
                                   .n_rot = D,
                                   .rope_pairs = KEPT_ROPE_ADJACENT,
                                   .mean_row = kept_rope_mean_row(HI_ROWS),
                                   .q_scale = 0.125f};
    struct kept_store *s = &b->store;
    for (uint32_t h = 0; h < N_KV; h++) {
        uint32_t cap = kept_retain_extent(&b->retention, budgets[h], BLOCKS * BLOCK);
        b->heads[h] = (struct kept_head_slots){s->total, cap, budgets[h]};
        s->total += cap;
        s->most = cap > s->most ? cap : s->most;
    }
    lay_out(b, type);
    b->image = calloc(1, b->at[N_REGIONS]);
    b->shape = calloc(3 * WIDTH, sizeof *b->shape);
    if (b->image == NULL || b->shape == NULL)
        return false;
    s->k = region(b, K_SLOTS);
    s->v = region(b, V_SLOTS);
    s->meta = region(b, META);
    s->table = region(b, TABLE);
    s->heads_table = region(b, HEADS);
    s->scores = region(b, SCORES);
    s->stats = region(b, STATS);
    s->queries = region(b, QUERIES);
    kept_retain_table(s, words(b, HEADS));
    kept_rope_table_fill(&rope, NULL, HI_ROWS, 0, words(b, TABLE));
    make_shape(b);
    const struct kept_retain_scratch scratch = {region(b, Z), region(b, MOVES), region(b, NEAR)};
    const struct kept_retain_emit emit = {add_call, b, b->wg, b->order, region(b, STEP)};
    kept_retain_maintain(&b->retention, s, &scratch, 0, &emit);
    return true;
}

/* The next block of tokens into their slots. */
static void take_in(struct bench *b, uint32_t i_block)
{
    uint32_t *step = words(b, STEP);
    struct kept_call call = {.id = KEPT_KERNEL_SLOT_WRITE};
    const struct kept_slot_write_params params = {.rows_at = KEPT_STEP_ROWS,
                                                  .row_cap = BLOCK,
                                                  .chunk = BLOCK,
                                                  .n_head = N_HEAD,
                                                  .n_kv = N_KV,
                                                  .d = D,
                                                  .n_rot = D,
                                                  .rope_pairs = KEPT_ROPE_ADJACENT,
                                                  .qkv_stride = WIDTH,
                                                  .cap = b->store.total,
                                                  .queries_rows = BLOCK,
                                                  .q_scale = b->store.q_scale};
    static const enum region args[] = {QKV,     TABLE, QKV,  QKV,     QKV, K_SLOTS,
                                       V_SLOTS, HEADS, META, QUERIES, STEP};
    step[KEPT_STEP_ROWS] = step[KEPT_STEP_MAINTAIN] = BLOCK;
    step[KEPT_STEP_BASE] = i_block * BLOCK;
    for (uint32_t i = 0; i < BLOCK; i++)
        step[KEPT_STEP_TOKENS + BLOCK + i] = i_block * BLOCK + i;
    make_tokens(b);
    memcpy(call.keys, kept_kernel_row(call.id)->key_defaults, sizeof call.keys);
    memcpy(call.params, &params, sizeof params);
    call.keys[KEPT_KEY_ORDER] = b->order;
    call.keys[KEPT_KEY_SLOT_KT] = b->store.k_type;
    call.keys[KEPT_KEY_SLOT_VT] = b->store.v_type;
    call.keys[KEPT_KEY_SLOT_STORE] = KEPT_SLOTS_BUDGETED;
    for (uint32_t i = 0; i < sizeof args / sizeof *args; i++)
        call.args[i] = region(b, args[i]);
    by_reference(b, &call);
}

/* ---- the device ---- */

static kept_status record(struct run *r, const struct bench *b, struct kept_error *err)
{
    kept_status status = kept_buf_create(r->device, "decisions", b->at[N_REGIONS], 0, &r->buf, err);
    if (status == KEPT_OK)
        status = kept_recording_begin(r->device, b->n_calls, &r->recording, err);
    for (uint32_t i = 0; status == KEPT_OK && i < b->n_calls; i++) {
        const struct kept_call *call = &b->calls[i];
        struct kept_bind binds[KEPT_MAX_BINDS];
        uint32_t grid[3];
        for (uint32_t a = 0; a < kept_kernel_row(call->id)->n_binds; a++)
            binds[a] =
                (struct kept_bind){r->buf, b->at[call->args[a].region], call->args[a].n_bytes};
        kept_kernel_grid(call->id, call->keys, call->params, grid);
        status = kept_kernel_create(r->device, call->id, 0, call->keys, &r->kernels[i], err);
        if (status == KEPT_OK)
            status =
                kept_recording_call(r->recording, r->kernels[i], binds, call->params, grid, err);
    }
    return status == KEPT_OK ? kept_recording_end(r->recording, err) : status;
}

static void compare(struct run *r, const struct bench *b)
{
    for (uint32_t h = 0; h < N_KV; h++) {
        const uint32_t *want = words(b, MOVES), *got = (const uint32_t *)(void *)r->moves;
        want += h * KEPT_MOVES_STRIDE(BLOCK);
        got += h * KEPT_MOVES_STRIDE(BLOCK);
        uint32_t n = want[KEPT_MOVES_M];
        r->n_evicted += n;
        if (n != got[KEPT_MOVES_M] || want[KEPT_MOVES_COUNT] != got[KEPT_MOVES_COUNT] ||
            n > BLOCK) {
            r->counts_differ = true;
            continue;
        }
        want += KEPT_MOVES_LISTS;
        got += KEPT_MOVES_LISTS;
        for (uint32_t i = 0, j = 0; i < n && j < n;) { /* both ascend */
            r->n_same += want[i] == got[j];
            uint32_t x = want[i], y = got[j];
            i += x <= y;
            j += y <= x;
        }
    }
}

static kept_status run_blocks(struct run *r, struct bench *b, struct kept_error *err)
{
    kept_status status = record(r, b, err);
    uint64_t n_moves = b->at[MOVES + 1] - b->at[MOVES];
    r->moves = malloc(n_moves);
    if (r->moves == NULL)
        return KEPT_E_HOST_MEMORY;
    for (uint32_t i = 0; status == KEPT_OK && i < BLOCKS; i++) {
        take_in(b, i);
        memset(words(b, MOVES), 0, n_moves);
        status = kept_buf_write(r->buf, 0, b->image, b->at[N_REGIONS], err);
        if (status == KEPT_OK)
            status = kept_submit(r->device, &r->recording, 1, err);
        if (status == KEPT_OK)
            status = kept_wait(r->device, WAIT_NS, err);
        if (status == KEPT_OK)
            status = kept_buf_read(r->buf, b->at[MOVES], r->moves, n_moves, err);
        for (uint32_t c = 0; c < b->n_calls; c++)
            by_reference(b, &b->calls[c]);
        if (status == KEPT_OK)
            compare(r, b);
    }
    return status;
}

static void finish(struct run *r, struct bench *b)
{
    kept_recording_destroy(&r->recording);
    for (uint32_t i = 0; i < MAX_CALLS; i++)
        kept_kernel_destroy(&r->kernels[i]);
    kept_buf_destroy(&r->buf);
    free(r->moves);
    free(b->image);
    free(b->shape);
}

/* The lanes that the product uses on this device. */
static uint32_t lanes_of(const struct kept_device *device)
{
    struct check_case c = {.row = kept_kernel_row(KEPT_KERNEL_Q_STATS), .caps = &device->caps};
    kept_check_tuned_keys(&c, device);
    return c.keys[0];
}

static bool check(struct kept_device *device, int which, uint32_t type)
{
    static const char *const names[] = {"expected", "keydiff", "window"};
    struct bench b = {.order = (uint32_t)device->caps.order, .wg = lanes_of(device), .rng = 7};
    struct run r = {.device = device};
    struct kept_error err = {0};
    bool ok = make(&b, which == 2 ? KEPT_RETAIN_WINDOW : KEPT_RETAIN_SCORED,
                   which == 1 ? KEPT_SCORER_BY_KEYDIFF : KEPT_SCORER_BY_EXPECTED, type);
    if (ok && run_blocks(&r, &b, &err) != KEPT_OK) {
        printf("%s\n", err.message);
        ok = false;
    }
    ok = ok && r.n_evicted >= 40ull * BLOCK * N_KV && !r.counts_differ &&
         (double)r.n_same >= 0.999 * (double)r.n_evicted;
    printf("%-8s %-4s %llu evicted, %llu of them by the device%s%s\n", names[which],
           kept_format_name((enum kept_format)type), (unsigned long long)r.n_evicted,
           (unsigned long long)r.n_same, r.counts_differ ? "; other numbers of slots" : "",
           ok ? "" : ": FAILED");
    finish(&r, &b);
    return ok;
}

int main(int argc, char **argv)
{
    struct kept_device *device = NULL;
    struct kept_device_desc desc[16];
    const struct kept_device_params params = {0};
    struct kept_error err = {0};
    uint32_t n = 0;
    char why[160] = "";
    const struct kept_backend_ops *ops = argc == 2 ? kept_backend_find(argv[1]) : NULL;
    if (ops == NULL)
        return 2;
    if (kept_backend_list(ops, NULL, desc, 16, &n, why, &err) != KEPT_OK || n == 0) {
        printf("skipped: %s has no device; %s%s\n", argv[1], why, err.message);
        return EXIT_SKIP;
    }
    if (kept_device_open(ops, 0, &params, &device, &err) != KEPT_OK) {
        printf("%s: %s\n", argv[1], err.message);
        return EXIT_FAILURE;
    }
    printf("%s: %s\n", argv[1], device->desc.name);
    bool ok = true;
    for (int which = 0; which < 3; which++) {
        ok &= check(device, which, KEPT_FMT_F16);
        ok &= check(device, which, KEPT_FMT_Q8_0);
    }
    kept_device_close(&device);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
