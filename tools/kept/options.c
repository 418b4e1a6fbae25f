/* options.c: the command line, by the table of option_table.c.
 *
 * Forms: --name value, --name=value, -x value, -xvalue, flags alone or bundled with nothing;
 * "--" ends options. Every value is checked where it is read, so that a message can name the
 * option, the value and what it may be.
 */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kept/facts.h"

#include "fail.h"
#include "option_table.h"

#define MAX_WORD 64u

/* Edits between two words: insert, delete, replace, swap neighbours. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t rows[3][MAX_WORD + 1]; /* before the last, last and this row of the table */
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD)
        return MAX_WORD;
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint32_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= m; j++) {
            uint32_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && two_above[j - 2] + 1 < best)
                best = two_above[j - 2] + 1;
            best = above[j] + 1 < best ? above[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return rows[n % 3][m];
}

const char *cli_nearest(const char *word, const char *const *list)
{
    const char *best = NULL;
    uint32_t least = (uint32_t)strlen(word) / 2 < 3 ? (uint32_t)strlen(word) / 2 : 3;
    for (; *list; list++) {
        bool begins = strlen(*list) >= 3 && strncmp(word, *list, strlen(*list)) == 0;
        uint32_t d = begins ? 1 : distance(word, *list);
        if (d <= least && (d < least || !best)) {
            best = *list;
            least = d;
        }
    }
    return best;
}

static const struct cli_option *find(const char *name, size_t n, char letter, uint32_t command_bit)
{
    const struct cli_option *elsewhere = NULL;
    for (const struct cli_option *o = cli_option_table; o->name; o++) {
        bool same = letter ? o->letter == letter
                           : n > 1 && strlen(o->name) == n && strncmp(o->name, name, n) == 0;
        if (same && o->commands & command_bit)
            return o;
        if (same)
            elsewhere = o;
    }
    return elsewhere;
}

/* How an option is written. */
static const char *spelling(const struct cli_option *o, char to[40])
{
    snprintf(to, 40, "%s%s", o->name[1] ? "--" : "-", o->name);
    return to;
}

static kept_status read_count(const struct cli_option *o, const char *text, uint64_t most,
                              uint64_t *out, struct kept_error *err)
{
    char name[40], *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > most || (double)value < o->low)
        return cli_fail(err, KEPT_E_ARGUMENT, "%s: '%.60s' is not a whole number from %.0f to %llu",
                        spelling(o, name), text, o->low, (unsigned long long)most);
    *out = value;
    return KEPT_OK;
}

static kept_status read_real(const struct cli_option *o, const char *text, double *out,
                             struct kept_error *err)
{
    char name[40], *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= o->low && value <= o->high))
        return cli_fail(err, KEPT_E_ARGUMENT, "%s: '%.60s' is not a number from %g to %g",
                        spelling(o, name), text, o->low, o->high);
    *out = value;
    return KEPT_OK;
}

static kept_status read_size(const struct cli_option *o, const char *text, uint64_t *out,
                             struct kept_error *err)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},
                 {"B", 1},
                 {"KiB", 1024},
                 {"K", 1024},
                 {"KB", 1e3},
                 {"MiB", 1048576},
                 {"M", 1048576},
                 {"MB", 1e6},
                 {"GiB", 1 << 30},
                 {"G", 1 << 30},
                 {"GB", 1e9},
                 {"TiB", 1099511627776.0},
                 {"T", 1099511627776.0},
                 {"TB", 1e12}};
    char name[40], *end;
    double value = strtod(text, &end);
    while (end != text && *end == ' ')
        end++;
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++) {
        double bytes = value * units[i].bytes;
        if (strcmp(end, units[i].unit) != 0 || text[0] == '-')
            continue;
        if (!(bytes >= o->low && bytes < 9e18))
            break;
        *out = (uint64_t)bytes;
        return KEPT_OK;
    }
    return cli_fail(err, KEPT_E_ARGUMENT,
                    "%s: '%.60s' is not a size; write bytes or a unit, as in 600MiB or 1.5GiB",
                    spelling(o, name), text);
}

static kept_status read_level(const struct cli_option *o, const char *text,
                              enum kept_log_level *out, struct kept_error *err)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char name[40];
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum kept_log_level)(KEPT_LOG_ERROR + i);
            return KEPT_OK;
        }
    }
    return cli_fail(err, KEPT_E_ARGUMENT, "%s: '%.60s' is none of error, warn, info, debug",
                    spelling(o, name), text);
}

