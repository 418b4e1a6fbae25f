/* core/plan_fit.c: the verdict.
 *
 * Budget: --memory as a hard cap; else free memory less a margin where it is known; else the
 * device's whole memory less the margin. When a plan does not fit, its neighbours are planned,
 * nearest first: the longest context that fits, the largest chunk that fits, both at once. Each is
 * a whole plan, so its total is a promise too.
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

/* Total of the plan with these two options, or UINT64_MAX where there is none. */
static uint64_t total_of(const struct kept_plan *plan, uint32_t context, uint32_t chunk)
{
    struct kept_plan_params params = plan->params;
    kept_plan *tried;
    params.context_tokens = context;
    params.chunk_tokens = chunk < context ? chunk : context;
    if (kept_plan_make(plan->model, &plan->profile, &plan->tuning, &params, &tried, NULL) !=
        KEPT_OK)
        return UINT64_MAX;
    uint64_t total = tried->info.total_bytes;
    kept_plan_destroy(&tried);
    return total;
}

static void add_alternative(struct kept_plan *plan, uint32_t context, uint32_t chunk)
{
    struct kept_alternative_info *grown = kept_plan_grow(
        plan, plan->alternatives, plan->n_alternatives, &plan->cap_alternatives, sizeof *grown);
    struct kept_strbuf text = {0};
    if (!grown)
        return;
    plan->alternatives = grown;
    if (context != plan->params.context_tokens)
        kept_strbuf_printf(&text, "--context %u", context);
    if (chunk != plan->params.chunk_tokens)
        kept_strbuf_printf(&text, "%s--chunk %u", text.n_bytes ? " " : "", chunk);
    const char *change = kept_arena_strdup(&plan->arena, text.text ? text.text : "");
    bool failed = text.failed || !change;
    kept_strbuf_finish(&text);
    if (failed)
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for an alternative plan");
    else
        grown[plan->n_alternatives++] =
            (struct kept_alternative_info){change, total_of(plan, context, chunk)};
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
    uint32_t context = longest_context(plan, plan->params.chunk_tokens);
    if (context >= LEAST_CONTEXT)
        add_alternative(plan, context,
                        plan->params.chunk_tokens < context ? plan->params.chunk_tokens : context);
    uint32_t small = longest_context(plan, LEAST_CHUNK * 4);
    if (small > context && !chunk)
        add_alternative(plan, small, LEAST_CHUNK * 4 < small ? LEAST_CHUNK * 4 : small);
}
