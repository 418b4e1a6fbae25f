/* core/plan_retain.c: retention in the plan: options resolved, budgets of heads, stores of layers.
 *
 * Budgets are known before anything is loaded: a mean number of slots per KV head, spread over the
 * heads by the sidecar or evenly. Each head's extent is its budget, one block that grows and room
 * for held tokens, in whole pages; a layer's heads lie one after the other in its regions.
 * Positions and biases of slots count as kv; what ranks slots (running sums of queries, stored
 * scores) as scorer.
 */
#include "core/plan_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "core/plan_fit.h"
#include "core/sidecar_internal.h"

#define DEFAULT_REFRESH   256u
#define DEFAULT_THRESHOLD 0.95f /* cosine of tokens that are alike */
#define AUTO_SHARE        4u    /* of the trained context, a quarter, when the plan decides */
#define MAX_PROTECT       (1u << 20)
/* Compact positions: what stays, at a refresh, of the weight of merged values. The model never saw
 * more than its trained context, so what lies far behind must not add up. */
#define COMPACT_KEEP 0.9f
/* Compact positions: no head keeps more than 7/8 of the positions, so that its keys are turned at
 * most once in an eighth of them. */
#define COMPACT_SHARE(past) ((past) - (past) / 8)

static uint32_t format_of(enum kept_slot_type type)
{
    return type == KEPT_SLOT_Q8_0   ? KEPT_FMT_Q8_0
           : type == KEPT_SLOT_Q4_0 ? KEPT_FMT_Q4_0
                                    : KEPT_FMT_F16;
}

static const char *type_name(enum kept_slot_type type)
{
    return type == KEPT_SLOT_Q8_0 ? "q8_0" : type == KEPT_SLOT_Q4_0 ? "q4_0" : "f16";
}

static void resolve_types(struct kept_plan *plan)
{
    const struct kept_plan_params *params = &plan->params;
    if ((unsigned)params->k_type > KEPT_SLOT_Q4_0 || (unsigned)params->v_type > KEPT_SLOT_Q4_0)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "slot types %d and %d: they are f16, q8_0 and q4_0",
                       (int)params->k_type, (int)params->v_type);
    plan->k_type = format_of(params->k_type);
    plan->v_type = format_of(params->v_type);
    bool plain = params->k_type == KEPT_SLOT_F16 && params->v_type == KEPT_SLOT_F16;
    kept_plan_choose(plan, "kv", plain ? "default without pressure" : "asked for", "%s%s%s",
                     type_name(params->k_type), params->k_type != params->v_type ? ":" : "",
                     params->k_type != params->v_type ? type_name(params->v_type) : "");
}

static uint32_t safe_tokens(int32_t given, uint32_t otherwise)
{
    return given < 0 ? 0 : given == 0 ? otherwise : (uint32_t)given;
}

static void resolve_blocks(struct kept_plan *plan)
{
    const struct kept_retain_params *params = &plan->params.retain;
    struct kept_retention *out = &plan->retention;
    out->block = params->block_tokens ? params->block_tokens : KEPT_SLOT_BLOCK;
    out->refresh = params->refresh_tokens ? params->refresh_tokens : DEFAULT_REFRESH;
    if (out->block != 64 && out->block != 128 && out->block != 256)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "blocks of %u tokens: they have 64, 128 or 256",
                       out->block);
    else if (out->refresh % out->block != 0)
        out->refresh = (out->refresh / out->block + 1) * out->block;
}

/* Mean slots per head that were asked for, or 0 with a failure. */
static uint32_t asked_slots(struct kept_plan *plan)
{
    const struct kept_retain_params *params = &plan->params.retain;
    const struct kept_retention *r = &plan->retention;
    double percent = (double)params->budget_percent;
    uint32_t memory = r->assoc != KEPT_ASSOC_OFF ? params->assoc_slots : 0;
    if (params->budget_slots)
        return params->budget_slots < UINT32_MAX - memory ? params->budget_slots + memory
                                                          : UINT32_MAX;
    if (percent > 0 && percent <= 100)
        return (uint32_t)(percent / 100 * r->past) + memory;
    if (memory && params->mode == KEPT_RETAIN_FULL)
        return r->sinks + r->window + memory;
    kept_plan_fail(plan, KEPT_E_ARGUMENT,
                   "retention needs a budget: --retain-budget N (slots per KV head) or P%% of the "
                   "context, more than 0");
    return 0;
}

