/* core/plan_fit.h: does a plan fit its budget, and which plans near it would. */
#ifndef KEPT_CORE_PLAN_FIT_H
#define KEPT_CORE_PLAN_FIT_H

#include "core/plan_internal.h"

/* Plan without verdict (plan.c); used to try neighbours, and by tests with a tuning of their own.
 * */
kept_status kept_plan_make(const kept_model *model, const struct kept_profile *profile,
                           const struct kept_tuning *tuning, const struct kept_plan_params *params,
                           kept_plan **out, struct kept_error *err);

/* What it costs to keep this share of the past: the sidecar's report, as a sentence. */
void kept_plan_quality(const struct kept_plan *plan, uint32_t percent, char *text, size_t n);

/* Sets info.budget_bytes and info.fits; when it does not fit, fills the alternatives. */
void kept_plan_judge(struct kept_plan *plan);

#endif
