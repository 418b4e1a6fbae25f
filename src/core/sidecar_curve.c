/* core/sidecar_curve.c: from what a second reading attended to, to how much each head keeps at any
 * share of the past; and from that to budgets in slots.
 *
 * Curve. One threshold over the scores of all heads keeps a share of them; a head's fraction is how
 * much of its own scores lies above. Scores equal to the threshold count in part, so that the mean
 * of the fractions is the share exactly and fractions never fall as the share grows.
 *
 * Budgets. `least` slots of every head are safe. Of the rest of the context all heads together have
 * the share f = (mean - least) / (context - least); the curve at f is interpolated (0 at 0), every
 * fraction is at least 2 % of f and at most 1, and all are scaled by the one factor with which the
 * mean is f again.
 */
#include "core/sidecar_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "core/model_internal.h"

#define LEAST_SHARE 0.005
#define FLOOR       0.02 /* of the share: no head is starved by a text it was not needed for */
#define HALVINGS    100

/* ---- curve ---- */

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* How many of n descending values are above x, or with `equal` not below it. */
static size_t count_above(const float *values, size_t n, float x, bool equal)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (values[middle] > x || (equal && values[middle] == x))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Scores of all heads, twice. */
struct ranked {
    const float *sorted; /* [n_heads][n], descending in each head */
    const float *pool;   /* [n_heads * n], descending */
    size_t n_heads, n;
};

static void fill_share(const struct ranked *ranked, double share, double *out)
{
    size_t n = ranked->n, total = ranked->n_heads * n;
    const float *pool = ranked->pool;
    double wanted = share * (double)total;
    size_t last = (size_t)ceil(wanted);
    float threshold = pool[(last < 1 ? 1 : last > total ? total : last) - 1];
    size_t above = count_above(pool, total, threshold, false);
    size_t equal = count_above(pool, total, threshold, true) - above;
    double part = (wanted - (double)above) / (double)equal;
    for (size_t h = 0; h < ranked->n_heads; h++) {
        const float *own = ranked->sorted + h * n;
        size_t own_above = count_above(own, n, threshold, false);
        size_t own_equal = count_above(own, n, threshold, true) - own_above;
        out[h] = ((double)own_above + part * (double)own_equal) / (double)n;
    }
}

/* Copies the scores of layers without a window, heads densely; KEPT_E_ARGUMENT for no numbers. */
static kept_status gather(const kept_model *model, const float *scores, uint32_t n, float *to,
                          struct kept_error *err)
{
    size_t per_layer = (size_t)model->info.n_kv_head * n, at = 0;
    for (uint32_t l = 0; l < model->info.n_layers; l++) {
        if (model->shape.layers[l].window)
            continue;
        for (size_t i = 0; i < per_layer; i++) {
            float score = scores[l * per_layer + i];
            if (!(score < INFINITY))
                return kept_fail(err, KEPT_E_ARGUMENT,
                                 "score of token %zu, head %zu of layer %u is no number below "
                                 "infinity",
                                 i % n, i / n, l);
            to[at++] = score;
        }
    }
    return KEPT_OK;
}

static void fill_curve(const kept_model *model, const struct ranked *ranked, double *head_fractions,
                       float *shares, float *fractions)
{
    uint32_t n_kv = model->info.n_kv_head;
    for (uint32_t s = 0; s < KEPT_CURVE_SHARES; s++) {
        double share = pow(LEAST_SHARE, 1.0 - (double)s / (KEPT_CURVE_SHARES - 1));
        const double *from = head_fractions;
        shares[s] = s + 1 == KEPT_CURVE_SHARES ? 1 : (float)share;
        fill_share(ranked, (double)shares[s], head_fractions);
        for (uint32_t l = 0; l < model->info.n_layers; l++)
            for (uint32_t h = 0; h < n_kv; h++)
                *fractions++ = model->shape.layers[l].window ? 0 : (float)*from++;
    }
}

