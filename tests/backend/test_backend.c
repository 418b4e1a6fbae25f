/* tests/backend/test_backend.c: what backend.h promises, asserted on one backend.
 *
 *   test_backend vulkan|opencl|cpu [staging]
 *
 * The same assertions run on every backend, through the wrappers that everything above uses.
 * `staging` hides mappable device memory, so that the path of cards behind a bus runs on a
 * software driver too. On Vulkan everything runs under the validation layers where they are
 * installed, and any error they report fails the run. Exit code 77: the backend has no device
 * here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#define SECOND 1000000000ull
#define MAX_ROWS 8u
#define MAX_N 512u

static const struct kept_backend_ops *ops;
static struct kept_device_params params;
static struct kept_device *device;
static unsigned n_validation_messages;
static bool clean; /* set at the end: cmocka's exit code leaves the teardown out */

static void on_log(void *user, enum kept_log_level level, const char *text)
{
    (void)user;
    if (level == KEPT_LOG_ERROR && strncmp(text, "vulkan validation", 17) == 0) {
        n_validation_messages++;
        fprintf(stderr, "%s\n", text);
    }
}

static const struct kept_log test_log = {on_log, NULL, KEPT_LOG_ERROR};

#define assert_ok(call)                                                                  \
    do {                                                                                 \
        struct kept_error err_;                                                          \
        struct kept_error *err = &err_;                                                  \
        kept_status status_ = (call);                                                    \
        if (status_ != KEPT_OK)                                                          \
            fail_msg("%s: %s: %s", #call, kept_status_name(status_), err_.message);      \
    } while (0)

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* ---- a small job: argmax over rows, whose answer is known without any reference ---- */

struct job {
    struct kept_device *device;
    struct kept_buf *logits; /* f32 [MAX_ROWS][MAX_N] */
    struct kept_buf *out;    /* u32 [MAX_ROWS][2] */
    struct kept_buf *step;
    struct kept_kernel *kernel;
    struct kept_recording *recording;
};

static struct kept_bind whole(struct kept_buf *buf)
{
    return (struct kept_bind){buf, 0, buf->n_bytes};
}

static kept_status record_argmax(struct job *job, struct kept_recording *recording,
                                 struct kept_error *err)
{
    struct kept_argmax_params p = {.rows_at = KEPT_STEP_ROWS,
                                   .row_cap = MAX_ROWS,
                                   .n = MAX_N,
                                   .stride = MAX_N};
    struct kept_bind binds[3] = {whole(job->logits), whole(job->out), whole(job->step)};
    uint32_t grid[3];
    kept_kernel_grid(KEPT_KERNEL_ARGMAX, job->kernel->keys, &p, grid);
    return kept_recording_call(recording, job->kernel, binds, &p, grid, err);
}

static void job_finish(struct job *job)
{
    kept_recording_destroy(&job->recording);
    kept_kernel_destroy(&job->kernel);
    kept_buf_destroy(&job->step);
    kept_buf_destroy(&job->out);
    kept_buf_destroy(&job->logits);
}

/* Makes everything; on failure nothing is left. */
static kept_status job_init(struct job *job, struct kept_device *on, struct kept_error *err)
{
    memset(job, 0, sizeof *job);
    job->device = on;
    kept_status s = kept_buf_create(on, "logits", MAX_ROWS * MAX_N * 4, 0, &job->logits, err);
    if (s == KEPT_OK)
        s = kept_buf_create(on, "out", MAX_ROWS * 8, KEPT_BUF_HOST, &job->out, err);
    if (s == KEPT_OK)
        s = kept_buf_create(on, "step", 256, KEPT_BUF_HOST, &job->step, err);
    if (s == KEPT_OK)
        s = kept_kernel_create(on, KEPT_KERNEL_ARGMAX, (enum kept_format)0, NULL, &job->kernel,
                               err);
    if (s == KEPT_OK)
        s = kept_recording_begin(on, 1, &job->recording, err);
    if (s == KEPT_OK)
        s = record_argmax(job, job->recording, err);
    if (s == KEPT_OK)
        s = kept_recording_end(job->recording, err);
    if (s != KEPT_OK)
        job_finish(job);
    return s;
}

/* Writes rows of noise with one peak each; expect[] gets the peaks. */
static void job_fill(struct job *job, uint32_t rows, uint32_t seed, uint32_t expect[MAX_ROWS])
{
    static float v[MAX_ROWS * MAX_N];
    for (uint32_t r = 0; r < MAX_ROWS; r++) {
        for (uint32_t i = 0; i < MAX_N; i++)
            v[r * MAX_N + i] = (float)(next_random(&seed) % 1000) / 1000.0f;
        expect[r] = next_random(&seed) % MAX_N;
        v[r * MAX_N + expect[r]] = 2.0f;
    }
    assert_ok(kept_buf_write(job->logits, 0, v, sizeof v, err));
    uint32_t header[16] = {rows};
    assert_ok(kept_buf_write(job->step, 0, header, sizeof header, err));
    uint32_t mark[MAX_ROWS * 2];
    memset(mark, 0xEE, sizeof mark);
    assert_ok(kept_buf_write(job->out, 0, mark, sizeof mark, err));
}

/* Live rows have their peak, the others are untouched. */
static void job_check(struct job *job, uint32_t rows, const uint32_t *expect)
{
    uint32_t out[MAX_ROWS * 2];
    assert_ok(kept_buf_read(job->out, 0, out, sizeof out, err));
    for (uint32_t r = 0; r < MAX_ROWS; r++)
        assert_int_equal(out[2 * r], r < rows ? expect[r] : 0xEEEEEEEEu);
}

static void job_run(struct job *job, uint32_t rows, uint32_t seed)
{
    uint32_t expect[MAX_ROWS];
    job_fill(job, rows, seed, expect);
    assert_ok(kept_submit(job->device, &job->recording, 1, err));
    assert_ok(kept_wait(job->device, 60 * SECOND, err));
    job_check(job, rows, expect);
}

/* ---- tests ---- */

static void test_list(void **state)
{
    (void)state;
    struct kept_device_desc all[16];
    char why[160];
    uint32_t n;
    assert_ok(kept_backend_list(ops, NULL, all, 16, &n, why, err));
    assert_true(n >= 1);
    for (uint32_t i = 0; i < n && i < 16; i++) {
        assert_string_equal(all[i].api, ops->name);
        assert_int_equal(all[i].index, i);
        assert_true(all[i].name[0] != '\0');
        assert_true(all[i].driver[0] != '\0');
        assert_true(all[i].usable == (all[i].why_not[0] == '\0'));
        assert_true(!all[i].usable || all[i].memory_bytes > 0);
        assert_true(all[i].free_bytes <= all[i].memory_bytes);
    }

    struct kept_device *none = (struct kept_device *)&n;
    struct kept_error fail = {0};
    assert_int_equal(kept_device_open(ops, 1000, NULL, &none, &fail), KEPT_E_NO_DEVICE);
    assert_null(none);
    assert_non_null(strstr(fail.message, ops->name));
}

static void test_caps(void **state)
{
    (void)state;
    const struct kept_caps *caps = &device->caps;
    assert_true(caps->max_buffer_bytes >= 1u << 20);
    assert_true(caps->max_binding_bytes >= 1u << 20);
    assert_true(caps->max_binding_bytes <= caps->max_buffer_bytes);
    assert_int_equal(caps->binding_align_bytes & (caps->binding_align_bytes - 1), 0);
    assert_true(caps->binding_align_bytes >= 4 && caps->binding_align_bytes <= 4096);
    assert_true(caps->max_group_lanes >= 1);
    assert_true(caps->subgroup_min <= caps->subgroup_max);
    assert_true(caps->vector_width == 1 || caps->vector_width == 16);
    assert_true(!caps->host_visible || caps->staging_bytes == 0);
    assert_true(!params.mask_host_visible || !caps->host_visible || ops != &kept_backend_vulkan);
    struct kept_memory_info info;
    assert_ok(kept_device_memory(device, &info, err));
    assert_true(info.total_bytes > 0);
}

static void test_buffers(void **state)
{
    (void)state;
    static const uint32_t flags[] = {0, KEPT_BUF_HOST};
    const struct kept_caps *caps = &device->caps;
    static const uint64_t sizes[] = {4, 4096, (9u << 20) + 4}; /* the last in three pieces */
    for (size_t f = 0; f < 2; f++)
        for (size_t s = 0; s < 3; s++) {
            uint64_t n = sizes[s], before = device->allocated_bytes;
            struct kept_buf *buf;
            assert_ok(kept_buf_create(device, "test", n, flags[f], &buf, err));
            assert_int_equal(device->allocated_bytes, before + n);
            if (flags[f] == KEPT_BUF_HOST)
                assert_true((buf->host != NULL) == caps->host_buffers_mapped);
            else
                assert_true((buf->host != NULL) == caps->host_visible);
            unsigned char *bytes = malloc(n), *back = malloc(n);
            memset(back, 1, n);
            memset(bytes, 0, n);
            assert_ok(kept_buf_read(buf, 0, back, n, err));
            assert_memory_equal(back, bytes, n); /* zero after create */
            uint32_t seed = 7;
            for (uint64_t i = 0; i < n; i++)
                bytes[i] = (unsigned char)next_random(&seed);
            assert_ok(kept_buf_write(buf, 0, bytes, n, err));
            memset(bytes + n / 8 * 4, 0x5A, 4); /* one word in the middle, neighbours stay */
            assert_ok(kept_buf_write(buf, n / 8 * 4, bytes + n / 8 * 4, 4, err));
            assert_ok(kept_buf_read(buf, 0, back, n, err));
            assert_memory_equal(back, bytes, n);
            assert_int_equal(kept_buf_read(buf, n, back, 4, NULL), KEPT_E_ARGUMENT);
            assert_int_equal(kept_buf_write(buf, 4, bytes, n, NULL), KEPT_E_ARGUMENT);
            assert_int_equal(kept_buf_write(buf, UINT64_MAX, bytes, 4, NULL), KEPT_E_ARGUMENT);
            free(bytes);
            free(back);
            kept_buf_destroy(&buf);
            assert_null(buf);
            assert_int_equal(device->allocated_bytes, before);
        }
}

static void test_buffers_refused(void **state)
{
    (void)state;
    struct kept_buf *buf;
    struct kept_error fail = {0};
    assert_int_equal(kept_buf_create(device, "none", 0, 0, &buf, &fail), KEPT_E_ARGUMENT);
    assert_int_equal(kept_buf_create(device, "vast", device->caps.max_buffer_bytes + 4, 0, &buf,
                                     &fail),
                     KEPT_E_ARGUMENT);
    assert_null(buf);
    assert_non_null(strstr(fail.message, "vast"));
    device->fail_allocation_at = 1;
    assert_int_equal(kept_buf_create(device, "kv.3", 4096, 0, &buf, &fail), KEPT_E_DEVICE_MEMORY);
    assert_non_null(strstr(fail.message, "kv.3"));
    assert_ok(kept_buf_create(device, "kv.3", 4096, 0, &buf, err));
    kept_buf_destroy(&buf);
}

static void test_run(void **state)
{
    (void)state;
    struct job job;
    assert_ok(job_init(&job, device, err));
    for (uint32_t i = 0; i < 40; i++)
        job_run(&job, i % (MAX_ROWS + 1), i); /* 0 rows included */
    job_finish(&job);
}

static void test_bind_offset(void **state)
{
    (void)state;
    struct job job;
    assert_ok(job_init(&job, device, err));
    uint32_t align = device->caps.binding_align_bytes;
    struct kept_buf *wide;
    struct kept_recording *recording;
    assert_ok(kept_buf_create(device, "wide", 3 * align + MAX_ROWS * 8, KEPT_BUF_HOST, &wide, err));
    assert_ok(kept_recording_begin(device, 1, &recording, err));
    struct kept_argmax_params p = {.row_cap = MAX_ROWS, .n = MAX_N, .stride = MAX_N};
    struct kept_bind binds[3] = {whole(job.logits), {wide, 2 * align, MAX_ROWS * 8},
                                 whole(job.step)};
    uint32_t grid[3];
    kept_kernel_grid(KEPT_KERNEL_ARGMAX, job.kernel->keys, &p, grid);
    assert_ok(kept_recording_call(recording, job.kernel, binds, &p, grid, err));
    binds[1].offset_bytes = 2 * align + 2;
    assert_int_equal(kept_recording_call(recording, job.kernel, binds, &p, grid, NULL),
                     KEPT_E_ARGUMENT);
    assert_ok(kept_recording_end(recording, err));

    uint32_t expect[MAX_ROWS];
    job_fill(&job, MAX_ROWS, 3, expect);
    assert_ok(kept_submit(device, &recording, 1, err));
    assert_ok(kept_wait(device, 60 * SECOND, err));
    uint32_t n_words = (uint32_t)(wide->n_bytes / 4), first = 2 * align / 4;
    uint32_t *words = calloc(n_words, 4);
    assert_ok(kept_buf_read(wide, 0, words, wide->n_bytes, err));
    for (uint32_t i = 0; i < n_words; i++)
        if (i < first || i >= first + 2 * MAX_ROWS)
            assert_int_equal(words[i], 0);
        else if ((i - first) % 2 == 0)
            assert_int_equal(words[i], expect[(i - first) / 2]);
    free(words);
    kept_recording_destroy(&recording);
    kept_buf_destroy(&wide);
    job_finish(&job);
}

/* glu writes the row that argmax reads: a barrier, and the answer of both. */
static void test_chain(void **state)
{
    (void)state;
    enum { N = MAX_N };
    struct job job;
    assert_ok(job_init(&job, device, err));
    struct kept_buf *x;
    struct kept_kernel *glu;
    struct kept_recording *recording;
    assert_ok(kept_buf_create(device, "x", 2 * N * 4, 0, &x, err));
    assert_ok(kept_kernel_create(device, KEPT_KERNEL_GLU, (enum kept_format)0, NULL, &glu, err));
    assert_ok(kept_recording_begin(device, 3, &recording, err));
    struct kept_glu_params p = {.row_cap = 1,
                                .n = N,
                                .x_stride = 2 * N,
                                .out_stride = KEPT_ACT_STRIDE(N)};
    struct kept_bind binds[3] = {whole(x), whole(job.logits), whole(job.step)};
    uint32_t grid[3];
    kept_kernel_grid(KEPT_KERNEL_GLU, glu->keys, &p, grid);
    assert_ok(kept_recording_call(recording, glu, binds, &p, grid, err));
    assert_int_equal(recording->n_barriers, 0);
    assert_ok(record_argmax(&job, recording, err));
    assert_int_equal(recording->n_barriers, 1);
    assert_ok(kept_recording_end(recording, err));

    for (uint32_t i = 0; i < 20; i++) {
        uint32_t expect[MAX_ROWS], peak = (i * 37u + 5u) % N;
        float v[2 * N];
        for (uint32_t k = 0; k < N; k++) {
            v[k] = k == peak ? 8.0f : 1.0f;
            v[N + k] = 1.0f;
        }
        job_fill(&job, 1, i, expect);
        assert_ok(kept_buf_write(x, 0, v, sizeof v, err));
        assert_ok(kept_submit(device, &recording, 1, err));
        assert_ok(kept_wait(device, 60 * SECOND, err));
        job_check(&job, 1, &peak);
        uint32_t out[2];
        float value;
        assert_ok(kept_buf_read(job.out, 0, out, sizeof out, err));
        memcpy(&value, &out[1], 4);
        assert_true(fabsf(value - 8.0f / (1.0f + expf(-8.0f))) < 1e-4f);
    }
    kept_recording_destroy(&recording);
    kept_kernel_destroy(&glu);
    kept_buf_destroy(&x);
    job_finish(&job);
}

/* Copies run in order with calls, inside a recording and from one recording to the next. */
static void test_copies(void **state)
{
    (void)state;
    struct job job;
    assert_ok(job_init(&job, device, err));
    struct kept_buf *middle, *last;
    struct kept_recording *list[2];
    assert_ok(kept_buf_create(device, "middle", 256, 0, &middle, err));
    assert_ok(kept_buf_create(device, "last", 256, KEPT_BUF_HOST, &last, err));
    assert_ok(kept_recording_begin(device, 2, &list[0], err));
    assert_ok(record_argmax(&job, list[0], err));
    assert_ok(kept_recording_copy(list[0], middle, 128, job.out, 0, MAX_ROWS * 8, err));
    assert_int_equal(list[0]->n_barriers, 1);
    assert_ok(kept_recording_end(list[0], err));
    assert_ok(kept_recording_begin(device, 1, &list[1], err));
    assert_ok(kept_recording_copy(list[1], last, 64, middle, 128, MAX_ROWS * 8, err));
    assert_int_equal(kept_recording_copy(list[1], last, 252, middle, 0, 8, NULL), KEPT_E_ARGUMENT);
    assert_ok(kept_recording_end(list[1], err));
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t expect[MAX_ROWS], out[64];
        job_fill(&job, MAX_ROWS, 100 + i, expect);
        assert_ok(kept_submit(device, list, 2, err));
        assert_ok(kept_wait(device, 60 * SECOND, err));
        assert_ok(kept_buf_read(last, 0, out, sizeof out, err));
        for (uint32_t r = 0; r < MAX_ROWS; r++)
            assert_int_equal(out[16 + 2 * r], expect[r]);
        assert_int_equal(out[15], 0);
        assert_int_equal(out[32], 0);
    }
    kept_recording_destroy(&list[1]);
    kept_recording_destroy(&list[0]);
    kept_buf_destroy(&last);
    kept_buf_destroy(&middle);
    job_finish(&job);
}

