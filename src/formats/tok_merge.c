/* formats/tok_merge.c: joining symbols, for byte-level BPE and SentencePiece-style vocabularies
 * alike.
 *
 * Both methods repeat one step: of all neighbouring pairs that form a token, join the one that
 * comes first in the vocabulary's order (merge rank; or highest score), the leftmost of equals.
 * Symbols are a doubly linked list in an array; candidate pairs are a heap of four children a node,
 * one cache line each. A join makes at most two new pairs and never removes old ones: a pair is
 * stale when one of its symbols was absorbed or has grown, which shows in n_bytes. So n symbols
 * take O(n log n), whatever the text.
 */
#include "formats/tok.h"

#include "base/alloc.h"
#include "base/status.h"

#define NONE UINT32_MAX
#define FAN  4u /* children of a node of the heap */

static bool goes_first(const struct kept_tok_pair *a, const struct kept_tok_pair *b)
{
    return a->order != b->order ? a->order < b->order : a->left < b->left;
}

static kept_status heap_push(struct kept_tok_work *work, const struct kept_tok_pair *pair)
{
    if (work->n_heap == work->cap_heap) {
        size_t cap = work->cap_heap ? work->cap_heap * 2 : 256;
        void *grown = kept_realloc_array(work->heap, cap, sizeof *work->heap);
        if (!grown)
            return kept_fail(work->err, KEPT_E_HOST_MEMORY,
                             "tokenizer: no memory for %zu candidate pairs", cap);
        work->heap = grown;
        work->cap_heap = cap;
    }
    struct kept_tok_pair *heap = work->heap;
    size_t i = work->n_heap++;
    while (i > 0 && goes_first(pair, &heap[(i - 1) / FAN])) {
        heap[i] = heap[(i - 1) / FAN];
        i = (i - 1) / FAN;
    }
    heap[i] = *pair;
    return KEPT_OK;
}

static struct kept_tok_pair heap_pop(struct kept_tok_work *work)
{
    struct kept_tok_pair *heap = work->heap;
    const struct kept_tok_pair top = heap[0], last = heap[--work->n_heap];
    size_t n = work->n_heap, i = 0;
    for (size_t child = 1; child < n; child = FAN * i + 1) {
        size_t end = child + FAN < n ? child + FAN : n, best = child;
        while (++child < end)
            if (goes_first(&heap[child], &heap[best]))
                best = child;
        if (!goes_first(&heap[best], &last))
            break;
        heap[i] = heap[best];
        i = best;
    }
    heap[i] = last;
    return top;
}

static kept_status try_pair(struct kept_tok_work *work, kept_tok_join_fn join, uint32_t left,
                            uint32_t right)
{
    if (left == NONE || right == NONE)
        return KEPT_OK;
    const struct kept_tok_symbol *l = &work->symbols[left], *r = &work->symbols[right];
    struct kept_tok_pair pair = {.left = left, .n_bytes = l->n_bytes + r->n_bytes};
    return join(work, l, r, &pair) ? heap_push(work, &pair) : KEPT_OK;
}

static kept_status join_all(struct kept_tok_work *work, kept_tok_join_fn join)
{
    struct kept_tok_symbol *symbols = work->symbols;
    work->n_heap = 0;
    for (uint32_t i = 1; i < work->n_symbols; i++) {
        kept_status status = try_pair(work, join, i - 1, i);
        if (status)
            return status;
    }
    while (work->n_heap > 0) {
        const struct kept_tok_pair pair = heap_pop(work);
        struct kept_tok_symbol *left = &symbols[pair.left];
        if (left->n_bytes == 0 || left->next == NONE)
            continue;
        struct kept_tok_symbol *right = &symbols[left->next];
        if (left->n_bytes + right->n_bytes != pair.n_bytes)
            continue;
        left->n_bytes = pair.n_bytes;
        left->id = pair.id;
        right->n_bytes = 0;
        left->next = right->next;
        if (right->next != NONE)
            symbols[right->next].prev = pair.left;
        kept_status status = try_pair(work, join, left->prev, pair.left);
        if (!status)
            status = try_pair(work, join, pair.left, left->next);
        if (status)
            return status;
    }
    return KEPT_OK;
}

kept_status kept_tok_symbol_add(struct kept_tok_work *work, size_t at, size_t n_bytes, int32_t id)
{
    if (work->n_symbols == work->cap_symbols) {
        size_t cap = work->cap_symbols ? work->cap_symbols * 2 : 256;
        void *grown = kept_realloc_array(work->symbols, cap, sizeof *work->symbols);
        if (!grown)
            return kept_fail(work->err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for %zu symbols",
                             cap);
        work->symbols = grown;
        work->cap_symbols = cap;
    }
    uint32_t i = (uint32_t)work->n_symbols++;
    work->symbols[i] = (struct kept_tok_symbol){.at = (uint32_t)at,
                                                .n_bytes = (uint32_t)n_bytes,
                                                .id = id,
                                                .prev = i ? i - 1 : NONE,
                                                .next = NONE};
    if (i)
        work->symbols[i - 1].next = i;
    return KEPT_OK;
}

kept_status kept_tok_bytes_add(struct kept_tok_work *work, const char *bytes, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++) {
        int32_t id = work->tok->bytes[(unsigned char)bytes[i]];
        kept_status status =
            id == KEPT_TOKEN_NONE ? KEPT_OK : kept_tok_ids_add(&work->out, id, work->err);
        if (status)
            return status;
    }
    return KEPT_OK;
}

kept_status kept_tok_merge(struct kept_tok_work *work, kept_tok_join_fn join)
{
    kept_status status = join_all(work, join);
    uint32_t i = work->n_symbols ? 0 : NONE;
    for (; !status && i != NONE; i = work->symbols[i].next) {
        const struct kept_tok_symbol *symbol = &work->symbols[i];
        if (symbol->id != KEPT_TOKEN_NONE)
            status = kept_tok_ids_add(&work->out, symbol->id, work->err);
        else
            status = kept_tok_bytes_add(work, work->text + symbol->at, symbol->n_bytes);
    }
    work->n_symbols = 0;
    return status;
}

kept_status kept_tok_ids_add(struct kept_tok_ids *ids, int32_t id, struct kept_error *err)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        void *grown = kept_realloc_array(ids->ids, cap, sizeof *ids->ids);
        if (!grown)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for %zu ids", cap);
        ids->ids = grown;
        ids->cap = cap;
    }
    ids->ids[ids->n++] = id;
    return KEPT_OK;
}
