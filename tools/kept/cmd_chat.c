/* cmd_chat.c: kept chat: turns in one session, and commands that begin with a slash.
 *
 * The session's tokens only grow: a turn appends what the template writes around it
 * (conversation.h), so that nothing is evaluated twice. A turn that fails leaves the tokens as
 * they were before it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat_facts.h"
#include "commands.h"
#include "conversation.h"
#include "generate.h"
#include "json_out.h"
#include "line_input.h"
#include "memory_out.h"
#include "options.h"
#include "plan_out.h"
#include "session_io.h"
#include "terminal.h"

struct chat {
    struct cli_engine engine;
    struct cli_tokens tokens;
    struct cli_lines *lines;
    kept_sampler *sampler;
    uint64_t seed;
    char *system; /* owned */
    bool done;
};

static kept_status set_system(struct chat *chat, const char *text, struct kept_error *err)
{
    char *copy = NULL;
    if (text && *text) {
        copy = malloc(strlen(text) + 1);
        if (!copy)
            return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for the system message");
        strcpy(copy, text);
    }
    free(chat->system);
    chat->system = copy;
    return KEPT_OK;
}

static kept_status reset(struct chat *chat, struct kept_error *err)
{
    chat->tokens.n = 0;
    return kept_session_rewind(chat->engine.session, 0, err);
}

static kept_status do_reset(struct chat *chat, const char *text, struct kept_error *err)
{
    (void)text;
    puts("The conversation begins anew.");
    return reset(chat, err);
}

static kept_status do_system(struct chat *chat, const char *text, struct kept_error *err)
{
    kept_status status = set_system(chat, text, err);
    if (status != KEPT_OK)
        return status;
    printf("%s the conversation begins anew.\n",
           *text ? "System message set;" : "No system message;");
    return reset(chat, err);
}

static kept_status do_plan(struct chat *chat, const char *text, struct kept_error *err)
{
    (void)text;
    (void)err;
    cli_plan_print(stdout, chat->engine.plan, kept_model_info(chat->engine.model)->path, false);
    return KEPT_OK;
}

/* What associative memory stands for; sums over all KV heads. */
static kept_status print_memory(struct chat *chat, struct kept_error *err)
{
    const struct kept_plan_info *info = kept_plan_info(chat->engine.plan);
    struct cli_memory memory;
    kept_status status = cli_memory_read(&chat->engine, &memory, err);
    if (status != KEPT_OK)
        return status;
    double n = memory.n_heads ? (double)memory.n_heads : 1;
    printf("Associative memory: %llu of %llu slots are used (%.1f of %.1f per KV head); they stand "
           "for %.0f tokens,\n%.2f each on average, %.0f at most.\n",
           (unsigned long long)memory.slots, (unsigned long long)info->memory_slots,
           (double)memory.slots / n, (double)info->memory_slots / n, memory.tokens,
           memory.slots ? memory.tokens / (double)memory.slots : 0, memory.most);
    printf("Of what left the window (all KV heads), %llu were consolidated, %llu were novelties; "
           "%llu slots were replaced.\n",
           (unsigned long long)memory.consolidated, (unsigned long long)memory.novelties,
           (unsigned long long)memory.replaced);
    cli_memory_finish(&memory);
    return KEPT_OK;
}

static kept_status do_memory(struct chat *chat, const char *text, struct kept_error *err)
{
    const struct kept_plan_info *info = kept_plan_info(chat->engine.plan);
    struct kept_session_stats stats;
    char planned[32], actual[32], kv[32];
    struct kept_slot_counts slots;
    kept_status status = kept_session_slots(chat->engine.session, &slots, err);
    if (status == KEPT_OK && *text) {
        status = cli_memory_svg(&chat->engine, text, err);
        if (status == KEPT_OK)
            printf("The picture of the memory is in %s.\n", text);
        return status;
    }
    if (status != KEPT_OK)
        return status;
    kept_session_stats(chat->engine.session, &stats);
    printf("%u of %u tokens of context are used; %s are planned, %s are allocated, %s of it for "
           "keys and "
           "values.\n",
           kept_session_position(chat->engine.session), info->context_tokens,
           cli_bytes(planned, stats.planned_bytes), cli_bytes(actual, stats.actual_bytes),
           cli_bytes(kv, info->kv_bytes));
    if (info->retains)
        printf("Of the past, %llu slots per KV head are live on average (at most %llu), %llu were "
               "evicted, %llu of those\nmerged into kept ones.\n",
               (unsigned long long)cli_slots_per_head(&chat->engine, &slots),
               (unsigned long long)slots.most, (unsigned long long)slots.evicted,
               (unsigned long long)slots.merged);
    return info->memory_slots ? print_memory(chat, err) : KEPT_OK;
}

