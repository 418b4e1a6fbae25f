/* core/plan.c: makes a plan, and hands out what is in it.
 *
 * Order: resolve options, weights, slots and state, programs (which make the activation regions),
 * packing into buffers, totals, verdict. Everything lives in the plan's arena. The same inputs give
 * the same plan: nothing here asks a clock, a device or the environment.
 */
#include "core/plan_internal.h"

#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"
#include "core/plan_fit.h"

#define DEFAULT_CONTEXT 8192u
#define DEFAULT_CHUNK   512u
#define MAX_CHUNK       16384u
#define MAX_CONTEXT     (1u << 28)
#define MIN_ALIGN_BYTES 256u
#define MAX_ALIGN_BYTES 4096u

static const char *const category_names[KEPT_CATEGORY_COUNT] = {
#define X(NAME, name) name,
    KEPT_CATEGORY_LIST(X)
#undef X
};

kept_status kept_plan_fail(struct kept_plan *plan, kept_status status, const char *fmt, ...)
{
    if (plan->status != KEPT_OK)
        return plan->status;
    va_list args;
    va_start(args, fmt);
    plan->status = kept_vfail(plan->err, status, fmt, args);
    va_end(args);
    return plan->status;
}

void *kept_plan_grow(struct kept_plan *plan, void *array, uint32_t n, uint32_t *cap, size_t size)
{
    if (plan->status != KEPT_OK)
        return NULL;
    if (n < *cap)
        return array;
    uint32_t wanted = *cap ? *cap * 2 : 64;
    void *grown = kept_arena_array(&plan->arena, wanted, size);
    if (!grown) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for a plan of %u entries", wanted);
        return NULL;
    }
    if (n > 0)
        memcpy(grown, array, n * size);
    *cap = wanted;
    return grown;
}

uint64_t kept_plan_align(const struct kept_plan *plan, uint64_t bytes)
{
    uint64_t align = plan->profile.binding_align_bytes;
    if (align < MIN_ALIGN_BYTES)
        align = MIN_ALIGN_BYTES;
    return (bytes + align - 1) / align * align;
}

static char *format_in_arena(struct kept_plan *plan, const char *fmt, va_list args)
{
    char text[256];
    kept_vsnprintf(text, sizeof text, fmt, args);
    char *copy = kept_arena_strdup(&plan->arena, text);
    if (!copy)
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for the plan's names");
    return copy;
}

uint32_t kept_plan_add_region(struct kept_plan *plan, enum kept_category category, uint64_t bytes,
                              const char *why, const char *name_fmt, ...)
{
    struct kept_region *grown =
        kept_plan_grow(plan, plan->regions, plan->n_regions, &plan->cap_regions, sizeof *grown);
    if (!grown)
        return 0;
    va_list args;
    va_start(args, name_fmt);
    char *name = format_in_arena(plan, name_fmt, args);
    va_end(args);
    plan->regions = grown;
    grown[plan->n_regions] = (struct kept_region){.name = name,
                                                  .why = why,
                                                  .category = category,
                                                  .bytes = bytes,
                                                  .program = -1,
                                                  .first_use = -1,
                                                  .last_use = -1};
    return plan->n_regions++;
}

void kept_plan_choose(struct kept_plan *plan, const char *what, const char *why,
                      const char *chosen_fmt, ...)
{
    struct kept_choice_info *grown =
        kept_plan_grow(plan, plan->choices, plan->n_choices, &plan->cap_choices, sizeof *grown);
    if (!grown)
        return;
    va_list args;
    va_start(args, chosen_fmt);
    char *chosen = format_in_arena(plan, chosen_fmt, args);
    va_end(args);
    plan->choices = grown;
    grown[plan->n_choices++] = (struct kept_choice_info){what, chosen, why};
}

static void resolve_context(struct kept_plan *plan)
{
    struct kept_plan_params *params = &plan->params;
    uint32_t trained = plan->shape->trained_context;
    if (params->context_tokens == 0) {
        params->context_tokens = trained < DEFAULT_CONTEXT ? trained : DEFAULT_CONTEXT;
        kept_plan_choose(plan, "context",
                         trained <= DEFAULT_CONTEXT ? "the model's trained context"
                                                    : "default; --context asks for more",
                         "%u tokens", params->context_tokens);
    } else if (params->context_tokens > trained && !params->calibrate_tokens &&
               params->retain.positions != KEPT_POSITIONS_COMPACT) {
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "a context of %u tokens is past the %u the model was trained for: give "
                       "--positions compact with --retain for longer input, or --retain auto",
                       params->context_tokens, trained);
    } else {
        kept_plan_choose(plan, "context", "asked for", "%u tokens", params->context_tokens);
    }
    if (params->context_tokens > MAX_CONTEXT)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "a context of %u tokens is over the limit of %u",
                       params->context_tokens, MAX_CONTEXT);
}

