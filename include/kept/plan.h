/* kept/plan.h: every byte a run will ever use, before anything is loaded.
 *
 * A plan is made from a model's header, a device profile and options; the same inputs give the same
 * plan. It lists regions (named ranges of device memory with category, lifetime and reason),
 * choices with their reasons and, when it does not fit, the nearest plans that would. A session
 * allocates exactly the plan and nothing afterwards.
 */
#ifndef KEPT_PLAN_H
#define KEPT_PLAN_H

#include "device.h"
#include "memory.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kept_plan kept_plan;

struct kept_plan_params {
    uint32_t context_tokens; /* 0: the trained context, shortened to 8192 unless asked for */
    uint32_t chunk_tokens;   /* rows evaluated at once in prefill; 0: 512 */
    uint32_t logits_rows;    /* rows of logits held at once; 0: 1 */
    uint64_t memory_bytes;   /* hard cap on total_bytes; 0: free memory less margin, where known */
    uint64_t margin_bytes;   /* kept free when no cap is given; 0: 256 MiB */
    enum kept_slot_type k_type, v_type;
    struct kept_retain_params retain;
    /* Episodic memory (facts.h): facts whose addresses have room on the device, 0: none; facts read
     * at once, 0: 1; positions between them and the prompt, 0: KEPT_FACTS_GAP, at most 65536. */
    uint32_t facts_max, facts_top, facts_gap;
    /* Not 0: a plan for fitting a sidecar. The first so many positions are read, then the same
     * tokens once more; kept_session_peaks tells what the second reading attended to. */
    uint32_t calibrate_tokens;
    /* Not 0, with calibrate_tokens: also what a gate is fitted on. kept_session_received tells how
     * much attention the first reading gave to each token from more than so many positions behind
     * it, kept_session_hidden what the layers that attend to all of the past were given. */
    uint32_t calibrate_after;
};

struct kept_plan_info {
    bool fits;
    uint64_t budget_bytes;      /* 0: no cap known */
    uint64_t planned_bytes;     /* own allocations */
    uint64_t driver_bytes;      /* estimate of what the driver takes for itself */
    uint64_t total_bytes;       /* planned + driver */
    uint64_t activation_bytes;  /* after packing */
    uint64_t lower_bound_bytes; /* activations alive at once: no packing can be smaller */
    uint64_t weight_bytes;
    uint64_t kv_bytes;       /* slots, their positions and biases; without room for held tokens */
    uint64_t scorer_bytes;   /* what ranks them: running sums of queries, stored scores */
    uint64_t episodic_bytes; /* facts: addresses, slots that are read, slots to evaluate them in */
    uint64_t slots;          /* live at most, of all KV heads of all layers together */
    uint64_t memory_slots;   /* of those: associative memory's: neither first nor last tokens */
    bool retains;            /* something may be evicted */
    uint32_t context_tokens, chunk_tokens, logits_rows;
    uint32_t n_regions, n_choices, n_alternatives, n_buffers, n_calls_prefill, n_calls_decode;
};

struct kept_region_info {
    const char *name, *category, *why;
    uint32_t device;             /* index into the plan's devices (0) */
    uint32_t buffer;             /* allocation it lies in */
    uint64_t bytes, offset;      /* offset in that allocation */
    int32_t first_use, last_use; /* calls of the program it belongs to; -1: the whole run */
};
struct kept_choice_info {
    const char *what, *chosen, *why;
};
struct kept_alternative_info {
    const char *change; /* "--context 4096" */
    uint64_t total_bytes;
    const char *quality; /* what it costs, where a sidecar says so; else "" */
};

/* KEPT_OK also when the plan does not fit: see info.fits and the alternatives. KEPT_E_UNSUPPORTED
 * when the device's limits cannot hold the model at any budget, KEPT_E_ARGUMENT for options out of
 * range. The plan holds pointers into the model. Thread-safety: immutable after creation. */
KEPT_API kept_status kept_plan_create(const kept_model *model, const struct kept_profile *profile,
                                      const struct kept_plan_params *params, kept_plan **out,
                                      struct kept_error *err);
KEPT_API void kept_plan_destroy(kept_plan **plan);
KEPT_API const struct kept_plan_info *kept_plan_info(const kept_plan *plan);
KEPT_API const struct kept_profile *kept_plan_profile(const kept_plan *plan);
KEPT_API bool kept_plan_region(const kept_plan *plan, uint32_t i, struct kept_region_info *out);
KEPT_API bool kept_plan_choice(const kept_plan *plan, uint32_t i, struct kept_choice_info *out);
/* Budget and planned slots of a KV head; false where there is none. */
KEPT_API bool kept_plan_head(const kept_plan *plan, uint32_t layer, uint32_t kv_head,
                             uint32_t *budget_slots, uint32_t *planned_slots);
KEPT_API bool kept_plan_alternative(const kept_plan *plan, uint32_t i,
                                    struct kept_alternative_info *out);

#ifdef __cplusplus
}
#endif
#endif
