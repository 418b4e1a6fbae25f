/* text.c: buffers, files and prompts. */
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"
#include "terminal.h"

#define READ_BYTES 65536u

static void *grown(void *array, size_t n, size_t *cap, size_t size)
{
    size_t wanted = *cap ? *cap : 256;
    while (wanted < n)
        wanted *= 2;
    void *bigger = wanted == *cap ? array : realloc(array, wanted * size);
    if (bigger)
        *cap = wanted;
    return bigger;
}

bool cli_buffer_add(struct cli_buffer *buffer, const char *bytes, size_t n)
{
    char *to = grown(buffer->bytes, buffer->n + n + 1, &buffer->cap, 1);
    if (!to)
        return false;
    buffer->bytes = to;
    if (n > 0)
        memcpy(to + buffer->n, bytes, n);
    buffer->n += n;
    to[buffer->n] = '\0';
    return true;
}

void cli_buffer_finish(struct cli_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct cli_buffer){0};
}

bool cli_tokens_add(struct cli_tokens *tokens, const int32_t *ids, size_t n)
{
    int32_t *to = grown(tokens->ids, tokens->n + n, &tokens->cap, sizeof *to);
    if (!to)
        return false;
    tokens->ids = to;
    if (n > 0)
        memcpy(to + tokens->n, ids, n * sizeof *ids);
    tokens->n += n;
    return true;
}

void cli_tokens_finish(struct cli_tokens *tokens)
{
    free(tokens->ids);
    *tokens = (struct cli_tokens){0};
}

kept_status cli_read_file(const char *path, struct cli_buffer *out, struct kept_error *err)
{
    bool input = strcmp(path, "-") == 0;
    int file = input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    kept_status status = KEPT_OK;
    char bytes[READ_BYTES];
    ssize_t n = 1;
    if (file < 0)
        return cli_fail(err, KEPT_E_IO, "cannot open '%.300s': %s", path, strerror(errno));
    while (n != 0 && status == KEPT_OK) {
        if (input && !cli_wait_input())
            return cli_fail(err, KEPT_E_CANCELLED, "cancelled while reading standard input");
        n = read(file, bytes, sizeof bytes);
        if (n < 0 && (errno != EINTR || cli_interrupted()))
            status = cli_fail(err, cli_interrupted() ? KEPT_E_CANCELLED : KEPT_E_IO,
                              "cannot read '%.300s': %s", path, strerror(errno));
        else if (n >= 0 && !cli_buffer_add(out, bytes, (size_t)n))
            status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for '%.300s' after %zu bytes",
                              path, out->n);
    }
    if (!input)
        close(file);
    return status;
}

kept_status cli_read_prompt(const struct cli_settings *settings, struct cli_buffer *out,
                            struct kept_error *err)
{
    if (settings->prompt && settings->file)
        return cli_fail(err, KEPT_E_ARGUMENT, "-p and -f are both given: one of them is enough");
    if (settings->file)
        return cli_read_file(settings->file, out, err);
    if (settings->prompt)
        return cli_buffer_add(out, settings->prompt, strlen(settings->prompt))
                   ? KEPT_OK
                   : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for the prompt");
    if (isatty(STDIN_FILENO))
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "there is no prompt: give -p TEXT or -f FILE, or pipe one in");
    return cli_read_file("-", out, err);
}

kept_status cli_parse_ids(const struct cli_buffer *text, struct cli_tokens *out,
                          struct kept_error *err)
{
    const char *at = text->n ? text->bytes : "";
    for (at += strspn(at, " ,[]\t\r\n"); *at; at += strspn(at, " ,[]\t\r\n")) {
        char *end;
        errno = 0;
        long long value = strtoll(at, &end, 10);
        int32_t id = (int32_t)value;
        if (end == at || errno || value < 0 || value > INT32_MAX || !strchr(" ,[]\t\r\n", *end))
            return cli_fail(err, KEPT_E_PROMPT, "'%.20s' at byte %zu is not a token id", at,
                            (size_t)(at - text->bytes));
        if (!cli_tokens_add(out, &id, 1))
            return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu token ids", out->n);
        at = end;
    }
    return KEPT_OK;
}
