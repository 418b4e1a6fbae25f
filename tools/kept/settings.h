/* settings.h: everything a command line can say, with defaults, as one plain struct. options.c
 * fills it. */
#ifndef KEPT_TOOL_SETTINGS_H
#define KEPT_TOOL_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "kept/log.h"

#define CLI_MAX_TEXTS 16u
#define CLI_NO_LIMIT  UINT32_MAX

/* An option that may be repeated. */
struct cli_texts {
    const char *items[CLI_MAX_TEXTS];
    uint32_t n;
};

/* An option whose default depends on other things. */
struct cli_number {
    bool given;
    uint64_t value;
};

/* --retain-budget: slots, or percent of the context. */
struct cli_budget {
    bool given;
    uint32_t slots; /* 0: percent says it */
    double percent;
};

/* What is kept of the past. The words of an option are counted from 0: they are the values of the
 * library's enumerations. */
struct cli_past {
    uint32_t k_type, v_type;            /* enum kept_slot_type */
    uint32_t retain, scorer, positions; /* enum kept_retain, kept_scorer, kept_positions */
    uint32_t merge;                     /* 0 on, 1 off */
    struct cli_budget budget;
    struct cli_number protect, sinks;
    uint32_t assoc_slots, assoc_form; /* 0: none; 0 kept, 1 published */
    uint32_t assoc_keys;              /* enum kept_assoc_keys */
    double assoc_threshold;           /* 0: not given */
    const char *sidecar;
};

/* Episodic memory: which store, and how it is read. */
struct cli_fact_options {
    const char *store;
    uint32_t top, gap; /* 0: default */
    double scope;
    struct cli_number max;
    uint32_t payload; /* of a new store, enum kept_slot_type; CLI_NO_LIMIT: not given */
    struct cli_texts texts, tags, ids; /* kept facts add and forget */
    bool add;                          /* eval facts: writes what the store lacks */
    const char *ordinary;              /* eval facts: sentences that no fact answers */
};

struct cli_settings {
    const char *command;
    const char *args[3]; /* what stands without an option name: MODEL, or WHAT MODEL … */
    uint32_t n_args;
    const char *model; /* --model, where no argument is the model */

    /* output */
    bool json, quiet, help;
    enum kept_log_level log_level;

    /* device and plan */
    const char *device, *profile;
    uint64_t memory_bytes, margin_bytes; /* 0: default */
    uint32_t context, chunk, threads;    /* 0: default */

    struct cli_past past;
    struct cli_fact_options facts;

    /* prompt */
    struct cli_texts files; /* fit */
    const char *prompt, *file, *system, *session;
    bool raw, special;

    /* generation */
    uint32_t n_predict; /* CLI_NO_LIMIT: until the end or the context is full */
    double temperature, top_p, min_p, repeat_penalty;
    uint32_t top_k;
    struct cli_number seed;
    struct cli_texts stop;

    /* single commands */
    bool tensors, regions, decode, stream, bench, sweep, no_reports, gate;
    const char *svg, *memory_svg, *out, *ids, *budgets, *methods, *report, *kernel, *format;
    uint32_t n_tokens, n_pieces, n_chunks, n_places, n_single, n_rounds, n_cases, max_lanes;
    struct cli_number from, round, shape;
    double seconds;
};

#endif
