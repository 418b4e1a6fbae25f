/* tune/tune.c: looks a device up in the tables. Keys are clamped to what the device can run: a
 * group is never larger than its limit. How the rows were found is in docs/measuring.md. */
#include "tune/tune.h"

#include <string.h>

struct table_row {
    const char *api, *type;
    struct kept_tuning tuning;
};

static const struct table_row classes[] = {
#define KEPT_TUNE(api, type, name, ...) {api, type, {name, __VA_ARGS__}},
#include "tune/tables/classes.def"
#undef KEPT_TUNE
};

static bool matches(const char *want, const char *have)
{
    return want[0] == '\0' || strcmp(want, have) == 0;
}

static void clamp_group(uint32_t *wg, uint32_t most)
{
    while (*wg > most && *wg > 1)
        *wg /= 2;
}

void kept_tune_device(const struct kept_profile *profile, struct kept_tuning *out)
{
    size_t i = 0;
    while (!matches(classes[i].api, profile->api) || !matches(classes[i].type, profile->type))
        i++; /* the last row matches everything */
    *out = classes[i].tuning;
    uint32_t *groups[] = {&out->matvec_wg, &out->matmat_wg,  &out->norm_wg,  &out->slot_wg,
                          &out->glu_wg,    &out->argmax_wg,  &out->embed_wg, &out->merge_wg,
                          &out->decode_wg, &out->prefill_wg, &out->retain_wg};
    uint32_t most = profile->max_group_lanes ? profile->max_group_lanes : 128;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        clamp_group(groups[g], most);
}

uint32_t kept_tune_splits(const struct kept_tuning *tuning, const struct kept_profile *profile,
                          uint32_t n_kv, uint32_t slots)
{
    uint64_t units = profile->compute_units ? profile->compute_units : 1;
    uint64_t splits = (units * tuning->splits_per_unit_x4 + 4 * n_kv - 1) / (4 * n_kv);
    uint64_t most = (slots + 127) / 128;
    if (splits > most)
        splits = most;
    return splits < 1 ? 1 : splits > 32 ? 32 : (uint32_t)splits;
}

#define MAX_ROWS_OF_GROUP 8u

/* A column (one query head of one row) needs its query, scores and running sums in shared memory:
 * the larger of what the two languages take. */
static uint64_t attention_bytes(uint32_t wg, uint32_t d, uint32_t columns)
{
    uint64_t lanes = wg > 32 ? wg : 32;
    return columns * (d + 2 * lanes + 12) * sizeof(float) + lanes * 8;
}

struct kept_attn_keys kept_tune_attention(const struct kept_tuning *tuning,
                                          const struct kept_profile *profile, uint32_t d,
                                          uint32_t group, bool decode)
{
    struct kept_attn_keys keys = {
        .wg = decode ? tuning->decode_wg : tuning->prefill_wg,
        .bq = 1,
    };
    uint32_t most = decode ? tuning->decode_g : tuning->prefill_g;
    uint64_t limit = profile->max_shared_bytes;
    if (most > group)
        most = group;
    while (!decode && keys.bq < MAX_ROWS_OF_GROUP && 2 * keys.bq * most <= tuning->prefill_columns)
        keys.bq *= 2;
    while (limit != 0 && attention_bytes(keys.wg, d, keys.bq * most) > limit &&
           keys.bq * most > 1) {
        if (keys.bq > 1)
            keys.bq /= 2;
        else
            most /= 2;
    }
    uint32_t passes = (group + most - 1) / most;
    keys.g = (group + passes - 1) / passes;
    return keys;
}

uint32_t kept_tune_matmat_rows(const struct kept_tuning *tuning, const struct kept_profile *profile,
                               bool gated)
{
    uint32_t rows = tuning->matmat_bm;
    uint64_t limit = profile->max_shared_bytes;
    while (limit != 0 && (rows * (gated ? 2u : 1u) + tuning->matmat_bn) * 128u > limit && rows > 16)
        rows /= 2;
    return rows;
}

uint64_t kept_tune_piece_ops(const struct kept_tuning *tuning, const struct kept_profile *profile)
{
    uint64_t units = profile->compute_units ? profile->compute_units : 1;
    return units * tuning->mops_per_unit * 1000000u * 50u;
}
