/* profile.c: the fields of a device in JSON, both ways, by one table: what is written can be
 * read back. */
#include "profile.h"

#include <stdio.h>
#include <string.h>

#include "fail.h"
#include "json_out.h"

enum kind { TEXT, NUMBER32, NUMBER64, YES_NO };

struct field {
    const char *name;
    enum kind kind;
    size_t offset, size;
    bool feature; /* inside "features" */
};

#define FIELD(name, kind, feature)                               \
    {                                                            \
#name, kind, offsetof(struct kept_profile, name),        \
            sizeof(((struct kept_profile *)NULL)->name), feature \
    }

static const struct field fields[] = {
    FIELD(id, TEXT, false),
    FIELD(name, TEXT, false),
    FIELD(api, TEXT, false),
    FIELD(driver, TEXT, false),
    FIELD(type, TEXT, false),
    FIELD(architecture, TEXT, false),
    FIELD(vendor_id, NUMBER32, false),
    FIELD(memory_bytes, NUMBER64, false),
    FIELD(free_bytes, NUMBER64, false),
    FIELD(max_buffer_bytes, NUMBER64, true),
    FIELD(max_binding_bytes, NUMBER64, true),
    FIELD(binding_align_bytes, NUMBER32, true),
    FIELD(max_group_lanes, NUMBER32, true),
    FIELD(max_shared_bytes, NUMBER32, true),
    FIELD(subgroup_min, NUMBER32, true),
    FIELD(subgroup_max, NUMBER32, true),
    FIELD(compute_units, NUMBER32, true),
    FIELD(vector_width, NUMBER32, true),
    FIELD(word_order, NUMBER32, true),
    FIELD(loop_turns, NUMBER32, true),
    FIELD(host_visible, YES_NO, true),
    FIELD(host_buffers_mapped, YES_NO, true),
    FIELD(subgroup_ops, YES_NO, true),
    FIELD(int_dot, YES_NO, true),
    FIELD(timestamps, YES_NO, true),
};

#define N_FIELDS (sizeof fields / sizeof *fields)

static const char *vendor_name(uint32_t id)
{
    static const struct {
        uint32_t id;
        const char *name;
    } vendors[] = {{0x1002, "AMD"},    {0x1022, "AMD"},   {0x8086, "Intel"},
                   {0x10DE, "NVIDIA"}, {0x13B5, "ARM"},   {0x5143, "Qualcomm"},
                   {0x106B, "Apple"},  {0x10005, "Mesa"}, {0x10006, "PoCL"}};
    for (size_t i = 0; i < sizeof vendors / sizeof *vendors; i++)
        if (vendors[i].id == id)
            return vendors[i].name;
    return "";
}

json_t *cli_device_json(const struct kept_device_info *info)
{
    json_t *object = json_object(), *features = json_object();
    char uuid[33];
    for (size_t i = 0; i < N_FIELDS; i++) {
        const char *at = (const char *)&info->profile + fields[i].offset;
        json_t *value = NULL;
        switch (fields[i].kind) {
        case TEXT:
            value = cli_json_text(at, SIZE_MAX);
            break;
        case NUMBER32:
            value = json_integer(*(const uint32_t *)(const void *)at);
            break;
        case NUMBER64:
            value = json_integer((json_int_t) * (const uint64_t *)(const void *)at);
            break;
        case YES_NO:
            value = json_boolean(*(const bool *)(const void *)at);
            break;
        }
        json_object_set_new(fields[i].feature ? features : object, fields[i].name, value);
    }
    for (size_t i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", info->uuid[i]);
    json_object_set_new(object, "vendor", json_string(vendor_name(info->profile.vendor_id)));
    json_object_set_new(object, "uuid", json_string(uuid));
    json_object_set_new(object, "same_as", cli_json_text(info->same_as, SIZE_MAX));
    json_object_set_new(object, "usable", json_boolean(info->usable));
    json_object_set_new(object, "why_not", cli_json_text(info->why_not, SIZE_MAX));
    json_object_set_new(object, "features", features);
    return object;
}

static kept_status read_field(const json_t *object, const struct field *field, const char *path,
                              struct kept_profile *out, struct kept_error *err)
{
    const json_t *value = field->feature
                              ? json_object_get(json_object_get(object, "features"), field->name)
                              : json_object_get(object, field->name);
    char *at = (char *)out + field->offset;
    json_int_t number = json_integer_value(value);
    bool good = false;
    switch (field->kind) {
    case TEXT:
        good = json_is_string(value) && json_string_length(value) < field->size;
        if (good)
            memcpy(at, json_string_value(value), json_string_length(value) + 1);
        break;
    case NUMBER32:
        good = json_is_integer(value) && number >= 0 && number <= UINT32_MAX;
        if (good)
            *(uint32_t *)(void *)at = (uint32_t)number;
        break;
    case NUMBER64:
        good = json_is_integer(value) && number >= 0;
        if (good)
            *(uint64_t *)(void *)at = (uint64_t)number;
        break;
    case YES_NO:
        good = json_is_boolean(value);
        if (good)
            *(bool *)(void *)at = json_is_true(value);
        break;
    }
    return good ? KEPT_OK
                : cli_fail(err, KEPT_E_FORMAT, "'%.300s': a device has no valid %s'%s'", path,
                           field->feature ? "feature " : "", field->name);
}

/* discrete, integrated, then the rest, as the library chooses; software drivers of GPU APIs
 * last. */
static int rank_of(const json_t *device)
{
    const char *type = json_string_value(json_object_get(device, "type"));
    const char *api = json_string_value(json_object_get(device, "api"));
    if (!type || !json_is_true(json_object_get(device, "usable")))
        return 100;
    if (strcmp(type, "discrete") == 0)
        return 0;
    if (strcmp(type, "integrated") == 0)
        return 1;
    if (strcmp(type, "cpu") != 0)
        return 2;
    return api && strcmp(api, "cpu") == 0 ? 3 : 4;
}

static const json_t *choose(const json_t *list, const char *id)
{
    const json_t *best = NULL;
    int best_rank = 100;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *device = json_array_get(list, i);
        const char *its = json_string_value(json_object_get(device, "id"));
        const char *api = json_string_value(json_object_get(device, "api"));
        bool named = id && ((its && strcmp(its, id) == 0) || (api && strcmp(api, id) == 0));
        int rank = rank_of(device);
        if ((named || !id) && rank < best_rank) {
            best = device;
            best_rank = rank;
        }
    }
    return best;
}

kept_status cli_profile_read(const char *path, const char *id, struct kept_profile *out,
                             struct kept_error *err)
{
    json_error_t bad;
    json_t *root = json_load_file(path, 0, &bad);
    kept_status status = KEPT_OK;
    if (!root)
        return cli_fail(err, bad.line < 0 ? KEPT_E_IO : KEPT_E_FORMAT,
                        "profile '%.200s', line %d: %.160s", path, bad.line, bad.text);
    if (id && strcmp(id, "auto") == 0)
        id = NULL;
    const json_t *list = json_object_get(root, "devices");
    const json_t *device = list ? choose(list, id) : root;
    *out = (struct kept_profile){0};
    if (!device)
        status = cli_fail(err, KEPT_E_NO_DEVICE, "profile '%.200s' has no usable device%s%.60s%s",
                          path, id ? " '" : "", id ? id : "", id ? "'" : "");
    for (size_t i = 0; i < N_FIELDS && status == KEPT_OK; i++)
        status = read_field(device, &fields[i], path, out, err);
    json_decref(root);
    return status;
}
