/* fact_lines.c: reads JSON lines, and names the line that is wrong. */
#include "fact_lines.h"

#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "terminal.h"

struct place {
    const char *path;
    size_t line;
};

static kept_status wrong(const struct place *at, const char *what, const char *more,
                         struct kept_error *err)
{
    return cli_fail(err, KEPT_E_PROMPT, "'%.200s', line %zu: %s%.100s", at->path, at->line, what,
                    more);
}

static kept_status read_fields(const struct place *at, struct cli_fact_line *line,
                               struct kept_error *err)
{
    const struct {
        const char *name, **to;
    } fields[] = {{"id", &line->id},         {"text", &line->text},
                  {"tag", &line->tag},       {"query", &line->query},
                  {"answer", &line->answer}, {"paraphrase", &line->paraphrase}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *value = json_object_get(line->object, fields[i].name);
        if (value && !json_is_string(value))
            return wrong(at, "not a string: ", fields[i].name, err);
        *fields[i].to = json_string_value(value);
    }
    const json_t *time = json_object_get(line->object, "time");
    if (time && !json_is_integer(time))
        return wrong(at, "not whole seconds since 1970: ", "time", err);
    line->time_s = json_integer_value(time);
    return KEPT_OK;
}

/* Whether the object has every field that is named in `needs`. */
static kept_status check_needs(const struct place *at, const struct cli_fact_line *line,
                               const char *needs, struct kept_error *err)
{
    char name[16];
    for (; *needs; needs += strspn(needs, " ")) {
        size_t n = strcspn(needs, " ");
        memcpy(name, needs, n);
        name[n] = '\0';
        if (!json_object_get(line->object, name))
            return wrong(at, "there is no field ", name, err);
        needs += n;
    }
    return KEPT_OK;
}

static kept_status add(const struct place *at, const char *bytes, size_t n, const char *needs,
                       struct cli_fact_lines *out, struct kept_error *err)
{
    json_error_t json;
    struct cli_fact_line line = {.object = json_loadb(bytes, n, 0, &json)};
    if (!json_is_object(line.object)) {
        json_decref(line.object);
        return wrong(at, "not a JSON object: ", line.object ? "another value" : json.text, err);
    }
    kept_status status = read_fields(at, &line, err);
    if (status == KEPT_OK)
        status = check_needs(at, &line, needs, err);
    if (status == KEPT_OK && out->n == out->cap) {
        size_t cap = out->cap ? 2 * out->cap : 64;
        struct cli_fact_line *items = realloc(out->items, cap * sizeof *items);
        if (!items)
            status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu lines", cap);
        else
            *out = (struct cli_fact_lines){.items = items, .n = out->n, .cap = cap};
    }
    if (status == KEPT_OK)
        out->items[out->n++] = line;
    else
        json_decref(line.object);
    return status;
}

kept_status cli_fact_lines_read(const char *path, const char *needs, struct cli_fact_lines *out,
                                struct kept_error *err)
{
    struct cli_buffer text = {0};
    struct place at = {.path = path};
    size_t n_before = out->n;
    kept_status status = cli_read_file(path, &text, err);
    for (size_t i = 0; i < text.n && status == KEPT_OK;) {
        const char *line = text.bytes + i, *end = memchr(line, '\n', text.n - i);
        size_t n = end ? (size_t)(end - line) : text.n - i;
        at.line++;
        i += n + 1;
        bool empty = true;
        for (size_t k = 0; k < n && empty; k++)
            empty = line[k] == ' ' || line[k] == '\t' || line[k] == '\r';
        if (!empty)
            status = add(&at, line, n, needs, out, err);
    }
    if (status == KEPT_OK && out->n == n_before)
        status = cli_fail(err, KEPT_E_PROMPT, "'%.300s' has no lines", path);
    cli_buffer_finish(&text);
    return status;
}

kept_status cli_fact_lines_write(struct cli_engine *engine, const struct cli_fact_lines *lines,
                                 struct kept_facts_written *out, struct kept_error *err)
{
    struct kept_fact_input *inputs = calloc(lines->n, sizeof *inputs);
    if (!inputs || lines->n > UINT32_MAX) {
        free(inputs);
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu facts", lines->n);
    }
    for (size_t i = 0; i < lines->n; i++) {
        const struct cli_fact_line *line = &lines->items[i];
        inputs[i] = (struct kept_fact_input){
            .text = line->text, .tag = line->tag, .id = line->id, .time_s = line->time_s};
    }
    kept_status status = kept_facts_write(engine->facts, inputs, (uint32_t)lines->n, cli_progress,
                                          (void *)engine->settings, out, err);
    cli_progress_end();
    free(inputs);
    return status;
}

void cli_fact_lines_finish(struct cli_fact_lines *lines)
{
    for (size_t i = 0; i < lines->n; i++)
        json_decref(lines->items[i].object);
    free(lines->items);
    *lines = (struct cli_fact_lines){0};
}
