/* plan_out.h: a plan as text, JSON and a picture; all three show the same numbers. */
#ifndef KEPT_TOOL_PLAN_OUT_H
#define KEPT_TOOL_PLAN_OUT_H

#include <stdio.h>

#include <jansson.h>

#include "kept/plan.h"

#define CLI_CATEGORIES 11u

/* Regions of each category, in the order of the contract. */
struct cli_category {
    const char *name;
    uint64_t bytes;
    uint32_t n_regions;
};

/* Bytes and regions by category. Activations and staging share memory, so that the sum of
 * their regions is more than what they take: both count as packed. The last category is the
 * driver's estimate. */
void cli_plan_categories(const kept_plan *plan, struct cli_category out[CLI_CATEGORIES]);

json_t *cli_plan_json(const kept_plan *plan);
json_t *cli_plan_alternatives(const kept_plan *plan);
void cli_plan_print(FILE *to, const kept_plan *plan, const char *model, bool regions);
void cli_plan_print_alternatives(FILE *to, const kept_plan *plan);
kept_status cli_plan_svg(const kept_plan *plan, const char *model, const char *path,
                         struct kept_error *err);

#endif
