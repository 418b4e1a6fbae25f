/* memory_svg.c: associative memory as a picture: a row per layer, in it a cell per KV head (where
 * a layer has many: one for the head whose slots stand for the most).
 *
 *     layer 0    [ |.|  ||  .|  | ]  [ ..|| |   |||. ]  …
 *     layer 1    [                ]  [               ]  …
 *                0      2048   4096  0     2048   4096
 *
 * A bar per slot: across its position in the input, up how many tokens it stands for (logarithm),
 * darker the later it last took one in. Every bar has a title, which viewers show on hover. Slots
 * nearer to each other than half a pixel are one bar, as high as the highest of them; more than
 * half a pixel where there would be more than MAX_BARS, so that the file stays below 2 MB.
 */
#include "memory_out.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fail.h"
#include "terminal.h"

#define WIDTH      1200.0
#define LEFT       130.0 /* of the first cell */
#define TOP        124.0 /* of the first row */
#define GAP        16.0  /* between cells */
#define CELL       40.0  /* height of a cell */
#define ROW        52.0  /* of a row */
#define FEW_HEADS  4u    /* so many are drawn beside each other */
#define LEAST_STEP 0.5   /* pixels between bars */
#define MAX_BARS   13000u
#define N_AGES     6u

/* By age: up to this share of the position. */
static const struct {
    double share;
    const char *colour;
} ages[N_AGES] = {{1 / 32.0, "#08306b"}, {1 / 16.0, "#2171b5"}, {1 / 8.0, "#4292c6"},
                  {1 / 4.0, "#6baed6"},  {1 / 2.0, "#9ecae1"},  {1, "#c9d6e6"}};

struct picture {
    FILE *file;
    const struct cli_memory *memory;
    uint32_t columns, rows;
    double cell, step; /* pixels: width of a cell, least distance of bars */
    double end;        /* position at the right edge */
};

/* Slots drawn as one bar. */
struct bar {
    double x, first, last, tokens, most;
    int32_t touched;
    uint32_t n;
};

static uint32_t age_of(const struct picture *p, int32_t touched)
{
    double age = (double)p->memory->position - touched;
    uint32_t i = 0;
    while (i + 1 < N_AGES && age > ages[i].share * p->memory->position)
        i++;
    return i;
}

static double height_of(const struct picture *p, double tokens)
{
    double most = fmax(p->memory->most, 2);
    return fmax(2, CELL * fmin(1, log2(1 + tokens) / log2(1 + most)));
}

static void draw_bar(const struct picture *p, const struct bar *bar, double left, double bottom)
{
    double height = height_of(p, bar->most);
    fprintf(p->file,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"a%u\"><title>",
            left + bar->x, bottom - height, fmax(1, p->step), height, age_of(p, bar->touched));
    if (bar->n > 1)
        fprintf(p->file, "%u slots at %.0f-%.0f", bar->n, bar->first, bar->last);
    else
        fprintf(p->file, "at %.1f", bar->first);
    fprintf(p->file, ": %.0f token%s, %lld ago</title></rect>\n", bar->tokens,
            bar->tokens < 1.5 ? "" : "s", (long long)p->memory->position - bar->touched);
}

static void draw_slots(const struct picture *p, const struct cli_memory_head *head, double left,
                       double bottom)
{
    struct bar bar = {0};
    for (uint32_t i = 0; i < head->n; i++) {
        const struct kept_memory_slot *slot = &head->slots[i];
        double position = fmin(fmax((double)slot->position, 0), p->end);
        double x = floor((p->cell - p->step) * position / p->end / p->step) * p->step;
        if (bar.n && x > bar.x) {
            draw_bar(p, &bar, left, bottom);
            bar.n = 0;
        }
        if (!bar.n)
            bar = (struct bar){.x = x, .first = position, .touched = slot->touched};
        bar.last = position;
        bar.tokens += (double)slot->tokens;
        bar.most = fmax(bar.most, (double)slot->tokens);
        bar.touched = slot->touched > bar.touched ? slot->touched : bar.touched;
        bar.n++;
    }
    if (bar.n)
        draw_bar(p, &bar, left, bottom);
}

static void draw_head(const struct picture *p, const struct cli_memory_head *head, uint32_t column,
                      double y)
{
    double left = LEFT + column * (p->cell + GAP);
    fprintf(p->file,
            "<g id=\"l%uh%u\"><path d=\"M%.1f %.1fh%.1fv%.1fh-%.1fz\" fill=\"#f6f6f6\"><title>"
            "layer %u, KV head %u: %u slots for %.0f tokens, the largest for %.0f</title></path>\n",
            head->layer, head->kv_head, left, y, p->cell, CELL, p->cell, head->layer, head->kv_head,
            head->n, head->tokens, head->most);
    draw_slots(p, head, left, y + CELL);
    fputs("</g>\n", p->file);
}

