/* backend/cpu/fast_score.c: what slots are scored by: peaks of attention, running sums of queries,
 * expected attention, key difference.
 *
 * A lane is a slot: a key tile becomes f32 once, element i of 16 slots a vector, and every query
 * head of the group uses it. Expected attention is the costly one, d^2 products a slot and query
 * head: the sums of q q^T are symmetric, so only rows i and columns j >= i are taken; ROWS rows
 * times
 * TILES tiles of slots are summed in registers.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_slots.h"
#include "kernel/ref/ref_maintain.h"

#define CHUNK_TILES 4 /* tiles of an item of score_expected */
#define CHUNK_SLOTS (16 * CHUNK_TILES)
#define ROWS        4
#if CPU_SIMD == 512
#define TILES 4
#else
#define TILES 1
#endif

/* ---- attn_peak ---- */

#define PEAK_COLUMNS 8
#define PEAK_TILES   16 /* of an item */

/* The columns of a pass: query heads of the group in some rows, and the log of their softmax's sum;
 * those without one are left out. */
struct peak_pass {
    uint32_t n;
    const float *q[PEAK_COLUMNS];
    float lse[PEAK_COLUMNS];
    uint32_t end[PEAK_COLUMNS]; /* SUM: slots below count */
};

/* SUM: the slots of which the row's attention counts are those below. */
static uint32_t sum_end(const struct kept_host_call *call, size_t row)
{
    const struct kept_peak_params *p = call->params;
    uint32_t at = ((const uint32_t *)call->bind[4])[KEPT_STEP_TOKENS + p->chunk + row];
    return at > p->after && at < p->n_slots ? at - p->after : 0;
}

/* Fills the pass from column `at` on; returns where the next one begins. */
static uint32_t peak_columns(const struct kept_host_call *call, uint32_t kv, uint32_t at,
                             uint32_t end, struct peak_pass *pass)
{
    const struct kept_peak_params *p = call->params;
    uint32_t group = p->n_head / p->n_kv;
    for (pass->n = 0; at < end && pass->n < PEAK_COLUMNS; at++) {
        size_t row = p->row_first + at / group, head = kv * group + at % group;
        const float *part = (const float *)call->bind[2] + (row * p->n_head + head) * (p->d + 4);
        uint32_t end_slot = call->keys[KEPT_KEY_PEAK_SUM] != 0 ? sum_end(call, row) : 1;
        if (!(part[1] > 0) || end_slot == 0)
            continue;
        pass->end[pass->n] = end_slot;
        pass->q[pass->n] = (const float *)call->bind[0] + row * p->q_stride + head * p->d;
        pass->lse[pass->n++] = part[0] + logf(part[1]);
    }
    for (uint32_t i = pass->n; pass->n > 0 && i < PEAK_COLUMNS; i++) { /* repeat the last one */
        pass->q[i] = pass->q[pass->n - 1];
        pass->lse[i] = pass->lse[pass->n - 1];
        pass->end[i] = 0;
    }
    return at;
}

/* What the columns of a pass attend to 16 slots, from slot s on. */
static vf peak_sum(const struct peak_pass *pass, const vf *score, uint32_t s)
{
    vf sum = vf_set(0);
    for (int i = 0; i < PEAK_COLUMNS; i++) {
        vf w = vf_exp(vf_min(vf_set(0), vf_sub(score[i], vf_set(pass->lse[i]))));
        vm counts = vm_lt(vi_add(vi_iota(), vi_set(s)), vi_set(pass->end[i]));
        sum = vf_add(sum, vf_select(counts, w, vf_set(0)));
    }
    return sum;
}

static void peak_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_peak_params *p = call->params;
    uint32_t n_items = (p->n_slots + 16 * PEAK_TILES - 1) / (16 * PEAK_TILES), kv = item / n_items;
    uint32_t words = KEPT_TILE_WORDS(KEPT_FMT_F16, p->d), first = item % n_items * 16 * PEAK_TILES;
    uint32_t n = kept_live_rows(p, (const uint32_t *)call->bind[4]) * (p->n_head / p->n_kv);
    const uint32_t *tile = (const uint32_t *)call->bind[1] + (size_t)(kv * (p->cap / 16)) * words;
    float peak[16 * PEAK_TILES], *out = (float *)call->bind[3] + (size_t)kv * p->n_slots + first;
    uint32_t slots = p->n_slots - first < 16 * PEAK_TILES ? p->n_slots - first : 16 * PEAK_TILES;
    struct peak_pass pass;
    memcpy(peak, out, slots * sizeof *peak);
    for (uint32_t at = 0; at < n;) {
        at = peak_columns(call, kv, at, n, &pass);
        for (uint32_t s = 0; pass.n > 0 && s < slots; s += 16) {
            vf score[PEAK_COLUMNS], best = vf_load(peak + s);
            fast_dots(KEPT_FMT_F16, PEAK_COLUMNS, pass.q, tile + (size_t)((first + s) / 16) * words,
                      p->d, score);
            if (call->keys[KEPT_KEY_PEAK_SUM] != 0)
                best = vf_add(best, peak_sum(&pass, score, first + s));
            else
                for (int i = 0; i < PEAK_COLUMNS; i++)
                    best = vf_max(vf_sub(score[i], vf_set(pass.lse[i])), best);
            vf_store(peak + s, best);
        }
    }
    memcpy(out, peak, slots * sizeof *peak);
}

