/* tests/golden/kept_sets.c: what a bounded session keeps, as JSON: for comparison with an
 * independent implementation of the same rules.
 *
 *   kept_sets MODEL IDS DEVICE TOKENS [name value]…
 *     IDS      a file of token ids; the first TOKENS are evaluated, the rest is scored with hold
 *     budget N | percent P, window N, sinks N, block N, refresh N, merge 0|1, scorer 0|2 (expected,
 *     keydiff), mode 0|1|2, kv 0|1|2, compact 0|1, chunk N, sidecar FILE, context N
 *     budgets FILE   one for every head [layer][head], as text; comes after budget, window, sinks
 *
 * Output: budgets, kept positions and biases [layer][head], nll and the sum of logits per scored
 * token, counts.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kept/kept.h"

#define MAX_TOKENS 200000

struct run {
    kept_model *model;
    kept_device *device;
    kept_plan *plan;
    kept_session *session;
    kept_sidecar *sidecar;
    int32_t *tokens;
    uint32_t n_tokens, n_prefix, n_vocab;
    double *nll, *sum;
};

static int fail(const struct kept_error *err)
{
    fprintf(stderr, "kept_sets: %s\n", err->message);
    return 1;
}

static void score(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct run *run = user;
    for (uint32_t i = 0; i < n_rows; i++) {
        const float *row = logits + (size_t)i * run->n_vocab;
        uint32_t at = first + i + 1;
        double max = row[0], sum = 0, all = 0;
        for (uint32_t k = 0; k < run->n_vocab; k++)
            max = row[k] > max ? (double)row[k] : max;
        for (uint32_t k = 0; k < run->n_vocab; k++) {
            sum += exp((double)row[k] - max);
            all += (double)row[k];
        }
        if (at >= run->n_tokens)
            continue;
        run->nll[at - run->n_prefix] = max + log(sum) - (double)row[run->tokens[at]];
        run->sum[at - run->n_prefix] = all;
    }
}

static void print_layers(struct run *run, bool biases)
{
    struct kept_error err;
    int32_t *positions = malloc(MAX_TOKENS * sizeof *positions);
    float *bias = malloc(MAX_TOKENS * sizeof *bias);
    uint32_t budget, planned, n;
    for (uint32_t l = 0; kept_plan_head(run->plan, l, 0, &budget, &planned); l++) {
        printf("%s[", l ? ",\n" : "");
        for (uint32_t h = 0; kept_plan_head(run->plan, l, h, &budget, &planned); h++) {
            printf("%s[", h ? "," : "");
            if (kept_session_kept(run->session, l, h, positions, bias, MAX_TOKENS, &n, &err) !=
                KEPT_OK) {
                fail(&err);
                n = 0;
            }
            for (uint32_t i = 0; i < n; i++)
                if (biases)
                    printf("%s%.6g", i ? "," : "", (double)bias[i]);
                else
                    printf("%s%d", i ? "," : "", positions[i]);
            printf("]");
        }
        printf("]");
    }
    free(positions);
    free(bias);
}

static void print_budgets(const struct run *run)
{
    uint32_t budget, planned;
    for (uint32_t l = 0; kept_plan_head(run->plan, l, 0, &budget, &planned); l++) {
        printf("%s[", l ? "," : "");
        for (uint32_t h = 0; kept_plan_head(run->plan, l, h, &budget, &planned); h++)
            printf("%s%u", h ? "," : "", budget);
        printf("]");
    }
}

static void print(struct run *run, uint32_t n_scored)
{
    struct kept_slot_counts counts = {0};
    struct kept_error err;
    const struct kept_plan_info *info = kept_plan_info(run->plan);
    struct kept_session_stats stats;
    kept_session_stats(run->session, &stats);
    if (kept_session_slots(run->session, &counts, &err) != KEPT_OK)
        fail(&err);
    printf("{\"live\": %llu, \"evicted\": %llu, \"kv_bytes\": %llu, \"scorer_bytes\": %llu, "
           "\"prefill_ns\": %llu, \"budgets\": [",
           (unsigned long long)counts.live, (unsigned long long)counts.evicted,
           (unsigned long long)info->kv_bytes, (unsigned long long)info->scorer_bytes,
           (unsigned long long)stats.prefill_ns);
    print_budgets(run);
    printf("],\n\"kept\": [");
    print_layers(run, false);
    printf("],\n\"bias\": [");
    print_layers(run, true);
    printf("],\n\"nll\": [");
    for (uint32_t i = 1; i < n_scored; i++)
        printf("%s%.8g", i > 1 ? "," : "", run->nll[i]);
    printf("],\n\"logit_sum\": [");
    for (uint32_t i = 1; i < n_scored; i++)
        printf("%s%.10g", i > 1 ? "," : "", run->sum[i]);
    printf("]}\n");
}

/* A curve with these budgets where it is asked: fractions of what is not safe, which together are
 * the mean's. What is left of it after whole slots is spread evenly and lost to rounding again. */
