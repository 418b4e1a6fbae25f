/* option_table.h: the rows that options.c reads by. */
#ifndef KEPT_TOOL_OPTION_TABLE_H
#define KEPT_TOOL_OPTION_TABLE_H

#include "options.h"

enum cli_option_kind {
    CLI_FLAG,   /* bool */
    CLI_TEXT,   /* const char * */
    CLI_LIST,   /* struct cli_texts */
    CLI_COUNT,  /* uint32_t within low and high */
    CLI_NUMBER, /* struct cli_number; high 0: any */
    CLI_SIZE,   /* uint64_t bytes, with units */
    CLI_REAL,   /* double within low and high */
    CLI_LEVEL,  /* enum kept_log_level */
    CLI_WORD,   /* uint32_t: which one of `words`, from 0 */
    CLI_TYPES,  /* two uint32_t: K[:V], each one of `words`, from 0 */
    CLI_BUDGET, /* struct cli_budget: N or P% */
    CLI_ONLY    /* stored nowhere: `words` are the values this version has, others come later */
};

struct cli_option {
    const char *name; /* NULL ends the table; one letter: only the short form */
    char letter;
    enum cli_option_kind kind;
    uint32_t commands;
    size_t offset;     /* in struct cli_settings */
    const char *value; /* its name in help */
    const char *help;  /* NULL: not listed */
    double low, high;
    const char *words;
};

extern const struct cli_option cli_option_table[];

#endif