void CPU_NAME(attn_peak)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_peak_params *p = call->params;
    struct kept_host_call own = *call;
    kept_pool_run(pool, p->n_kv * ((p->n_slots + 16 * PEAK_TILES - 1) / (16 * PEAK_TILES)),
                  peak_item, &own);
}

/* ---- q_stats ---- */

#define STATS_COLUMNS 2 /* vectors of columns at once */

struct stats_job {
    const struct kept_host_call *call;
    uint32_t d;
    uint32_t first, end;  /* rows of the block that count */
    uint32_t start, rows; /* the row of queries that row 0 of the block is in; all of the ring */
    size_t q_stride;      /* between rows of queries */
};

static size_t query_row(const struct stats_job *job, uint32_t r)
{
    uint32_t row = job->start + r;
    return (row < job->rows ? row : row - job->rows) * job->q_stride;
}

/* Rows i … i + 3, columns j … j + 31 of the products. */
static void stats_tile(const struct stats_job *job, const float *q, float *to, uint32_t i,
                       uint32_t j)
{
    const uint32_t d = job->d;
    vf sum[ROWS][STATS_COLUMNS];
    for (uint32_t a = 0; a < ROWS; a++)
        for (uint32_t b = 0; b < STATS_COLUMNS; b++)
            sum[a][b] = vf_load(to + (size_t)(i + a) * d + j + 16 * b);
    for (uint32_t r = job->first; r < job->end; r++) {
        const float *row = q + query_row(job, r);
        vf x[STATS_COLUMNS];
        for (uint32_t b = 0; b < STATS_COLUMNS; b++)
            x[b] = vf_load(row + j + 16 * b);
        for (uint32_t a = 0; a < ROWS; a++)
            for (uint32_t b = 0; b < STATS_COLUMNS; b++)
                sum[a][b] = vf_fma(vf_set(row[i + a]), x[b], sum[a][b]);
    }
    for (uint32_t a = 0; a < ROWS; a++)
        for (uint32_t b = 0; b < STATS_COLUMNS; b++)
            vf_store(to + (size_t)(i + a) * d + j + 16 * b, sum[a][b]);
}

/* 16 rows of the products of a query head and 16 of its sums. */
static void stats_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct stats_job *job = user;
    const struct kept_stats_params *p = job->call->params;
    uint32_t d = p->d, head = item / (d / 16), first = item % (d / 16) * 16;
    const float *q = (const float *)job->call->bind[0] + (size_t)head * d;
    float *stats = (float *)job->call->bind[1] + (size_t)head * KEPT_STATS_STRIDE((size_t)d);
    for (uint32_t i = first; i < first + 16; i += ROWS)
        for (uint32_t j = 0; j < d; j += 16 * STATS_COLUMNS)
            stats_tile(job, q, stats, i, j);
    float *sums = stats + (size_t)d * d + first;
    vf sum = vf_load(sums);
    for (uint32_t r = job->first; r < job->end; r++)
        sum = vf_add(sum, vf_load(q + query_row(job, r) + first));
    vf_store(sums, sum);
}

void CPU_NAME(q_stats)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_stats_params *p = call->params;
    struct stats_job job = {.call = call, .d = p->d, .q_stride = (size_t)p->n_head * p->d};
    struct ref_block b;
    if (!ref_block_of(p, (const uint32_t *)call->bind[2], &b))
        return;
    int64_t begin = b.end - b.block;
    job.first = begin >= p->sinks ? 0 : ref_min((uint32_t)(p->sinks - begin), b.block);
    job.end = b.block;
    job.start = ref_query_row(&b, 0, p->queries_rows);
    job.rows = p->queries_rows;
    kept_pool_run(pool, p->n_head * (p->d / 16), stats_item, &job);
}

/* ---- score_expected ---- */

