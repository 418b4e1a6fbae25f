/* plan_svg.c: the plan as a picture: totals by category, each allocation as a bar of its
 * regions, and the lives of the activations over the calls of each program.
 *
 *     total      [weights        |kv                        |act|…]   scaled to the total
 *     buffer 0   [region|region|region …                        ]   scaled to the largest one
 *     heads      one bar per KV head, where something may be evicted
 *     prefill    x: calls, y: offset; one rectangle per activation region
 *
 * Every rectangle has a title with name, bytes and reason, which viewers show on hover.
 * Regions narrower than half a pixel are drawn as one with their neighbours of the same
 * category, so that a plan of thousands stays small.
 */
#include "plan_out.h"

#include <errno.h>
#include <string.h>

#include "fail.h"
#include "terminal.h"

#define WIDTH       1000.0
#define LEFT        120.0 /* of the bars */
#define BAR         (WIDTH - LEFT - 20)
#define BAR_HEIGHT  34.0
#define CHART       170.0 /* height of a lifetime chart */
#define HEADS       80.0  /* height of the row of head budgets */
#define LABEL_PX    6.6   /* per character of the small font */
#define MAX_BUFFERS 4096u

struct picture {
    FILE *file;
    const kept_plan *plan;
    double y;
};

static const struct {
    const char *category, *colour;
} colours[] = {{"weights", "#4e79a7"},  {"kv", "#f28e2b"},     {"associative", "#b07aa1"},
               {"episodic", "#9c755f"}, {"scorer", "#ff9da7"}, {"activations", "#59a14f"},
               {"logits", "#edc948"},   {"state", "#76b7b2"},  {"sampler", "#d37295"},
               {"staging", "#a0a0a0"},  {"driver", "#d0d0d0"}};

static const char *colour_of(const char *category)
{
    for (size_t i = 0; i < sizeof colours / sizeof *colours; i++)
        if (strcmp(colours[i].category, category) == 0)
            return colours[i].colour;
    return "#ffffff";
}

static void put_escaped(FILE *file, const char *text, size_t most)
{
    for (size_t i = 0; text[i] && i < most; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '<')
            fputs("&lt;", file);
        else if (c == '>')
            fputs("&gt;", file);
        else if (c == '&')
            fputs("&amp;", file);
        else
            fputc(c < 0x20 ? ' ' : c, file);
    }
}

static void text_at(struct picture *p, double x, double y, const char *class, const char *text)
{
    fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    put_escaped(p->file, text, SIZE_MAX);
    fputs("</text>\n", p->file);
}

struct box {
    double x, y, width, height;
    const char *category, *name, *why;
    uint64_t bytes;
};

static void draw_box(struct picture *p, const struct box *box)
{
    char bytes[32];
    size_t fits = (size_t)(box->width / LABEL_PX);
    cli_bytes(bytes, box->bytes);
    fprintf(
        p->file,
        "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" fill=\"%s\" stroke=\"#fff\" "
        "stroke-width=\"%s\"><title>",
        box->x, box->y, box->width, box->height, colour_of(box->category),
        box->width > 3 ? "0.8" : "0.1");
    put_escaped(p->file, box->name, SIZE_MAX);
    fprintf(p->file, ": %s, %llu bytes; ", bytes, (unsigned long long)box->bytes);
    put_escaped(p->file, box->why, SIZE_MAX);
    fputs("</title></rect>\n", p->file);
    if (fits < strlen(box->name) + 1 || box->height < 12)
        return;
    fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\" class=\"l\">", box->x + 3, box->y + 13);
    put_escaped(p->file, box->name, fits);
    fputs("</text>\n", p->file);
    if (fits > strlen(bytes) && box->height > 26)
        text_at(p, box->x + 3, box->y + 27, "l", bytes);
}

static void draw_totals(struct picture *p)
{
    const struct kept_plan_info *info = kept_plan_info(p->plan);
    struct cli_category categories[CLI_CATEGORIES];
    double x = LEFT, legend = LEFT;
    char line[96], bytes[32];
    cli_plan_categories(p->plan, categories);
    text_at(p, 10, p->y + 20, "n", "total");
    for (uint32_t c = 0; c < CLI_CATEGORIES; c++) {
        double width = BAR * (double)categories[c].bytes / (double)info->total_bytes;
        struct box box = {x,
                          p->y,
                          width,
                          BAR_HEIGHT,
                          categories[c].name,
                          categories[c].name,
                          c + 1 == CLI_CATEGORIES ? "an estimate" : "by category",
                          categories[c].bytes};
        if (!categories[c].bytes)
            continue;
        draw_box(p, &box);
        x += width;
    }
    p->y += BAR_HEIGHT + 10;
    for (uint32_t c = 0; c < CLI_CATEGORIES; c++) {
        if (!categories[c].bytes)
            continue;
        snprintf(line, sizeof line, "%s %s", categories[c].name,
                 cli_bytes(bytes, categories[c].bytes));
        double width = 24 + LABEL_PX * (double)strlen(line);
        if (legend + width > WIDTH - 10) {
            legend = LEFT;
            p->y += 18;
        }
        fprintf(p->file, "<rect x=\"%.1f\" y=\"%.1f\" width=\"10\" height=\"10\" fill=\"%s\"/>\n",
                legend, p->y, colour_of(categories[c].name));
        text_at(p, legend + 14, p->y + 9, "s", line);
        legend += width;
    }
    p->y += 36;
}