static bool read_fractions(const char *path, const struct kept_plan_params *p, uint32_t n,
                           float *shares, float *fractions)
{
    FILE *file = fopen(path, "r");
    uint32_t n_read = 0, budget;
    double least =
        (p->retain.sinks ? p->retain.sinks : 4) + (p->retain.protect ? p->retain.protect : 128);
    double mean = p->retain.budget_slots, free_slots = p->context_tokens - least, sum = 0;
    while (file && n_read < n && fscanf(file, "%u", &budget) == 1) {
        sum += budget;
        fractions[n_read++] = (float)budget;
    }
    if (file)
        fclose(file);
    double rest = mean - sum / n;
    for (uint32_t i = 0; i < n; i++) {
        fractions[i] = (float)((fractions[i] + rest - least) / free_slots);
        fractions[n + i] = 1;
    }
    shares[0] = (float)((mean - least) / free_slots);
    shares[1] = 1;
    return n_read == n && rest > 0 && rest < 1;
}

/* Budgets of heads reach a plan through a sidecar. */
static bool set_budgets(struct kept_plan_params *p, struct run *run, const char *path,
                        struct kept_error *err)
{
    const struct kept_model_info *info = kept_model_info(run->model);
    uint32_t n = info->n_layers * info->n_kv_head;
    float shares[2], *fractions = calloc(2 * (size_t)n, sizeof *fractions);
    struct kept_sidecar_params params = {
        .n_tokens = 1, .n_shares = 2, .shares = shares, .fractions = fractions};
    char file[512];
    snprintf(file, sizeof file, "%s.kept", path);
    bool ok = fractions && read_fractions(path, p, n, shares, fractions);
    if (!ok)
        snprintf(err->message, sizeof err->message, "%s: not %u budgets of this mean", path, n);
    ok = ok && kept_sidecar_write(file, run->model, &params, err) == KEPT_OK &&
         kept_sidecar_open(file, run->model, &run->sidecar, err) == KEPT_OK;
    p->retain.sidecar = run->sidecar;
    remove(file);
    free(fractions);
    return ok;
}

static bool set(struct kept_plan_params *p, struct run *run, const char *name, const char *value,
                struct kept_error *err)
{
    uint32_t n = (uint32_t)strtoul(value, NULL, 10);
    struct kept_retain_params *r = &p->retain;
    if (strcmp(name, "sidecar") == 0) {
        r->sidecar = NULL;
        if (kept_sidecar_open(value, run->model, &run->sidecar, err) != KEPT_OK)
            return false;
        r->sidecar = run->sidecar;
        return true;
    }
    if (strcmp(name, "budgets") == 0)
        return set_budgets(p, run, value, err);
    if (strcmp(name, "percent") == 0)
        r->budget_percent = strtof(value, NULL);
    else if (strcmp(name, "merge") == 0)
        r->no_merge = n == 0;
    else if (strcmp(name, "scorer") == 0)
        r->scorer = (enum kept_scorer)n;
    else if (strcmp(name, "mode") == 0)
        r->mode = (enum kept_retain)n;
    else if (strcmp(name, "kv") == 0)
        p->k_type = p->v_type = (enum kept_slot_type)n;
    else if (strcmp(name, "compact") == 0)
        r->positions = n ? KEPT_POSITIONS_COMPACT : KEPT_POSITIONS_ABSOLUTE;
    else if (strcmp(name, "window") == 0)
        r->protect = (int32_t)n;
    else if (strcmp(name, "sinks") == 0)
        r->sinks = (int32_t)n;
    else {
        uint32_t *to = strcmp(name, "budget") == 0    ? &r->budget_slots
                       : strcmp(name, "block") == 0   ? &r->block_tokens
                       : strcmp(name, "refresh") == 0 ? &r->refresh_tokens
                       : strcmp(name, "chunk") == 0   ? &p->chunk_tokens
                       : strcmp(name, "context") == 0 ? &p->context_tokens
                                                      : NULL;
        if (!to) {
            fprintf(stderr, "kept_sets: no option '%s'\n", name);
            return false;
        }
        *to = n;
    }
    return true;
}