struct expected_job {
    const struct kept_host_call *call;
    const struct kept_score_params *p;
    struct ref_block block;
    uint32_t n_chunks; /* of a KV head's slots */
};

/* Lanes [from, end) of a row of z, which begins at slot `at`. */
static void store_lanes(float *z, uint32_t at, uint32_t from, uint32_t end, vf v)
{
    float lanes[16];
    if (at >= from && at + 16 <= end) {
        vf_store(z + at, v);
        return;
    }
    vf_store(lanes, v);
    for (uint32_t r = 0; r < 16; r++)
        if (at + r >= from && at + r < end)
            z[at + r] = lanes[r];
}

/* Blocks of each key by the normalised Hadamard matrix: y[i] is a vector of slots. */
static void hadamard_keys(float (*y)[CHUNK_SLOTS], uint32_t d, uint32_t n_tiles)
{
    uint32_t block = d & (~d + 1u);
    vf f = vf_set(1 / sqrtf((float)block));
    for (uint32_t step = 1; step < block; step *= 2)
        for (uint32_t i = 0; i < d; i++)
            for (uint32_t s = 0; (i & step) == 0 && s < 16 * n_tiles; s += 16) {
                vf a = vf_load(y[i] + s), b = vf_load(y[i + step] + s);
                if (step == 1) {
                    a = vf_mul(a, f);
                    b = vf_mul(b, f);
                }
                vf_store(y[i] + s, vf_add(a, b));
                vf_store(y[i + step] + s, vf_sub(a, b));
            }
}

/* Turns keys back by the mean rotation of positions `position` … + 511. */
static void turn_back(const struct expected_job *job, int64_t position, float (*y)[CHUNK_SLOTS],
                      uint32_t n_tiles)
{
    const struct kept_score_params *p = job->p;
    const struct ref_rope rope = {(const float *)job->call->bind[3], job->call->bind_bytes[3],
                                  p->n_rot, p->rope_pairs, p->hi_bias};
    const float *mean = rope.table + (size_t)p->mean_row * p->n_rot;
    float turn[KEPT_MAX_HEAD_DIM];
    if (p->rope_pairs == KEPT_ROPE_NONE)
        return;
    fast_turn_at(&rope, position, turn);
    for (uint32_t i = 0; i < p->n_rot / 2; i++) {
        uint32_t at_a, at_b;
        ref_rope_pair(&rope, i, &at_a, &at_b);
        vf c = vf_set(turn[2 * i] * mean[2 * i] - turn[2 * i + 1] * mean[2 * i + 1]);
        vf sn = vf_set(turn[2 * i] * mean[2 * i + 1] + turn[2 * i + 1] * mean[2 * i]);
        for (uint32_t s = 0; s < 16 * n_tiles; s += 16) {
            vf a = vf_load(y[at_a] + s), b = vf_load(y[at_b] + s);
            vf_store(y[at_a] + s, vf_fma(a, c, vf_mul(b, sn)));
            vf_store(y[at_b] + s, vf_sub(vf_mul(b, c), vf_mul(a, sn)));
        }
    }
}

/* Columns j … d - 1 of ROWS rows of S times TILES tiles of keys from y on. Not inlined: with more
 * around it compilers run out of registers. */
SIMD_APART void rows_times_keys(const float *row, const float *y, uint32_t j, uint32_t d,
                                vf sum[ROWS][TILES])
{
    vf s[ROWS][TILES];
    for (int a = 0; a < ROWS; a++)
        for (int t = 0; t < TILES; t++)
            s[a][t] = vf_set(0);
    for (; j < d; j++) {
        const float *at = y + (size_t)j * CHUNK_SLOTS;
        vf x[ROWS];
        for (int a = 0; a < ROWS; a++)
            x[a] = vf_set(row[(size_t)a * d + j]);
        for (int t = 0; t < TILES; t++) {
            vf key = vf_load(at + 16 * t);
            for (int a = 0; a < ROWS; a++)
                s[a][t] = vf_fma(x[a], key, s[a][t]);
        }
    }
    for (int a = 0; a < ROWS; a++)
        for (int t = 0; t < TILES; t++)
            sum[a][t] = s[a][t];
}

/* y^T S y of TILES tiles, S symmetric: for each ROWS rows the square on the diagonal once and what
 * is right of it twice. */