/* Bytes up to the end of the buffer's last region, and whether it holds activations (then a
 * lifetime chart shows it better). */
static uint64_t extent_of(const kept_plan *plan, uint32_t buffer, bool *activations)
{
    struct kept_region_info r;
    uint64_t end = 0;
    *activations = false;
    for (uint32_t i = 0; kept_plan_region(plan, i, &r); i++) {
        if (r.buffer != buffer)
            continue;
        end = r.offset + r.bytes > end ? r.offset + r.bytes : end;
        *activations |= strcmp(r.category, "activations") == 0;
    }
    return end;
}

static void draw_regions(struct picture *p, uint32_t buffer, double scale)
{
    struct kept_region_info r;
    struct box run = {0};
    for (uint32_t i = 0; kept_plan_region(p->plan, i, &r); i++) {
        if (r.buffer != buffer)
            continue;
        double x = LEFT + (double)r.offset * scale, width = (double)r.bytes * scale;
        if (run.category && (width >= 0.5 || run.width >= 0.5 ||
                             strcmp(run.category, r.category) != 0 || x < run.x)) {
            draw_box(p, &run);
            run.category = NULL;
        }
        if (run.category) {
            run.width = x + width - run.x;
            run.bytes += r.bytes;
            run.name = "several";
        } else {
            run = (struct box){x, p->y, width, BAR_HEIGHT, r.category, r.name, r.why, r.bytes};
        }
    }
    if (run.category)
        draw_box(p, &run);
}

static void draw_buffers(struct picture *p)
{
    uint32_t n = kept_plan_info(p->plan)->n_buffers;
    uint64_t largest = 1;
    bool activations;
    char line[64], bytes[32];
    n = n < MAX_BUFFERS ? n : MAX_BUFFERS;
    text_at(p, 10, p->y, "h", "Allocations and their regions");
    p->y += 12;
    for (uint32_t b = 0; b < n; b++) {
        uint64_t extent = extent_of(p->plan, b, &activations);
        largest = extent > largest ? extent : largest;
    }
    for (uint32_t b = 0; b < n; b++) {
        uint64_t extent = extent_of(p->plan, b, &activations);
        double scale = BAR / (double)largest;
        snprintf(line, sizeof line, "buffer %u", b);
        text_at(p, 10, p->y + 14, "n", line);
        text_at(p, 10, p->y + 28, "s", cli_bytes(bytes, extent));
        if (activations) { /* programs lie over each other: one box here, their lives below */
            struct box box = {LEFT,
                              p->y,
                              (double)extent * scale,
                              BAR_HEIGHT,
                              "activations",
                              "activations",
                              "of all programs, over each other",
                              extent};
            draw_box(p, &box);
        } else {
            draw_regions(p, b, scale);
        }
        p->y += BAR_HEIGHT + 8;
    }
    p->y += 28;
}

/* "prefill" of "prefill.qkv". */
static size_t program_of(const struct kept_region_info *r)
{
    return strcmp(r->category, "activations") == 0 ? strcspn(r->name, ".") : 0;
}

static void draw_program(struct picture *p, const char *name, size_t n)
{
    struct kept_region_info r;
    uint64_t height = 1;
    int32_t calls = 1;
    char line[96], bytes[32];
    for (uint32_t i = 0; kept_plan_region(p->plan, i, &r); i++) {
        if (program_of(&r) != n || strncmp(r.name, name, n) != 0)
            continue;
        height = r.offset + r.bytes > height ? r.offset + r.bytes : height;
        calls = r.last_use + 1 > calls ? r.last_use + 1 : calls;
    }
    snprintf(line, sizeof line, "%.*s", (int)(n < 40 ? n : 40), name);
    text_at(p, 10, p->y + 14, "n", line);
    text_at(p, 10, p->y + 28, "s", cli_bytes(bytes, height));
    fprintf(p->file,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#f4f4f4\"/>\n", LEFT,
            p->y, BAR, CHART);
    for (uint32_t i = 0; kept_plan_region(p->plan, i, &r); i++) {
        if (program_of(&r) != n || strncmp(r.name, name, n) != 0)
            continue;
        struct box box = {.x = LEFT + BAR * r.first_use / calls,
                          .width = BAR * (r.last_use + 1 - r.first_use) / calls,
                          .height = CHART * (double)r.bytes / (double)height,
                          .category = r.category,
                          .name = r.name + n + (r.name[n] == '.'),
                          .why = r.why,
                          .bytes = r.bytes};
        box.y = p->y + CHART - CHART * (double)(r.offset + r.bytes) / (double)height;
        draw_box(p, &box);
    }
    snprintf(line, sizeof line, "%d calls", (int)calls);
    text_at(p, LEFT, p->y + CHART + 12, "s", line);
    p->y += CHART + 26;
}

