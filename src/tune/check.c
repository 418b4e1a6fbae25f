/* tune/check.c: the checker: for each row, format and choice of keys, cases that run on the device
 * and by the reference, and are compared byte by byte.
 *
 * Round 0 takes the keys that the tuning tables give this device, what the product runs; later
 * rounds take random ones among those a device may get. Seeds: case seed = mix(round seed, case),
 * round seed = mix(seed, row, format, round): every case can be made again without those before it.
 *
 * What is compared: guards between bindings (unchanged), inputs (unchanged), outputs element by
 * element with the bound of the family (check_matmul.c, check_rows.c, check_slots.c, and so on),
 * equal bits where there is none.
 */
#include "tune/check.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/str.h"
#include "tune/check_run.h"

#define DEFAULT_ROUNDS 2
#define DEFAULT_CASES  8

struct generator {
    void (*keys)(struct check_case *c);
    void (*gen)(struct check_case *c);
    void (*bound)(struct check_case *c);
};

static const struct generator generators[KEPT_KERNEL_COUNT] = {
#define KEPT_KERNEL(ID, stem, ...) {kept_keys_##stem, kept_gen_##stem, kept_bound_##stem},
#include "kernel/kernels.def"
#undef KEPT_KERNEL
};

struct checker {
    const struct kept_check_params *params;
    struct check_runner runner;
    kept_check_fn report;
    void *user;
    struct kept_check_summary *summary;
    uint64_t begin_ns;
    char failure[600]; /* the first of the running result */
};

/* ---- the reference ---- */

static bool is_output(const struct kept_kernel_row *row, uint32_t i_bind)
{
    return (row->access[i_bind] & KEPT_ACCESS_W) != 0;
}

static void run_reference(struct check_case *c)
{
    struct kept_host_call call = {.format = c->format, .keys = c->keys, .params = &c->params};
    for (uint32_t i = 0; i < c->row->n_binds; i++) {
        struct check_bind *b = &c->bind[i];
        call.bind[i] = (uint8_t *)b->before;
        call.bind_bytes[i] = b->n_words * 4;
        if (!is_output(c->row, i))
            continue;
        b->want = kept_alloc((size_t)b->n_words * 4);
        b->bound = kept_calloc((size_t)kept_check_elems(b), sizeof *b->bound);
        if (b->want == NULL || b->bound == NULL) {
            c->failed = true;
            return;
        }
        memcpy(b->want, b->before, (size_t)b->n_words * 4);
        call.bind[i] = (uint8_t *)b->want;
    }
    c->row->reference(&call);
}

static void canonical(const struct check_case *c, uint32_t *const *outputs)
{
    if (c->row->id == KEPT_KERNEL_ATTN_DECODE || c->row->id == KEPT_KERNEL_ATTN_PREFILL)
        kept_canon_attn(c, outputs);
    else if (c->row->id == KEPT_KERNEL_ARGMAX)
        kept_canon_argmax(c, outputs);
    else if (c->row->id == KEPT_KERNEL_SLOT_NEAREST)
        kept_canon_slot_nearest(c, outputs);
    else if (c->row->id == KEPT_KERNEL_ASSOC_MATCH)
        kept_canon_assoc_match(c, outputs);
}

/* ---- comparison ---- */

static void describe(struct checker *k, const struct check_case *c, const char *where, uint64_t at,
                     const char *what)
{
    char keys[160];
    if (k->failure[0] != '\0')
        return;
    kept_check_keys_text(c, keys, sizeof keys);
    kept_snprintf(k->failure, sizeof k->failure,
                  "%s %s [%s] %s; rows %u from %u of %u: %s %llu: %s", c->row->stem,
                  c->row->has_formats ? kept_format_name(c->format) : "-", keys, c->shape, c->live,
                  c->params.words[1], c->params.words[2], where, (unsigned long long)at, what);
}

static float element(const struct check_bind *b, uint32_t *words, uint64_t i, uint32_t *bits)
{
    float v;
    if (b->slots.d != 0) {
        struct ref_slots slots = b->slots;
        slots.words = words;
        return (float)ref_slot_value(&slots, i / slots.d, (uint32_t)(i % slots.d), bits);
    }
    *bits = words[i];
    memcpy(&v, bits, 4);
    return v;
}

static bool within(float got, float want, float bound)
{
    if (bound < 0 || (isnan(got) && isnan(want)))
        return true;
    return fabs((double)got - want) <= bound;
}

