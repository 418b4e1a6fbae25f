/* meter.c: scores of a run, and the file of logits they are compared with. */
#include "meter.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"

/* ---- scores ---- */

static bool add(struct cli_part *part, const struct cli_difference *d)
{
    if (part->test.n == part->cap) {
        size_t cap = part->cap ? 2 * part->cap : 1024;
        float *kl = realloc(part->kl, cap * sizeof *kl);
        if (!kl)
            return false;
        part->kl = kl;
        part->cap = cap;
    }
    part->kl[part->test.n] = (float)d->kl;
    part->kl_sum += d->kl;
    part->n_agree += d->agree;
    cli_score_add(&part->test, d->nll);
    cli_score_add(&part->full, d->nll_full);
    return true;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void cli_part_sort(struct cli_part *part)
{
    if (part->kl)
        qsort(part->kl, part->test.n, sizeof *part->kl, ascending);
}

double cli_part_kl(const struct cli_part *part)
{
    return part->test.n ? part->kl_sum / (double)part->test.n : 0;
}

double cli_part_quantile(const struct cli_part *part, double share)
{
    size_t n = part->test.n, i = (size_t)ceil(share * (double)n);
    return n ? (double)part->kl[i ? i - 1 : 0] : 0;
}

double cli_part_agreement(const struct cli_part *part)
{
    return part->test.n ? (double)part->n_agree / (double)part->test.n : 1;
}

void cli_part_finish(struct cli_part *part)
{
    free(part->kl);
    *part = (struct cli_part){0};
}

/* ---- the reference's logits ---- */

kept_status cli_logits_create(FILE **out, struct kept_error *err)
{
    const char *folder = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%.480s/kept-XXXXXX", folder && *folder ? folder : "/tmp");
    int file = mkstemp(path);
    *out = file >= 0 ? fdopen(file, "w+b") : NULL;
    if (file >= 0)
        unlink(path);
    if (file >= 0 && !*out)
        close(file);
    if (!*out)
        return cli_fail(err, KEPT_E_IO, "cannot make '%.300s' for the reference's logits: %s", path,
                        strerror(errno));
    return KEPT_OK;
}

kept_status cli_meter_begin(struct cli_meter *meter, const struct cli_engine *engine, FILE *logits,
                            bool is_reference, struct kept_error *err)
{
    *meter = (struct cli_meter){.n_vocab = kept_model_info(engine->model)->n_vocab,
                                .is_reference = is_reference,
                                .logits = logits};
    rewind(logits);
    meter->rows = malloc((size_t)meter->n_vocab * sizeof *meter->rows);
    return meter->rows ? KEPT_OK : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for logits");
}

void cli_meter_finish(struct cli_meter *meter)
{
    free(meter->rows);
    meter->rows = NULL;
}

static bool pass_file(struct cli_meter *meter, const float *logits, size_t n)
{
    return meter->is_reference ? fwrite(logits, sizeof *logits, n, meter->logits) == n
                               : fread(meter->rows, sizeof *logits, n, meter->logits) == n;
}

void cli_meter_rows(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct cli_meter *meter = user;
    for (uint32_t i = 0; i < n_rows && meter->status == KEPT_OK; i++) {
        const float *row = logits + (size_t)i * meter->n_vocab;
        if (!pass_file(meter, row, meter->n_vocab)) {
            meter->status = KEPT_E_IO;
            break;
        }
        struct cli_difference d =
            cli_compare(meter->is_reference ? row : meter->rows, row, meter->n_vocab,
                        meter->tokens[first + i - meter->base + 1]);
        if (!isfinite(d.kl) || !isfinite(d.nll))
            meter->status = KEPT_E_CHECK;
        else if (!add(meter->part, &d))
            meter->status = KEPT_E_HOST_MEMORY;
    }
}

kept_status cli_meter_check(struct cli_meter *meter, struct kept_error *err)
{
    if (meter->status == KEPT_OK && meter->is_reference && fflush(meter->logits) != 0)
        meter->status = KEPT_E_IO;
    if (meter->status == KEPT_E_IO)
        return cli_fail(err, KEPT_E_IO,
                        "cannot %s the reference's logits in the temporary folder (TMPDIR): %s",
                        meter->is_reference ? "write" : "read", strerror(errno));
    if (meter->status == KEPT_E_CHECK)
        return cli_fail(err, KEPT_E_CHECK, "there are logits that are no numbers");
    return meter->status == KEPT_OK
               ? KEPT_OK
               : cli_fail(err, meter->status, "no memory for the scores of a token");
}
