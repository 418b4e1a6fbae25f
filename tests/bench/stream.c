/* tests/bench/stream.c: speed and memory of one long stream under a budget. Not a test: it prints
 * what it measured, as JSON.
 *
 *   stream MODEL IDS DEVICE TOKENS DECODE BUDGET [sidecar FILE] [kv 0|1|2] [full 1] [chunk N]
 *          [context N] [positions 0|1] [assoc M] [window 1] [save FILE] [load FILE]
 *
 * Evaluates TOKENS tokens (the ids again and again) in steps of 1024 with compact positions, then
 * DECODE tokens one at a time. Prints tokens per second of every step; mean, median and 99th
 * percentile of a decoded token; live slots; bytes planned and in use at the end. full 1:
 * everything kept; assoc M: with so much associative memory, heads alike, BUDGET 0; window 1: by
 * age. save: the session after the prefill; load: instead of it (a slow device decodes after what
 * another one read).
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kept/kept.h"

#define MAX_IDS 65536
#define STEP    1024u

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct stream {
    kept_model *model;
    kept_device *device;
    kept_plan *plan;
    kept_session *session;
    kept_sidecar *sidecar;
    int32_t *ids;
    uint32_t n_ids;
    const char *save, *load;
};

static kept_status eval(struct stream *s, uint32_t n, struct kept_error *err)
{
    int32_t tokens[STEP];
    uint32_t from = kept_session_position(s->session);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = s->ids[(from + i) % s->n_ids];
    return kept_session_eval(s->session,
                             &(struct kept_eval_params){.tokens = tokens, .n_tokens = n}, err);
}

static kept_status prefill(struct stream *s, uint32_t n, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    if (s->load)
        return kept_session_load(s->session, s->load, err);
    printf("\"prefill_tps\": [");
    for (uint32_t at = 0; at < n && status == KEPT_OK; at += STEP) {
        double begin = now_s();
        status = eval(s, n - at < STEP ? n - at : STEP, err);
        printf("%s%.1f", at ? ", " : "", (n - at < STEP ? n - at : STEP) / (now_s() - begin));
        fflush(stdout);
    }
    printf("],\n");
    if (status == KEPT_OK && s->save)
        status = kept_session_save(s->session, s->save, err);
    return status;
}

static kept_status decode(struct stream *s, uint32_t n, struct kept_error *err)
{
    double *seconds = calloc(n + 1, sizeof *seconds), sum = 0;
    kept_status status = seconds ? KEPT_OK : KEPT_E_HOST_MEMORY;
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++) {
        double begin = now_s();
        status = eval(s, 1, err);
        sum += seconds[i] = now_s() - begin;
    }
    if (n && status == KEPT_OK) {
        qsort(seconds, n, sizeof *seconds, compare);
        printf("\"decode_tps\": %.2f, \"decode_ms\": {\"mean\": %.3f, \"median\": %.3f, \"p99\": "
               "%.3f, \"max\": %.3f},\n",
               n / sum, sum / n * 1e3, seconds[n / 2] * 1e3, seconds[n * 99 / 100] * 1e3,
               seconds[n - 1] * 1e3);
    }
    free(seconds);
    return status;
}

static bool read_ids(struct stream *s, const char *path)
{
    FILE *file = fopen(path, "r");
    s->ids = malloc(MAX_IDS * sizeof *s->ids);
    if (!file || !s->ids)
        return false;
    while (s->n_ids < MAX_IDS && fscanf(file, "%d", &s->ids[s->n_ids]) == 1)
        s->n_ids++;
    fclose(file);
    return s->n_ids > 0;
}

static kept_status start(struct stream *s, int argc, char **argv, struct kept_error *err)
{
    struct kept_plan_params params = {
        .retain = {.mode = KEPT_RETAIN_SCORED, .positions = KEPT_POSITIONS_COMPACT}};
    struct kept_profile profile;
    char choice[256];
    params.context_tokens = (uint32_t)(strtoul(argv[4], NULL, 10) + strtoul(argv[5], NULL, 10));
    params.retain.budget_slots = (uint32_t)strtoul(argv[6], NULL, 10);
    kept_status status = kept_model_open(argv[1], NULL, &s->model, err);
    for (int i = 7; i + 1 < argc && status == KEPT_OK; i += 2) {
        uint32_t n = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "sidecar") == 0)
            status = kept_sidecar_open(argv[i + 1], s->model, &s->sidecar, err);
        else if (strcmp(argv[i], "kv") == 0)
            params.k_type = params.v_type = (enum kept_slot_type)n;
        else if (strcmp(argv[i], "chunk") == 0)
            params.chunk_tokens = n;
        else if (strcmp(argv[i], "context") == 0)
            params.context_tokens = n;
        else if (strcmp(argv[i], "positions") == 0)
            params.retain.positions = (enum kept_positions)n;
        else if (strcmp(argv[i], "window") == 0 && n)
            params.retain.mode = KEPT_RETAIN_WINDOW;
        else if (strcmp(argv[i], "full") == 0 && n)
            params.retain = (struct kept_retain_params){0};
        else if (strcmp(argv[i], "assoc") == 0)
            params.retain = (struct kept_retain_params){
                .assoc = KEPT_ASSOC_KEPT, .assoc_slots = n, .positions = KEPT_POSITIONS_COMPACT};
        else if (strcmp(argv[i], "save") == 0)
            s->save = argv[i + 1];
        else if (strcmp(argv[i], "load") == 0)
            s->load = argv[i + 1];
    }
    if (params.retain.mode != KEPT_RETAIN_FULL)
        params.retain.sidecar = s->sidecar;
    if (status == KEPT_OK)
        status = kept_device_create(argv[3], NULL, &s->device, choice, err);
    if (status != KEPT_OK)
        return status;
    kept_device_profile(s->device, &profile);
    status = kept_plan_create(s->model, &profile, &params, &s->plan, err);
    if (status == KEPT_OK)
        status = kept_session_create(s->plan, s->device, NULL, NULL, &s->session, err);
    return status;
}

int main(int argc, char **argv)
{
    struct stream s = {0};
    struct kept_error err = {0};
    struct kept_session_stats stats;
    struct kept_slot_counts counts;
    if (argc < 7 || !read_ids(&s, argv[2])) {
        fprintf(stderr, "usage: stream MODEL IDS DEVICE TOKENS DECODE BUDGET [name value]...\n");
        return 2;
    }
    kept_status status = start(&s, argc, argv, &err);
    printf("{");
    if (status == KEPT_OK)
        status = prefill(&s, (uint32_t)strtoul(argv[4], NULL, 10), &err);
    if (status == KEPT_OK)
        status = decode(&s, (uint32_t)strtoul(argv[5], NULL, 10), &err);
    if (status == KEPT_OK)
        status = kept_session_slots(s.session, &counts, &err);
    if (status == KEPT_OK) {
        kept_session_stats(s.session, &stats);
        printf("\"live\": %llu, \"evicted\": %llu, \"consolidated\": %llu, \"kv_bytes\": %llu, "
               "\"scorer_bytes\": %llu, "
               "\"planned_bytes\": %llu, \"actual_bytes\": %llu, \"allocations\": %llu}\n",
               (unsigned long long)counts.live, (unsigned long long)counts.evicted,
               (unsigned long long)counts.consolidated,
               (unsigned long long)kept_plan_info(s.plan)->kv_bytes,
               (unsigned long long)kept_plan_info(s.plan)->scorer_bytes,
               (unsigned long long)stats.planned_bytes, (unsigned long long)stats.actual_bytes,
               (unsigned long long)stats.allocations_after_commit);
    } else {
        fprintf(stderr, "stream: %s\n", err.message);
    }
    kept_session_destroy(&s.session);
    kept_plan_destroy(&s.plan);
    kept_device_destroy(&s.device);
    kept_sidecar_close(&s.sidecar);
    kept_model_close(&s.model);
    free(s.ids);
    return status == KEPT_OK ? 0 : 1;
}