static bool read_ids(struct run *run, const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    run->tokens = malloc(MAX_TOKENS * sizeof *run->tokens);
    while (run->n_tokens < MAX_TOKENS && fscanf(file, "%d", &run->tokens[run->n_tokens]) == 1)
        run->n_tokens++;
    fclose(file);
    return run->n_tokens > 0;
}

static kept_status start(struct run *run, const char *spec, const struct kept_plan_params *params,
                         struct kept_error *err)
{
    struct kept_profile profile;
    char choice[256];
    kept_status status = kept_device_create(spec, NULL, &run->device, choice, err);
    if (status != KEPT_OK)
        return status;
    kept_device_profile(run->device, &profile);
    status = kept_plan_create(run->model, &profile, params, &run->plan, err);
    if (status == KEPT_OK)
        status = kept_session_create(run->plan, run->device, NULL, NULL, &run->session, err);
    return status;
}

int main(int argc, char **argv)
{
    struct run run = {0};
    struct kept_error err = {0};
    struct kept_plan_params params = {.retain.mode = KEPT_RETAIN_SCORED, .logits_rows = 32};
    if (argc < 5 || !read_ids(&run, argv[2]))
        return 2;
    run.n_prefix = (uint32_t)strtoul(argv[4], NULL, 10);
    if (run.n_prefix == 0 || run.n_prefix > run.n_tokens)
        return 2;
    if (kept_model_open(argv[1], NULL, &run.model, &err) != KEPT_OK)
        return fail(&err);
    run.n_vocab = kept_model_info(run.model)->n_vocab;
    params.context_tokens = run.n_prefix;
    uint32_t n_scored = run.n_tokens - run.n_prefix;
    /* room enough that maintenance may wait: budgets stay as they are given */
    params.retain.hold_tokens = n_scored > 64 ? n_scored : 64;
    for (int i = 5; i + 1 < argc; i += 2)
        if (!set(&params, &run, argv[i], argv[i + 1], &err))
            return fail(&err);
    run.nll = calloc(n_scored + 1, sizeof *run.nll);
    run.sum = calloc(n_scored + 1, sizeof *run.sum);
    kept_status status = start(&run, argv[3], &params, &err);
    struct kept_eval_params prefix = {.tokens = run.tokens, .n_tokens = run.n_prefix};
    struct kept_eval_params rest = {.tokens = run.tokens + run.n_prefix,
                                    .n_tokens = n_scored,
                                    .on_logits = score,
                                    .logits_user = &run,
                                    .hold = true};
    if (status == KEPT_OK)
        status = kept_session_eval(run.session, &prefix, &err);
    if (status == KEPT_OK && n_scored)
        status = kept_session_eval(run.session, &rest, &err);
    if (status == KEPT_OK && n_scored)
        status = kept_session_rewind(run.session, run.n_prefix, &err);
    if (status == KEPT_OK)
        print(&run, n_scored);
    kept_session_destroy(&run.session);
    kept_plan_destroy(&run.plan);
    kept_device_destroy(&run.device);
    kept_sidecar_close(&run.sidecar);
    kept_model_close(&run.model);
    return status == KEPT_OK ? 0 : fail(&err);
}