static void resolve_budget(struct kept_plan *plan)
{
    struct kept_retention *out = &plan->retention;
    uint32_t least = out->sinks + out->window;
    out->mean = asked_slots(plan);
    if (plan->status != KEPT_OK)
        return;
    if (out->mean < least || out->mean == 0) {
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "a budget of %u slots is below the %u that are never evicted (%u first, %u "
                       "last tokens): raise --retain-budget or lower --protect and --sinks",
                       out->mean, least, out->sinks, out->window);
    } else if (out->compact && out->mean > COMPACT_SHARE(out->past)) {
        out->mean = COMPACT_SHARE(out->past);
        if (out->mean < least)
            kept_plan_fail(plan, KEPT_E_ARGUMENT,
                           "compact positions leave %u slots, %u are never evicted", out->mean,
                           least);
    } else if (out->dms) {
        out->mean = out->mean < out->past ? out->mean : out->past;
    } else if (!out->compact && out->mean >= plan->params.context_tokens) {
        out->on = false;
        kept_plan_choose(plan, "retention", "the budget holds the whole context", "full");
    }
}

static bool has_global_layers(const struct kept_plan *plan)
{
    for (uint32_t i = 0; i < plan->shape->n_layers; i++)
        if (plan->shape->layers[i].window == 0)
            return true;
    return false;
}

/* Heads share out their slots when that was asked for; associative memory alone gives all alike. */
static bool uses_sidecar(const struct kept_plan *plan)
{
    const struct kept_retain_params *params = &plan->params.retain;
    return params->sidecar && params->mode == KEPT_RETAIN_SCORED &&
           plan->retention.assoc != KEPT_ASSOC_PUBLISHED;
}

static void say_retention(struct kept_plan *plan)
{
    const struct kept_retention *r = &plan->retention;
    const char *const scorers[] = {"expected attention", "gate", "key difference"};
    bool window = r->mode == KEPT_RETAIN_WINDOW;
    const char *why = plan->chose_retention
                          ? "input past the trained context; --retain says otherwise"
                          : "asked for";
    if (r->dms) {
        kept_plan_choose(plan, "retention", why, "up to %u slots per KV head of %u", r->mean,
                         r->past);
        kept_plan_choose(plan, "scorer", "the model was trained to decide what goes (DMS)",
                         "the model's own decisions, %u tokens later", r->window);
        return;
    }
    kept_plan_choose(plan, "retention", why, "%u slots per KV head of %u, by %s%s%s", r->mean,
                     r->past,
                     window                             ? "age"
                     : r->assoc == KEPT_ASSOC_PUBLISHED ? "last use"
                                                        : scorers[r->scorer],
                     r->merge ? ", values merged" : "", r->compact ? ", positions compact" : "");
    if (r->assoc != KEPT_ASSOC_OFF)
        kept_plan_choose(plan, "associative", "asked for",
                         "%s form, tokens whose %s keys have a cosine of %.3g share a slot",
                         r->assoc == KEPT_ASSOC_KEPT ? "kept" : "published",
                         r->unrotated ? "un-rotated" : "rotated", (double)r->threshold);
    if (!window && plan->params.retain.mode == KEPT_RETAIN_SCORED)
        kept_plan_choose(
            plan, "budgets",
            uses_sidecar(plan)
                ? "the sidecar says what each head needs"
                : "no sidecar: every head alike, which loses recall; kept fit makes one",
            "%s", uses_sidecar(plan) ? "per head" : "uniform");
}

static void say_quality(struct kept_plan *plan)
{
    const struct kept_retention *r = &plan->retention;
    char text[128];
    kept_plan_quality(plan, (uint32_t)(r->mean * 100ull / r->past), text, sizeof text);
    kept_plan_choose(plan, "quality", "the sidecar, within the trained context", "%s", text);
}

static void check_gate(struct kept_plan *plan)
{
    const struct kept_retention *r = &plan->retention;
    const kept_sidecar *sidecar = plan->params.retain.sidecar;
    const struct kept_shape *shape = plan->shape;
    if (r->mode != KEPT_RETAIN_SCORED || r->scorer != KEPT_SCORER_BY_GATE || r->dms)
        return;
    if (r->window == 0)
        kept_plan_fail(
            plan, KEPT_E_ARGUMENT,
            "the gate needs a protected window: --protect 0 would lose what is read next");
    else if (!sidecar || !kept_sidecar_info(sidecar)->has_gate)
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "the gate comes from a sidecar, and %s: use --scorer expected",
                       sidecar ? "this one has none" : "there is none");
    else if (sidecar->info.n_layers != shape->n_layers ||
             sidecar->info.n_kv != shape->layers[0].n_kv || sidecar->n_embd != shape->n_embd)
        kept_plan_fail(plan, KEPT_E_MISMATCH,
                       "the gate is for %u layers, %u KV heads and %u elements; the model has %u, "
                       "%u and %u",
                       sidecar->info.n_layers, sidecar->info.n_kv, sidecar->n_embd, shape->n_layers,
                       shape->layers[0].n_kv, shape->n_embd);
}

