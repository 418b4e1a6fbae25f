/* stream.h: a text as one stream without resets, with its speed along the way. */
#ifndef KEPT_TOOL_STREAM_H
#define KEPT_TOOL_STREAM_H

#include <jansson.h>

#include "engine.h"

struct cli_stream {
    struct cli_engine *engine;
    const int32_t *tokens; /* [n]; the last one is only predicted */
    uint32_t n, from;      /* rows of tokens from … n-2 are scored */
    uint32_t n_single;     /* the last ones are evaluated one at a time */
    kept_logits_fn on_logits;
    void *user;
    const char *what; /* for the progress line */
    /* out */
    json_t *steps;   /* seconds of every 1 024 tokens evaluated together */
    double *singles; /* seconds of every token evaluated alone, ascending at the end */
    uint32_t n_singles;
    uint32_t done; /* tokens */
};

/* --context tokens of a text from --from on. KEPT_E_PROMPT when nothing is left to score. */
kept_status cli_stream_choose(struct cli_stream *stream, const struct cli_tokens *tokens,
                              uint32_t context, struct kept_error *err);
/* From position 0 of the engine's session. */
kept_status cli_stream_run(struct cli_stream *stream, struct kept_error *err);
/* step_tokens, step_s, single_tokens, single_mean_s, single_p99_s. */
json_t *cli_stream_json(const struct cli_stream *stream);
void cli_stream_finish(struct cli_stream *stream);

#endif