static void quadratic(const float *stats, const float *y, uint32_t d, vf *square)
{
    for (int t = 0; t < TILES; t++)
        square[t] = vf_set(0);
    for (uint32_t i = 0; i < d; i += ROWS) {
        const float *row = stats + (size_t)i * d, *at = y + (size_t)i * CHUNK_SLOTS;
        vf sum[ROWS][TILES];
        rows_times_keys(row, y, i + ROWS, d, sum);
        for (int t = 0; t < TILES; t++) {
            vf key[ROWS];
            for (int a = 0; a < ROWS; a++)
                key[a] = vf_load(at + (size_t)a * CHUNK_SLOTS + 16 * t);
            for (int a = 0; a < ROWS; a++) {
                vf all = vf_add(sum[a][t], sum[a][t]);
                for (int b = 0; b < ROWS; b++)
                    all = vf_fma(vf_set(row[(size_t)a * d + i + (uint32_t)b]), key[b], all);
                square[t] = vf_fma(all, key[a], square[t]);
            }
        }
    }
}

/* The slots of an item: those of [first, first + 64) that are in [from, count). */
struct chunk {
    uint32_t first, from, count;
};

/* A row of z for the slots of a chunk with keys y. */
static void expected_row(const struct expected_job *job, const float *stats,
                         float (*y)[CHUNK_SLOTS], struct chunk c, float *z)
{
    const struct kept_score_params *p = job->p;
    int64_t seen = job->block.end - p->sinks;
    vf n = vf_set(1 / (float)(seen < 1 ? 1 : seen)), scale = vf_set(p->q_scale);
    vf half = vf_set(p->q_scale * p->q_scale / 2);
    const float *mean = stats + (size_t)p->d * p->d;
    for (uint32_t s = 0; s < CHUNK_SLOTS && c.first + s < c.count; s += 16 * TILES) {
        vf square[TILES];
        quadratic(stats, y[0] + s, p->d, square);
        for (uint32_t t = 0; t < TILES; t++) {
            vf along = vf_set(0);
            for (uint32_t i = 0; i < p->d; i++)
                along = vf_fma(vf_set(mean[i]), vf_load(y[i] + s + 16 * t), along);
            along = vf_mul(along, n);
            vf spread = vf_sub(vf_mul(square[t], n), vf_mul(along, along));
            store_lanes(z, c.first + s + 16 * t, c.from, c.count,
                        vf_fma(half, spread, vf_mul(scale, along)));
        }
    }
}

/* |v| of the slots of a chunk. */
static void value_sizes(const struct expected_job *job, const struct ref_head *head, struct chunk c,
                        float *z)
{
    uint32_t type = job->call->keys[KEPT_KEY_SCORE_VT], d = job->p->d;
    float v[KEPT_MAX_HEAD_DIM];
    for (uint32_t s = c.first > c.from ? c.first : c.from; s < c.first + CHUNK_SLOTS && s < c.count;
         s++) {
        vf sum = vf_set(0);
        fast_values_v(type, d, (const uint32_t *)job->call->bind[1], (size_t)head->first + s, v);
        for (uint32_t i = 0; i < d; i += 16)
            sum = vf_fma(vf_load(v + i), vf_load(v + i), sum);
        z[s] = sqrtf(vf_hsum(sum));
    }
}

static void expected_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct expected_job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_score_params *p = job->p;
    uint32_t kv = item / job->n_chunks, first = item % job->n_chunks * CHUNK_SLOTS;
    uint32_t type = call->keys[KEPT_KEY_SCORE_KT], group = p->n_head / p->n_kv;
    struct ref_head head = fast_head_at((const uint32_t *)call->bind[4], kv, p->total);
    uint32_t count = ref_min(ref_head_count(&head, job->block.end), p->z_stride);
    uint32_t from = ref_score_from(&job->block, &head, count, p->window, p->refresh);
    int64_t position = job->block.end - head.shift;
    const struct ref_rope rope = {NULL, call->bind_bytes[3], p->n_rot, p->rope_pairs, p->hi_bias};
    if (count <= head.budget || first >= count || first + CHUNK_SLOTS <= from ||
        !ref_rope_has(&rope, position))
        return;
    const struct chunk c = {first, from, count};
    float y[KEPT_MAX_HEAD_DIM][CHUNK_SLOTS];
    float *z = (float *)call->bind[5] + (size_t)kv * (group + 1) * p->z_stride;
    uint32_t n_tiles = ref_min(CHUNK_TILES, (count - first + 15) / 16);
    const uint32_t *tile = (const uint32_t *)call->bind[0] +
                           (size_t)(head.first + first) / 16 * KEPT_TILE_WORDS(type, p->d);
    for (uint32_t t = 0; t < n_tiles; t++)
        fast_keys(type, tile + (size_t)t * KEPT_TILE_WORDS(type, p->d), p->d, y[0] + 16 * t,
                  CHUNK_SLOTS);
    for (uint32_t i = 0; n_tiles < CHUNK_TILES && i < p->d; i++)
        memset(y[i] + 16 * n_tiles, 0, (CHUNK_TILES - n_tiles) * 16 * sizeof(float));
    if (type != KEPT_FMT_F16)
        hadamard_keys(y, p->d, n_tiles);
    turn_back(job, position, y, n_tiles);
    for (uint32_t g = 0; g < group; g++)
        expected_row(job,
                     (const float *)call->bind[2] +
                         ((size_t)kv * group + g) * KEPT_STATS_STRIDE((size_t)p->d),
                     y, c, z + (size_t)g * p->z_stride);
    value_sizes(job, &head, c, z + (size_t)group * p->z_stride);
}