static void resolve_assoc(struct kept_plan *plan)
{
    const struct kept_retain_params *params = &plan->params.retain;
    struct kept_retention *out = &plan->retention;
    out->assoc = params->assoc;
    out->unrotated =
        params->assoc == KEPT_ASSOC_PUBLISHED || params->assoc_keys == KEPT_ASSOC_UNROTATED;
    out->threshold = params->assoc_threshold != 0 ? params->assoc_threshold : DEFAULT_THRESHOLD;
    if (out->assoc == KEPT_ASSOC_OFF)
        return;
    if ((unsigned)params->assoc > KEPT_ASSOC_PUBLISHED ||
        (unsigned)params->assoc_keys > KEPT_ASSOC_UNROTATED || params->assoc_slots == 0 ||
        params->assoc_slots > MAX_PROTECT || !(out->threshold >= -1 && out->threshold <= 2))
        kept_plan_fail(
            plan, KEPT_E_ARGUMENT,
            "associative memory has no form %d, keys %d, %u slots, threshold %g: 1 to %u slots, "
            "-1 to 2",
            (int)params->assoc, (int)params->assoc_keys, params->assoc_slots,
            (double)out->threshold, MAX_PROTECT);
    else if (params->mode == KEPT_RETAIN_WINDOW)
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "associative memory is for what leaves the protected window: give --protect "
                       "instead of --retain window");
    else if (plan->shape->dms.form != KEPT_DMS_NONE)
        kept_plan_fail(plan, KEPT_E_UNSUPPORTED,
                       "this model decides itself what goes (DMS): no associative memory with it");
    else if (out->assoc == KEPT_ASSOC_PUBLISHED && out->compact &&
             plan->params.context_tokens > plan->shape->trained_context)
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "the published form has one absolute position: it cannot pass the trained "
                       "context of %u tokens; the kept form can",
                       plan->shape->trained_context);
    out->mode = KEPT_RETAIN_SCORED;
    if (out->assoc == KEPT_ASSOC_PUBLISHED)
        out->compact = false;
}

/* A checkpoint that decides for itself: no sinks, its own window, scores given at birth. */
static void use_dms(struct kept_plan *plan)
{
    struct kept_retention *out = &plan->retention;
    out->dms = true;
    out->scorer = KEPT_SCORER_BY_GATE;
    out->sinks = 0;
    out->window = plan->shape->dms.window;
}

/* Past the trained context head budgets were better than anything else that was measured
 * (docs/measuring.md), and no layer could see all of the past anyway. */
void kept_plan_auto(struct kept_plan *plan)
{
    struct kept_retain_params *params = &plan->params.retain;
    uint32_t trained = plan->shape->trained_context, slots = trained / AUTO_SHARE;
    plan->chose_retention = false;
    if (params->mode != KEPT_RETAIN_AUTO)
        return;
    params->mode = KEPT_RETAIN_FULL;
    if (plan->params.calibrate_tokens || plan->params.context_tokens <= trained)
        return;
    params->positions = KEPT_POSITIONS_COMPACT;
    if (params->assoc != KEPT_ASSOC_OFF && !params->budget_slots && !(params->budget_percent > 0))
        return;
    params->mode = KEPT_RETAIN_SCORED;
    plan->chose_retention = true;
    if (params->budget_slots || params->budget_percent > 0)
        return;
    uint32_t safe = safe_tokens(params->sinks, KEPT_DEFAULT_SINKS) +
                    safe_tokens(params->protect, KEPT_DEFAULT_PROTECT);
    params->budget_slots = slots > 2 * safe ? slots : 2 * safe;
}

