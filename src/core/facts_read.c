/* core/facts_read.c: ranking facts by a query, and making what was found what a session reads.
 *
 * All addresses are multiplied by the query on the device. The nearest are then weighed exactly, in
 * the order of their ids: a store that has forgotten a fact gives the same bits as one that never
 * held it.
 */
#include "core/facts_internal.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"
#include "kernel/blocks.h"

#define MOST_PIECES 8u /* of a long query: its last ones */

/* The facts nearest to a query, by rising id, with their weights. */
struct ranking {
    struct kept_fact_entry *near[KEPT_NEAREST];
    float scores[KEPT_NEAREST]; /* as the device has them */
    struct kept_address_match match;
    uint32_t n;
    uint32_t order[KEPT_NEAREST]; /* by falling weight, of equals by id */
    struct kept_fact_scope scope;
};

/* Keeps the nearest: of equals the lower id. near is sorted by falling score meanwhile. */
static void offer(struct ranking *r, struct kept_fact_entry *entry, float score)
{
    uint32_t at = r->n;
    while (at > 0 && score > r->scores[at - 1])
        at--;
    if (at >= KEPT_NEAREST)
        return;
    uint32_t moved = (r->n < KEPT_NEAREST ? r->n : KEPT_NEAREST - 1) - at;
    memmove(r->near + at + 1, r->near + at, moved * sizeof *r->near);
    memmove(r->scores + at + 1, r->scores + at, moved * sizeof *r->scores);
    r->near[at] = entry;
    r->scores[at] = score;
    r->n += r->n < KEPT_NEAREST;
}

static void sort_by_id(struct ranking *r)
{
    for (uint32_t i = 1; i < r->n; i++) {
        struct kept_fact_entry *entry = r->near[i];
        uint32_t at = i;
        for (; at > 0 && strcmp(r->near[at - 1]->fact.id, entry->fact.id) > 0; at--)
            r->near[at] = r->near[at - 1];
        r->near[at] = entry;
    }
}

static void sort_by_weight(struct ranking *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t at = i;
        for (; at > 0 && r->match.weights[i] > r->match.weights[r->order[at - 1]]; at--)
            r->order[at] = r->order[at - 1];
        r->order[at] = i;
    }
    r->scope.weight = r->n ? r->match.weights[r->order[0]] : 0;
}

static kept_status rank(kept_facts *facts, const float *query, struct ranking *out,
                        struct kept_error *err)
{
    uint32_t max = facts->session->plan->facts.max, k = kept_episodes_bound(facts->file)->n_embd;
    const float *addresses[KEPT_NEAREST];
    *out = (struct ranking){.scope = {.residual = 1}};
    if (facts->n == 0)
        return KEPT_OK;
    kept_status status = kept_session_fact_rank(facts->session, query, facts->scores, max, err);
    if (status != KEPT_OK)
        return status;
    for (uint32_t i = 0; i < facts->n; i++) /* by id: of equals the lower one was there first */
        offer(out, facts->entries[i], facts->scores[facts->entries[i]->row]);
    sort_by_id(out);
    for (uint32_t i = 0; i < out->n; i++)
        addresses[i] = out->near[i]->address;
    status = kept_address_weigh(addresses, out->n, kept_episodes_stats(facts->file) + 2 * (size_t)k,
                                query, k, &out->match, err);
    out->scope.residual = out->match.residual;
    if (status == KEPT_OK)
        sort_by_weight(out);
    return status;
}

/* ---- queries ---- */

/* Tokens [begin, end) of a query, evaluated together. */
struct piece {
    uint32_t begin, end;
};

static bool ends_sentence(const kept_facts *facts, int32_t token)
{
    size_t n = 0;
    const char *text = kept_tokenizer_piece(kept_model_tokenizer(facts->model), token, 0, &n);
    return n > 0 && (strchr(".!?\n", text[n - 1]) != NULL && text[n - 1] != '\0');
}

/* A short query is one piece. A long one is cut at ends of sentences, and long sentences where they
 * have to be; the last pieces count. */
static uint32_t cut(const kept_facts *facts, const int32_t *tokens, uint32_t n,
                    struct piece pieces[MOST_PIECES])
{
    uint32_t n_pieces = 0, begin = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool full = i + 1 - begin == KEPT_FACT_MAX_TOKENS, last = i + 1 == n;
        bool whole = n <= KEPT_FACT_MAX_TOKENS;
        if (!last && !full && (whole || !ends_sentence(facts, tokens[i])))
            continue;
        if (n_pieces == MOST_PIECES)
            memmove(pieces, pieces + 1, --n_pieces * sizeof *pieces);
        pieces[n_pieces++] = (struct piece){begin, i + 1};
        begin = i + 1;
    }
    return n_pieces;
}

