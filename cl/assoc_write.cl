/* assoc_write: associative memory: like tokens averaged into one slot (kept_assoc_params).
 *
 * Group: token x of the sub-batch of one KV head (y). The first of those that share a slot does the
 * work for all of them; the groups of the others return. Only that group writes the slot and them.
 */
#include "common/kept.clh"
#include "common/assoc.clh"
#include "common/nearest.clh"

#ifndef FORM
#define FORM 0
#endif
#define RUNS ((D / 16 + WG - 1) / WG) /* runs of 16 elements that a lane owns */

/* What a group averages: a slot that stands for c tokens, and n tokens that go there: those of
 * `target` (slots that tokens go into) from number `own` on. */
struct average {
    uint slot, own, token0; /* token0: slot of token 0, modulo 2^32 */
    float c, n;
    SHARED const uint *target;
};

/* Where the tokens go; `none` for those that stay. */
static void find_targets(const struct nearest *n, const struct tokens *to,
                         const struct kept_assoc_params *p, SHARED uint *target)
{
#if WG == 1
    nearest_of_16(n, p->sub * KEPT_ASSOC_SUB, target);
#endif
    for (uint i = LID; i < KEPT_ASSOC_SUB; i += WG) {
#if WG > 1
        nearest_of(n, p->sub * KEPT_ASSOC_SUB + i, target + i);
#endif
        bool goes = to->begin + (int)i >= to->first && target[i] >= p->sinks &&
                    target[i] < to->before;
        if (!goes)
            target[i] = n->none;
    }
}

/* The averaged value into x. */
static void average_value(__global const uint *v, const struct average *a, SHARED float *x)
{
    float16 sum[RUNS];
    for (uint j = 0; j < RUNS; j++)
        if (LID + j * WG < D / 16)
            sum[j] = a->c * value_run(v + (ulong)(a->slot / 16) * KEPT_TILE_WORDS(VT, D), D,
                                      a->slot % 16, LID + j * WG);
    for (uint i = a->own; i < KEPT_ASSOC_SUB; i++) {
        uint slot = a->token0 + i;
        if (a->target[i] != a->slot)
            continue;
        __global const uint *from = v + (ulong)(slot / 16) * KEPT_TILE_WORDS(VT, D);
        for (uint j = 0; j < RUNS; j++)
            if (LID + j * WG < D / 16)
                sum[j] += value_run(from, D, slot % 16, LID + j * WG);
    }
    for (uint j = 0; j < RUNS; j++)
        if (LID + j * WG < D / 16)
            vstore16(sum[j] / (a->c + a->n), LID + j * WG, x);
}

/* The averaged key into raw and x. */
static void average_key(__global float *raw, const struct average *a, SHARED float *x)
{
    for (uint i = LID; i < D; i += WG) {
        float sum = a->c * raw[raw_at(a->slot, i)];
        for (uint k = a->own; k < KEPT_ASSOC_SUB; k++)
            if (a->target[k] == a->slot)
                sum += raw[raw_at(a->token0 + k, i)];
        x[i] = raw[raw_at(a->slot, i)] = sum / (a->c + a->n);
    }
}

static bool has_position(int position, const struct kept_assoc_params *p)
{
    return position > -0x1000000 && position < 0x1000000 &&
           (p->rope_pairs == KEPT_ROPE_NONE || is_turned(position, p));
}

/* The mean position as pos_r + the value returned + frac, frac within -0.5 … 0.5. Whole tokens are
 * counted in integers: they are exact however far apart positions are. */
static int move_position(__global const int *pos, const struct average *a,
                         const struct kept_assoc_params *p, float *frac)
{
    int position = pos[a->slot], moved = 0;
    for (uint i = a->own; i < KEPT_ASSOC_SUB; i++) {
        int other = pos[a->token0 + (a->target[i] == a->slot ? i : a->own)];
        if (a->target[i] == a->slot && has_position(position, p) && has_position(other, p))
            moved += other - position;
    }
    float old = as_float(pos[KEPT_ASSOC_FRAC * p->total + a->slot]);
    old = fabs(old) <= 1.0f ? old : 0.0f;
    int whole = (int)floor((float)moved / (a->c + a->n));
    float left = (float)(moved - whole * ((int)a->c + (int)a->n));
    left -= (float)whole * (a->c - floor(a->c));
    float delta = (a->c * old + left) / (a->c + a->n), more = floor(delta + 0.5f);
    *frac = delta - more;
    return whole + (int)more;
}

