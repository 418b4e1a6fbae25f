/* core/device.c: listing devices across backends, choosing one by name, and its profile. */
#include "kept/device.h"

#include <string.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/status.h"
#include "base/str.h"

#define MAX_DEVICES 32 /* of one API */

static const char *const type_names[] = {"discrete", "integrated", "cpu", "other"};

static void fill_profile(const struct kept_device_desc *desc, const struct kept_caps *caps,
                         struct kept_profile *out)
{
    *out = (struct kept_profile){0};
    if (strcmp(desc->api, "cpu") == 0)
        kept_snprintf(out->id, sizeof out->id, "cpu");
    else
        kept_snprintf(out->id, sizeof out->id, "%s:%u", desc->api, desc->index);
    kept_snprintf(out->name, sizeof out->name, "%s", desc->name);
    kept_snprintf(out->driver, sizeof out->driver, "%s", desc->driver);
    kept_snprintf(out->api, sizeof out->api, "%s", desc->api);
    kept_snprintf(out->type, sizeof out->type, "%s", type_names[desc->type]);
    kept_snprintf(out->architecture, sizeof out->architecture, "%s", desc->architecture);
    out->vendor_id = desc->vendor_id;
    out->memory_bytes = desc->memory_bytes;
    out->free_bytes = desc->free_bytes;
    if (!caps)
        return;
    out->max_buffer_bytes = caps->max_buffer_bytes;
    out->max_binding_bytes = caps->max_binding_bytes;
    out->binding_align_bytes = caps->binding_align_bytes;
    out->staging_bytes = caps->staging_bytes;
    out->max_group_lanes = caps->max_group_lanes;
    out->max_shared_bytes = caps->max_shared_bytes;
    out->subgroup_min = caps->subgroup_min;
    out->subgroup_max = caps->subgroup_max;
    out->compute_units = caps->compute_units;
    out->vector_width = caps->vector_width;
    out->word_order = caps->order;
    out->loop_turns = caps->loop_turns;
    out->host_visible = caps->host_visible;
    out->host_buffers_mapped = caps->host_buffers_mapped;
    out->subgroup_ops = caps->subgroup_ops;
    out->int_dot = caps->int_dot;
    out->timestamps = caps->timestamps;
}

static bool same_card(const struct kept_device_desc *a, const struct kept_device_desc *b)
{
    static const uint8_t none[16];
    if (memcmp(a->uuid, none, 16) != 0 && memcmp(a->uuid, b->uuid, 16) == 0)
        return true;
    return a->has_pci && b->has_pci && memcmp(a->pci, b->pci, sizeof a->pci) == 0;
}

struct all_devices {
    struct kept_device_desc descs[KEPT_BACKENDS * MAX_DEVICES];
    uint32_t backend[KEPT_BACKENDS * MAX_DEVICES];
    uint32_t n;
    char why[KEPT_BACKENDS][160];
    uint32_t counts[KEPT_BACKENDS];
};

/* Only one API when it was named: starting the drivers of the others takes time. */
static void list_all(const struct kept_log *log, const struct kept_backend_ops *only,
                     struct all_devices *all)
{
    for (uint32_t b = 0; b < KEPT_BACKENDS; b++) {
        struct kept_error err = {0};
        if (only && kept_backend_at(b) != only)
            continue;
        uint32_t n = 0;
        kept_status status = kept_backend_list(kept_backend_at(b), log, all->descs + all->n,
                                               MAX_DEVICES, &n, all->why[b], &err);
        if (status != KEPT_OK) {
            kept_snprintf(all->why[b], sizeof all->why[b], "%.150s", err.message);
            n = 0;
        }
        if (n > MAX_DEVICES)
            n = MAX_DEVICES;
        all->counts[b] = n;
        for (uint32_t i = 0; i < n; i++)
            all->backend[all->n + i] = b;
        all->n += n;
    }
}

static void fill_info(const struct all_devices *all, uint32_t i, struct kept_device_info *out)
{
    const struct kept_device_desc *desc = &all->descs[i];
    fill_profile(desc, NULL, &out->profile);
    memcpy(out->uuid, desc->uuid, sizeof out->uuid);
    out->usable = desc->usable;
    kept_snprintf(out->why_not, sizeof out->why_not, "%s", desc->why_not);
    for (uint32_t j = 0; j < i; j++) {
        if (!same_card(desc, &all->descs[j]))
            continue;
        struct kept_profile first;
        fill_profile(&all->descs[j], NULL, &first);
        kept_snprintf(out->same_as, sizeof out->same_as, "%s", first.id);
        return;
    }
}

