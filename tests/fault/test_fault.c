/* Injected failures: the n-th host allocation, the n-th device allocation, the n-th submission, for
 * every n until nothing fails any more, from opening a model to the second token. Each must give an
 * error with a message, and leave nothing behind: no live host block, no device byte; and the same
 * device must work afterwards.
 *
 * test_fault BACKEND MODEL; exit code 77 where the backend has no device.
 */
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "kept/kept.h"

#define SKIP 77

static int n_failed;

static void check(bool ok, const char *what, unsigned n, const struct kept_error *err)
{
    if (ok)
        return;
    n_failed++;
    fprintf(stderr, "FAILED at n = %u: %s (%s)\n", n, what, err->message);
}

static kept_status evaluate(kept_session *session, kept_sampler *sampler, struct kept_error *err)
{
    static const int32_t prompt[] = {1, 5, 9, 12, 3};
    struct kept_eval_params eval = {.tokens = prompt, .n_tokens = 5};
    int32_t token = 0;
    kept_status status = kept_session_eval(session, &eval, err);
    if (status == KEPT_OK)
        status = kept_session_sample(session, sampler, &token, err);
    eval.tokens = &token;
    eval.n_tokens = 1;
    if (status == KEPT_OK)
        status = kept_session_eval(session, &eval, err);
    return status;
}

/* Everything a program does with a model, on a device that is open already. */
static kept_status whole_way(const char *path, kept_device *device, struct kept_error *err)
{
    kept_model *model = NULL;
    kept_plan *plan = NULL;
    kept_session *session = NULL;
    kept_sampler *sampler = NULL;
    struct kept_profile profile;
    struct kept_sampler_params sampling = {.temperature = 0.5f};
    struct kept_plan_params params = {.context_tokens = 64, .chunk_tokens = 16};
    kept_device_profile(device, &profile);
    kept_status status = kept_model_open(path, NULL, &model, err);
    if (status == KEPT_OK)
        status = kept_plan_create(model, &profile, &params, &plan, err);
    if (status == KEPT_OK)
        status = kept_session_create(plan, device, NULL, NULL, &session, err);
    if (status == KEPT_OK)
        status = kept_sampler_create(&sampling, kept_model_info(model)->n_vocab, &sampler, err);
    if (status == KEPT_OK)
        status = evaluate(session, sampler, err);
    kept_sampler_destroy(&sampler);
    kept_session_destroy(&session);
    kept_plan_destroy(&plan);
    kept_model_close(&model);
    return status;
}

/* One kind of failure: how to arm it, and how many chances it has had so far. */
struct kind {
    const char *what;
    void (*arm)(kept_device *device, uint64_t n);
    uint64_t (*count)(const kept_device *device);
};

static void arm_host(kept_device *device, uint64_t n)
{
    (void)device;
    kept_alloc_fail_at(n);
}

static uint64_t count_host(const kept_device *device)
{
    (void)device;
    return kept_alloc_calls();
}

static void arm_device(kept_device *device, uint64_t n)
{
    device->fail_allocation_at = n;
}

static uint64_t count_device(const kept_device *device)
{
    return device->n_allocations;
}

static void arm_submit(kept_device *device, uint64_t n)
{
    device->fail_submit_at = n;
}

static uint64_t count_submit(const kept_device *device)
{
    return device->n_submits;
}

static void fail_each(const struct kind *kind, const char *path, kept_device *device)
{
    struct kept_error err = {0};
    uint64_t before = kind->count(device), n_survived = 0;
    check(whole_way(path, device, &err) == KEPT_OK, "the way without failures", 0, &err);
    uint64_t chances = kind->count(device) - before;
    for (uint64_t n = 1; n <= chances && n_failed < 10; n++) {
        int64_t live = kept_alloc_live();
        err.message[0] = '\0';
        kind->arm(device, n);
        kept_status status = whole_way(path, device, &err);
        kind->arm(device, 0);
        n_survived += status == KEPT_OK;
        check(status == KEPT_OK || err.message[0] != '\0', "an error without a message",
              (unsigned)n, &err);
        check(kept_alloc_live() == live, "host memory is left behind", (unsigned)n, &err);
        check(device->allocated_bytes == 0, "device memory is left behind", (unsigned)n, &err);
        check(!device->lost, "the device counts as lost", (unsigned)n, &err);
    }
    err.message[0] = '\0';
    check(whole_way(path, device, &err) == KEPT_OK, "the way after all failures", 0, &err);
    check(chances > n_survived, "some failure was an error", (unsigned)chances, &err);
    fprintf(stderr, "%s: %u places, %u of them survived\n", kind->what, (unsigned)chances,
            (unsigned)n_survived);
}

int main(int argc, char **argv)
{
    struct kept_error err = {0};
    kept_device *device;
    char choice[256];
    if (argc != 3)
        return 2;
    struct kept_device_options options = {.n_threads = 1};
    kept_status status = kept_device_create(argv[1], &options, &device, choice, &err);
    if (status != KEPT_OK) {
        fprintf(stderr, "skipped: %s\n", err.message);
        return status == KEPT_E_NO_DEVICE ? SKIP : 1;
    }
    static const struct kind device_memory = {"device allocations", arm_device, count_device};
    static const struct kind submissions = {"submissions", arm_submit, count_submit};
    static const struct kind host_memory = {"host allocations", arm_host, count_host};
    fail_each(&device_memory, argv[2], device);
    fail_each(&submissions, argv[2], device);
    if (strcmp(argv[1], "cpu") == 0) /* the same library code runs on every backend */
        fail_each(&host_memory, argv[2], device);
    kept_device_destroy(&device);
    return n_failed ? 1 : 0;
}