/* The first element that is wrong. */
static bool compare_output(struct checker *k, const struct check_case *c, uint32_t i_bind,
                           uint32_t *got)
{
    const struct check_bind *b = &c->bind[i_bind];
    if (memcmp(got, b->want, (size_t)b->n_words * 4) == 0)
        return true;
    for (uint64_t i = 0; i < kept_check_elems(b); i++) {
        uint32_t got_bits, want_bits;
        float got_value = element(b, got, i, &got_bits), want = element(b, b->want, i, &want_bits);
        if (got_bits == want_bits || (b->bound[i] != 0 && within(got_value, want, b->bound[i])))
            continue;
        char what[160];
        kept_snprintf(what, sizeof what,
                      "got %.9g (%08x), want %.9g (%08x), off by %.3g, bound %.3g",
                      (double)got_value, got_bits, (double)want, want_bits,
                      fabs((double)got_value - want), (double)b->bound[i]);
        describe(k, c, c->row->bind_names[i_bind], i, what);
        return false;
    }
    return true;
}

static uint32_t word_at(const uint8_t *image, uint64_t at)
{
    uint32_t word;
    memcpy(&word, image + at, 4);
    return word;
}

static bool compare_guards(struct checker *k, const struct check_case *c)
{
    const struct check_runner *r = &k->runner;
    uint64_t at = 0;
    for (uint32_t i = 0; i <= c->row->n_binds; i++) {
        uint64_t end = i < c->row->n_binds ? r->binds[i].offset_bytes : r->n_bytes;
        for (; at < end; at += 4)
            if (word_at(r->image, at) != CHECK_CANARY) {
                const char *name = c->row->bind_names[i < c->row->n_binds ? i : i - 1];
                describe(k, c, i < c->row->n_binds ? "guard bytes before" : "guard bytes after", 0,
                         name);
                return false;
            }
        if (i < c->row->n_binds)
            at = end + r->binds[i].n_bytes;
    }
    return true;
}

static bool compare(struct checker *k, const struct check_case *c)
{
    uint32_t *got[KEPT_MAX_BINDS] = {0}, *want[KEPT_MAX_BINDS] = {0};
    if (!compare_guards(k, c))
        return false;
    for (uint32_t i = 0; i < c->row->n_binds; i++) {
        /* offsets are multiples of 4 and the image is aligned like any allocation */
        got[i] = (uint32_t *)(void *)(k->runner.image + k->runner.binds[i].offset_bytes);
        want[i] = c->bind[i].want;
        if (is_output(c->row, i))
            continue;
        if (memcmp(got[i], c->bind[i].before, (size_t)c->bind[i].n_words * 4) != 0) {
            describe(k, c, c->row->bind_names[i], 0, "an input was written");
            return false;
        }
    }
    canonical(c, got);
    canonical(c, want);
    for (uint32_t i = 0; i < c->row->n_binds; i++)
        if (is_output(c->row, i) && !compare_output(k, c, i, got[i]))
            return false;
    return true;
}

/* ---- a case, a result, a run ---- */

static kept_status run_case(struct checker *k, struct check_case *c, struct kept_kernel *kernel,
                            bool *ok, struct kept_error *err)
{
    generators[c->row->id].gen(c);
    if (!c->failed)
        run_reference(c);
    if (!c->failed)
        generators[c->row->id].bound(c);
    if (c->failed)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for a case of kernel '%s'",
                         c->row->stem);
    kept_status status = kept_check_upload(&k->runner, c, err);
    if (status == KEPT_OK)
        status = kept_check_execute(&k->runner, c, kernel, 1, NULL, err);
    if (status == KEPT_OK)
        status = kept_buf_read(k->runner.buf, 0, k->runner.image, k->runner.n_bytes, err);
    if (status == KEPT_OK)
        *ok = compare(k, c);
    return status;
}

/* Tuned keys say nothing of what the model decides: those keys are random in round 0 too. */
static void pick_keys(struct checker *k, struct check_case *c, uint32_t round)
{
    static const char *const tuned[] = {"WG", "ORDER", "NC", "TR", "BM", "BN", "G", "BQ"};
    memcpy(c->keys, c->row->key_defaults, sizeof c->keys);
    if (round == 0)
        kept_check_tuned_keys(c, k->runner.device);
    uint32_t keys[KEPT_MAX_KEYS];
    memcpy(keys, c->keys, sizeof keys);
    generators[c->row->id].keys(c);
    for (uint32_t i = 0; round == 0 && i < sizeof tuned / sizeof *tuned; i++) {
        uint32_t at = kept_kernel_key(c->row->id, tuned[i]);
        if (at < c->row->n_keys)
            c->keys[at] = keys[at];
    }
    if (c->row->id == KEPT_KERNEL_ATTN_DECODE || c->row->id == KEPT_KERNEL_ATTN_PREFILL)
        kept_check_fit_attn(c);
}

