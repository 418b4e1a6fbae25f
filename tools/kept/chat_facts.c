/* chat_facts.c: facts by hand, while a conversation goes on.
 *
 * The first /remember or /forget opens the store for writing; it stays so until the conversation
 * ends. When that fails, as when another program is writing, the store is read as before.
 */
#include "chat_facts.h"

#include <stdio.h>
#include <string.h>

#include "facts_out.h"
#include "facts_use.h"
#include "fail.h"
#include "terminal.h"

static kept_status need_store(const struct cli_engine *engine, const char *command,
                              struct kept_error *err)
{
    return engine->settings->facts.store
               ? KEPT_OK
               : cli_fail(err, KEPT_E_ARGUMENT,
                          "%s needs a store: begin with 'kept chat MODEL --facts FILE' (a new FILE "
                          "is made)",
                          command);
}

static kept_status make_writable(struct cli_engine *engine, struct kept_error *err)
{
    struct kept_error ignored = {0};
    kept_status status = cli_facts_open_writable(engine, 0, err);
    if (status == KEPT_OK)
        return KEPT_OK;
    cli_facts_close(engine);
    if (cli_facts_open(engine, &ignored) == KEPT_OK)
        (void)cli_facts_attach(engine, &ignored);
    return status;
}

static kept_status read_remember(const char *text, char tag[KEPT_FACT_ID_BYTES], const char **fact,
                                 struct kept_error *err)
{
    size_t n = 0;
    if (*text == '#') {
        n = strcspn(text + 1, " \t");
        if (n == 0 || n >= KEPT_FACT_ID_BYTES)
            return cli_fail(err, KEPT_E_ARGUMENT, "a tag is a word of 1 to %u bytes after '#'",
                            KEPT_FACT_ID_BYTES - 1);
        memcpy(tag, text + 1, n);
        text += n + 1;
    }
    tag[n] = '\0';
    *fact = text + strspn(text, " \t");
    return **fact ? KEPT_OK
                  : cli_fail(err, KEPT_E_ARGUMENT,
                             "/remember needs a text, as in /remember #office The office is in "
                             "Mill Lane.");
}

kept_status cli_chat_remember(struct cli_engine *engine, const char *text, struct kept_error *err)
{
    struct kept_facts_written written = {0};
    struct kept_fact_input input = {0};
    char tag[KEPT_FACT_ID_BYTES];
    kept_status status = need_store(engine, "/remember", err);
    if (status == KEPT_OK)
        status = read_remember(text, tag, &input.text, err);
    if (status == KEPT_OK)
        status = make_writable(engine, err);
    input.tag = tag;
    if (status == KEPT_OK)
        status = kept_facts_write(engine->facts, &input, 1, cli_progress, (void *)engine->settings,
                                  &written, err);
    cli_progress_end();
    if (status != KEPT_OK)
        return status;
    printf("Remembered as %s%s", written.id,
           written.n_superseded ? ", in place of what had the tag" : "");
    puts(".");
    return KEPT_OK;
}

kept_status cli_chat_forget(struct cli_engine *engine, const char *text, struct kept_error *err)
{
    struct kept_fact_choice tag = {.tag = text + 1}, id = {.id = text}, whole = {.text = text};
    uint64_t n = 0;
    kept_status status = need_store(engine, "/forget", err);
    if (status == KEPT_OK && !*text)
        status = cli_fail(err, KEPT_E_ARGUMENT,
                          "/forget needs #TAG, an id or the whole text; /facts lists them");
    if (status == KEPT_OK)
        status = make_writable(engine, err);
    if (status == KEPT_OK)
        status = kept_facts_forget(engine->facts, *text == '#' ? &tag : &id, 1, &n, err);
    if (status == KEPT_OK && n == 0)
        status = kept_facts_forget(engine->facts, &whole, 1, &n, err);
    if (status != KEPT_OK)
        return status;
    if (n == 0) {
        printf("No fact has that tag, id or text; /facts lists them.\n");
        return KEPT_OK;
    }
    kept_session_clear_facts(engine->session);
    printf("Forgotten: %llu fact%s. What was said with it is still in this conversation; /reset "
           "begins anew.\n",
           (unsigned long long)n, n == 1 ? "" : "s");
    return KEPT_OK;
}

kept_status cli_chat_facts(struct cli_engine *engine, struct kept_error *err)
{
    kept_status status = need_store(engine, "/facts", err);
    if (status != KEPT_OK)
        return status;
    if (!engine->facts) {
        if (engine->facts_warning[0])
            printf("The store is not used: %s.\n", engine->facts_warning);
        else
            puts("There are no facts yet; /remember TEXT adds one.");
        return KEPT_OK;
    }
    return cli_facts_print(stdout, engine->facts, engine->settings->facts.store, err);
}
