/* formats/tok_map.c: looking tokens up: a hash table by text, and a trie for finding special tokens
 * in running text.
 *
 * The hash table holds (hash, id) only, 8 bytes a slot, and compares with the strings it was filled
 * from. The trie walks the text once from each position; its depth is bounded by
 * KEPT_TOK_MAX_TOKEN_BYTES, its nodes by the bytes of the special tokens (Gemma's 6,400 share most
 * of theirs).
 */
#include "formats/tok.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/status.h"

const char *kept_tok_string(const struct kept_tok_strings *strings, int32_t id, uint32_t *n_bytes)
{
    *n_bytes = strings->at[id + 1] - strings->at[id];
    return strings->bytes + strings->at[id];
}

kept_status kept_tok_map_create(struct kept_tok_map *map, uint32_t n_keys, struct kept_error *err)
{
    uint32_t n_slots = 16;
    while (n_slots < 2 * n_keys)
        n_slots *= 2;
    map->mask = n_slots - 1;
    map->slots = kept_alloc(n_slots * sizeof *map->slots);
    if (!map->slots)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for a table of %u tokens",
                         n_keys);
    for (uint32_t i = 0; i < n_slots; i++)
        map->slots[i] = (struct kept_tok_map_slot){0, KEPT_TOKEN_NONE};
    return KEPT_OK;
}

/* The slot that holds key, or the empty one where it would go. */
static struct kept_tok_map_slot *map_slot(const struct kept_tok_map *map,
                                          const struct kept_tok_strings *strings, const char *key,
                                          size_t n_bytes, uint32_t hash)
{
    for (uint32_t i = hash;; i++) {
        struct kept_tok_map_slot *slot = &map->slots[i & map->mask];
        if (slot->id == KEPT_TOKEN_NONE)
            return slot;
        if (slot->hash != hash)
            continue;
        uint32_t n;
        const char *text = kept_tok_string(strings, slot->id, &n);
        if (n == n_bytes && memcmp(text, key, n_bytes) == 0)
            return slot;
    }
}

void kept_tok_map_add(struct kept_tok_map *map, const struct kept_tok_strings *strings, int32_t id)
{
    uint32_t n_bytes;
    const char *key = kept_tok_string(strings, id, &n_bytes);
    uint32_t hash = (uint32_t)kept_hash64(key, n_bytes, 0);
    struct kept_tok_map_slot *slot = map_slot(map, strings, key, n_bytes, hash);
    if (slot->id == KEPT_TOKEN_NONE)
        *slot = (struct kept_tok_map_slot){hash, id};
}

int32_t kept_tok_map_find(const struct kept_tok_map *map, const struct kept_tok_strings *strings,
                          const char *key, size_t n_bytes)
{
    uint32_t hash = (uint32_t)kept_hash64(key, n_bytes, 0);
    return map_slot(map, strings, key, n_bytes, hash)->id;
}

static kept_status trie_grow(struct kept_tok_trie *trie, struct kept_error *err)
{
    uint32_t cap = trie->cap_nodes ? trie->cap_nodes * 2 : 1024;
    void *grown =
        cap > trie->cap_nodes ? kept_realloc_array(trie->nodes, cap, sizeof *trie->nodes) : NULL;
    if (!grown)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for %u special token bytes",
                         cap);
    trie->nodes = grown;
    trie->cap_nodes = cap;
    if (trie->n_nodes == 0)
        trie->n_nodes = 1; /* node 0 is none */
    return KEPT_OK;
}

kept_status kept_tok_trie_add(struct kept_tok_trie *trie, const char *text, uint32_t n_bytes,
                              int32_t id, struct kept_error *err)
{
    uint32_t parent = 0, node = 0;
    for (uint32_t i = 0; i < n_bytes; i++, parent = node) {
        uint8_t byte = (uint8_t)text[i];
        node = i ? trie->nodes[parent].child : trie->root[byte];
        while (node && trie->nodes[node].byte != byte)
            node = trie->nodes[node].sibling;
        if (node)
            continue;
        kept_status status = trie->n_nodes == trie->cap_nodes ? trie_grow(trie, err) : KEPT_OK;
        if (status)
            return status;
        node = trie->n_nodes++;
        uint32_t *first = i ? &trie->nodes[parent].child : &trie->root[byte];
        trie->nodes[node] =
            (struct kept_tok_node){.sibling = *first, .id = KEPT_TOKEN_NONE, .byte = byte};
        *first = node;
    }
    if (trie->nodes[node].id == KEPT_TOKEN_NONE)
        trie->nodes[node].id = id;
    return KEPT_OK;
}
