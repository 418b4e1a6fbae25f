/* cmd_devices.c: kept devices: every device through every API, and why others are not usable. */
#include <stdio.h>

#include "kept/kept.h"

#include "commands.h"
#include "json_out.h"
#include "profile.h"
#include "terminal.h"

static void print_json(const struct kept_device_list *list)
{
    json_t *devices = json_array(), *apis = json_array();
    for (uint32_t i = 0; i < list->n_devices; i++)
        json_array_append_new(devices, cli_device_json(&list->devices[i]));
    for (uint32_t i = 0; i < list->n_apis; i++)
        json_array_append_new(apis, json_pack("{s:s, s:i, s:o}", "api", list->apis[i].api,
                                              "n_devices", (int)list->apis[i].n_devices, "why",
                                              cli_json_text(list->apis[i].why, SIZE_MAX)));
    cli_json_print(json_pack("{s:o, s:o}", "devices", devices, "apis", apis), true);
}

static void print_device(const struct kept_device_info *info)
{
    const struct kept_profile *profile = &info->profile;
    char memory[32], unused[32];
    printf("%-10s %-10s %11s %11s  %s\n", profile->id, profile->type,
           profile->memory_bytes ? cli_bytes(memory, profile->memory_bytes) : "unknown",
           profile->free_bytes ? cli_bytes(unused, profile->free_bytes) : "unknown", profile->name);
    printf("%-10s %s%s%s\n", "", profile->driver, info->same_as[0] ? "; same card as " : "",
           info->same_as);
    if (!info->usable)
        printf("%-10s not usable: %s\n", "", info->why_not);
}

static void print_table(const struct kept_device_list *list)
{
    printf("%-10s %-10s %11s %11s  %s\n", "device", "type", "memory", "free", "name, driver");
    for (uint32_t i = 0; i < list->n_devices; i++)
        print_device(&list->devices[i]);
    for (uint32_t i = 0; i < list->n_apis; i++)
        if (list->apis[i].n_devices == 0)
            printf("%-10s none: %s\n", list->apis[i].api,
                   list->apis[i].why[0] ? list->apis[i].why : "the API lists no device");
}

enum cli_exit cli_devices(const struct cli_settings *settings)
{
    struct kept_device_list *list = NULL;
    struct kept_error err = {0};
    struct kept_log log = cli_log(settings);
    if (kept_device_list_create(&log, &list, &err) != KEPT_OK)
        return cli_report(settings, &err);
    if (settings->json)
        print_json(list);
    else
        print_table(list);
    kept_device_list_destroy(&list);
    return CLI_OK;
}
