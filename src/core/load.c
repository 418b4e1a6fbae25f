/* core/load.c: weights from the file into their regions.
 *
 * Tensor data is read in strips of whole tiles (about 1 MiB), re-laid and written; never mapped, so
 * a file that shrinks or vanishes is an error and not a crash. Where device memory has a host
 * address, threads re-lay strips straight into it; else one strip at a time goes through a host
 * buffer.
 *
 * The model's hash is the sum over tiles of XXH3(file bytes of the tile, seed = its offset in the
 * file): independent of order, threads, and of where a device's limits cut the matrices.
 */
#include "core/session_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/thread.h"

#define STRIP_BYTES (1u << 20)

struct strip_job {
    struct kept_session *session;
    const struct kept_span *span;
    uint32_t region;
    uint8_t *target; /* host address of the span in device memory, or NULL */
    uint64_t tiles_per_strip, row_bytes, record_bytes;
    uint8_t
        *scratch; /* [threads][scratch_bytes]: file rows, then records when there is no target */
    uint64_t scratch_bytes;
    atomic_uint_fast64_t hash;
    atomic_int status;
    struct kept_error *err; /* of the first failure */
    struct kept_mutex *mutex;
};

static void job_fail(struct strip_job *job, kept_status status, const struct kept_error *err)
{
    int none = KEPT_OK;
    if (!atomic_compare_exchange_strong(&job->status, &none, (int)status) || !job->err)
        return;
    kept_mutex_lock(job->mutex);
    *job->err = *err;
    kept_mutex_unlock(job->mutex);
}

static void relay_strip(struct strip_job *job, const uint8_t *rows, uint64_t first_row,
                        uint64_t n_rows, uint8_t *to)
{
    const struct kept_gguf_tensor *tensor = job->span->tensor;
    enum kept_order order = (enum kept_order)job->session->plan->profile.word_order;
    uint64_t sum = 0;
    for (uint64_t row = 0; row < n_rows; row += KEPT_TILE_ROWS) {
        uint64_t n = n_rows - row < KEPT_TILE_ROWS ? n_rows - row : KEPT_TILE_ROWS;
        const uint8_t *from = rows + row * job->row_bytes;
        uint64_t offset = tensor->offset_bytes + (first_row + row) * job->row_bytes;
        sum += kept_hash64(from, n * job->row_bytes, offset);
        kept_relay_tile(tensor->format, order, from, (uint32_t)n, (uint32_t)tensor->dims[0],
                        (uint32_t *)(void *)(to + row / KEPT_TILE_ROWS * job->record_bytes));
    }
    atomic_fetch_add(&job->hash, sum);
}

