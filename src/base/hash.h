/* base/hash.h: XXH3 for identity (models, caches); not for secrets. Streaming state is opaque and
 * heap-allocated. */
#ifndef KEPT_BASE_HASH_H
#define KEPT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t kept_hash64(const void *bytes, size_t n_bytes, uint64_t seed);

struct kept_hash;
struct kept_hash *kept_hash_create(void); /* NULL when memory ran out */
void kept_hash_add(struct kept_hash *hash, const void *bytes, size_t n_bytes);
uint64_t kept_hash_value(const struct kept_hash *hash);
void kept_hash_destroy(struct kept_hash **hash);

#endif
