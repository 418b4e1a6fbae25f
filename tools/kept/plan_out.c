/* plan_out.c: a plan as a table and as JSON. */
#include "plan_out.h"

#include <string.h>

#include "json_out.h"
#include "terminal.h"

static const char *const names[CLI_CATEGORIES] = {
    "weights", "kv",    "associative", "episodic", "scorer", "activations",
    "logits",  "state", "sampler",     "staging",  "driver"};

void cli_plan_categories(const kept_plan *plan, struct cli_category out[CLI_CATEGORIES])
{
    const struct kept_plan_info *info = kept_plan_info(plan);
    struct kept_region_info region;
    for (uint32_t c = 0; c < CLI_CATEGORIES; c++)
        out[c] = (struct cli_category){.name = names[c]};
    for (uint32_t i = 0; kept_plan_region(plan, i, &region); i++) {
        for (uint32_t c = 0; c < CLI_CATEGORIES; c++) {
            if (strcmp(names[c], region.category) != 0)
                continue;
            out[c].bytes += region.bytes;
            out[c].n_regions++;
        }
    }
    out[5].bytes = info->activation_bytes;
    out[CLI_CATEGORIES - 1].bytes = info->driver_bytes;
}

json_t *cli_plan_alternatives(const kept_plan *plan)
{
    json_t *list = json_array();
    struct kept_alternative_info alternative;
    for (uint32_t i = 0; kept_plan_alternative(plan, i, &alternative); i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:s}", "change", alternative.change,
                                        "total_bytes", (json_int_t)alternative.total_bytes,
                                        "quality", alternative.quality ? alternative.quality : ""));
    return list;
}

/* Budgets of KV heads, [layer][head]. */
static json_t *heads_json(const kept_plan *plan)
{
    json_t *layers = json_array();
    uint32_t budget, planned;
    for (uint32_t l = 0; kept_plan_head(plan, l, 0, &budget, &planned); l++) {
        json_t *heads = json_array();
        for (uint32_t h = 0; kept_plan_head(plan, l, h, &budget, &planned); h++)
            json_array_append_new(heads, json_integer(budget));
        json_array_append_new(layers, heads);
    }
    return layers;
}

static json_t *regions_json(const kept_plan *plan)
{
    json_t *list = json_array();
    const char *device = kept_plan_profile(plan)->id;
    struct kept_region_info r;
    for (uint32_t i = 0; kept_plan_region(plan, i, &r); i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:s}",
                                              "name", r.name, "device", device, "category",
                                              r.category, "bytes", (json_int_t)r.bytes, "offset",
                                              (json_int_t)r.offset, "buffer", (json_int_t)r.buffer,
                                              "first_use", (int)r.first_use, "last_use",
                                              (int)r.last_use, "why", r.why));
    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:i, s:n, s:i, s:i, s:s}", "name",
                                          "driver", "device", device, "category", "driver", "bytes",
                                          (json_int_t)kept_plan_info(plan)->driver_bytes, "offset",
                                          0, "buffer", "first_use", -1, "last_use", -1, "why",
                                          "estimate of what the driver takes for itself"));
    return list;
}

static json_t *choices_json(const kept_plan *plan)
{
    json_t *list = json_array();
    struct kept_choice_info choice;
    for (uint32_t i = 0; kept_plan_choice(plan, i, &choice); i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "what", choice.what, "chosen",
                                              choice.chosen, "why", choice.why));
    return list;
}

json_t *cli_plan_json(const kept_plan *plan)
{
    const struct kept_plan_info *info = kept_plan_info(plan);
    const struct kept_profile *profile = kept_plan_profile(plan);
    json_t *object = json_pack(
        "{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "fits",
        (int)info->fits, "budget_bytes", (json_int_t)info->budget_bytes, "total_bytes",
        (json_int_t)info->total_bytes, "planned_bytes", (json_int_t)info->planned_bytes,
        "driver_bytes", (json_int_t)info->driver_bytes, "weight_bytes",
        (json_int_t)info->weight_bytes, "kv_bytes", (json_int_t)info->kv_bytes, "activation_bytes",
        (json_int_t)info->activation_bytes, "lower_bound_bytes",
        (json_int_t)info->lower_bound_bytes, "context_tokens", (json_int_t)info->context_tokens,
        "chunk_tokens", (json_int_t)info->chunk_tokens, "logits_rows",
        (json_int_t)info->logits_rows, "scorer_bytes", (json_int_t)info->scorer_bytes, "slots",
        (json_int_t)info->slots, "retains", (int)info->retains);
    json_t *lists = json_pack(
        "{s:[{s:s, s:I, s:I}], s:o, s:o, s:o}", "devices", "name", profile->id, "total_bytes",
        (json_int_t)info->total_bytes, "planned_bytes", (json_int_t)info->planned_bytes, "regions",
        regions_json(plan), "choices", choices_json(plan), "heads", heads_json(plan));
    if (object && lists)
        json_object_update(object, lists);
    json_decref(lists);
    if (object && !info->fits)
        json_object_set_new(object, "alternatives", cli_plan_alternatives(plan));
    return object;
}

