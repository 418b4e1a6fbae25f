/* tests/fuzz/fuzz_sidecar.c: any bytes as a sidecar, as they are and with the checksum put right
 * (else nothing behind it would ever be reached). What is accepted must give budgets within their
 * bounds; failures must come with a sentence and leave nothing behind. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "core/sidecar_internal.h"

#define CONTEXT 1000u
#define LEAST   20u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void use(const kept_sidecar *sidecar)
{
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    struct kept_sidecar_report_info report;
    size_t heads = (size_t)info->n_layers * info->n_kv;
    uint32_t *budgets = malloc(heads * sizeof *budgets);
    struct kept_error err;
    if (!budgets || kept_sidecar_report(sidecar, info->n_reports, &report))
        abort();
    for (uint32_t mean = LEAST; mean <= CONTEXT; mean += 245) {
        uint64_t sum = 0, n = 0;
        if (kept_sidecar_budgets(sidecar, CONTEXT, mean, LEAST, budgets, &err) != KEPT_OK)
            abort();
        for (size_t h = 0; h < heads; h++) {
            if (budgets[h] && (budgets[h] < LEAST || budgets[h] > CONTEXT))
                abort();
            n += budgets[h] > 0;
            sum += budgets[h];
        }
        if (sum > n * mean)
            abort();
    }
    free(budgets);
}

static void parse(const uint8_t *bytes, size_t n_bytes)
{
    kept_sidecar *sidecar = NULL;
    struct kept_error err = {0};
    int64_t live = kept_alloc_live();
    kept_status status = kept_sidecar_parse(bytes, n_bytes, "input", NULL, &sidecar, &err);
    if ((status == KEPT_OK) != (sidecar != NULL) || (status != KEPT_OK && !err.message[0]))
        abort();
    if (sidecar)
        use(sidecar);
    kept_sidecar_close(&sidecar);
    if (kept_alloc_live() != live)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    parse(bytes, n_bytes);
    if (n_bytes < 8)
        return 0;
    uint8_t *sealed = malloc(n_bytes);
    uint64_t hash = kept_hash64(bytes, n_bytes - 8, 0);
    if (!sealed)
        return 0;
    memcpy(sealed, bytes, n_bytes - 8);
    memcpy(sealed + n_bytes - 8, &hash, 8);
    parse(sealed, n_bytes);
    free(sealed);
    return 0;
}
