/* core/plan_facts.c: episodic memory in the plan: room for addresses, for the slots that are read,
 * and for evaluating a fact beside the session's past.
 *
 * Payloads stay in the file: what a session reads is a few kilobytes a fact and is uploaded when it
 * changes. Addresses are a matrix with a row a fact, so that ranking all of them is one
 * matrix-vector product. A layer's slots of facts have the session's types.
 */
#include "core/plan_internal.h"

#include "base/status.h"

#define LEAST_CHUNK   128u /* the step buffer holds a fact and its sinks */
#define MOST_FACTS    (1u << 20)
#define MOST_GAP      65536u
#define ADDRESS_LAYER 4u /* layers 2 to 6 do well, later ones lose paraphrases */

static void check_layers(struct kept_plan *plan)
{
    const struct kept_layer *first = &plan->shape->layers[0];
    for (uint32_t i = 1; i < plan->shape->n_layers; i++)
        if (plan->shape->layers[i].n_kv != first->n_kv || plan->shape->layers[i].d != first->d)
            kept_plan_fail(plan, KEPT_E_UNSUPPORTED,
                           "layers 0 and %u have slots of different size: no facts with this model",
                           i);
}

uint32_t kept_fact_address_layer(uint32_t n_layers)
{
    return n_layers > 2 * ADDRESS_LAYER ? ADDRESS_LAYER : n_layers / 2;
}

void kept_plan_facts_params(struct kept_plan *plan)
{
    struct kept_plan_params *params = &plan->params;
    struct kept_facts_plan *out = &plan->facts;
    if (params->facts_max == 0)
        return;
    *out = (struct kept_facts_plan){.on = true,
                                    .max = params->facts_max,
                                    .top = params->facts_top ? params->facts_top : 1,
                                    .gap = params->facts_gap ? params->facts_gap : KEPT_FACTS_GAP};
    out->address_layer = kept_fact_address_layer(plan->shape->n_layers);
    if (out->max > MOST_FACTS || out->top > KEPT_FACTS_MAX_TOP || out->gap > MOST_GAP)
        kept_plan_fail(plan, KEPT_E_ARGUMENT,
                       "room for %u facts, %u read at once, a gap of %u: at most %u, %u and %u",
                       out->max, out->top, out->gap, MOST_FACTS, KEPT_FACTS_MAX_TOP, MOST_GAP);
    if (params->calibrate_tokens)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "a plan for fitting has no facts");
    if (params->context_tokens < LEAST_CHUNK)
        kept_plan_fail(plan, KEPT_E_ARGUMENT, "facts need a context of %u tokens at least, not %u",
                       LEAST_CHUNK, params->context_tokens);
    if (params->chunk_tokens < LEAST_CHUNK)
        params->chunk_tokens = LEAST_CHUNK;
    params->facts_top = out->top;
    params->facts_gap = out->gap;
    check_layers(plan);
    kept_plan_choose(plan, "facts", "asked for",
                     "room for %u, %u read at once, %u positions before the prompt", out->max,
                     out->top, out->gap);
}

uint32_t kept_plan_fact_positions(const struct kept_plan *plan)
{
    const struct kept_facts_plan *facts = &plan->facts;
    return facts->on ? facts->gap + facts->top * KEPT_FACT_ROWS : 0;
}

/* Bytes of one layer in each region of a store. */
struct layer_bytes {
    uint64_t k, v, meta, heads;
};

static struct layer_bytes bytes_of_layer(const struct kept_plan *plan,
                                         const struct kept_fact_store *store)
{
    const struct kept_layer *layer = &plan->shape->layers[0];
    uint64_t slots = (uint64_t)store->extent * layer->n_kv;
    return (struct layer_bytes){
        .k = kept_plan_align(plan, kept_slot_bytes(plan->k_type, layer->d, slots)),
        .v = kept_plan_align(plan, kept_slot_bytes(plan->v_type, layer->d, slots)),
        .meta = kept_plan_align(plan, slots * 8),
        .heads = kept_plan_align(plan, layer->n_kv * KEPT_HEAD_WORDS * 4ull),
    };
}