void CPU_NAME(score_expected)(const struct kept_host_call *call, struct kept_pool *pool)
{
    struct expected_job job = {.call = call, .p = call->params};
    if (!ref_block_of(job.p, (const uint32_t *)call->bind[6], &job.block))
        return;
    job.n_chunks = (job.p->z_stride + CHUNK_SLOTS - 1) / CHUNK_SLOTS;
    kept_pool_run(pool, job.p->n_kv * job.n_chunks, expected_item, &job);
}

/* ---- score_keydiff ---- */

/* A tile of keys and 1 / their length, 0 where that is 0; lanes from `n` on are 0 altogether. */
static vf keys_and_sizes(uint32_t type, const uint32_t *tile, uint32_t d, uint32_t n, float *y)
{
    vf square = vf_set(0);
    vm live = vm_lt(vi_iota(), vi_set(n < 16 ? n : 16));
    fast_keys(type, tile, d, y, 16);
    for (uint32_t i = 0; i < d; i++) {
        vf x = vf_select(live, vf_load(y + 16 * i), vf_set(0));
        vf_store(y + 16 * i, x);
        square = vf_fma(x, x, square);
    }
    vm some = vm_lt(vi_set(0), vi_and(vi_bits(square), vi_set(0x7FFFFFFF)));
    return vf_select(some, vf_div(vf_set(1), vf_sqrt(square)), vf_set(0));
}

static void keydiff_item(void *user, uint32_t kv, uint32_t i_thread)
{
    (void)i_thread;
    const struct expected_job *job = user;
    const struct kept_score_params *p = job->p;
    uint32_t type = job->call->keys[KEPT_KEY_SCORE_KT], d = p->d;
    uint32_t words = KEPT_TILE_WORDS(type, d);
    struct ref_head head = fast_head_at((const uint32_t *)job->call->bind[1], kv, p->total);
    uint32_t count = ref_min(ref_head_count(&head, job->block.end), p->z_stride);
    const uint32_t *tile = (const uint32_t *)job->call->bind[0] + head.first / 16 * (size_t)words;
    float *z = (float *)job->call->bind[2] + (size_t)kv * (p->n_head / p->n_kv + 1) * p->z_stride;
    float y[16 * KEPT_MAX_HEAD_DIM], sum[16 * KEPT_MAX_HEAD_DIM], mean[KEPT_MAX_HEAD_DIM];
    double square = 0;
    if (count <= head.budget)
        return;
    memset(sum, 0, 16 * d * sizeof *sum);
    for (uint32_t s = 0; s < count; s += 16) {
        vf inverse = keys_and_sizes(type, tile + s / 16 * (size_t)words, d, count - s, y);
        for (uint32_t i = 0; i < d; i++)
            vf_store(sum + 16 * i, vf_fma(vf_load(y + 16 * i), inverse, vf_load(sum + 16 * i)));
    }
    for (uint32_t i = 0; i < d; i++) {
        mean[i] = vf_hsum(vf_load(sum + 16 * i)) / (float)count;
        square += (double)mean[i] * mean[i];
    }
    vf scale = vf_set(square != 0 ? (float)(-1 / sqrt(square)) : 0);
    for (uint32_t s = 0; s < count; s += 16) {
        vf inverse = keys_and_sizes(type, tile + s / 16 * (size_t)words, d, count - s, y);
        vf dot = vf_set(0);
        for (uint32_t i = 0; i < d; i++)
            dot = vf_fma(vf_load(y + 16 * i), vf_set(mean[i]), dot);
        store_lanes(z, s, 0, count, vf_mul(vf_mul(dot, inverse), scale));
    }
}

void CPU_NAME(score_keydiff)(const struct kept_host_call *call, struct kept_pool *pool)
{
    struct expected_job job = {.call = call, .p = call->params};
    if (ref_block_of(job.p, (const uint32_t *)call->bind[3], &job.block))
        kept_pool_run(pool, job.p->n_kv, keydiff_item, &job);
}
