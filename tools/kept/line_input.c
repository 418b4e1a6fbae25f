/* line_input.c: libedit where a person types, getline elsewhere.
 *
 * libedit is used through its own interface, not as readline, and with a reader of characters
 * of our own: libedit's (3.1 of 2022) reads on after the first signal, ours comes back, so
 * that Ctrl-C can mean "drop this line".
 */
#include "line_input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include <histedit.h>

#include "terminal.h"

#define HISTORY_LINES 500

struct cli_lines {
    const char *prompt;
    EditLine *edit; /* NULL: not interactive */
    History *history;
    char *line;
    size_t cap;
};

static char *prompt_of(EditLine *edit)
{
    struct cli_lines *lines = NULL;
    el_get(edit, EL_CLIENTDATA, &lines);
    return (char *)lines->prompt;
}

/* One character, by the locale; -1 after Ctrl-C, 0 at the end of input. */
static int read_character(EditLine *edit, wchar_t *to)
{
    mbstate_t state = {0};
    char byte;
    (void)edit;
    for (;;) {
        if (!cli_wait_input())
            return -1;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        size_t used = mbrtowc(to, &byte, 1, &state);
        if (used == (size_t)-1) /* not of this locale: drop it */
            state = (mbstate_t){0};
        else if (used != (size_t)-2)
            return 1;
    }
}

static void start_editing(struct cli_lines *lines)
{
    HistEvent event;
    lines->edit = el_init("kept", stdin, stdout, stderr);
    lines->history = lines->edit ? history_init() : NULL;
    if (!lines->edit)
        return;
    el_set(lines->edit, EL_CLIENTDATA, lines);
    el_set(lines->edit, EL_PROMPT, prompt_of);
    el_set(lines->edit, EL_EDITOR, "emacs");
    el_set(lines->edit, EL_GETCFN, read_character);
    if (lines->history) {
        history(lines->history, &event, H_SETSIZE, HISTORY_LINES);
        el_set(lines->edit, EL_HIST, history, lines->history);
    }
}

struct cli_lines *cli_lines_create(const char *prompt)
{
    struct cli_lines *lines = calloc(1, sizeof *lines);
    if (!lines)
        return NULL;
    lines->prompt = prompt;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        start_editing(lines);
    return lines;
}

void cli_lines_destroy(struct cli_lines **lines)
{
    if (!*lines)
        return;
    if ((*lines)->history)
        history_end((*lines)->history);
    if ((*lines)->edit)
        el_end((*lines)->edit);
    free((*lines)->line);
    free(*lines);
    *lines = NULL;
}

bool cli_lines_interactive(const struct cli_lines *lines)
{
    return lines->edit != NULL;
}

/* A copy without the line's end. */
static enum cli_line_result keep(struct cli_lines *lines, const char *text, size_t n)
{
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    char *copy = realloc(lines->line, n + 1);
    if (!copy)
        return CLI_LINE_END;
    memcpy(copy, text, n);
    copy[n] = '\0';
    lines->line = copy;
    return CLI_LINE;
}

static enum cli_line_result edited(struct cli_lines *lines)
{
    HistEvent event;
    int n = 0;
    const char *text = el_gets(lines->edit, &n);
    if (cli_interrupted()) {
        el_reset(lines->edit);
        putchar('\n');
        return CLI_LINE_INTERRUPTED;
    }
    if (!text || n <= 0) {
        putchar('\n');
        return CLI_LINE_END;
    }
    if (lines->history && text[strspn(text, " \t\r\n")])
        history(lines->history, &event, H_ENTER, text);
    return keep(lines, text, (size_t)n);
}

enum cli_line_result cli_lines_next(struct cli_lines *lines, const char **line)
{
    enum cli_line_result result;
    if (lines->edit) {
        result = edited(lines);
    } else {
        ssize_t n = getline(&lines->line, &lines->cap, stdin);
        if (n < 0)
            return cli_interrupted() ? CLI_LINE_INTERRUPTED : CLI_LINE_END;
        while (n > 0 && (lines->line[n - 1] == '\n' || lines->line[n - 1] == '\r'))
            lines->line[--n] = '\0';
        result = CLI_LINE;
    }
    *line = lines->line;
    return result;
}