static void do_strip(void *user, uint32_t item, uint32_t i_thread)
{
    struct strip_job *job = user;
    const struct kept_span *span = job->span;
    struct kept_error err = {0};
    uint64_t first = item * job->tiles_per_strip * KEPT_TILE_ROWS;
    uint64_t n = job->tiles_per_strip * KEPT_TILE_ROWS;
    uint8_t *rows = job->scratch + i_thread * job->scratch_bytes;
    if (atomic_load(&job->status) != KEPT_OK)
        return;
    if (n > span->n_rows - first)
        n = span->n_rows - first;
    uint64_t first_row = span->row_first + first;
    kept_status status = kept_file_read_at(kept_gguf_file(job->session->plan->model->gguf),
                                           span->tensor->offset_bytes + first_row * job->row_bytes,
                                           rows, n * job->row_bytes, &err);
    if (status != KEPT_OK) {
        kept_fail_in(&err, status, "tensor '%s'", span->tensor->name);
        job_fail(job, status, &err);
        return;
    }
    uint64_t offset = first / KEPT_TILE_ROWS * job->record_bytes;
    if (job->target) {
        relay_strip(job, rows, first_row, n, job->target + offset);
        return;
    }
    uint8_t *records = rows + job->tiles_per_strip * KEPT_TILE_ROWS * job->row_bytes;
    uint64_t tiles = (n + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS;
    relay_strip(job, rows, first_row, n, records);
    status = kept_session_write(job->session, job->region, span->offset_bytes + offset, records,
                                tiles * job->record_bytes, &err);
    if (status != KEPT_OK)
        job_fail(job, status, &err);
}

static kept_status load_matrix(struct kept_session *session, uint32_t region,
                               const struct kept_span *span, struct kept_pool *pool,
                               struct kept_error *err)
{
    const struct kept_gguf_tensor *tensor = span->tensor;
    uint32_t k = (uint32_t)tensor->dims[0];
    uint8_t *base = kept_session_host(session, region);
    struct strip_job job = {.session = session, .span = span, .region = region, .err = err};
    job.target = base ? base + span->offset_bytes : NULL;
    job.row_bytes = kept_format_row_bytes(tensor->format, k);
    job.record_bytes = (uint64_t)kept_record_of(tensor->format, k).n_words * 4;
    job.tiles_per_strip = STRIP_BYTES / job.record_bytes;
    if (job.tiles_per_strip == 0)
        job.tiles_per_strip = 1;
    uint32_t n_threads = base ? kept_pool_threads(pool) : 1;
    job.scratch_bytes =
        job.tiles_per_strip * (KEPT_TILE_ROWS * job.row_bytes + (base ? 0 : job.record_bytes));
    job.scratch_bytes = (job.scratch_bytes + 63) / 64 * 64;
    job.scratch = kept_alloc_aligned(64, n_threads * job.scratch_bytes);
    job.mutex = kept_mutex_create();
    kept_status status = KEPT_OK;
    if (!job.scratch || !job.mutex) {
        status = kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to load tensor '%s'", tensor->name);
    } else {
        uint64_t rows_of_strip = job.tiles_per_strip * KEPT_TILE_ROWS;
        uint32_t n_strips = (uint32_t)((span->n_rows + rows_of_strip - 1) / rows_of_strip);
        if (base)
            kept_pool_run(pool, n_strips, do_strip, &job);
        for (uint32_t i = 0; !base && i < n_strips; i++)
            do_strip(&job, i, 0);
        status = (kept_status)atomic_load(&job.status);
        session->model_hash += atomic_load(&job.hash);
    }
    kept_mutex_destroy(&job.mutex);
    kept_free_aligned(job.scratch);
    return status;
}

static kept_status load_vector(struct kept_session *session, uint32_t region,
                               const struct kept_span *span, struct kept_error *err)
{
    const struct kept_gguf_tensor *tensor = span->tensor;
    uint64_t n_bytes = tensor->dims[0] * sizeof(float);
    void *values = kept_alloc(n_bytes);
    if (!values)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to load tensor '%s'", tensor->name);
    kept_status status = kept_file_read_at(kept_gguf_file(session->plan->model->gguf),
                                           tensor->offset_bytes, values, n_bytes, err);
    if (status != KEPT_OK) {
        kept_fail_in(err, status, "tensor '%s'", tensor->name);
    } else {
        session->model_hash += kept_hash64(values, n_bytes, tensor->offset_bytes);
        status = kept_session_write(session, region, span->offset_bytes, values, n_bytes, err);
    }
    kept_free(values);
    return status;
}

kept_status kept_session_load_weights(struct kept_session *session, kept_progress_fn progress,
                                      void *user, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    uint64_t begin_ns = kept_clock_ns(), done_bytes = 0;
    struct kept_pool *pool = NULL;
    kept_status status = kept_pool_create(0, &pool, err);
    session->model_hash = plan->model->info.header_hash;
    for (uint32_t r = 0; r < plan->n_regions && status == KEPT_OK; r++) {
        const struct kept_region *region = &plan->regions[r];
        if (region->category != KEPT_CATEGORY_WEIGHTS)
            continue;
        for (uint32_t s = 0; s < region->n_spans && status == KEPT_OK; s++) {
            const struct kept_span *span = &plan->spans[region->span_first + s];
            status = span->matrix ? load_matrix(session, r, span, pool, err)
                                  : load_vector(session, r, span, err);
        }
        done_bytes += region->bytes;
        if (status == KEPT_OK && progress &&
            !progress(user, "load", done_bytes, plan->info.weight_bytes))
            status = kept_fail(err, KEPT_E_CANCELLED, "loading was cancelled");
    }
    kept_pool_destroy(&pool);
    session->load_ns = kept_clock_ns() - begin_ns;
    return status;
}
