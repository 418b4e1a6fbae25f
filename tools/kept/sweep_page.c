/* sweep_page.c: a sweep as one page that needs nothing else: four charts and the table behind them.
 *
 *   x  bytes of keys and values, in percent of everything kept as f16, logarithmic
 *   y  KL (logarithmic), change of perplexity, top-1 agreement, nats lost on repeated text
 *
 * Every method is a line over its budgets; a point tells its numbers on hover.
 */
#include "eval_sweep.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fail.h"
#include "terminal.h"

#define WIDTH  560.0
#define HEIGHT 340.0
#define LEFT   64.0
#define RIGHT  26.0
#define TOP    34.0
#define BOTTOM 44.0
#define LEAST  1e-6 /* of a KL, where the axis is logarithmic */

enum scale { LINEAR, LOG };

struct chart {
    const char *title, *field;
    enum scale scale;
    double factor, offset; /* shown = factor * (value + offset) */
};

static const struct chart charts[] = {
    {"KL divergence (nats), mean", "kl_mean", LOG, 1, 0},
    {"Perplexity, change in percent", "ppl_ratio", LINEAR, 100, -1},
    {"Top-1 agreement, percent", "top1_agreement", LINEAR, 100, 0},
    {"Repeated text: nats lost a token", "copy_nats", LINEAR, 1, 0},
};

static const char *const colours[] = {"#4e79a7", "#f28e2b", "#e15759", "#76b7b2",
                                      "#59a14f", "#b07aa1", "#9c755f", "#edc948",
                                      "#ff9da7", "#4b5563"};

#define N_CHARTS  (sizeof charts / sizeof *charts)
#define N_COLOURS (sizeof colours / sizeof *colours)

struct axes {
    double x_low, x_high, y_low, y_high; /* logarithms where the axis is */
    const struct chart *chart;
};

static double number(const json_t *point, const char *field)
{
    return json_number_value(json_object_get(point, field));
}

static const char *text(const json_t *object, const char *field)
{
    const char *value = json_string_value(json_object_get(object, field));
    return value ? value : "";
}

static void put_escaped(FILE *file, const char *value)
{
    for (; *value; value++) {
        if (*value == '<')
            fputs("&lt;", file);
        else if (*value == '>')
            fputs("&gt;", file);
        else if (*value == '&')
            fputs("&amp;", file);
        else
            fputc(*value, file);
    }
}

static double share_of(const json_t *point)
{
    double full = number(point, "kv_bytes_full");
    return full > 0 ? 100 * number(point, "kv_bytes") / full : 100;
}

static double value_of(const struct chart *chart, const json_t *point)
{
    double value = chart->factor * (number(point, chart->field) + chart->offset);
    return chart->scale == LOG ? log10(value > LEAST ? value : LEAST) : value;
}

static double x_of(const struct axes *a, double share)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * (log10(share) - a->x_low) / (a->x_high - a->x_low);
}

static double y_of(const struct axes *a, double value)
{
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - a->y_low) / (a->y_high - a->y_low);
}

static struct axes axes_of(const struct chart *chart, const json_t *points)
{
    struct axes a = {.x_low = 2, .x_high = 2, .chart = chart};
    for (size_t i = 0; i < json_array_size(points); i++) {
        const json_t *point = json_array_get(points, i);
        double x = log10(share_of(point) > 0.01 ? share_of(point) : 0.01);
        double y = value_of(chart, point);
        a.x_low = x < a.x_low ? x : a.x_low;
        a.x_high = x > a.x_high ? x : a.x_high;
        a.y_low = i == 0 || y < a.y_low ? y : a.y_low;
        a.y_high = i == 0 || y > a.y_high ? y : a.y_high;
    }
    a.x_low -= 0.05;
    if (chart->scale == LOG) {
        a.y_low = floor(a.y_low);
        a.y_high = ceil(a.y_high);
    }
    if (!(a.y_high > a.y_low))
        a.y_high = a.y_low + 1;
    if (chart->scale == LINEAR) {
        double room = 0.06 * (a.y_high - a.y_low);
        a.y_low -= room;
        a.y_high += room;
    }
    return a;
}

/* A round step that gives about five lines. */
static double step_of(double range)
{
    double power = pow(10, floor(log10(range / 5)));
    double rest = range / 5 / power;
    return power * (rest < 1.5 ? 1 : rest < 3.5 ? 2 : rest < 7.5 ? 5 : 10);
}

static void draw_grid(FILE *file, const struct axes *a)
{
    static const double shares[] = {1, 2, 5, 10, 20, 25, 50, 100};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        double x = x_of(a, shares[i]);
        if (x < LEFT - 0.5 || x > WIDTH)
            continue;
        fprintf(file,
                "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"g\"/><text "
                "x=\"%.1f\" y=\"%.1f\" class=\"x\">%g %%</text>\n",
                x, TOP, x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 16, shares[i]);
    }
    double step = a->chart->scale == LOG ? 1 : step_of(a->y_high - a->y_low);
    for (double v = ceil(a->y_low / step) * step; v <= a->y_high + 1e-9; v += step)
        fprintf(file,
                "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"g\"/><text "
                "x=\"%.1f\" y=\"%.1f\" class=\"y\">%g</text>\n",
                LEFT, y_of(a, v), WIDTH - RIGHT, y_of(a, v), LEFT - 6, y_of(a, v) + 4,
                a->chart->scale == LOG ? pow(10, v)
                : fabs(v) < step / 2   ? 0.0
                                       : v);
}

/* Points of a method follow each other. */
static size_t end_of_method(const json_t *points, size_t from)
{
    const char *name = text(json_array_get(points, from), "method");
    size_t end = from;
    while (end < json_array_size(points) &&
           strcmp(text(json_array_get(points, end), "method"), name) == 0)
        end++;
    return end;
}

