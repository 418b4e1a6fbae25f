/* core/session_memory.c: what the slots of associative memory stand for, read back for people.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "core/session_internal.h"

/* The head's row of the table, and which of its slots are memory: all but the sinks and the
 * window. */
static kept_status find_memory(struct kept_session *session, uint32_t layer, uint32_t kv_head,
                               uint32_t *head, uint32_t *first, uint32_t *end,
                               struct kept_error *err)
{
    const struct kept_arg *table = &session->plan->layers[layer].store.heads_table;
    const struct kept_retention *r = &session->plan->retention;
    kept_status status = kept_session_read(
        session, table->region, table->offset_bytes + (uint64_t)kv_head * KEPT_HEAD_WORDS * 4, head,
        KEPT_HEAD_WORDS * 4, err);
    if (status != KEPT_OK)
        return status;
    uint32_t base = head[KEPT_HEAD_BASE], cap = head[KEPT_HEAD_CAP];
    base = base < cap ? base : cap;
    *first = r->sinks;
    *end = base > r->sinks + r->window ? base - r->window : r->sinks;
    return KEPT_OK;
}

static kept_status read_slots(struct kept_session *session, uint32_t layer, uint64_t first,
                              struct kept_memory_slot *out, uint32_t n, struct kept_error *err)
{
    uint32_t *words = kept_alloc(4ull * n * sizeof *words);
    if (!words)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u slots", n);
    const uint32_t planes[] = {0, KEPT_ASSOC_FRAC, KEPT_ASSOC_COUNT, KEPT_ASSOC_STAMP};
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < 4 && status == KEPT_OK; i++)
        status = kept_session_read_plane(session, layer, planes[i], first, n, words + (size_t)i * n,
                                         err);
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++) {
        float fraction;
        memcpy(&fraction, words + n + i, sizeof fraction);
        memcpy(&out[i].tokens, words + 2ull * n + i, sizeof out[i].tokens);
        out[i].position = (float)(int32_t)words[i] + fraction;
        out[i].touched = (int32_t)words[3ull * n + i];
    }
    kept_free(words);
    return status;
}

kept_status kept_session_memory(kept_session *session, uint32_t layer, uint32_t kv_head,
                                struct kept_memory_slot *out, uint32_t cap, uint32_t *n_slots,
                                struct kept_error *err)
{
    uint32_t head[KEPT_HEAD_WORDS], first = 0, end = 0;
    if (!session || !n_slots || (cap && !out))
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_session_memory needs a session and room");
    const kept_plan *plan = session->plan;
    if (layer >= plan->shape->n_layers || kv_head >= plan->shape->layers[layer].n_kv)
        return kept_fail(err, KEPT_E_ARGUMENT, "there is no KV head %u in layer %u", kv_head,
                         layer);
    *n_slots = 0;
    if (plan->retention.assoc == KEPT_ASSOC_OFF || !plan->layers[layer].budgeted || session->fresh)
        return KEPT_OK;
    kept_status status = find_memory(session, layer, kv_head, head, &first, &end, err);
    *n_slots = status == KEPT_OK ? end - first : 0;
    uint32_t n = *n_slots < cap ? *n_slots : cap;
    return status == KEPT_OK && n > 0
               ? read_slots(session, layer, (uint64_t)head[KEPT_HEAD_FIRST] + first, out, n, err)
               : status;
}