struct kept_fact_args kept_plan_fact_args(const struct kept_plan *plan,
                                          const struct kept_fact_store *store, uint32_t i)
{
    struct layer_bytes bytes = bytes_of_layer(plan, store);
    return (struct kept_fact_args){
        .k = {store->k, i * bytes.k, bytes.k},
        .v = {store->v, i * bytes.v, bytes.v},
        .meta = {store->meta, i * bytes.meta, bytes.meta},
        .heads = {store->heads, i * bytes.heads,
                  plan->shape->layers[0].n_kv * KEPT_HEAD_WORDS * 4ull},
    };
}

static void add_store(struct kept_plan *plan, struct kept_fact_store *store, uint32_t slots,
                      const char *name, const char *why)
{
    store->extent = (slots + KEPT_SLOT_BLOCK - 1) / KEPT_SLOT_BLOCK * KEPT_SLOT_BLOCK;
    struct layer_bytes bytes = bytes_of_layer(plan, store);
    uint64_t n = plan->shape->n_layers;
    store->k = kept_plan_add_region(plan, KEPT_CATEGORY_EPISODIC, n * bytes.k, why, "%s.k", name);
    store->v = kept_plan_add_region(plan, KEPT_CATEGORY_EPISODIC, n * bytes.v, why, "%s.v", name);
    store->meta =
        kept_plan_add_region(plan, KEPT_CATEGORY_EPISODIC, n * bytes.meta, why, "%s.meta", name);
    store->heads =
        kept_plan_add_region(plan, KEPT_CATEGORY_EPISODIC, n * bytes.heads, why, "%s.heads", name);
}

static void add_addresses(struct kept_plan *plan)
{
    struct kept_facts_plan *facts = &plan->facts;
    uint32_t k = plan->shape->n_embd;
    uint64_t bytes = kept_relaid_bytes(KEPT_FORMAT_F16, facts->max, k);
    uint64_t most = plan->profile.max_binding_bytes < plan->profile.max_buffer_bytes
                        ? plan->profile.max_binding_bytes
                        : plan->profile.max_buffer_bytes;
    if (bytes > most)
        kept_plan_fail(plan, KEPT_E_UNSUPPORTED,
                       "addresses of %u facts take %llu bytes; the device binds at most %llu: "
                       "plan for %llu facts or fewer",
                       facts->max, (unsigned long long)bytes, (unsigned long long)most,
                       (unsigned long long)(most / (bytes / facts->max + 1)));
    uint32_t region = kept_plan_add_region(plan, KEPT_CATEGORY_EPISODIC, bytes,
                                           "f16, where each fact is", "facts.addresses");
    facts->scores = kept_plan_add_region(plan, KEPT_CATEGORY_EPISODIC, 4ull * facts->max,
                                         "how near each fact is", "facts.scores");
    struct kept_matrix_piece *piece = kept_arena_array(&plan->arena, 1, sizeof *piece);
    if (!piece) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for a plan of facts");
        return;
    }
    *piece = (struct kept_matrix_piece){.region = region, .n_rows = facts->max};
    facts->addresses = (struct kept_matrix){.format = KEPT_FORMAT_F16,
                                            .k = k,
                                            .n_rows = facts->max,
                                            .record = kept_record_of(KEPT_FORMAT_F16, k),
                                            .pieces = piece,
                                            .n_pieces = 1};
}

void kept_plan_facts(struct kept_plan *plan)
{
    struct kept_facts_plan *facts = &plan->facts;
    if (!facts->on || plan->status != KEPT_OK)
        return;
    add_store(plan, &facts->encode, KEPT_FACT_ROWS, "fact", "where a fact is evaluated");
    add_store(plan, &facts->read, KEPT_FACT_SINKS + facts->top * KEPT_FACT_MAX_TOKENS, "facts",
              "sinks and the facts that are read");
    add_addresses(plan);
}