/* ---- rows ---- */

/* The heads of the layer of heads[i] are [i, this). */
static uint32_t end_of_layer(const struct cli_memory *memory, uint32_t i)
{
    uint32_t layer = memory->heads[i].layer;
    while (i < memory->n_heads && memory->heads[i].layer == layer)
        i++;
    return i;
}

static uint32_t fullest(const struct cli_memory *memory, uint32_t begin, uint32_t end)
{
    uint32_t best = begin;
    for (uint32_t i = begin; i < end; i++)
        if (memory->heads[i].tokens > memory->heads[best].tokens)
            best = i;
    return best;
}

/* A layer without memory (it has a sliding window, or everything fits) has no row. */
static bool has_memory(const struct cli_memory *memory, uint32_t begin, uint32_t end)
{
    return memory->heads[fullest(memory, begin, end)].n > 0;
}

static void draw_layer(const struct picture *p, uint32_t begin, uint32_t end, double y)
{
    const struct cli_memory *memory = p->memory;
    bool one = memory->n_kv > FEW_HEADS;
    uint32_t best = fullest(memory, begin, end), slots = 0;
    double tokens = 0;
    for (uint32_t i = begin; i < end; i++) {
        slots += memory->heads[i].n;
        tokens += memory->heads[i].tokens;
    }
    fprintf(p->file, "<text x=\"10\" y=\"%.1f\" class=\"n\">layer %u", y + 13,
            memory->heads[begin].layer);
    if (one)
        fprintf(p->file, ", head %u", memory->heads[best].kv_head);
    fprintf(p->file,
            "</text>\n<text x=\"10\" y=\"%.1f\" class=\"s\">%u slots</text>\n"
            "<text x=\"10\" y=\"%.1f\" class=\"s\">%.0f tokens</text>\n",
            y + 26, slots, y + 38, tokens);
    for (uint32_t i = one ? best : begin; i < (one ? best + 1 : end); i++)
        draw_head(p, &memory->heads[i], i - (one ? best : begin), y);
}

static void draw_axis(const struct picture *p, double y)
{
    for (uint32_t c = 0; c < p->columns; c++) {
        double left = LEFT + c * (p->cell + GAP);
        for (uint32_t tick = 0; tick <= 2; tick++)
            fprintf(p->file,
                    "<text x=\"%.1f\" y=\"%.1f\" class=\"s\" text-anchor=\"%s\">%.0f</text>\n",
                    left + p->cell * tick / 2, y,
                    tick == 0   ? "start"
                    : tick == 1 ? "middle"
                                : "end",
                    p->end * tick / 2);
        fprintf(p->file,
                "<text x=\"%.1f\" y=\"%.1f\" class=\"s\" text-anchor=\"middle\">mean position in "
                "the input, tokens</text>\n",
                left + p->cell / 2, y + 15);
    }
}

static void draw_columns(const struct picture *p)
{
    for (uint32_t c = 0; c < p->columns && p->columns > 1; c++)
        fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\" class=\"n\">KV head %u</text>\n",
                LEFT + c * (p->cell + GAP), TOP - 6, c);
    if (p->memory->n_kv > FEW_HEADS)
        fprintf(p->file,
                "<text x=\"%.1f\" y=\"%.1f\" class=\"n\">of each layer's KV heads the one whose "
                "slots stand for the most tokens</text>\n",
                LEFT, TOP - 6);
}

/* ---- legend ---- */

static void draw_legend(const struct picture *p)
{
    double x = LEFT, y = 95, examples[] = {1, 10, 100, 1000, 10000};
    fprintf(p->file, "<text x=\"10\" y=\"%.1f\" class=\"n\">last touched</text>\n", y);
    for (uint32_t i = 0; i < N_AGES; i++, x += 84)
        fprintf(p->file,
                "<path d=\"M%.1f %.1fh10v10h-10z\" class=\"a%u\"/><text x=\"%.1f\" y=\"%.1f\" "
                "class=\"s\">&#8804; %.0f ago</text>\n",
                x, y - 10, i, x + 14, y, ceil(ages[i].share * p->memory->position));
    x += 30;
    fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\" class=\"n\">tokens of a slot</text>\n", x, y);
    x += 110;
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++, x += 56) {
        double height = height_of(p, examples[i]);
        if (examples[i] > fmax(p->memory->most, 1))
            break;
        fprintf(p->file,
                "<path d=\"M%.1f %.1fh3v%.1fh-3z\" class=\"a1\"/><text x=\"%.1f\" y=\"%.1f\" "
                "class=\"s\">%.0f</text>\n",
                x, y - height, height, x + 7, y, examples[i]);
    }
}