static kept_status do_save(struct chat *chat, const char *text, struct kept_error *err)
{
    kept_status status = *text ? cli_session_save(&chat->engine, text, &chat->tokens, err)
                               : cli_fail(err, KEPT_E_ARGUMENT, "/save needs a file name");
    if (status == KEPT_OK)
        printf("%zu tokens are saved in %s.\n", chat->tokens.n, text);
    return status;
}

static kept_status do_load(struct chat *chat, const char *text, struct kept_error *err)
{
    kept_status status = *text ? cli_session_load(&chat->engine, text, &chat->tokens, err)
                               : cli_fail(err, KEPT_E_ARGUMENT, "/load needs a file name");
    if (status == KEPT_OK)
        printf("Going on after %zu tokens of %s.\n", chat->tokens.n, text);
    return status;
}

static kept_status do_remember(struct chat *chat, const char *text, struct kept_error *err)
{
    return cli_chat_remember(&chat->engine, text, err);
}

static kept_status do_forget(struct chat *chat, const char *text, struct kept_error *err)
{
    return cli_chat_forget(&chat->engine, text, err);
}

static kept_status do_facts(struct chat *chat, const char *text, struct kept_error *err)
{
    (void)text;
    return cli_chat_facts(&chat->engine, err);
}

static kept_status do_exit(struct chat *chat, const char *text, struct kept_error *err)
{
    (void)text;
    (void)err;
    chat->done = true;
    return KEPT_OK;
}

static kept_status do_help(struct chat *chat, const char *text, struct kept_error *err);

static const struct slash {
    const char *name, *args, *help;
    kept_status (*run)(struct chat *chat, const char *text, struct kept_error *err);
} slashes[] = {
    {"/help", "", "this list", do_help},
    {"/plan", "", "the memory plan", do_plan},
    {"/memory", " [FILE]", "what is used of it; associative memory as a picture (SVG) in FILE",
     do_memory},
    {"/remember", " [#TAG] TEXT", "write a fact to --facts, in place of what had the tag",
     do_remember},
    {"/forget", " #TAG|ID|TEXT", "forget a fact", do_forget},
    {"/facts", "", "list them", do_facts},
    {"/reset", "", "begin anew", do_reset},
    {"/system", " TEXT", "set the system message and begin anew", do_system},
    {"/save", " FILE", "save the conversation", do_save},
    {"/load", " FILE", "go on with a saved one", do_load},
    {"/exit", "", "end (also Ctrl-D)", do_exit},
};

#define N_SLASHES (sizeof slashes / sizeof *slashes)

static kept_status do_help(struct chat *chat, const char *text, struct kept_error *err)
{
    char left[40];
    (void)chat;
    (void)text;
    (void)err;
    for (size_t i = 0; i < N_SLASHES; i++) {
        snprintf(left, sizeof left, "%s%s", slashes[i].name, slashes[i].args);
        printf("  %-22s %s\n", left, slashes[i].help);
    }
    puts("Ctrl-C stops an answer.");
    return KEPT_OK;
}

static kept_status command(struct chat *chat, const char *line, struct kept_error *err)
{
    const char *names[N_SLASHES + 1];
    size_t n = strcspn(line, " \t");
    const char *text = line + n + strspn(line + n, " \t");
    char word[32];
    for (size_t i = 0; i < N_SLASHES; i++) {
        names[i] = slashes[i].name;
        if (strlen(names[i]) == n && strncmp(names[i], line, n) == 0)
            return slashes[i].run(chat, text, err);
    }
    names[N_SLASHES] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(n < 30 ? n : 30), line);
    const char *near = cli_nearest(word, names);
    return cli_fail(err, KEPT_E_ARGUMENT, "there is no command '%s'%s%s%s; /help lists them", word,
                    near ? "; is '" : "", near ? near : "", near ? "' meant?" : "");
}

static void say(const struct chat *chat, const struct cli_answer *answer)
{
    if (chat->engine.settings->json) {
        cli_json_print(cli_answer_json(&chat->engine, answer), false);
        return;
    }
    putchar('\n');
    fflush(stdout);
    cli_answer_note(&chat->engine, answer);
}