static kept_status search(kept_facts *facts, const char *query, struct ranking *best,
                          struct kept_error *err)
{
    struct piece pieces[MOST_PIECES];
    struct ranking here;
    int32_t *tokens = NULL;
    size_t n = 0;
    float *address = kept_alloc(kept_episodes_bound(facts->file)->n_embd * sizeof *address);
    *best = (struct ranking){.scope = {.residual = 1}};
    kept_status status = address ? kept_facts_tokens(facts, query, strlen(query), &tokens, &n, err)
                                 : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a query");
    uint32_t n_pieces = 0;
    if (status == KEPT_OK && facts->n > 0 && n <= UINT32_MAX)
        n_pieces = cut(facts, tokens, (uint32_t)n, pieces);
    for (uint32_t i = 0; i < n_pieces && status == KEPT_OK; i++) {
        status =
            kept_facts_address(facts, kept_episodes_stats(facts->file), tokens + pieces[i].begin,
                               pieces[i].end - pieces[i].begin, address, err);
        if (status == KEPT_OK)
            status = rank(facts, address, &here, err);
        if (status == KEPT_OK && (i == 0 || here.scope.weight > best->scope.weight))
            *best = here;
    }
    kept_tokens_free(&tokens);
    kept_free(address);
    return status;
}

static void fill_match(struct kept_fact_match *out, const struct ranking *r, uint32_t i)
{
    uint32_t at = r->order[i];
    kept_snprintf(out->id, sizeof out->id, "%s", r->near[at]->fact.id);
    out->cosine = r->match.cosines[at];
    out->weight = r->match.weights[at];
}

kept_status kept_facts_search(kept_facts *facts, const char *query, struct kept_fact_match *out,
                              uint32_t cap, uint32_t *n, struct kept_fact_scope *scope,
                              struct kept_error *err)
{
    struct ranking best;
    if (!query || (cap && !out) || !n)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_search needs a query and room");
    kept_status status = kept_facts_need_session(facts, err);
    if (status == KEPT_OK)
        status = kept_facts_refresh(facts, err);
    if (status == KEPT_OK)
        status = kept_facts_upload(facts, err);
    if (status == KEPT_OK)
        status = search(facts, query, &best, err);
    if (status != KEPT_OK)
        return status;
    *n = best.n < cap ? best.n : cap;
    for (uint32_t i = 0; i < *n; i++)
        fill_match(&out[i], &best, i);
    if (scope)
        *scope = best.scope;
    return KEPT_OK;
}

/* ---- reading ---- */

/* What is read: payloads of the best facts, the sound ones. */
struct reading {
    struct kept_fact_rows rows[KEPT_FACTS_MAX_TOP];
    float biases[KEPT_FACTS_MAX_TOP];
    uint32_t order[KEPT_FACTS_MAX_TOP]; /* in the ranking */
    uint32_t n;
};

static void unpack(const struct kept_episodes_bind *bind, const uint8_t *from,
                   struct kept_fact_rows *out)
{
    enum kept_format format =
        bind->payload_type == KEPT_EPISODE_Q8_0 ? KEPT_FORMAT_Q8_0 : KEPT_FORMAT_F16;
    size_t row_bytes = kept_format_row_bytes(format, bind->kv_row);
    for (uint32_t i = 0; i < bind->n_layers; i++)
        for (uint32_t value = 0; value < 2; value++)
            for (uint32_t t = 0; t < out->n_tokens; t++) {
                size_t at = ((size_t)i * out->n_tokens + t) * bind->kv_row;
                kept_dequant_row(format, from, bind->kv_row, (value ? out->v : out->k) + at);
                from += row_bytes;
            }
}