/* Many submissions in a row and one wait: every word moves one place a submission. */
static void test_queue_depth(void **state)
{
    (void)state;
    enum { DEPTH = 40 };
    struct kept_buf *buf;
    struct kept_recording *all[DEPTH];
    assert_ok(kept_buf_create(device, "chain", (DEPTH + 1) * 4, 0, &buf, err));
    for (uint32_t i = 0; i < DEPTH; i++) {
        assert_ok(kept_recording_begin(device, 1, &all[i], err));
        assert_ok(kept_recording_copy(all[i], buf, 4 * (i + 1), buf, 4 * i, 4, err));
        assert_ok(kept_recording_end(all[i], err));
    }
    for (uint32_t round = 1; round <= 3; round++) {
        uint32_t word = round * 1111u;
        assert_ok(kept_buf_write(buf, 0, &word, 4, err));
        for (uint32_t i = 0; i < DEPTH; i++)
            assert_ok(kept_submit(device, &all[i], 1, err));
        struct kept_error fail = {0};
        kept_status status = kept_wait(device, 0, &fail); /* done already, or not yet */
        assert_true(status == KEPT_OK || status == KEPT_E_TIMEOUT);
        assert_ok(kept_wait(device, 60 * SECOND, err));
        assert_ok(kept_buf_read(buf, 4 * DEPTH, &word, 4, err));
        assert_int_equal(word, round * 1111u);
    }
    assert_ok(kept_wait(device, 0, err)); /* an idle device */
    for (uint32_t i = 0; i < DEPTH; i++)
        kept_recording_destroy(&all[i]);
    kept_buf_destroy(&buf);
}

