/* memory/address.c: addresses and their least-squares weights (address.h). */
#include "memory/address.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"

bool kept_address_pool(const float *hidden, uint32_t n, uint32_t k, const float *stats, float *out)
{
    double length = 0;
    for (uint32_t i = 0; i < k; i++) {
        double sum = 0;
        for (uint32_t t = 0; t < n; t++)
            sum += ((double)hidden[(size_t)t * k + i] - (double)stats[i]) * (double)stats[k + i];
        out[i] = (float)(sum / n);
        length += (double)out[i] * (double)out[i];
    }
    if (!(length > 0) || !isfinite(length))
        return false;
    for (uint32_t i = 0; i < k; i++)
        out[i] = (float)((double)out[i] / sqrt(length));
    return true;
}

void kept_address_add(const float *hidden, uint32_t n, uint32_t k, double *sums)
{
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < k; i++) {
            double h = (double)hidden[(size_t)t * k + i];
            sums[i] += h;
            sums[k + i] += h * h;
        }
}

void kept_address_stats(const double *sums, uint64_t n, uint32_t k, float *stats)
{
    for (uint32_t i = 0; i < k; i++) {
        double mean = sums[i] / (double)n, variance = sums[k + i] / (double)n - mean * mean;
        stats[i] = (float)mean;
        stats[k + i] = variance > 1e-12 * (1 + mean * mean) ? (float)(1 / sqrt(variance)) : 0;
    }
}

#define LANES 8u /* sums side by side: a fixed order that compilers can turn into vectors */

static double dot(const float *a, const float *b, uint32_t k)
{
    double sums[LANES] = {0}, sum = 0;
    uint32_t whole = k / LANES * LANES;
    for (uint32_t i = 0; i < whole; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            sums[j] += (double)a[i + j] * (double)b[i + j];
    for (uint32_t j = 0; j < LANES; j++)
        sum += sums[j];
    for (uint32_t i = whole; i < k; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* L of A = L L^T over the lower half of a [n][n]; false when A is not positive definite. */
static bool factor(double *a, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        for (uint32_t i = j; i < n; i++) {
            double sum = a[(size_t)i * n + j];
            for (uint32_t l = 0; l < j; l++)
                sum -= a[(size_t)i * n + l] * a[(size_t)j * n + l];
            if (i == j && !(sum > 0))
                return false;
            a[(size_t)i * n + j] = i == j ? sqrt(sum) : sum / a[(size_t)j * n + j];
        }
    }
    return true;
}

/* x of L L^T x = x, in place. */
static void solve(const double *l, uint32_t n, double *x)
{
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < i; j++)
            x[i] -= l[(size_t)i * n + j] * x[j];
        x[i] /= l[(size_t)i * n + i];
    }
    for (uint32_t i = n; i-- > 0;) {
        for (uint32_t j = i + 1; j < n; j++)
            x[i] -= l[(size_t)j * n + i] * x[j];
        x[i] /= l[(size_t)i * n + i];
    }
}

#define SYSTEM (KEPT_NEAREST + KEPT_BACKGROUNDS)

/* |q - E^T w|^2 = |q|^2 - 2 w.Eq + w.(G w) of the first n rows of gram [m][m]. */
static double unexplained(const double *gram, uint32_t m, const double *eq, const double *w,
                          uint32_t n, double qq)
{
    double sum = qq;
    for (uint32_t i = 0; i < n; i++) {
        double gw = 0;
        for (uint32_t j = 0; j < n; j++)
            gw += gram[(size_t)(i > j ? i : j) * m + (i > j ? j : i)] * w[j];
        sum += w[i] * (gw - 2 * eq[i]);
    }
    return sum > 0 ? sum : 0;
}

kept_status kept_address_weigh(const float *const *addresses, uint32_t n, const float *backgrounds,
                               const float *query, uint32_t k, struct kept_address_match *out,
                               struct kept_error *err)
{
    const float *rows[SYSTEM];
    double eq[SYSTEM], w[SYSTEM], qq = dot(query, query, k);
    uint32_t m = n + KEPT_BACKGROUNDS;
    out->residual = 1;
    if (n > KEPT_NEAREST || !(qq > 0) || !isfinite(qq))
        return kept_fail(err, KEPT_E_ARGUMENT, "no weights of %u facts for this query", n);
    for (uint32_t i = 0; i < m; i++)
        rows[i] = i < n ? addresses[i] : backgrounds + (size_t)(i - n) * k;
    double *gram = kept_alloc(2 * (size_t)m * m * sizeof *gram), *l = gram ? gram + m * m : NULL;
    if (!gram)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the weights of %u facts", n);
    for (uint32_t i = 0; i < m; i++) {
        eq[i] = w[i] = dot(rows[i], query, k);
        for (uint32_t j = 0; j <= i; j++)
            gram[(size_t)i * m + j] = dot(rows[i], rows[j], k);
    }
    memcpy(l, gram, (size_t)m * m * sizeof *l);
    for (uint32_t i = 0; i < m; i++)
        l[(size_t)i * m + i] += KEPT_ADDRESS_RIDGE;
    bool solved = factor(l, m);
    if (solved) {
        solve(l, m, w);
        out->residual = (float)sqrt(unexplained(gram, m, eq, w, n, qq) / qq);
        for (uint32_t i = 0; i < n; i++) {
            out->cosines[i] = (float)(eq[i] / sqrt(qq));
            out->weights[i] = (float)w[i];
        }
    }
    kept_free(gram);
    return solved ? KEPT_OK
                  : kept_fail(err, KEPT_E_ARGUMENT, "addresses of %u facts are no numbers", n);
}

#define FACT_BIAS  1.0f /* what is read is attended more than its like in the prompt */
#define BIAS_SHARE 0.5  /* of the logarithm of the ratio of weights */
#define LEAST_BIAS -30.0f

float kept_address_bias(float weight, float best_weight)
{
    if (!(weight < best_weight))
        return FACT_BIAS;
    return weight > 0 ? FACT_BIAS + (float)(BIAS_SHARE * log((double)weight / (double)best_weight))
                      : LEAST_BIAS;
}
