/* core/plan_fit.c: the verdict.
 *
 * Budget: --memory as a hard cap; else free memory less a margin where it is known; else the
 * device's whole memory less the margin. When a plan does not fit, its neighbours are planned,
 * nearest first: the largest chunk that fits, 8-bit keys and values, those with half and a quarter
 * of the past kept, the longest context that fits, both at once. Each is a whole plan, so its total
 * is a promise too. What keeping less costs is in the sidecar, where there is one.
 */
#include "core/plan_fit.h"

#include "base/status.h"
#include "base/str.h"

#define DEFAULT_MARGIN_BYTES (256ull << 20)
#define LEAST_CONTEXT        64u
#define LEAST_CHUNK          16u

static uint64_t budget_of(const struct kept_plan *plan, const char **why)
{
    uint64_t margin = plan->params.margin_bytes ? plan->params.margin_bytes : DEFAULT_MARGIN_BYTES;
    uint64_t have =
        plan->profile.free_bytes ? plan->profile.free_bytes : plan->profile.memory_bytes;
    if (plan->params.memory_bytes) {
        *why = "hard cap asked for";
        return plan->params.memory_bytes;
    }
    if (have == 0) {
        *why = "the device does not say how much memory it has";
        return 0;
    }
    *why = plan->profile.free_bytes ? "free memory less the margin"
                                    : "the device's memory less the margin; free memory is unknown";
    return have > margin ? have - margin : 1;
}

/* Total of a plan with these options, or UINT64_MAX where there is none. */
static uint64_t total_with(const struct kept_plan *plan, const struct kept_plan_params *params)
{
    kept_plan *tried;
    if (kept_plan_make(plan->model, &plan->profile, &plan->tuning, params, &tried, NULL) != KEPT_OK)
        return UINT64_MAX;
    uint64_t total = tried->info.total_bytes;
    kept_plan_destroy(&tried);
    return total;
}

static struct kept_plan_params with_lengths(const struct kept_plan *plan, uint32_t context,
                                            uint32_t chunk)
{
    struct kept_plan_params params = plan->params;
    params.context_tokens = context;
    params.chunk_tokens = chunk < context ? chunk : context;
    return params;
}

static uint64_t total_of(const struct kept_plan *plan, uint32_t context, uint32_t chunk)
{
    struct kept_plan_params params = with_lengths(plan, context, chunk);
    return total_with(plan, &params);
}

static void add_text(struct kept_plan *plan, const char *change, uint64_t total_bytes,
                     const char *quality)
{
    struct kept_alternative_info *grown = kept_plan_grow(
        plan, plan->alternatives, plan->n_alternatives, &plan->cap_alternatives, sizeof *grown);
    if (!grown)
        return;
    const char *copy = kept_arena_strdup(&plan->arena, change);
    const char *cost = kept_arena_strdup(&plan->arena, quality);
    plan->alternatives = grown;
    if (!copy || !cost)
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for an alternative plan");
    else
        grown[plan->n_alternatives++] = (struct kept_alternative_info){copy, total_bytes, cost};
}

static void add_alternative(struct kept_plan *plan, uint32_t context, uint32_t chunk)
{
    char text[64];
    size_t n = 0;
    text[0] = '\0';
    if (context != plan->params.context_tokens)
        n = kept_snprintf(text, sizeof text, "--context %u", context);
    if (chunk != plan->params.chunk_tokens)
        kept_snprintf(text + n, sizeof text - n, "%s--chunk %u", n ? " " : "", chunk);
    add_text(plan, text, total_of(plan, context, chunk), "");
}

/* ---- keeping less ---- */

void kept_plan_quality(const struct kept_plan *plan, uint32_t percent, char *text, size_t n)
{
    const kept_sidecar *sidecar = plan->params.retain.sidecar;
    struct kept_sidecar_report_info info;
    kept_snprintf(text, n, "what it costs is unknown for this model: kept fit measures it");
    for (uint32_t i = 0; sidecar && kept_sidecar_report(sidecar, i, &info); i++) {
        if (info.budget_slots * 100ull / (info.context_tokens ? info.context_tokens : 1) != percent)
            continue;
        kept_snprintf(text, n, "measured at %u of %u slots: perplexity %+.2f %%, KL %.4f",
                      info.budget_slots, info.context_tokens, (info.ppl_ratio - 1) * 100,
                      info.kl_mean);
        return;
    }
}

/* Fewer bytes a slot, then fewer slots: the first of each that fits. */
static void add_lighter(struct kept_plan *plan)
{
    static const uint32_t shares[] = {50, 25};
    struct kept_plan_params params = plan->params;
    char change[96], quality[128];
    bool plain = params.k_type == KEPT_SLOT_F16 && params.v_type == KEPT_SLOT_F16;
    const char *kv = plain ? "--kv q8_0 " : "";
    if (plain) {
        params.k_type = params.v_type = KEPT_SLOT_Q8_0;
        uint64_t total = total_with(plan, &params);
        if (total <= plan->info.budget_bytes) {
            add_text(plan, "--kv q8_0", total, "hardly any cost: 8-bit keys and values, rotated");
            return;
        }
    }
    if (params.retain.mode != KEPT_RETAIN_FULL)
        return;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        params.retain.mode = KEPT_RETAIN_SCORED;
        params.retain.budget_percent = (float)shares[i];
        uint64_t total = total_with(plan, &params);
        if (total > plan->info.budget_bytes)
            continue;
        kept_snprintf(change, sizeof change, "%s--retain scored --retain-budget %u%%", kv,
                      shares[i]);
        kept_plan_quality(plan, shares[i], quality, sizeof quality);
        add_text(plan, change, total, quality);
        return;
    }
}

/* The longest context in whole pages that fits with this chunk, by bisection; 0 when none does. */
static uint32_t longest_context(const struct kept_plan *plan, uint32_t chunk)
{
    uint32_t low = 0, high = plan->params.context_tokens / KEPT_SLOT_BLOCK;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (total_of(plan, middle * KEPT_SLOT_BLOCK, chunk) <= plan->info.budget_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low * KEPT_SLOT_BLOCK;
}

static uint32_t largest_chunk(const struct kept_plan *plan)
{
    uint32_t chunk = plan->params.chunk_tokens / 2;
    while (chunk >= LEAST_CHUNK &&
           total_of(plan, plan->params.context_tokens, chunk) > plan->info.budget_bytes)
        chunk /= 2;
    return chunk >= LEAST_CHUNK ? chunk : 0;
}

void kept_plan_judge(struct kept_plan *plan)
{
    const char *why;
    struct kept_plan_info *info = &plan->info;
    char text[32];
    info->budget_bytes = budget_of(plan, &why);
    info->fits = info->budget_bytes == 0 || info->total_bytes <= info->budget_bytes;
    kept_plan_choose(plan, "budget", why, "%s",
                     info->budget_bytes ? kept_format_bytes(text, sizeof text, info->budget_bytes)
                                        : "none");
    if (info->fits)
        return;
    uint32_t chunk = largest_chunk(plan);
    if (chunk)
        add_alternative(plan, plan->params.context_tokens, chunk);
    add_lighter(plan);
    uint32_t context = longest_context(plan, plan->params.chunk_tokens);
    if (context >= LEAST_CONTEXT)
        add_alternative(plan, context,
                        plan->params.chunk_tokens < context ? plan->params.chunk_tokens : context);
    uint32_t small = longest_context(plan, LEAST_CHUNK * 4);
    if (small > context && !chunk)
        add_alternative(plan, small, LEAST_CHUNK * 4 < small ? LEAST_CHUNK * 4 : small);
}