static void test_seal(void **state)
{
    (void)state;
    struct job job;
    struct kept_buf *buf;
    struct kept_kernel *kernel;
    struct kept_recording *recording;
    assert_ok(job_init(&job, device, err));
    kept_device_seal(device);
    assert_int_equal(kept_buf_create(device, "late", 4, 0, &buf, NULL), KEPT_E_STATE);
    assert_int_equal(kept_kernel_create(device, KEPT_KERNEL_ARGMAX, 0, NULL, &kernel, NULL),
                     KEPT_E_STATE);
    assert_int_equal(kept_recording_begin(device, 1, &recording, NULL), KEPT_E_STATE);
    job_run(&job, 3, 9); /* what exists goes on */
    kept_device_unseal(device);
    job_finish(&job);
}

static void test_submit_fault(void **state)
{
    (void)state;
    struct job job;
    assert_ok(job_init(&job, device, err));
    struct kept_error fail = {0};
    device->fail_submit_at = 2;
    job_run(&job, 2, 1);
    assert_int_not_equal(kept_submit(device, &job.recording, 1, &fail), KEPT_OK);
    assert_true(fail.message[0] != '\0');
    device->lost = false; /* the injected loss leaves the real device as it was */
    job_run(&job, 2, 2);
    job_finish(&job);
}