static void draw_method(FILE *file, const struct axes *a, const json_t *points, size_t from,
                        size_t end, const char *colour)
{
    const struct chart *chart = a->chart;
    fprintf(file, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
    for (size_t i = from; i < end; i++) {
        const json_t *point = json_array_get(points, i);
        fprintf(file, "%.1f,%.1f ", x_of(a, share_of(point)), y_of(a, value_of(chart, point)));
    }
    fputs("\"/>\n", file);
    for (size_t i = from; i < end; i++) {
        const json_t *point = json_array_get(points, i);
        fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"><title>",
                x_of(a, share_of(point)), y_of(a, value_of(chart, point)), colour);
        put_escaped(file, text(point, "label"));
        fprintf(file, ", %g %% of the slots, %s: %.1f %% of the bytes, KL %.5f</title></circle>\n",
                number(point, "budget_percent"), text(point, "kv"), share_of(point),
                number(point, "kl_mean"));
    }
}

static void draw_chart(FILE *file, const struct chart *chart, const json_t *points)
{
    struct axes a = axes_of(chart, points);
    size_t n = json_array_size(points), colour = 0;
    fprintf(file,
            "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\"><text x=\"%.0f\" y=\"20\" "
            "class=\"t\">%s</text>\n",
            WIDTH, HEIGHT, LEFT, chart->title);
    draw_grid(file, &a);
    for (size_t from = 0, end; from < n; from = end) {
        end = end_of_method(points, from);
        draw_method(file, &a, points, from, end, colours[colour++ % N_COLOURS]);
    }
    fprintf(file,
            "<text x=\"%.0f\" y=\"%.0f\" class=\"x\">bytes of keys and values, of everything kept "
            "as f16</text></svg>\n",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8);
}

static void draw_legend(FILE *file, const json_t *points)
{
    size_t colour = 0;
    fputs("<p class=\"legend\">", file);
    for (size_t from = 0, end; from < json_array_size(points); from = end) {
        end = end_of_method(points, from);
        fprintf(file, "<span style=\"color:%s\">&#9632;</span> ", colours[colour++ % N_COLOURS]);
        put_escaped(file, text(json_array_get(points, from), "label"));
        fputs(" &nbsp; ", file);
    }
    fputs("</p>\n", file);
}

static void draw_table(FILE *file, const json_t *points)
{
    fputs("<table><tr><th>method</th><th>kv</th><th>slots</th><th>bytes</th><th>of f16</th>"
          "<th>KL mean</th><th>p95</th><th>p99</th><th>perplexity</th><th>top-1</th>"
          "<th>repeated</th><th>prefill tokens/s</th><th>decode tokens/s</th></tr>\n",
          file);
    for (size_t i = 0; i < json_array_size(points); i++) {
        const json_t *point = json_array_get(points, i);
        char bytes[32];
        fputs("<tr><td>", file);
        put_escaped(file, text(point, "label"));
        fprintf(file,
                "</td><td>%s</td><td>%g %%</td><td>%s</td><td>%.1f %%</td><td>%.5f</td>"
                "<td>%.5f</td><td>%.4f</td><td>%+.2f %%</td><td>%.2f %%</td><td>%+.3f</td>"
                "<td>%.0f</td><td>%.1f</td></tr>\n",
                text(point, "kv"), number(point, "budget_percent"),
                cli_bytes(bytes, (uint64_t)number(point, "kv_bytes")), share_of(point),
                number(point, "kl_mean"), number(point, "kl_p95"), number(point, "kl_p99"),
                100 * (number(point, "ppl_ratio") - 1), 100 * number(point, "top1_agreement"),
                number(point, "copy_nats"), number(point, "prefill_tps"),
                number(point, "decode_tps"));
    }
    fputs("</table>\n", file);
}

static void draw_page(FILE *file, const json_t *sweep)
{
    const json_t *points = json_object_get(sweep, "points");
    fputs(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>kept: quality "
        "against bytes</title>\n<style>body{font:15px sans-serif;margin:2em auto;max-width:1180px;"
        "padding:0 1em}svg{width:48%;min-width:420px}.g{stroke:#ddd}.t{font:bold 15px sans-serif}"
        ".x{font:12px sans-serif;text-anchor:middle;fill:#555}.y{font:12px sans-serif;"
        "text-anchor:end;fill:#555}table{border-collapse:collapse;font-size:13px}td,th{padding:"
        "3px 8px;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{"
        "text-align:left}</style></head><body>\n<h1>Quality against bytes</h1>\n<p>",
        file);
    put_escaped(file, text(sweep, "name"));
    fprintf(file,
            " on %s: prefixes of %lld tokens at %lld places, %lld tokens scored after them. "
            "Everything kept: perplexity %.3f.</p>\n",
            text(sweep, "device"), (long long)json_integer_value(json_object_get(sweep, "context")),
            (long long)json_integer_value(json_object_get(sweep, "places")),
            (long long)json_integer_value(json_object_get(sweep, "tokens")),
            number(sweep, "perplexity_full"));
    draw_legend(file, points);
    for (size_t i = 0; i < N_CHARTS; i++) /* repeated text is not measured after short prefixes */
        if (json_object_get(json_array_get(points, 0), charts[i].field))
            draw_chart(file, &charts[i], points);
    draw_table(file, points);
    fputs("</body></html>\n", file);
}

kept_status cli_sweep_page(const json_t *sweep, const char *path, struct kept_error *err)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", path, strerror(errno));
    draw_page(file, sweep);
    bool failed = ferror(file) != 0;
    failed |= fclose(file) != 0;
    return failed ? cli_fail(err, KEPT_E_IO, "cannot write '%.300s'", path) : KEPT_OK;
}
