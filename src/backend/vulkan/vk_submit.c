/* backend/vulkan/vk_submit.c: queueing recordings, waiting, reading timestamps.
 *
 * One vkQueueSubmit a submission. Each of the first VK_FENCES submissions after a wait has a
 * fence; a wait waits for those in flight. A caller that queues more than that without waiting
 * loses nothing: the later ones go without a fence, and the wait covers them with an empty
 * submission behind them, since a fence signals after everything queued before it.
 */
#include "backend/vulkan/vk.h"

#include "base/clock.h"
#include "base/status.h"

#define BATCH 64u

kept_status vk_submit_commands(struct vk_device *device, const VkCommandBuffer *commands,
                               uint32_t n, struct kept_error *err)
{
    VkSubmitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
        .commandBufferCount = n,
        .pCommandBuffers = commands,
    };
    bool armed = device->n_fences < VK_FENCES;
    VkFence fence = armed ? device->fences[device->n_fences] : VK_NULL_HANDLE;
    VkResult r = device->fn.vkQueueSubmit(device->queue, n != 0 ? 1 : 0, &info, fence);
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "%u command buffers cannot be submitted", (unsigned)n);
    device->uncovered = !armed;
    device->n_fences += armed ? 1 : 0;
    return KEPT_OK;
}

/* Remembers what timestamps() is to read: the recordings of this submission, in order. */
static void remember(struct vk_device *device, struct kept_recording *const *recordings, uint32_t n)
{
    struct vk_recording **tail = &device->profiled;
    for (uint32_t i = 0; i < n; i++) {
        struct vk_recording *rec = (struct vk_recording *)recordings[i];
        *tail = rec;
        tail = &rec->next_profiled;
    }
    *tail = NULL;
}

kept_status vk_submit(struct kept_device *base, struct kept_recording *const *recordings,
                      uint32_t n, struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    VkCommandBuffer batch[BATCH];
    for (uint32_t first = 0; first < n; first += BATCH) {
        uint32_t count = n - first < BATCH ? n - first : BATCH;
        for (uint32_t i = 0; i < count; i++)
            batch[i] = ((struct vk_recording *)recordings[first + i])->commands;
        kept_status status = vk_submit_commands(device, batch, count, err);
        if (status != KEPT_OK)
            return status;
    }
    if (device->profile)
        remember(device, recordings, n);
    return KEPT_OK;
}

kept_status vk_wait(struct kept_device *base, uint64_t timeout_ns, struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    uint64_t start = kept_clock_ns();
    while (device->n_fences > 0) {
        uint64_t spent = kept_clock_ns() - start;
        uint64_t left = timeout_ns > spent ? timeout_ns - spent : 0;
        VkResult r = device->fn.vkWaitForFences(device->handle, device->n_fences, device->fences,
                                                VK_TRUE, left);
        if (r == VK_TIMEOUT)
            return kept_fail(err, KEPT_E_TIMEOUT, "the device was not done after %llu ms",
                             (unsigned long long)(timeout_ns / 1000000u));
        if (r == VK_SUCCESS)
            r = device->fn.vkResetFences(device->handle, device->n_fences, device->fences);
        if (r != VK_SUCCESS)
            return vk_fail(err, r, "waiting for the device failed");
        device->n_fences = 0;
        if (device->uncovered) {
            kept_status status = vk_submit_commands(device, NULL, 0, err);
            if (status != KEPT_OK)
                return status;
        }
    }
    return KEPT_OK;
}

kept_status vk_timestamps(struct kept_device *base, uint64_t *ns, uint32_t cap, uint32_t *n,
                          struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    uint32_t bits = device->card.timestamp_bits;
    uint64_t mask = bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
    double period = (double)device->card.props.limits.timestampPeriod;
    uint32_t at = 0;
    for (struct vk_recording *rec = device->profiled; rec != NULL; rec = rec->next_profiled) {
        for (uint32_t i = 0; i < rec->n_timed && at < cap; i++, at++) {
            uint64_t pair[2];
            VkResult r = device->fn.vkGetQueryPoolResults(device->handle, rec->queries, 2 * i, 2,
                                                          sizeof pair, pair, sizeof pair[0],
                                                          VK_QUERY_RESULT_64_BIT);
            if (r != VK_SUCCESS)
                return vk_fail(err, r, "the times of call %u cannot be read", (unsigned)at);
            ns[at] = (uint64_t)((double)((pair[1] - pair[0]) & mask) * period);
        }
    }
    *n = at;
    return KEPT_OK;
}