/* What is known of the slot and its tokens; planes from slot 0 of the head on. For one lane. */
static void conclude(__global int *pos, __global float *score, const struct average *a,
                     const struct kept_assoc_params *p, uint end)
{
    __global float *weight = score + p->total, *bias = (__global float *)pos + p->total;
    uint r = a->slot;
    if (FORM == 0) {
        float gain = log1p(a->n / a->c);
        bias[r] += gain;
        weight[r] += gain;
        score[r] *= (a->c + a->n) / a->c;
    } else {
        score[r] = (float)end;
    }
    pos[KEPT_ASSOC_COUNT * p->total + r] = as_int(a->c + a->n);
    pos[KEPT_ASSOC_STAMP * p->total + r] = (int)end;
    for (uint i = a->own; i < KEPT_ASSOC_SUB; i++)
        if (a->target[i] == r) {
            pos[a->token0 + i] = (int)KEPT_POS_GONE;
            weight[a->token0 + i] = -INFINITY;
        }
}

__kernel KEPT_GROUP void assoc_write(__global uint *k_slots, __global uint *v_slots,
                                     __global int *meta, __global float *scores,
                                     __global float *raw, __global const float *table,
                                     __global const uint *heads, __global const uint *near,
                                     __global const uint *step, const struct kept_assoc_params p)
{
    SHARED uint target[KEPT_ASSOC_SUB];
    SHARED float value[D], key[D]; /* PoCL 3.1 stores zeros from one array that both pass through */
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(1), end = BLOCK_END(step, p);
    struct extent e = extent_of(heads, kv, p.total);
    if (is_idle(heads, kv, &e, end, &p))
        return;
    struct tokens to = tokens_of(window_begin(&e, end, &p), &p);
    struct nearest n = {near + 2 * (ulong)kv * p.n_splits * p.row_cap, p.n_splits, p.row_cap,
                        e.cap, p.threshold};
    struct average a = {0, get_group_id(0), (uint)to.begin, 1.0f, 0.0f, target};
    if (to.begin + (int)a.own < to.first)
        return;
    find_targets(&n, &to, &p, target);
    SYNC();
    __global int *pos = meta + e.first;
    __global float *score = scores + e.first;
    a.slot = target[a.own];
    if (a.slot >= e.cap) {
        if (FORM == 1 && LID == 0)
            score[a.token0 + a.own] = (float)end;
        return;
    }
    uint earlier = 0;
    for (uint i = 0; i < KEPT_ASSOC_SUB; i++) {
        earlier += i < a.own && target[i] == a.slot;
        a.n += target[i] == a.slot;
    }
    if (earlier != 0)
        return;
    float count = as_float(pos[KEPT_ASSOC_COUNT * p.total + a.slot]), frac = 0.0f;
    a.c = count >= 1.0f ? fmin(count, 16777216.0f) : 1.0f;
    int moved = FORM == 0 ? move_position(pos, &a, &p, &frac) : 0;
    int position = (int)((uint)pos[a.slot] + (uint)moved);

    uint row = a.slot % 16;
    __global uint *v = v_slots + (ulong)(e.first / 16) * KEPT_TILE_WORDS(VT, D);
    average_value(v, &a, value);
    SYNC_GLOBAL(); /* meta and the value have been read */
    value_store(v + (ulong)(a.slot / 16) * KEPT_TILE_WORDS(VT, D), D, row, value);
    average_key(raw + (ulong)kv * p.raw_stride * D, &a, key);
    SYNC();
    key_turn(key, table, position, p.n_rot,
             is_turned(position, &p) ? p.rope_pairs : KEPT_ROPE_NONE, p.hi_bias);
    if (ROTATED(KT))
        hadamard(key, D, D);
    key_store(k_slots + (ulong)(e.first / 16 + a.slot / 16) * KEPT_TILE_WORDS(KT, D), D, row, key);
    if (LID == 0) {
        conclude(pos, score, &a, &p, end);
        if (FORM == 0) {
            pos[a.slot] = position;
            pos[KEPT_ASSOC_FRAC * p.total + a.slot] = as_int(frac);
        }
    }
    MEET_AT_END();
}