/* Limits are only known of an opened device. */
static void fill_limits(const struct all_devices *all, uint32_t i, const struct kept_log *log,
                        struct kept_device_info *out)
{
    struct kept_device_params params = {.log = log};
    struct kept_device *device;
    struct kept_error err = {0};
    if (!out->usable)
        return;
    if (kept_device_open(kept_backend_at(all->backend[i]), all->descs[i].index, &params, &device,
                         &err) == KEPT_OK) {
        kept_device_profile(device, &out->profile);
        kept_device_close(&device);
        return;
    }
    out->usable = false;
    kept_snprintf(out->why_not, sizeof out->why_not, "%.150s", err.message);
}

kept_status kept_device_list_create(const struct kept_log *log, struct kept_device_list **out,
                                    struct kept_error *err)
{
    if (!out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_device_list_create needs out");
    *out = NULL;
    struct all_devices *all = kept_calloc(1, sizeof *all);
    struct kept_device_list *list = kept_calloc(1, sizeof *list);
    if (all)
        list_all(log, NULL, all);
    if (list && all)
        list->devices = kept_calloc(all->n ? all->n : 1, sizeof *list->devices);
    if (!all || !list || !list->devices) {
        kept_free(all);
        kept_device_list_destroy(&list);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a list of devices");
    }
    list->n_devices = all->n;
    for (uint32_t i = 0; i < all->n; i++) {
        fill_info(all, i, &list->devices[i]);
        fill_limits(all, i, log, &list->devices[i]);
    }
    list->n_apis = KEPT_BACKENDS;
    for (uint32_t b = 0; b < KEPT_BACKENDS; b++) {
        struct kept_api_info *api = &list->apis[b];
        kept_snprintf(api->api, sizeof api->api, "%s", kept_backend_at(b)->name);
        api->n_devices = all->counts[b];
        kept_snprintf(api->why, sizeof api->why, "%s", all->why[b]);
    }
    kept_free(all);
    *out = list;
    return KEPT_OK;
}

void kept_device_list_destroy(struct kept_device_list **list)
{
    if (!list || !*list)
        return;
    kept_free((*list)->devices);
    kept_free(*list);
    *list = NULL;
}

/* Lower is better; devices of CPU type come last and only when their API was named. */
static int rank_of(const struct kept_device_desc *desc)
{
    switch (desc->type) {
    case KEPT_DEVICE_DISCRETE:
        return 0;
    case KEPT_DEVICE_INTEGRATED:
        return 1;
    case KEPT_DEVICE_OTHER:
        return 2;
    default:
        return 3;
    }
}

struct wanted {
    const struct kept_backend_ops *ops; /* NULL: auto */
    bool has_index;
    uint32_t index;
};

static kept_status parse_spec(const char *spec, struct wanted *out, struct kept_error *err)
{
    *out = (struct wanted){0};
    if (strcmp(spec, "auto") == 0)
        return KEPT_OK;
    const char *colon = strchr(spec, ':');
    char name[16];
    size_t n = colon ? (size_t)(colon - spec) : strlen(spec);
    uint64_t index = 0;
    kept_snprintf(name, sizeof name, "%.*s", (int)(n < 15 ? n : 15), spec);
    out->ops = n < 15 ? kept_backend_find(name) : NULL;
    bool index_ok = !colon || (kept_parse_u64(colon + 1, &index) && index < MAX_DEVICES);
    if (!out->ops || !index_ok)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "device '%.60s' is none of auto, vulkan[:I], opencl[:I], cpu", spec);
    out->has_index = colon != NULL;
    out->index = (uint32_t)index;
    return KEPT_OK;
}

static bool is_cpu_api(const struct kept_device_desc *desc)
{
    return strcmp(desc->api, "cpu") == 0;
}