/* One question and its answer. */
static kept_status turn(struct chat *chat, const char *line, struct kept_error *err)
{
    struct cli_buffer text = {0};
    struct cli_answer answer = {.seed = chat->seed};
    size_t n_before = chat->tokens.n;
    kept_status status = KEPT_OK;
    chat->engine.begin_ns = cli_now_ns();
    if (!cli_buffer_add(&text, line, strlen(line)))
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for a line");
    if (status == KEPT_OK)
        status =
            cli_add_turn(&chat->engine, n_before ? NULL : chat->system, &text, &chat->tokens, err);
    if (status == KEPT_OK)
        status = cli_check_room(&chat->engine, n_before, chat->tokens.n, err);
    answer.query = text.bytes;
    if (status == KEPT_OK)
        status = cli_generate(&chat->engine, &chat->tokens, chat->sampler, &answer, err);
    if (status == KEPT_OK)
        say(chat, &answer);
    if (status != KEPT_OK || (answer.ids.n == 0 && strcmp(answer.finish, "cancelled") == 0))
        chat->tokens.n = n_before; /* as if it had not been asked */
    cli_buffer_finish(&text);
    cli_answer_finish(&answer);
    return status;
}

/* What a person can put right; everything else ends the conversation. */
static bool goes_on(const struct chat *chat, kept_status status)
{
    enum cli_exit code = cli_exit_of(status);
    return status == KEPT_OK ||
           (cli_lines_interactive(chat->lines) && (code == CLI_USAGE || code == CLI_BAD_FILE));
}

static kept_status talk(struct chat *chat, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    while (!chat->done) {
        const char *line = NULL;
        enum cli_line_result result = cli_lines_next(chat->lines, &line);
        if (result == CLI_LINE_END)
            break;
        if (result == CLI_LINE_INTERRUPTED && !cli_lines_interactive(chat->lines))
            return cli_fail(err, KEPT_E_CANCELLED, "cancelled");
        cli_interrupt_clear();
        if (result == CLI_LINE_INTERRUPTED || !line[strspn(line, " \t")])
            continue;
        status = line[0] == '/' ? command(chat, line, err) : turn(chat, line, err);
        bool stopped = cli_interrupted() && !cli_lines_interactive(chat->lines);
        if (stopped)
            return cli_fail(err, KEPT_E_CANCELLED, "cancelled");
        cli_interrupt_clear();
        if (!goes_on(chat, status))
            return status;
        if (status != KEPT_OK)
            cli_report(chat->engine.settings, err);
        fflush(stdout);
    }
    return KEPT_OK;
}

static kept_status start(struct chat *chat, const struct cli_settings *settings,
                         struct kept_error *err)
{
    kept_status status = cli_engine_model(&chat->engine, settings, err);
    if (status == KEPT_OK && !cli_uses_template(&chat->engine))
        status = cli_fail(err, KEPT_E_UNSUPPORTED,
                          "'%.300s' has no chat template: use kept run --raw", settings->args[0]);
    if (status == KEPT_OK)
        status = cli_sampler(&chat->engine, &chat->sampler, &chat->seed, err);
    if (status == KEPT_OK)
        status = set_system(chat, settings->system, err);
    if (status == KEPT_OK)
        status = cli_engine_start(&chat->engine, settings->context, 0, err);
    if (status == KEPT_OK && cli_session_exists(settings))
        status = cli_session_load(&chat->engine, settings->session, &chat->tokens, err);
    chat->lines = status == KEPT_OK ? cli_lines_create("> ") : NULL;
    if (status == KEPT_OK && !chat->lines)
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory to read lines");
    return status;
}

enum cli_exit cli_chat(const struct cli_settings *settings)
{
    struct chat chat = {.engine = {.settings = settings}};
    struct kept_error err = {0};
    enum cli_exit code = CLI_OK;
    kept_status status = start(&chat, settings, &err);
    if (status == KEPT_OK && cli_lines_interactive(chat.lines))
        cli_note(settings, "/help lists commands, Ctrl-C stops an answer, Ctrl-D ends.");
    if (status == KEPT_OK)
        status = talk(&chat, &err);
    if (status == KEPT_OK && settings->session && chat.tokens.n > 0)
        status = cli_session_save(&chat.engine, settings->session, &chat.tokens, &err);
    if (status != KEPT_OK)
        code = cli_engine_fail(&chat.engine, &err);
    cli_lines_destroy(&chat.lines);
    kept_sampler_destroy(&chat.sampler);
    cli_tokens_finish(&chat.tokens);
    free(chat.system);
    cli_engine_finish(&chat.engine);
    return code;
}