kept_status kept_sidecar_curve(const kept_model *model, const float *scores, uint32_t n_tokens,
                               float *shares, float *fractions, struct kept_error *err)
{
    if (!model || !scores || !n_tokens || !shares || !fractions)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kept_sidecar_curve needs a model, scores, tokens and room for the curve");
    size_t n_heads =
        (size_t)(model->info.n_layers - model->info.n_window_layers) * model->info.n_kv_head;
    if (!n_heads)
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "every layer of '%.300s' has a sliding window: nothing outgrows a budget",
                         model->info.path);
    size_t n_scores = n_heads * n_tokens;
    float *sorted = kept_realloc_array(NULL, n_scores, 2 * sizeof *sorted);
    double *head_fractions = kept_realloc_array(NULL, n_heads, sizeof *head_fractions);
    kept_status status = KEPT_OK;
    if (!sorted || !head_fractions)
        status = kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to sort %zu scores", n_scores);
    if (status == KEPT_OK)
        status = gather(model, scores, n_tokens, sorted, err);
    if (status == KEPT_OK) {
        float *pool = sorted + n_scores;
        memcpy(pool, sorted, n_scores * sizeof *pool);
        qsort(pool, n_scores, sizeof *pool, descending);
        for (size_t h = 0; h < n_heads; h++)
            qsort(sorted + h * n_tokens, n_tokens, sizeof *sorted, descending);
        struct ranked ranked = {sorted, pool, n_heads, n_tokens};
        fill_curve(model, &ranked, head_fractions, shares, fractions);
    }
    kept_free(sorted);
    kept_free(head_fractions);
    return status;
}

/* ---- budgets ---- */

/* The head's fraction at share f, between the shares beside it. */
static double fraction_at(const kept_sidecar *s, size_t head, double f)
{
    size_t heads = (size_t)s->info.n_layers * s->info.n_kv;
    double x0 = 0, y0 = 0;
    for (uint32_t i = 0; i < s->info.n_shares; i++) {
        double x1 = s->shares[i], y1 = s->fractions[i * heads + head];
        if (f <= x1)
            return y0 + (y1 - y0) * (f - x0) / (x1 - x0);
        x0 = x1;
        y0 = y1;
    }
    return y0;
}

static bool has_budget(const kept_sidecar *s, size_t head)
{
    size_t heads = (size_t)s->info.n_layers * s->info.n_kv;
    return s->fractions[(s->info.n_shares - 1) * heads + head] > 0;
}

static double bounded(double fraction, double scale, double floor)
{
    double x = fraction * scale;
    return x < floor ? floor : x > 1 ? 1 : x;
}

/* The factor with which the fractions' sum, each kept between floor and 1, is just not above what
 * is wanted. */
static double scale_to(const double *fractions, size_t n, double floor, double wanted)
{
    double low = 0, high = 1 / floor; /* there every fraction is 1: they are at least floor */
    for (int i = 0; i < HALVINGS; i++) {
        double middle = 0.5 * (low + high), sum = 0;
        for (size_t h = 0; h < n; h++)
            sum += fractions[h] < 0 ? 0 : bounded(fractions[h], middle, floor);
        if (sum <= wanted)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* fractions[heads]: below 0 where a head has no budget. */
static void fill_budgets(double *fractions, size_t heads, uint32_t context, uint32_t mean,
                         uint32_t least, uint32_t *budgets)
{
    double free = (double)context - least, f = ((double)mean - least) / free, floor = FLOOR * f;
    size_t n = 0;
    uint64_t sum = 0;
    for (size_t h = 0; h < heads; h++) {
        n += fractions[h] >= 0;
        if (fractions[h] >= 0 && fractions[h] < floor)
            fractions[h] = floor;
    }
    double scale = scale_to(fractions, heads, floor, f * (double)n);
    for (size_t h = 0; h < heads; h++) {
        budgets[h] = 0;
        if (fractions[h] >= 0) /* a little more, so that equal heads get the whole mean */
            budgets[h] = least + (uint32_t)(bounded(fractions[h], scale, floor) * free + 1e-6);
        sum += budgets[h];
    }
    for (size_t h = 0; h < heads && sum > (uint64_t)n * mean; h++) {
        if (budgets[h] > least) {
            budgets[h]--;
            sum--;
        }
    }
}

kept_status kept_sidecar_budgets(const kept_sidecar *sidecar, uint32_t context, uint32_t mean,
                                 uint32_t least, uint32_t *budgets, struct kept_error *err)
{
    if (!sidecar || !budgets || least > mean || mean > context)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "a mean of %u slots is not between the %u that are safe and a context of "
                         "%u",
                         mean, least, context);
    size_t heads = (size_t)sidecar->info.n_layers * sidecar->info.n_kv;
    double *fractions = kept_realloc_array(NULL, heads, sizeof *fractions);
    if (!fractions)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the budgets of %zu heads", heads);
    if (mean == least || mean == context) {
        for (size_t h = 0; h < heads; h++)
            budgets[h] = has_budget(sidecar, h) ? mean : 0;
    } else {
        double f = ((double)mean - least) / ((double)context - least);
        for (size_t h = 0; h < heads; h++)
            fractions[h] = has_budget(sidecar, h) ? fraction_at(sidecar, h, f) : -1;
        fill_budgets(fractions, heads, context, mean, least, budgets);
    }
    kept_free(fractions);
    return KEPT_OK;
}