static kept_status run_cases(struct checker *k, const struct check_case *model, uint64_t seed,
                             struct kept_kernel *kernel, struct kept_check_result *result,
                             struct kept_error *err)
{
    uint32_t n = k->params->n_cases != 0 ? k->params->n_cases : DEFAULT_CASES;
    uint32_t only = k->params->case_plus_1;
    kept_status status = KEPT_OK;
    for (uint32_t i = only != 0 ? only - 1 : 0; status == KEPT_OK && i < (only != 0 ? only : n);
         i++) {
        struct check_case c = *model;
        bool ok = true, first = k->failure[0] == '\0';
        c.rng = kept_check_mix(seed, i);
        status = run_case(k, &c, kernel, &ok, err);
        kept_case_finish(&c);
        result->n_cases++;
        result->n_failed += ok ? 0 : 1;
        size_t used = strlen(k->failure);
        if (!ok && first)
            kept_snprintf(k->failure + used, sizeof k->failure - used, " (case %u)", i);
    }
    return status;
}

static kept_status run_result(struct checker *k, const struct kept_kernel_row *row,
                              enum kept_format format, uint32_t round, struct kept_error *err)
{
    struct kept_device *device = k->runner.device;
    struct check_case c = {.row = row, .caps = &device->caps, .format = format};
    struct kept_check_result result = {.row = row, .failure = k->failure};
    struct kept_kernel *kernel = NULL;
    struct kept_error local = {0};
    char keys[160];
    uint64_t seed = kept_check_mix(kept_check_mix(k->params->seed, row->id * 100u + format), round);
    uint32_t lanes = k->params->max_lanes;
    c.max_lanes =
        lanes != 0 && lanes < device->caps.max_group_lanes ? lanes : device->caps.max_group_lanes;
    c.sound_moves = k->params->sound_moves;
    c.rng = seed;
    pick_keys(k, &c, round);
    kept_check_keys_text(&c, keys, sizeof keys);
    result.keys = keys;
    result.format = row->has_formats ? kept_format_name(format) : "-";
    k->failure[0] = '\0';
    kept_status status = kept_kernel_create(device, row->id, format, c.keys, &kernel, &local);
    if (status == KEPT_OK) {
        status = run_cases(k, &c, seed, kernel, &result, err);
        /* a kernel that cannot be made is a failed check, not the end of the run */
    } else if (!device->lost) {
        kept_snprintf(k->failure, sizeof k->failure, "%s %s [%s]: %s", row->stem, result.format,
                      keys, local.message);
        result.n_cases = result.n_failed = 1;
        status = KEPT_OK;
    } else if (err != NULL) {
        *err = local;
    }
    kept_kernel_destroy(&kernel);
    if (status != KEPT_OK)
        return kept_fail_in(err, status, "kernel %s %s [%s]", row->stem, result.format, keys);
    size_t used = strlen(k->failure);
    if (result.n_failed != 0)
        kept_snprintf(k->failure + used, sizeof k->failure - used, " (seed %llu round %u)",
                      (unsigned long long)k->params->seed, round);
    k->summary->n_results++;
    k->summary->n_cases += result.n_cases;
    k->summary->n_failed += result.n_failed;
    if (k->report != NULL && !k->report(k->user, &result))
        return kept_fail(err, KEPT_E_CANCELLED, "the kernel check was cancelled");
    return KEPT_OK;
}

static bool time_is_up(const struct checker *k, uint32_t round)
{
    double seconds = (double)(kept_clock_ns() - k->begin_ns) * 1e-9;
    return round > 0 && k->params->seconds > 0 && seconds >= k->params->seconds;
}

kept_status kept_check_run(struct kept_device *device, const struct kept_check_params *params,
                           kept_check_fn report, void *user, struct kept_check_summary *summary,
                           struct kept_error *err)
{
    struct kept_check_summary unused;
    struct checker k = {.params = params, .report = report, .user = user};
    k.summary = summary != NULL ? summary : &unused;
    memset(k.summary, 0, sizeof *k.summary);
    k.runner.device = device;
    k.begin_ns = kept_clock_ns();
    uint32_t rounds = params->n_rounds != 0 ? params->n_rounds : DEFAULT_ROUNDS;
    kept_status status = KEPT_OK;
    for (uint32_t round = 0; status == KEPT_OK && round < rounds; round++) {
        if (params->round_plus_1 != 0 && round + 1 != params->round_plus_1)
            continue;
        for (uint32_t i = 0; status == KEPT_OK && i < KEPT_KERNEL_COUNT * KEPT_FORMAT_COUNT; i++) {
            const struct kept_kernel_row *row =
                kept_kernel_row((enum kept_kernel_id)(i / KEPT_FORMAT_COUNT));
            enum kept_format format = (enum kept_format)(i % KEPT_FORMAT_COUNT);
            if (kept_check_wanted(params, row, format) && !time_is_up(&k, round))
                status = run_result(&k, row, format, round, err);
        }
    }
    kept_check_runner_finish(&k.runner);
    return status;
}
