/* sidecar_out.c: what a sidecar says: its model, what was measured with it, and which heads need
 * how much of the past. */
#include "sidecar_out.h"

#include <stdio.h>
#include <stdlib.h>

#include "json_out.h"
#include "past.h"

/* Budgets of heads are shown for a past long enough that rounding does not show. */
#define SHOWN_PAST 1000000u

static const double shown_shares[] = {0.5, 0.25, 0.125};
#define N_SHOWN (sizeof shown_shares / sizeof *shown_shares)

/* Fractions of all heads at a share, in millionths; NULL without memory. */
static uint32_t *fractions_at(const kept_sidecar *sidecar, double share)
{
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    uint32_t *out = calloc((size_t)info->n_layers * info->n_kv, sizeof *out);
    if (out && kept_sidecar_budgets(sidecar, SHOWN_PAST, (uint32_t)(share * SHOWN_PAST), 0, out,
                                    NULL) != KEPT_OK) {
        free(out);
        out = NULL;
    }
    return out;
}

json_t *cli_report_json(const struct kept_sidecar_report_info *r)
{
    char kv[32];
    snprintf(kv, sizeof kv, "%s:%s", cli_slot_type_name(r->k_type), cli_slot_type_name(r->v_type));
    return json_pack("{s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:f}", "context",
                     (json_int_t)r->context_tokens, "budget_slots", (json_int_t)r->budget_slots,
                     "tokens", (json_int_t)r->scored_tokens, "kv", kv, "kl_mean", r->kl_mean,
                     "ppl_ratio", r->ppl_ratio, "top1_agreement", r->top1_agreement, "copy_nats",
                     r->copy_nats);
}

static json_t *heads_json(const kept_sidecar *sidecar, double share)
{
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    uint32_t *fractions = fractions_at(sidecar, share);
    json_t *layers = json_array();
    for (uint32_t l = 0; fractions && l < info->n_layers; l++) {
        json_t *heads = json_array();
        for (uint32_t h = 0; h < info->n_kv; h++)
            json_array_append_new(
                heads, json_real((double)fractions[(size_t)l * info->n_kv + h] / SHOWN_PAST));
        json_array_append_new(layers, heads);
    }
    free(fractions);
    return layers;
}

json_t *cli_sidecar_json(const char *path, const kept_sidecar *sidecar)
{
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    struct kept_sidecar_report_info report;
    json_t *reports = json_array(), *curves = json_array();
    char header[20], model[20];
    snprintf(header, sizeof header, "%016llx", (unsigned long long)info->header_hash);
    snprintf(model, sizeof model, "%016llx", (unsigned long long)info->model_hash);
    for (uint32_t i = 0; kept_sidecar_report(sidecar, i, &report); i++)
        json_array_append_new(reports, cli_report_json(&report));
    for (size_t i = 0; i < N_SHOWN; i++)
        json_array_append_new(curves, json_pack("{s:f, s:o}", "share", shown_shares[i], "fractions",
                                                heads_json(sidecar, shown_shares[i])));
    return json_pack("{s:o, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:o, s:o}", "sidecar",
                     cli_json_text(path, SIZE_MAX), "header_hash", header, "model_hash", model,
                     "n_layers", (json_int_t)info->n_layers, "n_kv", (json_int_t)info->n_kv,
                     "n_shares", (json_int_t)info->n_shares, "n_tokens", (json_int_t)info->n_tokens,
                     "has_gate", (int)info->has_gate, "reports", reports, "curves", curves);
}

void cli_report_heading(void)
{
    printf("  %8s %8s  %-9s %8s %10s %10s %8s %10s\n", "context", "slots", "kv", "tokens", "KL",
           "perplexity", "top-1", "copy");
}

void cli_report_print(const struct kept_sidecar_report_info *r)
{
    char kv[32];
    snprintf(kv, sizeof kv, "%s%s%s", cli_slot_type_name(r->k_type),
             r->k_type == r->v_type ? "" : ":",
             r->k_type == r->v_type ? "" : cli_slot_type_name(r->v_type));
    printf("  %8u %8u  %-9s %8u %10.5f %+9.2f%% %7.2f%% %+10.4f\n", r->context_tokens,
           r->budget_slots, kv, r->scored_tokens, r->kl_mean, 100 * (r->ppl_ratio - 1),
           100 * r->top1_agreement, r->copy_nats);
}

static void print_heads(const kept_sidecar *sidecar)
{
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    uint32_t *fractions = fractions_at(sidecar, 0.25);
    puts("\nPercent of the past that each head keeps when all together keep 25 %:");
    for (uint32_t l = 0; fractions && l < info->n_layers; l++) {
        printf("  layer %-4u", l);
        for (uint32_t h = 0; h < info->n_kv; h++) {
            double percent = 100.0 * fractions[(size_t)l * info->n_kv + h] / SHOWN_PAST;
            if (percent > 0)
                printf(" %6.1f", percent);
            else
                printf(" %6s", "-");
        }
        putchar('\n');
    }
    free(fractions);
}

void cli_sidecar_print(const char *path, const kept_sidecar *sidecar)
{
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    struct kept_sidecar_report_info report;
    printf("%s: sidecar of the model with header %016llx, weights %016llx\n", path,
           (unsigned long long)info->header_hash, (unsigned long long)info->model_hash);
    printf("%u layers with %u KV heads, %u shares, fitted on %u tokens; %s\n", info->n_layers,
           info->n_kv, info->n_shares, info->n_tokens, info->has_gate ? "with a gate" : "no gate");
    if (info->n_reports) {
        puts("\nMeasured against everything kept, on text it was not fitted on:");
        cli_report_heading();
    }
    for (uint32_t i = 0; kept_sidecar_report(sidecar, i, &report); i++)
        cli_report_print(&report);
    print_heads(sidecar);
}
