/* core/session.c: evaluating tokens with the plan's programs.
 *
 * A chunk of n rows takes the smallest program with room for them. Its step buffer (counts, tokens,
 * positions) is written, then its pieces are submitted one by one with a look at the cancel flag in
 * between; a single row goes as one submission, head included. Logits of more rows than the plan
 * holds at once are made by running the head again with another first row: the residual stream
 * stays in place until the next evaluation.
 */
#include "core/session_internal.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "core/sampler_internal.h"

#define WAIT_SLICE_NS 1000000000ull
#define WAIT_SLICES   120 /* two minutes for one piece of about 50 ms: something is wrong */

kept_status kept_session_run(struct kept_session *session, struct kept_recording *const *recordings,
                             uint32_t n, struct kept_error *err)
{
    kept_status status = kept_submit(session->device, recordings, n, err);
    for (uint32_t i = 0; status == KEPT_OK; i++) {
        status = kept_wait(session->device, WAIT_SLICE_NS, err);
        if (status != KEPT_E_TIMEOUT)
            break;
        if (i + 1 == WAIT_SLICES) {
            session->device->lost = true; /* its recordings may never be submitted again */
            return kept_fail(err, KEPT_E_DEVICE_LOST, "device '%s' has not finished in %u seconds",
                             session->device->desc.name, WAIT_SLICES);
        }
        status = KEPT_OK;
    }
    return status;
}

static bool cancelled(struct kept_session *session)
{
    return atomic_load(&session->cancel);
}

static kept_status say_cancelled(const struct kept_session *session, struct kept_error *err)
{
    return kept_fail(err, KEPT_E_CANCELLED, "cancelled at position %u", session->position);
}

uint32_t kept_session_window_from(const struct kept_session *session, uint32_t layer,
                                  uint32_t position)
{
    uint32_t window = session->plan->shape->layers[layer].window;
    return window != 0 && position >= window ? position - window + 1 : 0;
}

bool kept_session_can_return(const struct kept_session *session, uint32_t position)
{
    const kept_plan *plan = session->plan;
    if (kept_session_is_behind_edge(session, position))
        return false;
    for (uint32_t i = 0; i < plan->shape->n_layers; i++) {
        uint32_t cap = plan->layers[i].cap;
        uint32_t needed = kept_session_window_from(session, i, position);
        if (needed < kept_session_window_from(session, i, session->restored))
            return false;
        if (plan->layers[i].ring && session->written > cap && needed < session->written - cap)
            return false;
    }
    return true;
}

static void drop_logits(struct kept_session *session)
{
    session->last_logits = NULL;
    session->has_logits = false;
    session->last_rows = 0;
}

void kept_session_set_position(struct kept_session *session, uint32_t position)
{
    session->position = position;
    if (session->accepted > position)
        session->accepted = position;
    drop_logits(session);
    if (position == 0) {
        kept_session_clear_facts(session);
        session->written = session->restored = session->edge = 0;
        session->fresh = true;
    }
}

/* One chunk under evaluation. */
struct chunk {
    uint32_t program, rows;
    const struct kept_eval_params *params;
    uint32_t done_before;        /* tokens of this eval evaluated by earlier chunks */
    uint32_t out_first, out_end; /* rows whose logits are wanted */
    uint32_t maintained;         /* rows whose complete blocks the program maintains itself */
};

static uint32_t program_for(const struct kept_session *session, uint32_t rows)
{
    const kept_plan *plan = session->plan;
    uint32_t p = kept_session_fact_slots(session) ? plan->facts.reading : 0;
    while (plan->programs[p].rows < rows)
        p++;
    return p;
}

kept_status kept_session_write_step(struct kept_session *session, uint32_t n_words,
                                    struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    uint32_t region = plan->step_host != KEPT_NO_REGION ? plan->step_host : plan->step;
    return kept_session_write(session, region, 0, session->step, n_words * 4ull, err);
}

static void fill_step(struct kept_session *session, const struct chunk *chunk)
{
    uint32_t cap = session->plan->params.chunk_tokens;
    uint32_t *tokens = session->step + KEPT_STEP_TOKENS, *positions = tokens + cap;
    session->step[KEPT_STEP_ROWS] = chunk->rows;
    session->step[KEPT_STEP_ZERO] = 0;
    session->step[KEPT_STEP_BASE] = session->position;
    session->step[KEPT_STEP_MAINTAIN] = chunk->maintained;
    session->step[KEPT_STEP_AFTER] = 0;
    session->step[KEPT_STEP_ACCEPTED] = chunk->params->hold ? 0 : chunk->rows;
    for (uint32_t i = 0; i < chunk->rows; i++) {
        tokens[i] = (uint32_t)session->tokens[session->position + i];
        positions[i] = session->position + i;
    }
}

