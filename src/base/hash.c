/* base/hash.c: XXH3, 64 bits. The state is ours to allocate so that it is counted like everything
 * else. */
#include "base/hash.h"

#define XXH_STATIC_LINKING_ONLY /* for the size of XXH3_state_t */
#include <xxhash.h>

#include "base/alloc.h"

struct kept_hash {
    XXH3_state_t state;
};

uint64_t kept_hash64(const void *bytes, size_t n_bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(n_bytes != 0 ? bytes : "", n_bytes, seed);
}

struct kept_hash *kept_hash_create(void)
{
    struct kept_hash *hash = kept_alloc_aligned(64, sizeof *hash);
    if (hash == NULL)
        return NULL;
    XXH3_INITSTATE(&hash->state);
    XXH3_64bits_reset(&hash->state);
    return hash;
}

void kept_hash_add(struct kept_hash *hash, const void *bytes, size_t n_bytes)
{
    if (n_bytes != 0)
        XXH3_64bits_update(&hash->state, bytes, n_bytes);
}

uint64_t kept_hash_value(const struct kept_hash *hash)
{
    return XXH3_64bits_digest(&hash->state);
}

void kept_hash_destroy(struct kept_hash **hash)
{
    if (hash == NULL)
        return;
    kept_free_aligned(*hash);
    *hash = NULL;
}