/* Index into all->descs, or all->n. */
static uint32_t choose(const struct all_devices *all, const struct wanted *wanted)
{
    uint32_t best = all->n;
    int best_rank = 100;
    for (uint32_t i = 0; i < all->n; i++) {
        const struct kept_device_desc *desc = &all->descs[i];
        int rank = rank_of(desc);
        if (wanted->ops && kept_backend_at(all->backend[i]) != wanted->ops)
            continue;
        if (wanted->has_index && desc->index == wanted->index)
            return i;
        if (wanted->has_index || !desc->usable)
            continue;
        if (!wanted->ops && rank == 3 && !is_cpu_api(desc))
            continue;
        if (rank < best_rank) {
            best = i;
            best_rank = rank;
        }
    }
    return best;
}

static kept_status say_none(const struct all_devices *all, const char *spec,
                            const struct wanted *wanted, struct kept_error *err)
{
    for (uint32_t b = 0; b < KEPT_BACKENDS; b++) {
        if (!wanted->ops || kept_backend_at(b) != wanted->ops)
            continue;
        if (all->counts[b] == 0)
            return kept_fail(err, KEPT_E_NO_DEVICE, "no device '%s': %s", spec,
                             all->why[b][0] ? all->why[b] : "the API lists none");
        return kept_fail(err, KEPT_E_NO_DEVICE, "no device '%s': %s has %u, see 'kept devices'",
                         spec, wanted->ops->name, all->counts[b]);
    }
    return kept_fail(err, KEPT_E_NO_DEVICE, "no usable device; 'kept devices' says why");
}

static void say_choice(const struct all_devices *all, uint32_t chosen, const struct wanted *wanted,
                       char choice[256])
{
    const struct kept_device_desc *desc = &all->descs[chosen];
    struct kept_profile profile;
    fill_profile(desc, NULL, &profile);
    const char *why = wanted->ops          ? "asked for"
                      : is_cpu_api(desc)   ? "no usable GPU was found"
                      : rank_of(desc) == 0 ? "discrete GPU"
                                           : "no discrete GPU was found";
    kept_snprintf(choice, 256, "%s (%s): %s", profile.id, desc->name, why);
}

static kept_status open_chosen(const struct all_devices *all, uint32_t chosen,
                               const struct kept_device_options *options, kept_device **out,
                               struct kept_error *err)
{
    const struct kept_device_desc *desc = &all->descs[chosen];
    char cache[1024];
    if (!desc->usable)
        return kept_fail(err, KEPT_E_NO_DEVICE, "%s:%u (%s) is not usable: %s", desc->api,
                         desc->index, desc->name, desc->why_not);
    struct kept_device_params params = {.log = options->log,
                                        .cache_dir = options->cache_dir,
                                        .n_threads = options->n_threads,
                                        .validate = options->validate};
    if (!params.cache_dir && kept_cache_dir(cache, sizeof cache))
        params.cache_dir = cache;
    if (params.cache_dir && params.cache_dir[0] == '\0')
        params.cache_dir = NULL;
    return kept_device_open(kept_backend_at(all->backend[chosen]), desc->index, &params, out, err);
}

kept_status kept_device_create(const char *spec, const struct kept_device_options *options,
                               kept_device **out, char choice[256], struct kept_error *err)
{
    const struct kept_device_options none = {0};
    struct wanted wanted;
    if (out)
        *out = NULL;
    if (!spec || !out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_device_create needs a device name and out");
    kept_status status = parse_spec(spec, &wanted, err);
    if (status != KEPT_OK)
        return status;
    if (!options)
        options = &none;
    struct all_devices *all = kept_calloc(1, sizeof *all);
    if (!all)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a list of devices");
    list_all(options->log, wanted.ops, all);
    uint32_t chosen = choose(all, &wanted);
    if (chosen == all->n)
        status = say_none(all, spec, &wanted, err);
    else
        status = open_chosen(all, chosen, options, out, err);
    if (status == KEPT_OK && choice)
        say_choice(all, chosen, &wanted, choice);
    kept_free(all);
    return status;
}

void kept_device_destroy(kept_device **device)
{
    kept_device_close(device);
}

void kept_device_profile(kept_device *device, struct kept_profile *out)
{
    struct kept_memory_info memory;
    fill_profile(&device->desc, &device->caps, out);
    if (kept_device_memory(device, &memory, NULL) != KEPT_OK)
        return;
    out->memory_bytes = memory.total_bytes;
    if (memory.budget_bytes)
        out->free_bytes =
            memory.budget_bytes > memory.usage_bytes ? memory.budget_bytes - memory.usage_bytes : 1;
}
