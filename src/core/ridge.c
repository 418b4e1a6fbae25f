/* core/ridge.c: least squares with a ridge, for fitting gates.
 *
 * Rows are added one batch after the other; only their sums and products stay: (n_in^2 / 2 + n_in
 * n_out) doubles, however many rows there are. The solution standardises: with C the covariance of
 * the inputs, D their deviations and c the covariance with a target,
 *     w = D^-1 (D^-1 C D^-1 + lambda I)^-1 D^-1 c,    bias = mean of the target - w . means
 * by Cholesky. An input that never changes gets weight 0. Triangles are stored by rows, row i with
 * its i + 1 elements.
 */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "kept/memory.h"

#define MAX_IN  (1u << 15)
#define MAX_OUT 4096u
#define BATCH   8     /* rows that pass over the triangle together */
#define STEADY  1e-12 /* variance of an input that never changes, relative to its square */

struct kept_ridge {
    uint32_t n_in, n_out;
    uint64_t n_rows;
    double *products; /* triangle: sums of x x^T */
    double *cross;    /* [n_out][n_in] sums of y x */
    double *in, *out; /* sums of x, of y */
    double *batch;    /* [BATCH][n_in] */
};

static size_t triangle(size_t n)
{
    return n * (n + 1) / 2;
}

kept_status kept_ridge_create(uint32_t n_in, uint32_t n_out, kept_ridge **out,
                              struct kept_error *err)
{
    if (out)
        *out = NULL;
    if (!out || n_in == 0 || n_in > MAX_IN || n_out == 0 || n_out > MAX_OUT)
        return kept_fail(err, KEPT_E_ARGUMENT, "a regression of %u targets on %u inputs", n_out,
                         n_in);
    kept_ridge *r = kept_calloc(1, sizeof *r);
    if (r) {
        r->n_in = n_in;
        r->n_out = n_out;
        r->products = kept_calloc(triangle(n_in), sizeof *r->products);
        r->cross = kept_calloc((size_t)n_in * n_out, sizeof *r->cross);
        r->in = kept_calloc(n_in, sizeof *r->in);
        r->out = kept_calloc(n_out, sizeof *r->out);
        r->batch = kept_calloc((size_t)BATCH * n_in, sizeof *r->batch);
    }
    if (!r || !r->products || !r->cross || !r->in || !r->out || !r->batch) {
        kept_ridge_destroy(&r);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a regression on %u inputs", n_in);
    }
    *out = r;
    return KEPT_OK;
}

void kept_ridge_destroy(kept_ridge **ridge)
{
    if (!ridge || !*ridge)
        return;
    kept_free((*ridge)->products);
    kept_free((*ridge)->cross);
    kept_free((*ridge)->in);
    kept_free((*ridge)->out);
    kept_free((*ridge)->batch);
    kept_free(*ridge);
    *ridge = NULL;
}

static bool all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

/* One batch; rows behind n are 0. */
static void add_batch(kept_ridge *r, const float *x, const float *y, uint32_t n)
{
    size_t n_in = r->n_in;
    const double *b = r->batch;
    memset(r->batch, 0, BATCH * n_in * sizeof *r->batch);
    for (size_t i = 0; i < n * n_in; i++)
        r->batch[i] = x[i];
    for (size_t i = 0; i < n_in; i++) {
        double *row = r->products + triangle(i), f[BATCH];
        for (size_t k = 0; k < BATCH; k++) {
            f[k] = b[k * n_in + i];
            r->in[i] += f[k];
        }
        for (size_t j = 0; j <= i; j++)
            row[j] += ((f[0] * b[j] + f[1] * b[n_in + j]) +
                       (f[2] * b[2 * n_in + j] + f[3] * b[3 * n_in + j])) +
                      ((f[4] * b[4 * n_in + j] + f[5] * b[5 * n_in + j]) +
                       (f[6] * b[6 * n_in + j] + f[7] * b[7 * n_in + j]));
    }
    for (uint32_t k = 0; k < n; k++) {
        for (uint32_t o = 0; o < r->n_out; o++) {
            double target = y[(size_t)k * r->n_out + o], *cross = r->cross + o * n_in;
            r->out[o] += target;
            for (size_t i = 0; i < n_in; i++)
                cross[i] += target * b[k * n_in + i];
        }
    }
}

