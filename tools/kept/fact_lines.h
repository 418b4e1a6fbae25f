/* fact_lines.h: facts and questions about them, as JSON lines. */
#ifndef KEPT_TOOL_FACT_LINES_H
#define KEPT_TOOL_FACT_LINES_H

#include <jansson.h>

#include "engine.h"

/* One line; strings are the object's, NULL where it has none. */
struct cli_fact_line {
    const char *id, *text, *tag;
    const char *query, *paraphrase, *answer;
    int64_t time_s; /* 0: none */
    json_t *object;
};

struct cli_fact_lines {
    struct cli_fact_line *items;
    size_t n, cap;
};

/* Adds a file's lines ("-" is standard input); empty ones are skipped. KEPT_E_PROMPT names the
 * line: not an object, a field that is no string, `needs` (field names, a space between) not all
 * there; or no line at all. */
kept_status cli_fact_lines_read(const char *path, const char *needs, struct cli_fact_lines *out,
                                struct kept_error *err);
/* Writes them to the engine's store, in one transaction. */
kept_status cli_fact_lines_write(struct cli_engine *engine, const struct cli_fact_lines *lines,
                                 struct kept_facts_written *out, struct kept_error *err);
void cli_fact_lines_finish(struct cli_fact_lines *lines);

#endif