static void test_two_devices(void **state)
{
    (void)state;
    struct kept_device *second;
    struct job a, b;
    assert_ok(kept_device_open(ops, device->desc.index, &params, &second, err));
    assert_ok(job_init(&a, device, err));
    assert_ok(job_init(&b, second, err));
    for (uint32_t i = 0; i < 5; i++) {
        job_run(&a, 4, i);
        job_run(&b, 5, i);
    }
    assert_int_equal(kept_recording_copy(a.recording, a.out, 0, b.out, 0, 8, NULL), KEPT_E_STATE);
    job_finish(&b);
    assert_int_equal(second->n_validation_errors, 0);
    kept_device_close(&second);
    job_run(&a, 6, 7);
    job_finish(&a);
}

/* The n-th host allocation fails, for all n until everything succeeds: an error each time, and
 * nothing is left. */
static void test_host_memory_faults(void **state)
{
    (void)state;
    struct kept_device_params plain = params;
    plain.validate = false; /* the layers' start would be paid once an n */
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        int64_t live = kept_alloc_live();
        struct kept_device *other = NULL;
        struct job job;
        struct kept_error fail = {0};
        kept_alloc_fail_at(n);
        kept_status status = kept_device_open(ops, device->desc.index, &plain, &other, &fail);
        if (status == KEPT_OK) {
            status = job_init(&job, other, &fail);
            if (status == KEPT_OK)
                job_run(&job, 1, 5);
            done = status == KEPT_OK;
            if (done)
                job_finish(&job);
            assert_int_equal(other->allocated_bytes, 0);
        }
        kept_alloc_fail_at(0);
        assert_true(status == KEPT_OK || fail.message[0] != '\0');
        kept_device_close(&other);
        assert_int_equal(kept_alloc_live(), live);
        assert_true(n < 1000);
    }
}