static void resolve_params(struct kept_plan *plan, const struct kept_plan_params *given)
{
    struct kept_plan_params *params = &plan->params;
    *params = *given;
    kept_plan_auto(plan);
    resolve_context(plan);
    bool asked = params->chunk_tokens != 0;
    if (!asked)
        params->chunk_tokens = DEFAULT_CHUNK;
    if (params->chunk_tokens > MAX_CHUNK)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "a chunk of %u tokens is over the limit of %u",
                       params->chunk_tokens, MAX_CHUNK);
    if (params->chunk_tokens > params->context_tokens)
        params->chunk_tokens = params->context_tokens;
    kept_plan_choose(plan, "chunk", asked ? "asked for" : "default", "%u tokens",
                     params->chunk_tokens);
    if (params->logits_rows == 0)
        params->logits_rows = 1;
    if (params->logits_rows > params->chunk_tokens)
        params->logits_rows = params->chunk_tokens;
    if (params->calibrate_after && !params->calibrate_tokens)
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "calibrate_after %u needs calibrate_tokens: there is nothing to fit",
                       params->calibrate_after);
    kept_plan_facts_params(plan);
    kept_plan_retention(plan);
    kept_plan_choose(plan, "kernels", "tuning table for this class of device", "%s",
                     plan->tuning.name);
}

/* Slots of a layer, and their bytes without room for held tokens. */
static void sum_layer(struct kept_plan *plan, uint32_t i)
{
    const struct kept_layer *layer = &plan->shape->layers[i];
    const struct kept_layer_plan *planned = &plan->layers[i];
    struct kept_retention retention = plan->retention;
    retention.hold = 0;
    for (uint32_t h = 0; h < layer->n_kv; h++) {
        uint32_t held = plan->retention.hold / KEPT_SLOT_BLOCK * KEPT_SLOT_BLOCK;
        uint64_t cap = planned->cap;
        if (planned->budgeted)
            cap = kept_retain_extent(&retention, planned->store.heads[h].budget,
                                     plan->params.context_tokens);
        else if (cap > held)
            cap -= held;
        plan->info.slots += planned->budgeted ? planned->store.heads[h].budget : cap;
        if (planned->budgeted && plan->retention.assoc != KEPT_ASSOC_OFF)
            plan->info.memory_slots +=
                planned->store.heads[h].budget - plan->retention.sinks - plan->retention.window;
        plan->info.kv_bytes += kept_slot_bytes(plan->k_type, layer->d, cap) +
                               kept_slot_bytes(plan->v_type, layer->d, cap) +
                               (planned->budgeted ? kept_meta_bytes(&plan->retention, cap) : 0);
    }
}

static void sum_up(struct kept_plan *plan)
{
    struct kept_plan_info *info = &plan->info;
    for (uint32_t i = 0; i < plan->n_regions; i++) {
        if (plan->regions[i].category == KEPT_CATEGORY_WEIGHTS)
            info->weight_bytes += plan->regions[i].bytes;
        if (plan->regions[i].category == KEPT_CATEGORY_SCORER)
            info->scorer_bytes += plan->regions[i].bytes;
        if (plan->regions[i].category == KEPT_CATEGORY_EPISODIC)
            info->episodic_bytes += plan->regions[i].bytes;
    }
    for (uint32_t i = 0; i < plan->shape->n_layers; i++)
        sum_layer(plan, i);
    info->retains = plan->retention.on;
    info->driver_bytes = (uint64_t)plan->tuning.driver_mib << 20;
    info->total_bytes = info->planned_bytes + info->driver_bytes;
    info->context_tokens = plan->params.context_tokens;
    info->chunk_tokens = plan->params.chunk_tokens;
    info->logits_rows = plan->params.logits_rows;
    info->n_regions = plan->n_regions;
    info->n_buffers = plan->n_buffers;
}

/* A profile may come from a file: texts end, and limits are whole steps of the alignment. */
static kept_status check_profile(struct kept_profile *profile, struct kept_error *err)
{
    profile->id[sizeof profile->id - 1] = '\0';
    profile->name[sizeof profile->name - 1] = '\0';
    profile->driver[sizeof profile->driver - 1] = '\0';
    profile->api[sizeof profile->api - 1] = '\0';
    profile->type[sizeof profile->type - 1] = '\0';
    profile->architecture[sizeof profile->architecture - 1] = '\0';
    if (profile->max_buffer_bytes < 1 << 20 || profile->max_binding_bytes < 1 << 20 ||
        profile->binding_align_bytes > MAX_ALIGN_BYTES || profile->word_order > 1 ||
        (profile->binding_align_bytes & (profile->binding_align_bytes - 1)) != 0)
        return kept_fail(
            err, KEPT_E_ARGUMENT,
            "the profile of '%s' has no usable limits (buffer %llu, binding %llu, align %u bytes)",
            profile->id, (unsigned long long)profile->max_buffer_bytes,
            (unsigned long long)profile->max_binding_bytes, profile->binding_align_bytes);
    profile->max_buffer_bytes -= profile->max_buffer_bytes % MAX_ALIGN_BYTES;
    profile->max_binding_bytes -= profile->max_binding_bytes % MAX_ALIGN_BYTES;
    return KEPT_OK;
}

