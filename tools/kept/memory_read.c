/* memory_read.c: what the slots of associative memory stand for, read back head by head. */
#include "memory_out.h"

#include <math.h>
#include <stdlib.h>

#include "fail.h"

static int by_position(const void *a, const void *b)
{
    const struct kept_memory_slot *x = a, *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

static kept_status read_head(struct cli_engine *engine, struct cli_memory_head *head,
                             struct kept_error *err)
{
    kept_status status =
        kept_session_memory(engine->session, head->layer, head->kv_head, NULL, 0, &head->n, err);
    if (status != KEPT_OK || head->n == 0)
        return status;
    head->slots = calloc(head->n, sizeof *head->slots);
    if (!head->slots)
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u slots", head->n);
    status = kept_session_memory(engine->session, head->layer, head->kv_head, head->slots, head->n,
                                 &head->n, err);
    for (uint32_t i = 0; i < head->n && status == KEPT_OK; i++) {
        struct kept_memory_slot *slot = &head->slots[i];
        if (!(slot->tokens >= 1) || !isfinite(slot->tokens))
            slot->tokens = 1;
        if (!isfinite(slot->position))
            slot->position = 0;
        head->tokens += (double)slot->tokens;
        head->most = fmax(head->most, (double)slot->tokens);
    }
    if (status == KEPT_OK)
        qsort(head->slots, head->n, sizeof *head->slots, by_position);
    return status;
}

static kept_status make_heads(struct cli_engine *engine, struct cli_memory *out,
                              struct kept_error *err)
{
    uint32_t budget, planned, n = 0;
    for (uint32_t l = 0; kept_plan_head(engine->plan, l, 0, &budget, &planned); l++)
        for (uint32_t h = 0; kept_plan_head(engine->plan, l, h, &budget, &planned); h++) {
            n++;
            out->n_kv = h + 1 > out->n_kv ? h + 1 : out->n_kv;
        }
    out->heads = calloc((size_t)n + 1, sizeof *out->heads);
    if (!out->heads)
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u KV heads", n);
    for (uint32_t l = 0; out->n_heads < n; l++)
        for (uint32_t h = 0; kept_plan_head(engine->plan, l, h, &budget, &planned); h++)
            out->heads[out->n_heads++] = (struct cli_memory_head){.layer = l, .kv_head = h};
    return KEPT_OK;
}

kept_status cli_memory_read(struct cli_engine *engine, struct cli_memory *out,
                            struct kept_error *err)
{
    struct kept_slot_counts counts = {0};
    *out = (struct cli_memory){.position = kept_session_position(engine->session)};
    kept_status status = kept_session_slots(engine->session, &counts, err);
    if (status == KEPT_OK)
        status = make_heads(engine, out, err);
    for (uint32_t i = 0; i < out->n_heads && status == KEPT_OK; i++) {
        struct cli_memory_head *head = &out->heads[i];
        status = read_head(engine, head, err);
        out->slots += head->n;
        out->tokens += head->tokens;
        out->most = fmax(out->most, head->most);
    }
    /* What took a slot of its own is in memory still, or was replaced. */
    out->consolidated = counts.consolidated;
    out->replaced = counts.evicted > counts.consolidated ? counts.evicted - counts.consolidated : 0;
    out->novelties = out->slots + out->replaced;
    if (status != KEPT_OK)
        cli_memory_finish(out);
    return status;
}

void cli_memory_finish(struct cli_memory *memory)
{
    for (uint32_t i = 0; i < memory->n_heads; i++)
        free(memory->heads[i].slots);
    free(memory->heads);
    *memory = (struct cli_memory){0};
}