static void test_timestamps(void **state)
{
    (void)state;
    enum { CALLS = 5 };
    struct kept_device_params timed = params;
    struct kept_device *other;
    timed.profile = true;
    assert_ok(kept_device_open(ops, device->desc.index, &timed, &other, err));
    if (!other->caps.timestamps) {
        kept_device_close(&other);
        skip();
    }
    struct job job;
    struct kept_recording *recording;
    assert_ok(job_init(&job, other, err));
    assert_ok(kept_recording_begin(other, CALLS, &recording, err));
    for (int i = 0; i < CALLS; i++)
        assert_ok(record_argmax(&job, recording, err));
    assert_ok(kept_recording_end(recording, err));
    uint32_t expect[MAX_ROWS], n = 0;
    uint64_t ns[8] = {0}, sum = 0, start = kept_clock_ns();
    job_fill(&job, MAX_ROWS, 1, expect);
    struct kept_recording *both[2] = {job.recording, recording};
    assert_ok(kept_submit(other, both, 2, err));
    assert_ok(kept_wait(other, 60 * SECOND, err));
    uint64_t spent = kept_clock_ns() - start;
    assert_ok(kept_timestamps(other, ns, 8, &n, err));
    assert_int_equal(n, CALLS + 1);
    for (uint32_t i = 0; i < n; i++)
        sum += ns[i];
    assert_true(sum > 0 && sum <= spent);
    kept_recording_destroy(&recording);
    job_finish(&job);
    assert_int_equal(other->n_validation_errors, 0);
    kept_device_close(&other);
}