/* Which of the words of the list the first n characters of text are, or -1. */
static int word_of(const char *text, size_t n, const char *list)
{
    for (int i = 0; *list; i++) {
        size_t length = strcspn(list, " ");
        if (length == n && strncmp(list, text, n) == 0)
            return i;
        list += length + strspn(list + length, " ");
    }
    return -1;
}

static kept_status read_word(const struct cli_option *o, const char *text, uint32_t *out,
                             struct kept_error *err)
{
    char name[40];
    int i = word_of(text, strlen(text), o->words);
    if (i < 0)
        return cli_fail(err, KEPT_E_ARGUMENT, "%s: '%.60s' is none of %s", spelling(o, name), text,
                        o->words);
    *out = (uint32_t)i;
    return KEPT_OK;
}

/* K or K:V; out[0] and out[1]. */
static kept_status read_types(const struct cli_option *o, const char *text, uint32_t *out,
                              struct kept_error *err)
{
    char name[40];
    size_t n = strcspn(text, ":");
    int k = word_of(text, n, o->words);
    int v = text[n] ? word_of(text + n + 1, strlen(text + n + 1), o->words) : k;
    if (k < 0 || v < 0)
        return cli_fail(err, KEPT_E_ARGUMENT, "%s: '%.60s' is not K or K:V, each one of %s",
                        spelling(o, name), text, o->words);
    out[0] = (uint32_t)k;
    out[1] = (uint32_t)v;
    return KEPT_OK;
}

static kept_status read_budget(const struct cli_option *o, const char *text, struct cli_budget *out,
                               struct kept_error *err)
{
    char name[40];
    size_t n = cli_budget_read(text, out);
    if (n == 0 || text[n])
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "%s: '%.60s' is neither a number of slots above 0 nor a percentage above 0 "
                        "and up to 100%%",
                        spelling(o, name), text);
    return KEPT_OK;
}

static kept_status read_only(const struct cli_option *o, const char *text, struct kept_error *err)
{
    char name[40];
    if (o->words && word_of(text, strlen(text), o->words) >= 0)
        return KEPT_OK;
    return cli_fail(err, KEPT_E_ARGUMENT, "%s %.60s is not available in this version%s%.30s",
                    spelling(o, name), text, o->words ? "; it has " : "", o->words ? o->words : "");
}

static kept_status store(struct cli_settings *settings, const struct cli_option *o,
                         const char *text, struct kept_error *err)
{
    char *field = (char *)settings + o->offset, name[40];
    struct cli_texts *list = (void *)field;
    struct cli_number *number = (void *)field;
    uint64_t count = 0;
    kept_status status;
    switch (o->kind) {
    case CLI_TEXT:
        *(const char **)(void *)field = text;
        return KEPT_OK;
    case CLI_LIST:
        if (list->n == CLI_MAX_TEXTS || !*text)
            return cli_fail(err, KEPT_E_ARGUMENT, "%s: %s", spelling(o, name),
                            *text ? "given more than 16 times" : "its text is empty");
        list->items[list->n++] = text;
        return KEPT_OK;
    case CLI_COUNT:
        status = read_count(o, text, (uint64_t)o->high, &count, err);
        if (status == KEPT_OK)
            *(uint32_t *)(void *)field = (uint32_t)count;
        return status;
    case CLI_NUMBER:
        status = read_count(o, text, o->high > 0 ? (uint64_t)o->high : UINT64_MAX, &count, err);
        if (status == KEPT_OK)
            *number = (struct cli_number){true, count};
        return status;
    case CLI_SIZE:
        return read_size(o, text, (void *)field, err);
    case CLI_REAL:
        return read_real(o, text, (void *)field, err);
    case CLI_WORD:
        return read_word(o, text, (void *)field, err);
    case CLI_TYPES:
        return read_types(o, text, (void *)field, err);
    case CLI_BUDGET:
        return read_budget(o, text, (void *)field, err);
    case CLI_LEVEL:
        return read_level(o, text, (void *)field, err);
    default:
        return read_only(o, text, err);
    }
}

static kept_status say_unknown(const char *word, size_t n, uint32_t command_bit,
                               struct kept_error *err)
{
    const char *names[96];
    char given[MAX_WORD];
    uint32_t count = 0;
    for (const struct cli_option *o = cli_option_table; o->name && count < 95; o++)
        if (o->commands & command_bit && o->help)
            names[count++] = o->name;
    names[count] = NULL;
    snprintf(given, sizeof given, "%.*s", (int)(n < 60 ? n : 60), word);
    const char *near = word[1] == '-' ? cli_nearest(given + 2, names) : NULL;
    if (near)
        return cli_fail(err, KEPT_E_ARGUMENT, "there is no option '%s'; is --%s meant?", given,
                        near);
    return cli_fail(err, KEPT_E_ARGUMENT, "there is no option '%s'; --help lists them", given);
}