static kept_status report(const struct chunk *chunk, uint32_t piece, uint32_t n_pieces,
                          struct kept_error *err)
{
    const struct kept_eval_params *params = chunk->params;
    uint64_t done = chunk->done_before + (uint64_t)chunk->rows * (piece + 1) / n_pieces;
    if (params->progress &&
        !params->progress(params->progress_user, "prefill", done, params->n_tokens))
        return kept_fail(err, KEPT_E_CANCELLED, "cancelled by the progress callback");
    return KEPT_OK;
}

static uint32_t layer_pieces(const struct kept_program *program)
{
    uint32_t n = 0;
    while (n < program->n_pieces && !program->pieces[n].head)
        n++;
    return n;
}

static kept_status run_layers(struct kept_session *session, const struct chunk *chunk,
                              struct kept_error *err)
{
    const struct kept_program *program = &session->plan->programs[chunk->program];
    uint32_t n = layer_pieces(program);
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++) {
        if (cancelled(session))
            return say_cancelled(session, err);
        status = kept_session_run(session, &session->recordings[chunk->program][i], 1, err);
        if (status == KEPT_OK)
            status = report(chunk, i, n, err);
    }
    return status;
}

static kept_status fetch_logits(struct kept_session *session, uint32_t rows, const float **out,
                                struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    uint32_t region = plan->logits_host != KEPT_NO_REGION ? plan->logits_host : plan->logits;
    *out = kept_session_host(session, region);
    if (*out)
        return KEPT_OK;
    *out = session->logits;
    return kept_session_read(session, region, 0, session->logits,
                             (uint64_t)rows * plan->shape->n_vocab * sizeof(float), err);
}

/* The head for rows [first, first + n) of the chunk. */
static kept_status run_head(struct kept_session *session, const struct chunk *chunk, uint32_t first,
                            uint32_t n, struct kept_error *err)
{
    const struct kept_program *program = &session->plan->programs[chunk->program];
    uint32_t layers = layer_pieces(program);
    kept_status status;
    session->step[KEPT_STEP_OUT_FIRST] = first;
    session->step[KEPT_STEP_OUT_ROWS] = n;
    status = kept_session_write_step(session, KEPT_STEP_TOKENS, err);
    for (uint32_t i = layers; i < program->n_pieces && status == KEPT_OK; i++)
        status = kept_session_run(session, &session->recordings[chunk->program][i], 1, err);
    return status;
}

static kept_status hand_out_logits(struct kept_session *session, const struct chunk *chunk,
                                   struct kept_error *err)
{
    const struct kept_eval_params *params = chunk->params;
    uint32_t most = session->plan->programs[chunk->program].head_rows;
    kept_status status = KEPT_OK;
    for (uint32_t first = chunk->out_first; first < chunk->out_end && status == KEPT_OK;) {
        uint32_t n = chunk->out_end - first < most ? chunk->out_end - first : most;
        const float *logits = NULL;
        if (cancelled(session))
            return say_cancelled(session, err);
        status = run_head(session, chunk, first, n, err);
        if (status == KEPT_OK && params->on_logits) {
            status = fetch_logits(session, n, &logits, err);
            if (status == KEPT_OK)
                params->on_logits(params->logits_user, session->position + first, n, logits);
        }
        session->last_choice_row = n - 1;
        first += n;
    }
    return status;
}

/* Decode: everything in one submission. */
static kept_status run_single(struct kept_session *session, const struct chunk *chunk,
                              struct kept_error *err)
{
    if (cancelled(session))
        return say_cancelled(session, err);
    session->last_choice_row = 0;
    kept_status status = kept_session_run(session, session->recordings[chunk->program],
                                          session->plan->programs[chunk->program].n_pieces, err);
    return status == KEPT_OK ? report(chunk, 0, 1, err) : status;
}

/* One row whose logits are wanted, and all of its layers are one piece: no need to cut. */
static bool is_single(const struct kept_session *session, const struct chunk *chunk)
{
    return chunk->rows == 1 && chunk->out_first == 0 && !chunk->params->on_logits &&
           layer_pieces(&session->plan->programs[chunk->program]) == 1;
}

