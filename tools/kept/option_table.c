/* option_table.c: every option of the program. An option means the same wherever it is taken;
 * where two commands need another sentence of help, or another field, they have rows of their
 * own. */
#include "option_table.h"

#define AT(field)  offsetof(struct cli_settings, field)
#define MODEL_RUNS (CLI_RUN | CLI_CHAT | CLI_EVAL)
#define PLANS      (MODEL_RUNS | CLI_PLAN)
#define GENERATES  (CLI_RUN | CLI_CHAT)

/* clang-format off */
const struct cli_option cli_option_table[] = {
    /* where to run, and in how much memory */
    { "device", 0, CLI_TEXT, PLANS | CLI_SELFTEST, AT(device), "D",
      "auto, vulkan[:I], opencl[:I] or cpu (auto: a GPU if there is one)" },
    { "memory", 0, CLI_SIZE, PLANS, AT(memory_bytes), "SIZE",
      "hard cap on device memory, as in 600MiB", .low = 1 },
    { "margin", 0, CLI_SIZE, PLANS, AT(margin_bytes), "SIZE",
      "memory to leave free when there is no cap (256MiB)", .low = 1 },
    { "context", 'c', CLI_COUNT, PLANS, AT(context), "N",
      "tokens of context (the trained length up to 8192; eval: 512)", .low = 1,
      .high = 1 << 28 },
    { "chunk", 0, CLI_COUNT, PLANS, AT(chunk), "N", "tokens evaluated at once in prefill (512)",
      .low = 1, .high = 16384 },
    { "threads", 't', CLI_COUNT, PLANS | CLI_SELFTEST, AT(threads), "N",
      "threads of the cpu device (all)", .low = 1, .high = 1024 },
    { "profile", 0, CLI_TEXT, CLI_PLAN, AT(profile), "FILE",
      "plan for one of 'kept devices --json' (--device: its id)" },
    { "activations", 0, CLI_ONLY, PLANS, 0, "f32|q8", "precision of activations (f32)",
      .words = "f32" },

    /* what is kept of the past */
    { "kv", 0, CLI_TYPES, PLANS | CLI_FIT, AT(past.k_type), "K[:V]",
      "types of stored keys and values: f16, q8_0, q4_0 (f16)", .words = "f16 q8_0 q4_0" },
    { "retain", 0, CLI_WORD, PLANS, AT(past.retain), "R",
      "what stays of a past over its budget: full, window, scored (full)",
      .words = "full window scored" },
    { "retain-budget", 0, CLI_BUDGET, PLANS, AT(past.budget), "N|P%",
      "mean slots per KV head, or percent of --context" },
    { "protect", 0, CLI_NUMBER, PLANS, AT(past.protect), "N",
      "last tokens that are never evicted (128)", .high = 1 << 20 },
    { "sinks", 0, CLI_NUMBER, PLANS, AT(past.sinks), "N",
      "first tokens that are never evicted (4)", .high = 1 << 20 },
    { "sidecar", 0, CLI_TEXT, PLANS, AT(past.sidecar), "FILE|none",
      "head budgets (the model's path, ending in .kept, if it is there)" },
    { "scorer", 0, CLI_WORD, PLANS, AT(past.scorer), "S",
      "how scored ranks: expected, gate, keydiff (expected)", .words = "expected gate keydiff" },
    { "merge", 0, CLI_WORD, PLANS, AT(past.merge), "on|off",
      "what is dropped goes to the nearest kept slot (on)", .words = "on off" },
    { "positions", 0, CLI_WORD, PLANS, AT(past.positions), "P",
      "absolute, or compact for more than the trained context (absolute)",
      .words = "absolute compact" },

    /* prompt */
    { "prompt", 'p', CLI_TEXT, CLI_RUN | CLI_TOKENIZE, AT(prompt), "TEXT", "the text itself" },
    { "file", 'f', CLI_TEXT, CLI_RUN | CLI_TOKENIZE | CLI_EVAL, AT(file), "FILE",
      "a file with the text; - is standard input" },
    { "system", 's', CLI_TEXT, GENERATES, AT(system), "TEXT", "the system message" },
    { "raw", 0, CLI_FLAG, CLI_RUN, AT(raw), NULL, "plain text: no chat template" },
    { "special", 0, CLI_FLAG, CLI_RUN | CLI_TOKENIZE, AT(special), NULL,
      "special tokens written in (raw) text become those tokens" },
    { "session", 0, CLI_TEXT, GENERATES, AT(session), "FILE",
      "go on from FILE if it exists; save there at the end" },

    /* generation */
    { "n", 'n', CLI_COUNT, GENERATES, AT(n_predict), "N",
      "at most N tokens (until the end, or until the context is full)", .high = 1 << 28 },
    { "temp", 0, CLI_REAL, GENERATES, AT(temperature), "T", "temperature; 0 is greedy (0.8)",
      .high = 100 },
    { "top-k", 0, CLI_COUNT, GENERATES, AT(top_k), "K", "only the K likeliest; 0: all (40)",
      .high = 1 << 28 },
    { "top-p", 0, CLI_REAL, GENERATES, AT(top_p), "P",
      "only the likeliest that make up P; 1: all (0.95)", .high = 1 },
    { "min-p", 0, CLI_REAL, GENERATES, AT(min_p), "P",
      "only those with P of the likeliest's probability; 0: all (0.05)", .high = 1 },
    { "repeat-penalty", 0, CLI_REAL, GENERATES, AT(repeat_penalty), "R",
      "divides what the last 64 tokens have; 1: none (1)", .high = 100 },
    { "seed", 0, CLI_NUMBER, GENERATES | CLI_SELFTEST, AT(seed), "S",
      "same seed, device and plan: same tokens (random)" },
    { "stop", 0, CLI_LIST, GENERATES, AT(stop), "TEXT",
      "end the answer before TEXT; may be repeated" },

    /* single commands */
    { "regions", 0, CLI_FLAG, CLI_PLAN, AT(regions), NULL, "every region, not only totals" },
    { "svg", 0, CLI_TEXT, CLI_PLAN, AT(svg), "FILE", "write a picture of the plan" },
    { "tensors", 0, CLI_FLAG, CLI_INSPECT, AT(tensors), NULL, "the directory of tensors too" },
    { "decode", 0, CLI_FLAG, CLI_TOKENIZE, AT(decode), NULL,
      "the text is ids: print what they say" },
    { "chunks", 0, CLI_COUNT, CLI_EVAL, AT(n_chunks), "N", "ppl: only the first N chunks (all)",
      .low = 1, .high = 1 << 28 },
    { "stream", 0, CLI_FLAG, CLI_EVAL, AT(stream), NULL,
      "ppl: --context tokens as one stream without resets" },
    { "from", 0, CLI_NUMBER, CLI_EVAL, AT(from), "N",
      "ppl --stream: score from position N (half of --context)" },
    { "ids", 0, CLI_TEXT, CLI_EVAL, AT(ids), "FILE", NULL },
    { "out", 0, CLI_TEXT, CLI_EVAL, AT(out), "FILE", NULL },
    { "tokens", 0, CLI_COUNT, CLI_EVAL, AT(n_tokens), "N", NULL, .low = 1, .high = 1 << 28 },
    { "report", 0, CLI_TEXT, CLI_SELFTEST, AT(report), "FILE",
      "write a report to attach to a bug report" },
    { "kernel", 0, CLI_TEXT, CLI_SELFTEST, AT(kernel), "NAME",
      "only kernels with NAME in their name" },
    { "format", 0, CLI_TEXT, CLI_SELFTEST, AT(format), "F", "only this weight format, as in Q4_K" },
    { "rounds", 0, CLI_COUNT, CLI_SELFTEST, AT(n_rounds), "N",
      "choices of key values per kernel (2)",
      .low = 1, .high = 1 << 20 },
    { "cases", 0, CLI_COUNT, CLI_SELFTEST, AT(n_cases), "N",
      "shapes for each of them (8)", .low = 1,
      .high = 1 << 20 },
    { "round", 0, CLI_NUMBER, CLI_SELFTEST, AT(round), "N",
      "only this round, as a failure names it",
      .high = UINT32_MAX - 1 },
    { "case", 0, CLI_NUMBER, CLI_SELFTEST, AT(shape), "N", "only this case, as a failure names it",
      .high = UINT32_MAX - 1 },
    { "lanes", 0, CLI_COUNT, CLI_SELFTEST, AT(max_lanes), "N", "pretend that groups are no larger",
      .low = 1, .high = 1 << 20 },
    { "seconds", 0, CLI_REAL, CLI_SELFTEST, AT(seconds), "S",
      "begin no more rounds after S seconds",
      .high = 1e9 },
    { "bench", 0, CLI_FLAG, CLI_SELFTEST, AT(bench), NULL,
      "time real shapes instead of comparing" },

    /* later versions */
    { "assoc", 0, CLI_ONLY, PLANS, 0, "SLOTS" },
    { "assoc-threshold", 0, CLI_ONLY, PLANS, 0, "R" },
    { "assoc-form", 0, CLI_ONLY, PLANS, 0, "kept|published" },
    { "facts", 0, CLI_ONLY, PLANS, 0, "STORE" },
    { "facts-top", 0, CLI_ONLY, PLANS, 0, "K" },
    { "facts-scope", 0, CLI_ONLY, PLANS, 0, "W" },
    { "facts-gap", 0, CLI_ONLY, PLANS, 0, "N" },
    { "facts-max", 0, CLI_ONLY, PLANS, 0, "N" },
    { "goal", 0, CLI_ONLY, PLANS, 0, "quality|speed|memory", .words = "quality" },
    { "sweep", 0, CLI_ONLY, CLI_EVAL, 0, "WHAT" },

    /* output */
    { "json", 0, CLI_FLAG, CLI_ALL, AT(json), NULL, "one JSON object instead of text" },
    { "quiet", 'q', CLI_FLAG, CLI_ALL, AT(quiet), NULL, "no progress and no notes" },
    { "log-level", 0, CLI_LEVEL, CLI_ALL, AT(log_level), "L",
      "the library's messages: error, warn, info, debug (warn)" },
    { "help", 'h', CLI_FLAG, CLI_ALL, AT(help), NULL, "this text" },
    { 0 }
};
/* clang-format on */