/* Reads the option at argv[*i], and its value where it has one. */
static kept_status read_option(struct cli_settings *settings, uint32_t command_bit, int argc,
                               char **argv, int *i, struct kept_error *err)
{
    const char *word = argv[*i], *value = NULL;
    bool is_long = word[1] == '-';
    size_t n = is_long ? strcspn(word, "=") : 2;
    char name[40];
    const struct cli_option *o =
        is_long ? find(word + 2, n - 2, 0, command_bit) : find(NULL, 0, word[1], command_bit);
    if (!o)
        return say_unknown(word, n, command_bit, err);
    if (!(o->commands & command_bit))
        return cli_fail(err, KEPT_E_ARGUMENT, "'kept %s' does not take %s", settings->command,
                        spelling(o, name));
    if (word[n])
        value = word + n + (is_long || word[n] == '=');
    if (o->kind == CLI_FLAG) {
        if (value)
            return cli_fail(err, KEPT_E_ARGUMENT, "%s takes no value, '%.60s' was given",
                            spelling(o, name), value);
        *(bool *)(void *)((char *)settings + o->offset) = true;
        return KEPT_OK;
    }
    if (!value && *i + 1 >= argc)
        return cli_fail(err, KEPT_E_ARGUMENT, "%s needs a value: %s", spelling(o, name), o->value);
    if (!value)
        value = argv[++*i];
    return store(settings, o, value, err);
}

static void set_defaults(struct cli_settings *settings)
{
    const char *command = settings->command;
    *settings =
        (struct cli_settings){.command = command,
                              .log_level = KEPT_LOG_WARN,
                              .n_predict = CLI_NO_LIMIT,
                              .temperature = 0.8,
                              .top_k = 40,
                              .top_p = 0.95,
                              .min_p = 0.05,
                              .repeat_penalty = 1.0,
                              .past = {.retain = KEPT_RETAIN_AUTO},
                              .facts = {.scope = KEPT_FACTS_SCOPE, .payload = CLI_NO_LIMIT}};
}

size_t cli_budget_read(const char *text, struct cli_budget *out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    bool percent = *end == '%';
    struct cli_budget budget = {.given = true};
    if (text[0] < '0' || text[0] > '9' || errno || !(value > 0) ||
        value > (percent ? 100 : 1 << 28))
        return 0;
    if (percent)
        budget.percent = value;
    else
        budget.slots = (uint32_t)value;
    if (!percent && (double)budget.slots != value)
        return 0;
    *out = budget;
    return (size_t)(end - text) + percent;
}

kept_status cli_options_parse(struct cli_settings *settings, uint32_t command_bit, int argc,
                              char **argv, struct kept_error *err)
{
    bool options = true;
    kept_status status = KEPT_OK;
    set_defaults(settings);
    for (int i = 0; i < argc; i++) /* so that errors of the command line itself come as JSON too */
        settings->json |= strcmp(argv[i], "--json") == 0;
    for (int i = 0; i < argc && status == KEPT_OK; i++) {
        if (options && strcmp(argv[i], "--") == 0)
            options = false;
        else if (options && argv[i][0] == '-' && argv[i][1])
            status = read_option(settings, command_bit, argc, argv, &i, err);
        else if (settings->n_args < sizeof settings->args / sizeof *settings->args)
            settings->args[settings->n_args++] = argv[i];
        else
            status = cli_fail(err, KEPT_E_ARGUMENT, "'%.100s' is one argument too many", argv[i]);
    }
    return status;
}

void cli_options_print(FILE *to, uint32_t command_bit)
{
    for (const struct cli_option *o = cli_option_table; o->name; o++) {
        char left[48], name[40];
        if (!(o->commands & command_bit) || !o->help)
            continue;
        spelling(o, name);
        if (o->letter && o->name[1])
            snprintf(left, sizeof left, "-%c, %s%s%s", o->letter, name, o->value ? " " : "",
                     o->value ? o->value : "");
        else
            snprintf(left, sizeof left, "%s%s%s%s", o->name[1] ? "    " : "", name,
                     o->value ? " " : "", o->value ? o->value : "");
        fprintf(to, "  %-28s %s\n", left, o->help);
    }
}