static void draw_lives(struct picture *p)
{
    struct kept_region_info r, other;
    text_at(p, 10, p->y, "h",
            "Activations over the calls of each program (across: calls; up: offset)");
    p->y += 12;
    for (uint32_t i = 0; kept_plan_region(p->plan, i, &r); i++) {
        size_t n = program_of(&r);
        bool first = n > 0;
        for (uint32_t j = 0; j < i && first && kept_plan_region(p->plan, j, &other); j++)
            first = program_of(&other) != n || strncmp(r.name, other.name, n) != 0;
        if (first)
            draw_program(p, r.name, n);
    }
}

static uint32_t count_heads(const kept_plan *plan)
{
    uint32_t n = 0, budget, planned;
    for (uint32_t l = 0; kept_plan_head(plan, l, 0, &budget, &planned); l++)
        for (uint32_t h = 0; kept_plan_head(plan, l, h, &budget, &planned); h++)
            n++;
    return n;
}

/* A bar for each KV head, layer after layer: how much of the context it may keep. */
static void draw_heads(struct picture *p)
{
    const struct kept_plan_info *info = kept_plan_info(p->plan);
    uint32_t n = count_heads(p->plan), i = 0, budget, planned;
    double width = n ? BAR / n : 0;
    text_at(p, 10, p->y, "h", "Slots that each KV head may keep, of the context");
    p->y += 12;
    fprintf(p->file,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#f4f4f4\"/>\n", LEFT,
            p->y, BAR, HEADS);
    for (uint32_t l = 0; kept_plan_head(p->plan, l, 0, &budget, &planned); l++) {
        for (uint32_t h = 0; kept_plan_head(p->plan, l, h, &budget, &planned); h++, i++) {
            double share = (double)budget / (double)info->context_tokens;
            double height = HEADS * (share < 1 ? share : 1);
            fprintf(p->file,
                    "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" fill=\"%s\">"
                    "<title>layer %u, KV head %u: %u slots</title></rect>\n",
                    LEFT + width * i, p->y + HEADS - height, width * 0.9, height, colour_of("kv"),
                    l, h, budget);
        }
    }
    p->y += HEADS + 36;
}

static uint32_t count_programs(const kept_plan *plan)
{
    struct kept_region_info r;
    uint32_t n_programs = 0;
    char last[64] = "";
    for (uint32_t i = 0; kept_plan_region(plan, i, &r); i++) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(program_of(&r) % sizeof name), r.name);
        n_programs += name[0] && strcmp(name, last) != 0;
        if (name[0])
            memcpy(last, name, sizeof last);
    }
    return n_programs;
}

static void draw(struct picture *p, const char *model)
{
    const struct kept_plan_info *info = kept_plan_info(p->plan);
    const struct kept_profile *profile = kept_plan_profile(p->plan);
    char total[32], budget[32], line[512];
    double height =
        240 + (info->n_buffers < MAX_BUFFERS ? info->n_buffers : MAX_BUFFERS) * (BAR_HEIGHT + 8) +
        count_programs(p->plan) * (CHART + 26) + (info->retains ? HEADS + 48 : 0);
    fprintf(
        p->file,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
        "viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\">\n"
        "<style>.h{font-size:15px;font-weight:bold}.n{font-size:13px}.s{font-size:11px;fill:#555}"
        ".l{font-size:11px;fill:#111}</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
        WIDTH, height, WIDTH, height);
    const char *slash = strrchr(model, '/');
    snprintf(line, sizeof line, "%.200s on %s (%s), context %u, chunk %u",
             slash ? slash + 1 : model, profile->id, profile->name, info->context_tokens,
             info->chunk_tokens);
    text_at(p, 10, 26, "h", line);
    cli_bytes(total, info->total_bytes);
    cli_bytes(budget, info->budget_bytes);
    snprintf(line, sizeof line, "%s, %llu bytes; %s%s; activations %.3f times the lower bound",
             total, (unsigned long long)info->total_bytes,
             !info->budget_bytes ? "no known budget"
             : info->fits        ? "fits "
                                 : "DOES NOT FIT ",
             info->budget_bytes ? budget : "",
             info->lower_bound_bytes
                 ? (double)info->activation_bytes / (double)info->lower_bound_bytes
                 : 1.0);
    text_at(p, 10, 46, "n", line);
    p->y = 66;
    draw_totals(p);
    draw_buffers(p);
    if (info->retains)
        draw_heads(p);
    draw_lives(p);
    fputs("</svg>\n", p->file);
}

kept_status cli_plan_svg(const kept_plan *plan, const char *model, const char *path,
                         struct kept_error *err)
{
    struct picture picture = {.file = fopen(path, "w"), .plan = plan};
    bool failed;
    if (!picture.file)
        return cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", path, strerror(errno));
    draw(&picture, model);
    failed = ferror(picture.file) != 0;
    failed |= fclose(picture.file) != 0;
    return failed ? cli_fail(err, KEPT_E_IO, "cannot write '%.300s'", path) : KEPT_OK;
}