void kept_plan_retention(struct kept_plan *plan)
{
    const struct kept_retain_params *params = &plan->params.retain;
    struct kept_retention *out = &plan->retention;
    uint32_t trained = plan->shape->trained_context, context = plan->params.context_tokens;
    *out = (struct kept_retention){.mode = params->mode, .scorer = params->scorer};
    out->hold = params->hold_tokens;
    resolve_types(plan);
    if ((unsigned)params->mode > KEPT_RETAIN_SCORED ||
        (unsigned)params->scorer > KEPT_SCORER_BY_KEYDIFF || out->hold > MAX_PROTECT)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "retention has no mode %d, scorer %d, hold %u",
                       (int)params->mode, (int)params->scorer, out->hold);
    out->compact = params->positions == KEPT_POSITIONS_COMPACT;
    out->keep = out->compact ? COMPACT_KEEP : 1;
    if (params->mode == KEPT_RETAIN_FULL && params->assoc == KEPT_ASSOC_OFF) {
        if (out->compact && context > trained)
            kept_plan_fail(plan, KEPT_E_ARGUMENT,
                           "compact positions need retention: give --retain and --retain-budget");
        out->compact = false;
        kept_plan_choose(plan, "retention", "default without pressure", "full");
        return;
    }
    resolve_blocks(plan);
    resolve_assoc(plan);
    out->on = true;
    out->past = out->compact && context > trained ? trained : context;
    out->limit = out->compact ? out->past : 0;
    out->sinks = safe_tokens(params->sinks, KEPT_DEFAULT_SINKS);
    out->window = safe_tokens(params->protect, KEPT_DEFAULT_PROTECT);
    if (out->window > MAX_PROTECT || out->sinks > MAX_PROTECT)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "%u protected and %u first tokens: at most %u",
                       out->window, out->sinks, MAX_PROTECT);
    if (params->mode == KEPT_RETAIN_SCORED && plan->shape->dms.form != KEPT_DMS_NONE)
        use_dms(plan);
    out->merge = !out->dms && !params->no_merge && out->mode == KEPT_RETAIN_SCORED &&
                 params->scorer == KEPT_SCORER_BY_EXPECTED && out->assoc != KEPT_ASSOC_PUBLISHED;
    resolve_budget(plan);
    check_gate(plan);
    if (plan->status != KEPT_OK || !out->on)
        return;
    out->on = has_global_layers(plan);
    if (out->on)
        say_retention(plan);
    if (out->on && plan->chose_retention)
        say_quality(plan);
    if (!out->on)
        kept_plan_choose(plan, "retention", "every layer has a sliding window already", "full");
}

/* Budgets of all heads: the sidecar's, or the mean for every head. */
static void spread_budget(struct kept_plan *plan, uint32_t i, struct kept_head_slots *heads)
{
    const struct kept_retention *r = &plan->retention;
    const struct kept_shape *shape = plan->shape;
    uint32_t n_kv = shape->layers[i].n_kv, most = r->compact ? COMPACT_SHARE(r->past) : r->past;
    uint32_t *budgets = NULL;
    if (uses_sidecar(plan)) {
        if (!plan->head_budgets) {
            budgets =
                kept_arena_array(&plan->arena, (size_t)shape->n_layers * n_kv, sizeof *budgets);
            if (!budgets)
                kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for head budgets");
            else if (kept_sidecar_budgets(plan->params.retain.sidecar, r->past, r->mean,
                                          r->sinks + r->window, budgets, plan->err) != KEPT_OK)
                plan->status = plan->err ? plan->err->status : KEPT_E_MISMATCH;
            if (plan->status == KEPT_OK)
                kept_plan_make_room(plan, budgets, (size_t)shape->n_layers * n_kv, most);
            plan->head_budgets = budgets;
        }
        budgets = plan->head_budgets;
    }
    for (uint32_t h = 0; h < n_kv && plan->status == KEPT_OK; h++) {
        uint32_t budget = budgets ? budgets[(size_t)i * n_kv + h] : r->mean;
        if (budget < r->sinks + r->window)
            kept_plan_fail(plan, KEPT_E_MISMATCH,
                           "the sidecar has no budget for KV head %u of layer %u", h, i);
        heads[h].budget = budget < most ? budget : most;
    }
}

static struct kept_arg whole(const struct kept_plan *plan, uint32_t region)
{
    return (struct kept_arg){region, 0, plan->regions[region].bytes};
}

uint64_t kept_meta_bytes(const struct kept_retention *retention, uint64_t slots)
{
    return 4ull * kept_retain_planes(retention) * slots;
}

