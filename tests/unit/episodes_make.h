/* tests/unit/episodes_make.h: episodes out of numbers, and everything that a store holds as one
 * hash, for the tests of memory/episodes.h. */
#ifndef EPISODES_MAKE_H
#define EPISODES_MAKE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "memory/episodes.h"

#define MADE_EMBD       16u
#define MADE_MAX_TOKENS 30u
#define MADE_TOKEN      (3u * 2 * 32 * 2) /* bytes of payload */

static const struct kept_episodes_bind made_bind = {.header_hash = 0x1111222233334444u,
                                                    .model_hash = 0x9999AAAABBBBCCCCu,
                                                    .n_embd = MADE_EMBD,
                                                    .n_layers = 3,
                                                    .kv_row = 32,
                                                    .address_layer = 2,
                                                    .payload_type = KEPT_EPISODE_F16};

static inline uint32_t made_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static inline const float *made_stats(void)
{
    static const float stats[KEPT_EPISODES_STATS * MADE_EMBD] = {0.5f, -1,   2, [MADE_EMBD] = 1,
                                                                 3,    0.25f};
    return stats;
}

struct made {
    char id[32], tag[32], text[300];
    float address[MADE_EMBD];
    unsigned char payload[MADE_MAX_TOKENS * MADE_TOKEN];
    struct kept_episode episode;
};

/* Episode `number`: of different length, text and payload in each version. One in three has a
 * tag, that seven numbers share. */
static inline struct kept_episode *make(struct made *m, uint32_t number, uint32_t version)
{
    uint64_t state = number * 1000003u + version + 77;
    double sum = 0;
    snprintf(m->id, sizeof m->id, "fact-%u", number);
    snprintf(m->tag, sizeof m->tag, "%s", "");
    if (number % 3 == 0)
        snprintf(m->tag, sizeof m->tag, "tag-%u", number % 7);
    int n = snprintf(m->text, sizeof m->text, "SECRET %u.%u: ", number, version);
    for (uint32_t left = made_random(&state) % 200 + 8; left > 0; left--)
        m->text[n++] = (char)('a' + made_random(&state) % 26);
    m->text[n] = '\0';
    for (uint32_t i = 0; i < MADE_EMBD; i++) {
        m->address[i] = (float)made_random(&state) / (float)(1u << 30) - 1;
        sum += (double)m->address[i] * m->address[i];
    }
    for (uint32_t i = 0; i < MADE_EMBD; i++)
        m->address[i] = (float)(m->address[i] / sqrt(sum));
    uint32_t n_tokens = made_random(&state) % MADE_MAX_TOKENS + 1;
    for (uint32_t i = 0; i < n_tokens * MADE_TOKEN; i++)
        m->payload[i] = (unsigned char)made_random(&state);
    m->episode = (struct kept_episode){.id = m->id,
                                       .tag = m->tag,
                                       .text = m->text,
                                       .time_s = 1700000000 + version,
                                       .n_tokens = n_tokens,
                                       .address = m->address,
                                       .payload = m->payload,
                                       .payload_bytes = (size_t)n_tokens * MADE_TOKEN};
    return &m->episode;
}

/* One episode into a running hash: all of it. */
static inline uint64_t made_hash(const struct kept_episode *e, uint64_t seed)
{
    const int64_t numbers[] = {e->time_s, e->n_tokens, (int64_t)e->payload_bytes};
    seed = kept_hash64(e->id, strlen(e->id) + 1, seed);
    seed = kept_hash64(e->tag, strlen(e->tag) + 1, seed);
    seed = kept_hash64(e->text, strlen(e->text) + 1, seed);
    seed = kept_hash64(numbers, sizeof numbers, seed);
    seed = kept_hash64(e->address, MADE_EMBD * sizeof *e->address, seed);
    return kept_hash64(e->payload, e->payload_bytes, seed);
}

struct made_sum {
    uint64_t hash;
    uint32_t n, n_damaged;
    char last[KEPT_EPISODE_ID_BYTES];
};

static inline kept_status made_sum_episode(void *user, const struct kept_episode *episode)
{
    struct made_sum *sum = user;
    if (sum->n > 0 && strcmp(episode->id, sum->last) <= 0)
        abort(); /* the order is a promise */
    snprintf(sum->last, sizeof sum->last, "%s", episode->id);
    sum->hash = made_hash(episode, sum->hash);
    sum->n++;
    return KEPT_OK;
}

static inline void made_sum_damaged(void *user, const char *id, const char *why)
{
    struct made_sum *sum = user;
    (void)id;
    (void)why;
    sum->n_damaged++;
}

/* Everything in a store; payloads too. */
static inline kept_status made_sum_of(struct kept_episodes *store, struct made_sum *out,
                                      struct kept_error *err)
{
    *out = (struct made_sum){.hash = 1};
    struct kept_episodes_reader reader = {made_sum_episode, made_sum_damaged, out};
    return kept_episodes_each(store, true, &reader, err);
}

/* A whole file; the caller frees it. */
static inline unsigned char *made_load(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    *n_bytes = 0;
    if (file == NULL)
        return NULL;
    fseek(file, 0, SEEK_END);
    long n = ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(n > 0 ? (size_t)n : 1);
    *n_bytes = fread(bytes, 1, (size_t)n, file);
    fclose(file);
    return bytes;
}

static inline bool made_save(const char *path, const void *bytes, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    bool ok = file != NULL && fwrite(bytes, 1, n_bytes, file) == n_bytes;
    return file != NULL && fclose(file) == 0 && ok;
}

static inline bool made_contains(const unsigned char *in, size_t n_in, const void *what,
                                 size_t n_what)
{
    for (size_t i = 0; n_what > 0 && i + n_what <= n_in; i++) {
        const unsigned char *at = memchr(in + i, *(const unsigned char *)what, n_in - i);
        if (at == NULL || (size_t)(at - in) + n_what > n_in)
            return false;
        i = (size_t)(at - in);
        if (memcmp(at, what, n_what) == 0)
            return true;
    }
    return false;
}

#endif