static kept_status load_rows(kept_facts *facts, const struct kept_fact *fact,
                             struct kept_fact_rows *out, struct kept_error *err)
{
    const struct kept_episodes_bind *bind = kept_episodes_bound(facts->file);
    size_t bytes = kept_episodes_payload_bytes(bind, fact->n_tokens);
    size_t elements = (size_t)bind->n_layers * fact->n_tokens * bind->kv_row;
    uint8_t *payload = kept_alloc(bytes);
    out->n_tokens = fact->n_tokens;
    out->k = kept_alloc(2 * elements * sizeof *out->k);
    out->v = out->k ? out->k + elements : NULL;
    kept_status status = payload && out->k
                             ? kept_episodes_load(facts->file, fact->id, payload, bytes, err)
                             : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to read a fact");
    if (status == KEPT_OK)
        unpack(bind, payload, out);
    else
        kept_free(out->k);
    kept_free(payload);
    return status;
}

/* The best facts in scope; a damaged one makes room for the next. */
static kept_status gather(kept_facts *facts, const struct ranking *best, uint32_t top,
                          struct reading *out, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < best->n && out->n < top && status == KEPT_OK; i++) {
        uint32_t at = best->order[i];
        if (!(best->match.weights[at] > 0))
            break;
        struct kept_error why = {0};
        status = load_rows(facts, &best->near[at]->fact, &out->rows[out->n], &why);
        if (status == KEPT_E_FORMAT) {
            kept_logf(&facts->model->log, KEPT_LOG_WARN, "a fact is skipped: %s", why.message);
            status = KEPT_OK;
            continue;
        }
        if (status != KEPT_OK) {
            if (err)
                *err = why;
            break;
        }
        out->order[out->n] = i;
        out->biases[out->n] = kept_address_bias(best->match.weights[at],
                                                best->match.weights[best->order[out->order[0]]]);
        out->n++;
    }
    return status;
}

/* Whether the session reads the best facts already. */
static bool reads_best(const kept_facts *facts, const struct ranking *best, uint32_t top)
{
    if (kept_session_fact_slots(facts->session) == 0 || facts->n_read != top || best->n < top)
        return false;
    for (uint32_t i = 0; i < top; i++)
        if (strcmp(facts->read[i].id, best->near[best->order[i]]->fact.id) != 0)
            return false;
    return true;
}

/* What was found becomes what is read. */
static kept_status read_found(kept_facts *facts, const struct ranking *best, uint32_t top,
                              struct kept_fact_match *used, uint32_t *n_used,
                              struct kept_error *err)
{
    struct reading reading = {.n = 0};
    kept_status status = gather(facts, best, top, &reading, err);
    if (status == KEPT_OK) { /* else what was read before still is */
        facts->n_read = 0;
        status =
            kept_session_fact_inject(facts->session, reading.rows, reading.biases, reading.n, err);
    }
    for (uint32_t i = 0; i < reading.n; i++) {
        kept_free(reading.rows[i].k);
        if (status != KEPT_OK)
            continue;
        fill_match(&used[i], best, reading.order[i]);
        memcpy(facts->read[i].id, used[i].id, sizeof used[i].id);
        facts->read[i].hash = best->near[best->order[reading.order[i]]]->hash;
    }
    if (status == KEPT_OK)
        facts->n_read = *n_used = reading.n;
    return status;
}

kept_status kept_facts_read(kept_facts *facts, const struct kept_facts_read_params *params,
                            struct kept_fact_match *used, uint32_t *n_used,
                            struct kept_fact_scope *scope, struct kept_error *err)
{
    struct ranking best;
    if (!params || !params->query || !used || !n_used)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_read needs a query and room");
    kept_status status = kept_facts_need_session(facts, err);
    if (status == KEPT_OK)
        status = kept_facts_refresh(facts, err);
    if (status == KEPT_OK)
        status = kept_facts_upload(facts, err);
    if (status == KEPT_OK)
        status = search(facts, params->query, &best, err);
    if (status != KEPT_OK)
        return status;
    uint32_t planned = facts->session->plan->facts.top;
    uint32_t top = params->top ? params->top : planned;
    float least = params->scope > 0 ? params->scope : KEPT_FACTS_SCOPE;
    if (top > planned)
        return kept_fail(err, KEPT_E_ARGUMENT, "%u facts to read, the plan has room for %u", top,
                         planned);
    bool found = best.scope.weight >= least;
    *n_used = 0;
    if (found && params->keep && reads_best(facts, &best, top)) {
        for (*n_used = 0; *n_used < top; ++*n_used)
            fill_match(&used[*n_used], &best, *n_used);
    } else if (found) {
        status = read_found(facts, &best, top, used, n_used, err);
    } else if (!params->keep) {
        kept_session_clear_facts(facts->session);
        facts->n_read = 0;
    }
    if (scope)
        *scope = best.scope;
    return status;
}