static kept_status eval_chunk(struct kept_session *session, const struct chunk *chunk,
                              struct kept_error *err)
{
    bool wants = chunk->out_first < chunk->out_end;
    bool single = is_single(session, chunk);
    fill_step(session, chunk);
    session->step[KEPT_STEP_OUT_FIRST] = 0;
    session->step[KEPT_STEP_OUT_ROWS] = single ? 1 : 0;
    uint32_t cap = session->plan->params.chunk_tokens;
    kept_status status =
        kept_session_write_step(session, KEPT_STEP_TOKENS + cap + chunk->rows, err);
    if (status != KEPT_OK)
        return status;
    if (session->plan->retention.on && chunk->maintained)
        session->edge = session->position + chunk->maintained;
    if (session->position + chunk->rows > session->written)
        session->written = session->position + chunk->rows;
    if (single)
        return run_single(session, chunk, err);
    status = run_layers(session, chunk, err);
    if (status == KEPT_OK && wants)
        status = hand_out_logits(session, chunk, err);
    return status;
}

static kept_status check_eval(struct kept_session *session, const struct kept_eval_params *params,
                              struct kept_error *err)
{
    uint32_t context = session->plan->params.context_tokens;
    uint32_t hold = session->plan->retention.hold;
    uint32_t n_vocab = session->plan->shape->n_vocab;
    if (!params->tokens || params->n_tokens == 0)
        return kept_fail(err, KEPT_E_PROMPT, "there are no tokens to evaluate");
    for (uint32_t i = 0; i < params->n_tokens; i++)
        if (params->tokens[i] < 0 || (uint32_t)params->tokens[i] >= n_vocab)
            return kept_fail(err, KEPT_E_PROMPT, "token %u has id %d, the vocabulary has %u", i,
                             params->tokens[i], n_vocab);
    uint32_t held = session->position - session->accepted;
    if (params->hold && (held > hold || params->n_tokens > hold - held))
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "%u held tokens after %u, the plan has room for %u together",
                         params->n_tokens, held, hold);
    if (params->hold)
        context += hold;
    if (session->position > context || params->n_tokens > context - session->position)
        return kept_fail(err, KEPT_E_CONTEXT_FULL,
                         "%u tokens at position %u pass the planned context of %u",
                         params->n_tokens, session->position, context);
    return KEPT_OK;
}

static void count(struct kept_session *session, uint32_t n_tokens, uint64_t ns)
{
    bool decode = n_tokens == 1;
    *(decode ? &session->decode_tokens : &session->prefill_tokens) += n_tokens;
    *(decode ? &session->decode_ns : &session->prefill_ns) += ns;
}

kept_status kept_session_eval(kept_session *session, const struct kept_eval_params *params,
                              struct kept_error *err)
{
    if (!session || !params)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_session_eval needs a session and parameters");
    uint64_t begin_ns = kept_clock_ns();
    kept_status status = check_eval(session, params, err);
    if (status != KEPT_OK)
        return status;
    status = kept_session_begin_stores(session, err);
    if (status == KEPT_OK)
        status = kept_session_maintain(session, params, err);
    if (status != KEPT_OK)
        return status;
    drop_logits(session);
    uint32_t chunk_rows = session->plan->params.chunk_tokens, done = 0;
    uint32_t wanted_from = params->on_logits ? params->logits_from : params->n_tokens - 1;
    /* Only now: tokens may point into the session's own list, whose next entries these become. */
    memmove(session->tokens + session->position, params->tokens,
            params->n_tokens * sizeof *params->tokens);
    while (done < params->n_tokens && status == KEPT_OK) {
        struct chunk chunk = {.params = params, .done_before = done};
        uint32_t left = params->n_tokens - done;
        chunk.rows =
            kept_session_rows_here(session, left < chunk_rows ? left : chunk_rows, params->hold);
        chunk.maintained =
            kept_session_maintained_rows(session, chunk.rows, chunk.rows == left, params->hold);
        chunk.program = program_for(session, chunk.rows);
        chunk.out_first = wanted_from > done ? wanted_from - done : 0;
        chunk.out_end = chunk.rows;
        status = eval_chunk(session, &chunk, err);
        if (status == KEPT_OK) {
            session->position += chunk.rows;
            session->last_rows = chunk.rows;
            done += chunk.rows;
            if (!params->hold)
                session->accepted = session->position;
        }
        if (status == KEPT_OK && done < params->n_tokens)
            status = kept_session_maintain(session, params, err);
    }
    if (status == KEPT_OK) {
        count(session, params->n_tokens, kept_clock_ns() - begin_ns);
        session->has_logits = wanted_from < params->n_tokens;
        return KEPT_OK;
    }
    if (status == KEPT_E_CANCELLED)
        atomic_store(&session->cancel, false);
    if (!kept_session_can_return(session, session->position))
        kept_session_set_position(session, 0);
    return status;
}