static void print_regions(FILE *to, const kept_plan *plan)
{
    struct kept_region_info r;
    char bytes[32], life[32];
    fprintf(to, "\n%-24s %-12s %11s %3s %12s  %-13s %s\n", "region", "category", "size", "buf",
            "offset", "calls", "why");
    for (uint32_t i = 0; kept_plan_region(plan, i, &r); i++) {
        if (r.first_use < 0)
            snprintf(life, sizeof life, "all");
        else
            snprintf(life, sizeof life, "%d-%d", (int)r.first_use, (int)r.last_use);
        fprintf(to, "%-24s %-12s %11s %3u %12llu  %-13s %s\n", r.name, r.category,
                cli_bytes(bytes, r.bytes), r.buffer, (unsigned long long)r.offset, life, r.why);
    }
}

/* What each KV head may keep, where heads differ from the context. */
static void print_heads(FILE *to, const kept_plan *plan)
{
    uint32_t budget, planned;
    fputs("\nBudgets of KV heads in slots (planned with the block that grows):\n", to);
    for (uint32_t l = 0; kept_plan_head(plan, l, 0, &budget, &planned); l++) {
        fprintf(to, "  layer %-4u", l);
        for (uint32_t h = 0; kept_plan_head(plan, l, h, &budget, &planned); h++)
            fprintf(to, " %6u (%u)", budget, planned);
        fputc('\n', to);
    }
}

static void print_totals(FILE *to, const kept_plan *plan)
{
    const struct kept_plan_info *info = kept_plan_info(plan);
    struct cli_category categories[CLI_CATEGORIES];
    uint64_t rest = info->planned_bytes;
    char bytes[32];
    cli_plan_categories(plan, categories);
    for (uint32_t c = 0; c < CLI_CATEGORIES; c++) {
        bool driver = c == CLI_CATEGORIES - 1;
        if (!driver)
            rest -= categories[c].bytes < rest ? categories[c].bytes : rest;
        if (driver && rest)
            fprintf(to, "  %-14s %11s\n", "alignment", cli_bytes(bytes, rest));
        if (!categories[c].bytes)
            continue;
        fprintf(to, "  %-14s %11s", categories[c].name, cli_bytes(bytes, categories[c].bytes));
        if (driver)
            fputs("   an estimate\n", to);
        else
            fprintf(to, "   %u region%s\n", categories[c].n_regions,
                    categories[c].n_regions == 1 ? "" : "s");
    }
    fprintf(to, "  %-14s %11s   %llu bytes, %llu of them own allocations\n", "total",
            cli_bytes(bytes, info->total_bytes), (unsigned long long)info->total_bytes,
            (unsigned long long)info->planned_bytes);
}

void cli_plan_print_alternatives(FILE *to, const kept_plan *plan)
{
    struct kept_alternative_info alternative;
    char bytes[32];
    if (!kept_plan_info(plan)->n_alternatives)
        fputs("No shorter context and no smaller chunk would fit.\n", to);
    else
        fputs("Nearest plans that fit:\n", to);
    for (uint32_t i = 0; kept_plan_alternative(plan, i, &alternative); i++)
        fprintf(to, "  %-36s %11s  %s\n", alternative.change,
                cli_bytes(bytes, alternative.total_bytes),
                alternative.quality ? alternative.quality : "");
}

void cli_plan_print(FILE *to, const kept_plan *plan, const char *model, bool regions)
{
    const struct kept_plan_info *info = kept_plan_info(plan);
    const struct kept_profile *profile = kept_plan_profile(plan);
    struct kept_choice_info choice;
    char total[32], budget[32], packed[32];
    fprintf(to, "%s on %s (%s)\n\n", model, profile->id, profile->name);
    print_totals(to, plan);
    if (info->lower_bound_bytes)
        fprintf(to, "\nActivations are packed into %s, %.3f times the lower bound.\n",
                cli_bytes(packed, info->activation_bytes),
                (double)info->activation_bytes / (double)info->lower_bound_bytes);
    fputs("\nChoices:\n", to);
    for (uint32_t i = 0; kept_plan_choice(plan, i, &choice); i++)
        fprintf(to, "  %-10s %-16s  %s\n", choice.what, choice.chosen, choice.why);
    if (regions && info->retains)
        print_heads(to, plan);
    if (regions)
        print_regions(to, plan);
    if (!info->budget_bytes)
        fputs("\nThere is no known budget: the device does not say how much memory is free.\n", to);
    else
        fprintf(to, "\n%s: %s of %s.\n", info->fits ? "Fits" : "DOES NOT FIT",
                cli_bytes(total, info->total_bytes), cli_bytes(budget, info->budget_bytes));
    if (!info->fits)
        cli_plan_print_alternatives(to, plan);
}