static void add_regions(struct kept_plan *plan, uint32_t i, struct kept_layer_plan *out)
{
    struct kept_store *store = &out->store;
    uint64_t d = store->d;
    bool assoc = plan->retention.assoc != KEPT_ASSOC_OFF;
    bool expected = plan->retention.mode == KEPT_RETAIN_SCORED &&
                    plan->retention.scorer == KEPT_SCORER_BY_EXPECTED &&
                    plan->retention.assoc != KEPT_ASSOC_PUBLISHED;
    out->meta = kept_plan_add_region(plan, KEPT_CATEGORY_KV,
                                     kept_meta_bytes(&plan->retention, store->total),
                                     assoc ? "position, bias, count, fraction and age of every slot"
                                     : plan->retention.dms ? "position, bias and end of every slot"
                                                           : "position and bias of every slot",
                                     "meta.%u", i);
    out->scores = kept_plan_add_region(plan, KEPT_CATEGORY_SCORER, 8ull * store->total,
                                       "score and weight of every slot", "scores.%u", i);
    if (!expected)
        return;
    out->stats = kept_plan_add_region(plan, KEPT_CATEGORY_SCORER,
                                      4ull * store->n_head * KEPT_STATS_STRIDE(d),
                                      "running sums of queries and their products", "stats.%u", i);
    out->queries =
        kept_plan_add_region(plan, KEPT_CATEGORY_SCORER,
                             4ull * (plan->retention.block + store->delay) * store->n_head * d,
                             "queries of the block that grows", "queries.%u", i);
}

void kept_plan_extents(struct kept_plan *plan, uint32_t i)
{
    const struct kept_layer *layer = &plan->shape->layers[i];
    const struct kept_rope *rope = &plan->shape->ropes[layer->rope];
    struct kept_layer_plan *out = &plan->layers[i];
    struct kept_store *store = &out->store;
    if (plan->status != KEPT_OK)
        return;
    *store = (struct kept_store){.n_head = layer->n_head,
                                 .n_kv = layer->n_kv,
                                 .d = layer->d,
                                 .k_type = plan->k_type,
                                 .v_type = plan->v_type,
                                 .n_rot = rope->n_rot,
                                 .rope_pairs = rope->pairs,
                                 .hi_bias = plan->rope_hi_bias,
                                 .mean_row = kept_rope_mean_row(plan->rope_hi_rows),
                                 .q_scale = layer->q_scale};
    store->heads = kept_arena_array(&plan->arena, layer->n_kv, sizeof *store->heads);
    if (!store->heads) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for %u heads", layer->n_kv);
        return;
    }
    spread_budget(plan, i, store->heads);
    for (uint32_t h = 0; h < layer->n_kv; h++) {
        struct kept_head_slots *head = &store->heads[h];
        head->first = store->total;
        head->cap = kept_retain_extent(&plan->retention, head->budget, plan->params.context_tokens);
        store->total += head->cap;
        store->most = head->cap > store->most ? head->cap : store->most;
    }
}

void kept_plan_store(struct kept_plan *plan, uint32_t i)
{
    if (plan->status == KEPT_OK)
        add_regions(plan, i, &plan->layers[i]);
}

/* After the layer's regions exist: what the maintenance calls name. */
void kept_plan_store_args(struct kept_plan *plan, uint32_t i)
{
    struct kept_layer_plan *out = &plan->layers[i];
    struct kept_store *store = &out->store;
    if (plan->status != KEPT_OK)
        return;
    store->k = whole(plan, out->k_slots);
    store->v = whole(plan, out->v_slots);
    store->meta = whole(plan, out->meta);
    store->scores = whole(plan, out->scores);
    store->table = whole(plan, plan->rope_tables[plan->shape->layers[i].rope]);
    store->stats = out->stats != KEPT_NO_REGION ? whole(plan, out->stats) : store->table;
    store->queries = out->queries != KEPT_NO_REGION ? whole(plan, out->queries) : store->table;
    uint64_t offset = 0;
    for (uint32_t j = 0; j < i; j++)
        offset += kept_plan_align(plan, plan->shape->layers[j].n_kv * KEPT_HEAD_WORDS * 4ull);
    store->heads_table =
        (struct kept_arg){plan->heads, offset, store->n_kv * KEPT_HEAD_WORDS * 4ull};
}

bool kept_plan_head(const kept_plan *plan, uint32_t layer, uint32_t kv_head, uint32_t *budget_slots,
                    uint32_t *planned_slots)
{
    if (layer >= plan->shape->n_layers || kv_head >= plan->shape->layers[layer].n_kv)
        return false;
    const struct kept_layer_plan *planned = &plan->layers[layer];
    *planned_slots = planned->budgeted ? planned->store.heads[kv_head].cap : planned->cap;
    *budget_slots = planned->budgeted ? planned->store.heads[kv_head].budget : planned->cap;
    return true;
}