/* Opens with a cache folder, makes a kernel, runs it, closes (which saves). */
static void use_cache(const char *folder)
{
    struct kept_device_params cached = params;
    struct kept_device *other;
    struct job job;
    cached.cache_dir = folder;
    assert_ok(kept_device_open(ops, device->desc.index, &cached, &other, err));
    assert_ok(job_init(&job, other, err));
    job_run(&job, 3, 11);
    job_finish(&job);
    assert_int_equal(other->n_validation_errors, 0);
    kept_device_close(&other);
}

/* The only file in a folder; false when there is none. */
static bool only_file(const char *folder, char *path, size_t cap)
{
    unsigned n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e = dir != NULL ? readdir(dir) : NULL; e != NULL; e = readdir(dir))
        if (e->d_name[0] != '.') {
            snprintf(path, cap, "%s/%s", folder, e->d_name);
            n++;
        }
    if (dir != NULL)
        closedir(dir);
    assert_true(n <= 1);
    return n == 1;
}

/* A cache file that is cut short, altered, empty or someone else's is a miss and is replaced. */
static void test_cache(void **state)
{
    (void)state;
    char root[] = "/tmp/kept-test-XXXXXX", folder[64], path[400];
    assert_non_null(mkdtemp(root));
    snprintf(folder, sizeof folder, "%s/a/b", root);
    use_cache(folder);
    if (!only_file(folder, path, sizeof path)) {
        assert_ptr_equal(ops, &kept_backend_cpu); /* compiles nothing, keeps nothing */
        assert_int_equal(rmdir(root), 0);
        return;
    }
    char *good, *now;
    size_t n_good, n_now;
    assert_ok(kept_file_load(path, 1u << 28, &good, &n_good, err));
    for (int round = 0; round < 5; round++) {
        char *bad = malloc(n_good);
        size_t n_bad = n_good;
        memcpy(bad, good, n_good);
        if (round == 1)
            n_bad = 0;
        else if (round == 2)
            n_bad = n_good / 2;
        else if (round == 3)
            bad[n_good - 1] ^= 0x40;
        else if (round == 4)
            bad[0] ^= 0x40;
        assert_ok(kept_file_replace(path, bad, n_bad, err));
        free(bad);
        use_cache(folder);
        assert_ok(kept_file_load(path, 1u << 28, &now, &n_now, err));
        assert_true(n_now > n_bad || round == 0 || round >= 3);
        assert_true(n_now == n_bad ? n_now == n_good : true);
        kept_free(now);
    }
    kept_free(good);
    remove(path);
    assert_int_equal(rmdir(folder), 0);
    snprintf(folder, sizeof folder, "%s/a", root);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(rmdir(root), 0);
}

