/* core/plan_delay.c: how the maintenance of layers is spread over the tokens decoded after a block.
 *
 * Extents are whole pages, so most heads have a few slots more than their budget and a block. A
 * layer whose heads all have `n` to spare may be maintained n tokens late: its new tokens lie
 * behind the block meanwhile (params.h, KEPT_STEP_AFTER). Each layer gets a delay within that, so
 * that a decoded token pays for one or two layers and not for all of them. Budgets of a sidecar are
 * moved a little for it: the pages stay, and so does the mean.
 */
#include "core/plan_internal.h"

#include "base/status.h"

#define MAX_DELAY  32u
#define LEAST_LOSS 128u /* a 128th of all slots may be lost to make room */

static uint32_t at_most(uint32_t value, uint32_t most)
{
    return value < most ? value : most;
}

static uint32_t slack_of(const struct kept_plan *plan, uint32_t budget)
{
    uint32_t slack = kept_retain_slack(&plan->retention, budget, plan->params.context_tokens);
    return at_most(slack, KEPT_SLOT_BLOCK);
}

/* A head's budget with room for `wait` tokens in the same pages; as it was where that cannot be. */
static uint32_t lowered(const struct kept_plan *plan, uint32_t budget, uint32_t wait)
{
    const struct kept_retention *r = &plan->retention;
    uint32_t slack = slack_of(plan, budget), missing = wait > slack ? wait - slack : 0;
    if (budget < missing || budget - missing < r->sinks + r->window)
        return budget;
    return slack_of(plan, budget - missing) >= wait ? budget - missing : budget;
}

/* How much a lowered budget may grow and leave that room. */
static uint32_t growth(const struct kept_plan *plan, uint32_t budget, uint32_t wait, uint32_t most)
{
    uint32_t slack = slack_of(plan, budget), n = slack > wait ? slack - wait : 0;
    n = budget < most ? at_most(n, most - budget) : 0;
    bool same_pages = slack_of(plan, budget + n) + n == slack;
    return same_pages ? n : 0;
}

/* Slots that all heads together would lose, and what the others could take. */
static uint64_t loss_of(const struct kept_plan *plan, const uint32_t *budgets, size_t n,
                        uint32_t wait, uint32_t most, uint64_t *room)
{
    uint64_t lost = 0;
    *room = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t less = budgets[i] ? lowered(plan, budgets[i], wait) : 0;
        lost += budgets[i] - less;
        *room += less ? growth(plan, less, wait, most) : 0;
    }
    return lost;
}

/* What was lost goes to the heads with room, in proportion to it. */
static void move_budgets(const struct kept_plan *plan, uint32_t *budgets, size_t n, uint32_t wait,
                         uint32_t most)
{
    uint64_t room, seen = 0, given = 0, lost = loss_of(plan, budgets, n, wait, most, &room);
    lost = lost < room ? lost : room;
    for (size_t i = 0; i < n; i++) {
        if (budgets[i] == 0)
            continue;
        budgets[i] = lowered(plan, budgets[i], wait);
        seen += growth(plan, budgets[i], wait, most);
        uint64_t due = room ? seen * lost / room : 0;
        budgets[i] += (uint32_t)(due - given);
        given = due;
    }
}

void kept_plan_make_room(struct kept_plan *plan, uint32_t *budgets, size_t n, uint32_t most)
{
    uint32_t n_layers = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < plan->shape->n_layers; i++)
        n_layers += plan->shape->layers[i].window == 0;
    for (size_t i = 0; i < n; i++) {
        budgets[i] = at_most(budgets[i], most);
        sum += budgets[i];
    }
    for (uint32_t wait = at_most(MAX_DELAY, n_layers - 1); wait > 0; wait /= 2) {
        uint64_t room, lost = loss_of(plan, budgets, n, wait, most, &room);
        if (lost > room && (lost - room) * LEAST_LOSS > sum)
            continue;
        move_budgets(plan, budgets, n, wait, most);
        return;
    }
}

/* Tokens that every head of the layer has room for. */
static uint32_t wait_of(const struct kept_plan *plan, uint32_t i_layer)
{
    const struct kept_store *store = &plan->layers[i_layer].store;
    uint32_t wait = MAX_DELAY;
    for (uint32_t h = 0; h < store->n_kv; h++)
        wait = at_most(slack_of(plan, store->heads[h].budget), wait);
    return wait;
}

void kept_plan_delays(struct kept_plan *plan)
{
    uint32_t n = 0, longest = 0;
    plan->maintained = kept_arena_array(&plan->arena, plan->shape->n_layers, sizeof(uint32_t));
    if (!plan->maintained) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for %u layers", plan->shape->n_layers);
        return;
    }
    for (uint32_t i = 0; i < plan->shape->n_layers && plan->status == KEPT_OK; i++) {
        if (!plan->layers[i].budgeted)
            continue;
        uint32_t at = n++, wait = plan->layers[i].store.delay = wait_of(plan, i);
        for (; at > 0 && plan->layers[plan->maintained[at - 1]].store.delay > wait; at--)
            plan->maintained[at] = plan->maintained[at - 1];
        plan->maintained[at] = i;
        longest = wait > longest ? wait : longest;
    }
    uint32_t a_token = (n + longest) / (longest + 1);
    for (uint32_t i = 0; i < n; i++) {
        struct kept_store *store = &plan->layers[plan->maintained[i]].store;
        store->delay = at_most(store->delay, i / a_token);
        plan->last_delay = store->delay;
    }
    plan->n_maintained = n;
}
