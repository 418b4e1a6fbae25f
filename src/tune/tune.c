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
    uint32_t *groups[] = {&out->matvec_wg, &out->matmat_wg, &out->norm_wg,  &out->slot_wg,
                          &out->glu_wg,    &out->argmax_wg, &out->embed_wg, &out->merge_wg,
                          &out->decode_wg, &out->prefill_wg};
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

uint64_t kept_tune_piece_ops(const struct kept_tuning *tuning, const struct kept_profile *profile)
{
    uint64_t units = profile->compute_units ? profile->compute_units : 1;
    return units * tuning->mops_per_unit * 1000000u * 50u;
}