static int open_device(void **state)
{
    (void)state;
    struct kept_error fail;
    params.log = &test_log;
    params.validate = ops == &kept_backend_vulkan;
    kept_status status = kept_device_open(ops, 0, &params, &device, &fail);
    if (status == KEPT_E_UNSUPPORTED && params.validate) {
        fprintf(stderr, "without validation: %s\n", fail.message);
        params.validate = false;
        status = kept_device_open(ops, 0, &params, &device, &fail);
    }
    if (status != KEPT_OK)
        fprintf(stderr, "%s\n", fail.message);
    return status == KEPT_OK ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    clean = device->n_validation_errors == 0 && device->allocated_bytes == 0;
    kept_device_close(&device); /* objects left behind are reported here */
    clean = clean && n_validation_messages == 0;
    return clean ? 0 : -1;
}

int main(int argc, char **argv)
{
    ops = argc >= 2 ? kept_backend_find(argv[1]) : NULL;
    if (ops == NULL) {
        fprintf(stderr, "usage: test_backend vulkan|opencl|cpu [staging]\n");
        return 2;
    }
    params.mask_host_visible = argc >= 3 && strcmp(argv[2], "staging") == 0;
    char why[160] = "";
    uint32_t n = 0;
    struct kept_error fail;
    struct kept_device_desc first;
    if (kept_backend_list(ops, NULL, &first, 1, &n, why, &fail) != KEPT_OK) {
        fprintf(stderr, "%s\n", fail.message);
        return 1;
    }
    if (n == 0) {
        fprintf(stderr, "skipped: %s\n", why);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_buffers),
        cmocka_unit_test(test_buffers_refused),
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_bind_offset),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_queue_depth),
        cmocka_unit_test(test_seal),
        cmocka_unit_test(test_submit_fault),
        cmocka_unit_test(test_two_devices),
        cmocka_unit_test(test_host_memory_faults),
        cmocka_unit_test(test_timestamps),
        cmocka_unit_test(test_cache),
    };
    int n_failed = cmocka_run_group_tests_name(argv[1], tests, open_device, close_device);
    return n_failed != 0 || !clean;
}