kept_status kept_session_logits(kept_session *session, const float **logits, struct kept_error *err)
{
    if (!session->has_logits)
        return kept_fail(err, KEPT_E_STATE, "there are no logits: nothing was evaluated last");
    kept_status status = KEPT_OK;
    if (!session->last_logits) {
        const float *rows = NULL;
        status = fetch_logits(session, session->last_choice_row + 1, &rows, err);
        if (status == KEPT_OK)
            session->last_logits =
                rows + (size_t)session->last_choice_row * session->plan->shape->n_vocab;
    }
    if (status == KEPT_OK)
        *logits = session->last_logits;
    return status;
}

/* The device's own argmax of the last row. */
static kept_status read_choice(struct kept_session *session, int32_t *token, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    uint32_t region = plan->choice_host != KEPT_NO_REGION ? plan->choice_host : plan->choice;
    uint32_t choice[2]; /* token, bits of its logit */
    float logit;
    kept_status status = kept_session_read(session, region, session->last_choice_row * 8ull, choice,
                                           sizeof choice, err);
    if (status != KEPT_OK)
        return status;
    memcpy(&logit, &choice[1], sizeof logit);
    if (isnan(logit) || logit == -INFINITY)
        return kept_fail(err, KEPT_E_ARGUMENT, "no logit at position %u is a number",
                         session->position);
    if (choice[0] >= plan->shape->n_vocab)
        return kept_fail(err, KEPT_E_DRIVER, "device '%s' chose token %u, the vocabulary has %u",
                         session->device->desc.name, choice[0], plan->shape->n_vocab);
    *token = (int32_t)choice[0];
    return KEPT_OK;
}

kept_status kept_session_sample(kept_session *session, kept_sampler *sampler, int32_t *token,
                                struct kept_error *err)
{
    if (!session->has_logits)
        return kept_fail(err, KEPT_E_STATE, "there are no logits: nothing was evaluated last");
    if (kept_sampler_n_vocab(sampler) != session->plan->shape->n_vocab)
        return kept_fail(err, KEPT_E_MISMATCH, "the sampler is for %u tokens, the model has %u",
                         kept_sampler_n_vocab(sampler), session->plan->shape->n_vocab);
    if (kept_sampler_is_greedy(sampler))
        return read_choice(session, token, err);
    const float *logits;
    kept_status status = kept_session_logits(session, &logits, err);
    if (status != KEPT_OK)
        return status;
    return kept_sampler_choose(sampler, logits, session->position, token, err);
}

uint32_t kept_session_position(const kept_session *session)
{
    return session->position;
}

const int32_t *kept_session_tokens(const kept_session *session)
{
    return session->tokens;
}

kept_status kept_session_rewind(kept_session *session, uint32_t position, struct kept_error *err)
{
    if (position > session->position)
        return kept_fail(err, KEPT_E_ARGUMENT, "cannot rewind from position %u to %u",
                         session->position, position);
    if (position != 0 && !kept_session_can_return(session, position))
        return kept_fail(
            err, KEPT_E_STATE, "position %u is gone: %s up to %u", position,
            kept_session_is_behind_edge(session, position) ? "slots were evicted"
                                                           : "sliding-window layers have written",
            kept_session_is_behind_edge(session, position) ? session->edge : session->written);
    kept_session_set_position(session, position);
    return KEPT_OK;
}

kept_status kept_session_reuse(kept_session *session, const int32_t *tokens, uint32_t n_tokens,
                               uint32_t *n_reused, struct kept_error *err)
{
    uint32_t common = 0;
    while (common < n_tokens && common < session->position &&
           tokens[common] == session->tokens[common])
        common++;
    if (common == n_tokens && common > 0)
        common--; /* its logits are needed */
    if (!kept_session_can_return(session, common))
        common = 0;
    kept_status status = kept_session_rewind(session, common, err);
    if (status == KEPT_OK)
        *n_reused = common;
    return status;
}

void kept_session_cancel(kept_session *session)
{
    atomic_store(&session->cancel, true);
}

void kept_session_stats(kept_session *session, struct kept_session_stats *out)
{
    const struct kept_device *device = session->device;
    *out = (struct kept_session_stats){
        .planned_bytes = session->plan->info.planned_bytes,
        .actual_bytes = kept_session_bytes(session),
        .driver_bytes = session->driver_bytes,
        .load_ns = session->load_ns,
        .prefill_ns = session->prefill_ns,
        .decode_ns = session->decode_ns,
        .prefill_tokens = session->prefill_tokens,
        .decode_tokens = session->decode_tokens,
        .allocations_after_commit = device->n_allocations - session->allocations_at_commit,
        .model_hash = session->model_hash,
        .n_kernels = session->n_kernels,
    };
    for (uint32_t p = 0; p < session->plan->n_programs; p++)
        out->n_recordings += session->plan->programs[p].n_pieces;
}