/* Slots that kernels would silently leave out are refused. A head has the context's slots at most,
 * held tokens besides; with a budget, that and a block. */
static void check_loops(struct kept_plan *plan)
{
    const struct kept_retention *r = &plan->retention;
    uint32_t fit = plan->loops.fit > r->hold ? plan->loops.fit - r->hold : 0;
    char budget[80] = "";
    if (!plan->loops.stem || plan->status != KEPT_OK)
        return;
    fit -= fit % KEPT_SLOT_BLOCK;
    if (r->on && fit > 2 * r->block)
        kept_snprintf(
            budget, sizeof budget, ", or --retain-budget %u%s", fit - r->block,
            r->mode == KEPT_RETAIN_SCORED && plan->params.retain.sidecar ? " --sidecar none" : "");
    kept_plan_fail(
        plan, KEPT_E_UNSUPPORTED,
        "kernel %s would go over %u slots of a KV head; '%s' leaves loops after %u turns, "
        "which is %u slots: use --context %u or less%s",
        plan->loops.stem, plan->loops.slots, plan->profile.name, plan->profile.loop_turns,
        plan->loops.fit, fit, budget);
}

kept_status kept_plan_make(const kept_model *model, const struct kept_profile *profile,
                           const struct kept_tuning *tuning, const struct kept_plan_params *params,
                           kept_plan **out, struct kept_error *err)
{
    *out = NULL;
    kept_plan *plan = kept_calloc(1, sizeof *plan);
    if (!plan)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a plan");
    plan->model = model;
    plan->shape = &model->shape;
    plan->profile = *profile;
    plan->err = err;
    plan->tuning = *tuning;
    resolve_params(plan, params);
    kept_plan_weights(plan);
    kept_plan_slots(plan);
    kept_build_programs(plan);
    check_loops(plan);
    kept_plan_buffers(plan);
    if (plan->status == KEPT_OK)
        sum_up(plan);
    kept_status status = plan->status;
    if (status == KEPT_OK)
        *out = plan;
    else
        kept_plan_destroy(&plan);
    return status;
}

kept_status kept_plan_create(const kept_model *model, const struct kept_profile *profile,
                             const struct kept_plan_params *params, kept_plan **out,
                             struct kept_error *err)
{
    if (out)
        *out = NULL;
    if (!model || !profile || !out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_plan_create needs a model, a profile and out");
    struct kept_plan_params none = {0};
    struct kept_profile device = *profile;
    struct kept_tuning tuning;
    kept_plan *plan;
    kept_status status = check_profile(&device, err);
    if (status != KEPT_OK)
        return status;
    kept_tune_device(&device, &tuning);
    status = kept_plan_make(model, &device, &tuning, params ? params : &none, &plan, err);
    if (status != KEPT_OK)
        return status;
    kept_plan_judge(plan);
    status = plan->status;
    plan->err = NULL;
    plan->info.n_choices = plan->n_choices;
    plan->info.n_alternatives = plan->n_alternatives;
    if (status == KEPT_OK)
        *out = plan;
    else
        kept_plan_destroy(&plan);
    return status;
}

void kept_plan_destroy(kept_plan **plan)
{
    if (!plan || !*plan)
        return;
    kept_arena_finish(&(*plan)->arena);
    kept_free(*plan);
    *plan = NULL;
}

const struct kept_plan_info *kept_plan_info(const kept_plan *plan)
{
    return &plan->info;
}

const struct kept_profile *kept_plan_profile(const kept_plan *plan)
{
    return &plan->profile;
}

bool kept_plan_region(const kept_plan *plan, uint32_t i, struct kept_region_info *out)
{
    if (i >= plan->n_regions)
        return false;
    const struct kept_region *region = &plan->regions[i];
    *out = (struct kept_region_info){.name = region->name,
                                     .category = category_names[region->category],
                                     .why = region->why,
                                     .buffer = region->buffer,
                                     .bytes = region->bytes,
                                     .offset = region->offset,
                                     .first_use = region->first_use,
                                     .last_use = region->last_use};
    return true;
}

bool kept_plan_choice(const kept_plan *plan, uint32_t i, struct kept_choice_info *out)
{
    if (i >= plan->n_choices)
        return false;
    *out = plan->choices[i];
    return true;
}

bool kept_plan_alternative(const kept_plan *plan, uint32_t i, struct kept_alternative_info *out)
{
    if (i >= plan->n_alternatives)
        return false;
    *out = plan->alternatives[i];
    return true;
}
