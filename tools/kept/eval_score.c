/* eval_score.c: log-probabilities and perplexity.
 *
 * The sum over the vocabulary is most of the work: eight partial sums in float let the
 * compiler vectorise the exponential below; each holds at most n_vocab / 8 values of at most
 * 1, so their rounding stays below 1e-5 relative, and they are joined in double.
 */
#include "eval_score.h"

#include <math.h>
#include <string.h>

#define LANES 8u
#define BLOCK 512u /* values summed in float before they go to double */

/* e^x for x <= 0 by 2^k times a polynomial (Cephes' coefficients), relative error under 2e-7. */
static float exp_negative(float x)
{
    float y = x < -87.0f ? -87.0f : x;
    float k = (float)(int32_t)(y * 1.44269504f - 0.5f);
    float r = y - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t bits;
        float value;
    } scale = {((int32_t)k + 127) * (1 << 23)};
    return p * scale.value;
}

double cli_nll(const float *logits, uint32_t n_vocab, int32_t token)
{
    float top = logits[0], sums[LANES] = {0};
    double sum = 0;
    uint32_t i = 0;
    for (uint32_t j = 1; j < n_vocab; j++)
        top = logits[j] > top ? logits[j] : top;
    for (; i + LANES <= n_vocab; i += LANES)
        for (uint32_t l = 0; l < LANES; l++)
            sums[l] += exp_negative(logits[i + l] - top);
    for (; i < n_vocab; i++)
        sum += exp_negative(logits[i] - top);
    for (uint32_t l = 0; l < LANES; l++)
        sum += sums[l];
    return log(sum) + top - logits[token];
}

/* Over values from … from + n - 1, a and b less their largest: sums of e^a, e^b and e^a (a - b). */
static void add_block(const float *a, const float *b, uint32_t n, const float tops[2],
                      double sums[3])
{
    float lanes[3][LANES] = {{0}};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (uint32_t l = 0; l < LANES; l++) {
            float x = a[i + l] - tops[0], y = b[i + l] - tops[1], e = exp_negative(x);
            lanes[0][l] += e;
            lanes[1][l] += exp_negative(y);
            lanes[2][l] += e * (x - y);
        }
    }
    for (; i < n; i++) {
        float x = a[i] - tops[0], y = b[i] - tops[1], e = exp_negative(x);
        lanes[0][0] += e;
        lanes[1][0] += exp_negative(y);
        lanes[2][0] += e * (x - y);
    }
    for (uint32_t s = 0; s < 3; s++)
        for (uint32_t l = 0; l < LANES; l++)
            sums[s] += lanes[s][l];
}

static uint32_t largest(const float *values, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = values[i] > values[best] ? i : best;
    return best;
}

struct cli_difference cli_compare(const float *full, const float *test, uint32_t n_vocab,
                                  int32_t token)
{
    uint32_t a = largest(full, n_vocab), b = largest(test, n_vocab);
    float tops[2] = {full[a], test[b]};
    double sums[3] = {0};
    for (uint32_t i = 0; i < n_vocab; i += BLOCK)
        add_block(full + i, test + i, n_vocab - i < BLOCK ? n_vocab - i : BLOCK, tops, sums);
    double kl = sums[2] / sums[0] - log(sums[0]) + log(sums[1]);
    return (struct cli_difference){.kl = kl < 0 ? 0 : kl, /* rounding; NaN stays */
                                   .nll_full = log(sums[0]) + tops[0] - full[token],
                                   .nll = log(sums[1]) + tops[1] - test[token],
                                   .agree = a == b};
}

void cli_score_add(struct cli_score *score, double nll)
{
    score->sum += nll;
    score->sum_squares += nll * nll;
    score->n++;
}

double cli_score_mean(const struct cli_score *score)
{
    return score->n ? score->sum / (double)score->n : 0;
}

double cli_perplexity(const struct cli_score *score)
{
    return exp(cli_score_mean(score));
}

double cli_standard_error(const struct cli_score *score)
{
    if (score->n < 2)
        return 0;
    double n = (double)score->n, mean = cli_score_mean(score);
    double variance = score->sum_squares / n - mean * mean;
    return variance > 0 ? sqrt(variance / (n - 1)) * exp(mean) : 0;
}
