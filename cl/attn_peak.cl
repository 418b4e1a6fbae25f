/* attn_peak: the most attention that a slot received, or the sum of it, for calibration
 * (kept_peak_params).
 *
 * A group has 64 slots of one KV head. WG 1: a work-item takes tiles, else a lane a slot; queries
 * of all rows and of the head's group go by, a few at a time so that K is unpacked less often.
 */
#include "common/kept.clh"
#if WG == 1
#define KEPT_V 16
#else
#define KEPT_V 1
#endif
#include "common/slots.clh"

#ifndef D
#define D 64
#endif
#ifndef SUM
#define SUM 0
#endif
#define MANY 4      /* queries at a time */
#define SPAN 64     /* slots of a group */
#define STEP KEPT_V /* slots of a lane */
#define TILE KEPT_TILE_WORDS(KEPT_FMT_F16, D)

/* Query n of those that meet a KV head: all heads of the group of the first row, then the next. */
struct queries {
    __global const float *q, *part; /* of the first row and head */
    ulong row_stride;               /* of q */
    ulong part_stride;              /* of a row of part */
    uint group, n;
    __global const uint *positions; /* of rows */
};

/* Products of queries first … first + MANY - 1 with the lane's slots. */
static void products(const struct queries *s, uint first, const struct weights *k, F a[MANY])
{
    __global const float *q[MANY];
    for (uint i = 0; i < MANY; i++) {
        uint n = min(first + i, s->n - 1);
        q[i] = s->q + n / s->group * s->row_stride + n % s->group * D;
        a[i] = (F)(0.0f);
    }
    for (uint run = 0; run < D / 16; run++) {
#pragma unroll
        for (uint j = 0; j < 4; j++) {
            F v[4];
            run_quad(k, run, j, v);
#pragma unroll
            for (uint i = 0; i < MANY; i++)
                for (uint e = 0; e < 4; e++)
                    a[i] = MAC(v[e], (F)(q[i][run * 16 + j * 4 + e]), a[i]);
        }
    }
}

#if SUM
/* What queries behind the lane's slots, from `slot` on, attend to them in all. */
static F sum_of_queries(const struct queries *s, const struct weights *k, uint slot,
                        const struct kept_peak_params *p)
{
#if KEPT_V == 16
    F own = (F)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + (F)((float)slot);
#else
    F own = (float)slot;
#endif
    F sum = (F)(0.0f), a[MANY];
    for (uint first = 0; first < s->n; first += MANY) {
        products(s, first, k, a);
        for (uint i = 0; i < MANY && first + i < s->n; i++) {
            uint row = (first + i) / s->group, head = (first + i) % s->group;
            uint at = s->positions[row];
            __global const float *part = s->part + row * s->part_stride + head * (D + 4);
            if (part[1] > 0.0f && at > p->after && at < p->n_slots)
                sum += own < (F)((float)(at - p->after))
                           ? exp(fmin(a[i] - (part[0] + log(part[1])), (F)(0.0f)))
                           : (F)(0.0f);
        }
    }
    return sum;
}
#endif

static F peak_of_queries(const struct queries *s, const struct weights *k)
{
    F peak = (F)(-INFINITY), a[MANY];
    for (uint first = 0; first < s->n; first += MANY) {
        products(s, first, k, a);
        for (uint i = 0; i < MANY && first + i < s->n; i++) {
            uint row = (first + i) / s->group, head = (first + i) % s->group;
            __global const float *part = s->part + row * s->part_stride + head * (D + 4);
            if (part[1] > 0.0f)
                peak = fmax(peak, a[i] - (part[0] + log(part[1])));
        }
    }
    return peak;
}

__kernel KEPT_GROUP void attn_peak(__global const float *qkv, __global const uint *k_slots,
                                   __global const float *part, __global float *peak,
                                   __global const uint *step, const struct kept_peak_params p)
{
    uint kv = get_group_id(1), group = p.n_head / p.n_kv;
    struct queries s;
    s.q = qkv + (ulong)p.row_first * p.q_stride + kv * group * D;
    s.part = part + ((ulong)p.row_first * p.n_head + kv * group) * (D + 4);
    s.row_stride = p.q_stride;
    s.part_stride = (ulong)p.n_head * (D + 4);
    s.group = group;
    s.n = LIVE_ROWS(step, p) * group;
    s.positions = step + KEPT_STEP_TOKENS + p.chunk + p.row_first;
    uint begin = get_group_id(0) * SPAN, end = min(begin + SPAN, p.n_slots);
    for (uint slot = begin + LID * STEP; s.n != 0 && slot < end; slot += WG * STEP) {
        __global const uint *tile = k_slots + ((ulong)kv * p.cap + slot) / 16 * TILE;
        struct weights k = weights_of(tile, 0, 0, 0, slot % 16);
#if SUM
        F most = sum_of_queries(&s, &k, slot, &p);
#define COMBINE(old, new) ((old) + (new))
#else
        F most = peak_of_queries(&s, &k);
#define COMBINE(old, new) fmax(old, new)
#endif
        __global float *at = peak + (ulong)kv * p.n_slots + slot;
#if KEPT_V == 16
        float values[16];
        vstore16(most, 0, values);
        for (uint i = 0; i < 16 && slot + i < end; i++)
            at[i] = COMBINE(at[i], values[i]);
#else
        *at = COMBINE(*at, most);
#endif
    }
}