kept_status kept_ridge_add(kept_ridge *ridge, const float *x, const float *y, uint32_t n_rows,
                           struct kept_error *err)
{
    if (!ridge || !x || !y)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_ridge_add needs a regression and rows");
    if (!all_finite(x, (size_t)n_rows * ridge->n_in) ||
        !all_finite(y, (size_t)n_rows * ridge->n_out))
        return kept_fail(err, KEPT_E_ARGUMENT, "one of %u rows to fit has no number", n_rows);
    for (uint32_t at = 0; at < n_rows; at += BATCH)
        add_batch(ridge, x + (size_t)at * ridge->n_in, y + (size_t)at * ridge->n_out,
                  n_rows - at < BATCH ? n_rows - at : BATCH);
    ridge->n_rows += n_rows;
    return KEPT_OK;
}

/* ---- the solution ---- */

struct work {
    double *a;     /* triangle: the matrix, then its factor */
    double *scale; /* 1 / deviation, or 0 */
    double *w;     /* a right side, then what solves it */
};

static double dot(const double *a, const double *b, size_t n)
{
    double s[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++)
            s[k] += a[i + k] * b[i + k];
    for (; i < n; i++)
        s[0] += a[i] * b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* The standardised covariance of the inputs, with the ridge. */
static void fill_matrix(const kept_ridge *r, double lambda, struct work *work)
{
    double n = (double)r->n_rows;
    for (size_t i = 0; i < r->n_in; i++) {
        double mean = r->in[i] / n, square = r->products[triangle(i) + i] / n;
        double variance = square - mean * mean;
        work->scale[i] = variance > STEADY * square ? 1 / sqrt(variance) : 0;
    }
    for (size_t i = 0; i < r->n_in; i++) {
        const double *products = r->products + triangle(i);
        double *row = work->a + triangle(i), mean = r->in[i] / n;
        for (size_t j = 0; j <= i; j++)
            row[j] = (products[j] / n - mean * (r->in[j] / n)) * work->scale[i] * work->scale[j];
        row[i] += lambda;
    }
}

/* In place; false where the matrix is not positive definite in double precision. */
static bool factorise(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double *row = a + triangle(i);
        for (size_t j = 0; j < i; j++) {
            const double *other = a + triangle(j);
            row[j] = (row[j] - dot(row, other, j)) / other[j];
        }
        double left = row[i] - dot(row, row, i);
        if (!(left > 0))
            return false;
        row[i] = sqrt(left);
    }
    return true;
}

static void substitute(const double *a, double *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w[i] = (w[i] - dot(a + triangle(i), w, i)) / a[triangle(i) + i];
    for (size_t i = n; i-- > 0;) {
        const double *row = a + triangle(i);
        w[i] /= row[i];
        for (size_t j = 0; j < i; j++)
            w[j] -= row[j] * w[i];
    }
}

static void solve_target(const kept_ridge *r, struct work *work, uint32_t o, float *weights,
                         float *bias)
{
    double n = (double)r->n_rows, target = r->out[o] / n, base = target;
    const double *cross = r->cross + (size_t)o * r->n_in;
    for (size_t i = 0; i < r->n_in; i++)
        work->w[i] = (cross[i] / n - target * (r->in[i] / n)) * work->scale[i];
    substitute(work->a, work->w, r->n_in);
    for (size_t i = 0; i < r->n_in; i++) {
        double w = work->w[i] * work->scale[i];
        weights[(size_t)o * r->n_in + i] = (float)w;
        base -= w * (r->in[i] / n);
    }
    bias[o] = (float)base;
}

kept_status kept_ridge_solve(const kept_ridge *ridge, double lambda, float *weights, float *bias,
                             struct kept_error *err)
{
    if (!ridge || !weights || !bias || !(lambda > 0 && lambda <= 1e6))
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kept_ridge_solve needs a regression, room and a ridge, not %g", lambda);
    if (ridge->n_rows < 2)
        return kept_fail(err, KEPT_E_ARGUMENT, "%llu rows are too few to fit",
                         (unsigned long long)ridge->n_rows);
    struct work work = {
        .a = kept_alloc(triangle(ridge->n_in) * sizeof *work.a),
        .scale = kept_alloc(ridge->n_in * sizeof *work.scale),
        .w = kept_alloc(ridge->n_in * sizeof *work.w),
    };
    kept_status status = KEPT_OK;
    if (!work.a || !work.scale || !work.w)
        status =
            kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to solve for %u inputs", ridge->n_in);
    if (status == KEPT_OK) {
        fill_matrix(ridge, lambda, &work);
        if (!factorise(work.a, ridge->n_in))
            status =
                kept_fail(err, KEPT_E_ARGUMENT, "a ridge of %g is too small for these %u inputs",
                          lambda, ridge->n_in);
    }
    for (uint32_t o = 0; o < ridge->n_out && status == KEPT_OK; o++)
        solve_target(ridge, &work, o, weights, bias);
    kept_free(work.a);
    kept_free(work.scale);
    kept_free(work.w);
    return status;
}