static void draw_title(const struct picture *p, const struct cli_engine *engine)
{
    const struct cli_memory *memory = p->memory;
    uint64_t planned = kept_plan_info(engine->plan)->memory_slots;
    fprintf(p->file,
            "<text x=\"10\" y=\"26\" class=\"h\">Associative memory after %u tokens: %llu of %llu "
            "slots stand for %.0f tokens</text>\n",
            memory->position, (unsigned long long)memory->slots, (unsigned long long)planned,
            memory->tokens);
    fprintf(p->file,
            "<text x=\"10\" y=\"46\" class=\"n\">Summed over KV heads: %llu tokens consolidated, "
            "%llu novelties, %llu slots replaced; a slot stands for %.2f tokens on average, the "
            "largest for %.0f.</text>\n",
            (unsigned long long)memory->consolidated, (unsigned long long)memory->novelties,
            (unsigned long long)memory->replaced,
            memory->slots ? memory->tokens / (double)memory->slots : 0, memory->most);
}

/* ---- the whole ---- */

static void lay_out(struct picture *p, bool compact)
{
    const struct cli_memory *memory = p->memory;
    p->columns = memory->n_kv > FEW_HEADS ? 1 : memory->n_kv;
    p->columns = p->columns ? p->columns : 1;
    p->end = compact ? 1 : memory->position;
    for (uint32_t i = 0, end; i < memory->n_heads; i = end) {
        end = end_of_layer(memory, i);
        p->rows += has_memory(memory, i, end);
        for (uint32_t h = i; h < end; h++)
            if (memory->heads[h].n)
                p->end =
                    fmax(p->end, (double)memory->heads[h].slots[memory->heads[h].n - 1].position);
    }
    p->end = fmax(p->end, 1);
    p->cell = (WIDTH - LEFT - 20 - (p->columns - 1) * GAP) / p->columns;
    p->step = fmax(LEAST_STEP, p->cell * p->columns * p->rows / MAX_BARS);
}

static void draw(struct picture *p, const struct cli_engine *engine)
{
    const struct cli_memory *memory = p->memory;
    double y = TOP, height = TOP + ROW * (p->rows ? p->rows : 1) + 40;
    fprintf(p->file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
            "viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\">\n"
            "<style>.h{font-size:15px;font-weight:bold}.n{font-size:13px}"
            ".s{font-size:11px;fill:#555}",
            WIDTH, height, WIDTH, height);
    for (uint32_t i = 0; i < N_AGES; i++)
        fprintf(p->file, ".a%u{fill:%s}", i, ages[i].colour);
    fprintf(p->file, "</style>\n<path d=\"M0 0h%.0fv%.0fh-%.0fz\" fill=\"#fff\"/>\n", WIDTH, height,
            WIDTH);
    draw_title(p, engine);
    if (p->rows) {
        draw_legend(p);
        draw_columns(p);
    } else {
        fprintf(p->file,
                "<text x=\"10\" y=\"%.1f\" class=\"n\">Nothing has left the window yet.</text>\n",
                TOP);
    }
    for (uint32_t i = 0, end; i < memory->n_heads; i = end) {
        end = end_of_layer(memory, i);
        if (!has_memory(memory, i, end))
            continue;
        draw_layer(p, i, end, y);
        y += ROW;
    }
    if (p->rows)
        draw_axis(p, y + 4);
    fputs("</svg>\n", p->file);
}

kept_status cli_memory_svg(struct cli_engine *engine, const char *path, struct kept_error *err)
{
    struct cli_memory memory;
    if (!engine->settings->past.assoc_slots)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "there is no associative memory to draw: give --assoc SLOTS");
    kept_status status = cli_memory_read(engine, &memory, err);
    if (status != KEPT_OK)
        return status;
    struct picture picture = {.file = fopen(path, "w"), .memory = &memory};
    if (!picture.file) {
        cli_memory_finish(&memory);
        return cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", path, strerror(errno));
    }
    lay_out(&picture, engine->settings->past.positions == KEPT_POSITIONS_COMPACT);
    draw(&picture, engine);
    bool failed = ferror(picture.file) != 0;
    failed |= fclose(picture.file) != 0;
    cli_memory_finish(&memory);
    return failed ? cli_fail(err, KEPT_E_IO, "cannot write '%.300s'", path) : KEPT_OK;
}
