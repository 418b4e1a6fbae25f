/* cmd_facts.c: kept facts: a store of facts from the outside. Only add and search evaluate
 * anything, so only they need the model. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fact_lines.h"
#include "facts_out.h"
#include "facts_search.h"
#include "facts_use.h"
#include "json_out.h"
#include "options.h"
#include "terminal.h"

#define CONTEXT 256u /* facts have rows of their own; the conversation is none */

struct job {
    const struct cli_settings *settings;
    const char *path;
    struct cli_settings with_store; /* what the engine sees: the store as if by --facts */
    struct cli_engine engine;
    struct cli_fact_lines lines;
    kept_facts *facts; /* opened without a model */
    bool damaged;      /* verify: the exit code says so */
};

static kept_status open_alone(struct job *job, bool read_only, struct kept_error *err)
{
    const struct kept_facts_open_params params = {.read_only = read_only};
    if (access(job->path, F_OK) != 0)
        return cli_fail(err, KEPT_E_IO,
                        "there is no store '%.200s': 'kept facts %.200s add --model MODEL --text "
                        "TEXT' makes one",
                        job->path, job->path);
    return kept_facts_open(job->path, NULL, &params, &job->facts, err);
}

/* The model, not yet the store. */
static kept_status open_model(struct job *job, const char *action, struct kept_error *err)
{
    if (!job->settings->model)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "%s needs the model that the facts are for: --model MODEL", action);
    kept_status status = cli_engine_model(&job->engine, &job->with_store, err);
    job->with_store.facts.store = job->path;
    return status;
}

static kept_status gather(struct job *job, struct kept_error *err)
{
    const struct cli_fact_options *given = &job->settings->facts;
    bool file = job->settings->file != NULL;
    if (file == (given->texts.n > 0))
        return cli_fail(err, KEPT_E_ARGUMENT, "add needs %s: --text TEXT, or -f FILE of JSON lines",
                        file ? "one of the two" : "facts");
    if (given->texts.n > 1 || given->tags.n > 1 || given->ids.n > 1)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "add takes one --text with one --tag and one --id; -f FILE takes many");
    if (file && given->tags.n + given->ids.n > 0)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "with -f FILE, tags and ids are in its lines: {\"id\": …, \"tag\": …, "
                        "\"text\": …}");
    return file ? cli_fact_lines_read(job->settings->file, "text", &job->lines, err) : KEPT_OK;
}

static kept_status write_facts(struct job *job, struct kept_facts_written *written,
                               struct kept_error *err)
{
    const struct cli_fact_options *given = &job->settings->facts;
    const struct kept_fact_input one = {.text = given->texts.n ? given->texts.items[0] : NULL,
                                        .tag = given->tags.n ? given->tags.items[0] : NULL,
                                        .id = given->ids.n ? given->ids.items[0] : NULL};
    return job->lines.n ? cli_fact_lines_write(&job->engine, &job->lines, written, err)
                        : kept_facts_write(job->engine.facts, &one, 1, cli_progress,
                                           (void *)job->settings, written, err);
}

static void say_written(const struct job *job, const struct kept_facts_written *written)
{
    struct kept_facts_info info;
    kept_facts_info(job->engine.facts, &info);
    cli_progress_end();
    if (job->settings->json) {
        cli_json_print(json_pack("{s:o, s:I, s:I, s:o, s:I, s:f, s:f, s:I}", "store",
                                 cli_json_text(job->path, SIZE_MAX), "written",
                                 (json_int_t)written->n_written, "superseded",
                                 (json_int_t)written->n_superseded, "id",
                                 cli_json_text(written->id, SIZE_MAX), "n_facts",
                                 (json_int_t)info.n_facts, "eval_s", (double)written->eval_ns / 1e9,
                                 "commit_s", (double)written->commit_ns / 1e9, "file_bytes",
                                 (json_int_t)cli_facts_file_bytes(job->path)),
                       false);
        return;
    }
    if (written->n_written == 1)
        printf("Written as %s", written->id);
    else
        printf("%llu facts are written", (unsigned long long)written->n_written);
    if (written->n_superseded)
        printf(", in place of %llu", (unsigned long long)written->n_superseded);
    printf("; %s holds %llu.\n", job->path, (unsigned long long)info.n_facts);
    cli_note(job->settings, "[evaluated in %.2f s, stored in %.2f s]",
             (double)written->eval_ns / 1e9, (double)written->commit_ns / 1e9);
}

static kept_status do_add(struct job *job, struct kept_error *err)
{
    struct kept_facts_written written = {0};
    kept_status status = gather(job, err);
    if (status == KEPT_OK)
        status = open_model(job, "add", err);
    if (status == KEPT_OK)
        status = cli_facts_open_writable(&job->engine, job->lines.n + 1, err);
    if (status == KEPT_OK)
        status = cli_engine_start(&job->engine, CONTEXT, 0, err);
    if (status == KEPT_OK)
        status = write_facts(job, &written, err);
    if (status == KEPT_OK)
        say_written(job, &written);
    return status;
}

static kept_status do_search(struct job *job, struct kept_error *err)
{
    if (job->settings->n_args != 3)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "search needs a text: kept facts %.200s search --model MODEL \"QUERY\"",
                        job->path);
    kept_status status = open_model(job, "search", err);
    if (status == KEPT_OK)
        status = cli_facts_open_readable(&job->engine, err);
    if (status == KEPT_OK)
        status = cli_engine_start(&job->engine, CONTEXT, 0, err);
    if (status == KEPT_OK && job->engine.facts_warning[0] && !job->engine.facts)
        status = cli_fail(err, KEPT_E_FORMAT, "%s", job->engine.facts_warning);
    return status == KEPT_OK ? cli_facts_search(&job->engine, job->settings->args[2], err) : status;
}

static kept_status do_list(struct job *job, struct kept_error *err)
{
    kept_status status = open_alone(job, true, err);
    if (status != KEPT_OK)
        return status;
    if (!job->settings->json)
        return cli_facts_print(stdout, job->facts, job->path, err);
    json_t *object = cli_facts_json(job->facts, job->path, err);
    if (object)
        cli_json_print(object, false);
    return object ? KEPT_OK : err->status;
}

static kept_status do_forget(struct job *job, struct kept_error *err)
{
    const struct cli_fact_options *given = &job->settings->facts;
    struct kept_fact_choice choices[3 * CLI_MAX_TEXTS] = {{0}};
    uint64_t n_forgotten = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < given->ids.n; i++)
        choices[n++].id = given->ids.items[i];
    for (uint32_t i = 0; i < given->tags.n; i++)
        choices[n++].tag = given->tags.items[i];
    for (uint32_t i = 0; i < given->texts.n; i++)
        choices[n++].text = given->texts.items[i];
    if (n == 0)
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "forget needs --id, --tag or --text (of the whole fact); 'kept facts "
                        "%.200s list' shows them",
                        job->path);
    uint64_t begin_ns = cli_now_ns();
    kept_status status = open_alone(job, false, err);
    if (status == KEPT_OK)
        status = kept_facts_forget(job->facts, choices, n, &n_forgotten, err);
    if (status != KEPT_OK)
        return status;
    struct kept_facts_info info;
    kept_facts_info(job->facts, &info);
    if (job->settings->json)
        cli_json_print(json_pack("{s:o, s:I, s:I, s:f}", "store",
                                 cli_json_text(job->path, SIZE_MAX), "forgotten",
                                 (json_int_t)n_forgotten, "n_facts", (json_int_t)info.n_facts,
                                 "seconds", (double)(cli_now_ns() - begin_ns) / 1e9),
                       false);
    else if (n_forgotten == 0)
        printf("Nothing is forgotten: no fact of %s has such an id, tag or text.\n", job->path);
    else
        printf("Forgotten: %llu fact%s; %s holds %llu.\n", (unsigned long long)n_forgotten,
               n_forgotten == 1 ? "" : "s", job->path, (unsigned long long)info.n_facts);
    return KEPT_OK;
}

struct damage {
    json_t *list;
    bool json;
};

static void on_damage(void *user, const char *id, const char *why)
{
    struct damage *damage = user;
    json_array_append_new(damage->list, json_pack("{s:o, s:o}", "id", cli_json_text(id, SIZE_MAX),
                                                  "why", cli_json_text(why, SIZE_MAX)));
    if (!damage->json)
        printf("  %s: %s\n", *id ? id : "the file", why);
}

static kept_status check_exists(const struct job *job, struct kept_error *err)
{
    return access(job->path, F_OK) == 0
               ? KEPT_OK
               : cli_fail(err, KEPT_E_IO, "there is no store '%.300s'", job->path);
}

static kept_status do_verify(struct job *job, struct kept_error *err)
{
    struct damage damage = {.list = json_array(), .json = job->settings->json};
    uint64_t n_facts = 0, n_damaged = 0;
    kept_status status = check_exists(job, err);
    if (status == KEPT_OK)
        status = kept_facts_verify(job->path, on_damage, &damage, &n_facts, &n_damaged, err);
    if (status == KEPT_OK) {
        job->damaged = n_damaged > 0 || json_array_size(damage.list) > 0;
        if (job->settings->json)
            cli_json_print(json_pack("{s:o, s:b, s:I, s:I, s:O}", "store",
                                     cli_json_text(job->path, SIZE_MAX), "sound", !job->damaged,
                                     "n_facts", (json_int_t)n_facts, "n_damaged",
                                     (json_int_t)n_damaged, "damage", damage.list),
                           false);
        else if (job->damaged)
            printf(
                "%s: %llu facts are sound, %llu damaged; 'kept facts %s repair' removes those.\n",
                job->path, (unsigned long long)n_facts, (unsigned long long)n_damaged, job->path);
        else
            printf("%s: %llu facts, all sound.\n", job->path, (unsigned long long)n_facts);
    }
    json_decref(damage.list);
    return status;
}

static kept_status do_repair(struct job *job, struct kept_error *err)
{
    struct damage damage = {.list = json_array(), .json = job->settings->json};
    uint64_t n_kept = 0, n_removed = 0;
    kept_status status = check_exists(job, err);
    if (status == KEPT_OK)
        status = kept_facts_repair(job->path, on_damage, &damage, &n_kept, &n_removed, err);
    if (status == KEPT_OK && job->settings->json)
        cli_json_print(json_pack("{s:o, s:I, s:I, s:O}", "store",
                                 cli_json_text(job->path, SIZE_MAX), "kept", (json_int_t)n_kept,
                                 "removed", (json_int_t)n_removed, "damage", damage.list),
                       false);
    else if (status == KEPT_OK)
        printf("%s: %llu facts are kept, %llu removed.\n", job->path, (unsigned long long)n_kept,
               (unsigned long long)n_removed);
    json_decref(damage.list);
    return status;
}

static kept_status do_export(struct job *job, struct kept_error *err)
{
    const char *out = job->settings->out;
    kept_status status = open_alone(job, true, err);
    if (status != KEPT_OK)
        return status;
    FILE *to = out ? fopen(out, "wb") : stdout;
    if (!to)
        return cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", out, strerror(errno));
    status = cli_facts_export(to, job->facts, err);
    if (out && fclose(to) != 0 && status == KEPT_OK)
        status = cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", out, strerror(errno));
    return status;
}

static kept_status do_compact(struct job *job, struct kept_error *err)
{
    uint64_t before = cli_facts_file_bytes(job->path);
    char was[32], is[32];
    kept_status status = open_alone(job, false, err);
    if (status == KEPT_OK)
        status = kept_facts_compact(job->facts, err);
    kept_facts_close(&job->facts);
    if (status != KEPT_OK)
        return status;
    uint64_t after = cli_facts_file_bytes(job->path);
    if (job->settings->json)
        cli_json_print(json_pack("{s:o, s:I, s:I}", "store", cli_json_text(job->path, SIZE_MAX),
                                 "bytes_before", (json_int_t)before, "bytes_after",
                                 (json_int_t)after),
                       false);
    else
        printf("%s: %s, was %s.\n", job->path, cli_bytes(is, after), cli_bytes(was, before));
    return KEPT_OK;
}

static const struct action {
    const char *name;
    kept_status (*run)(struct job *job, struct kept_error *err);
} actions[] = {{"add", do_add},       {"list", do_list},      {"search", do_search},
               {"forget", do_forget}, {"verify", do_verify},  {"repair", do_repair},
               {"export", do_export}, {"compact", do_compact}};

#define N_ACTIONS (sizeof actions / sizeof *actions)

static kept_status run(struct job *job, struct kept_error *err)
{
    const char *names[N_ACTIONS + 1], *name = job->settings->args[1];
    for (size_t i = 0; i < N_ACTIONS; i++) {
        names[i] = actions[i].name;
        if (strcmp(name, actions[i].name) != 0)
            continue;
        if (job->settings->n_args == 3 && actions[i].run != do_search)
            return cli_fail(err, KEPT_E_ARGUMENT, "'%.60s' is one argument too many for %s",
                            job->settings->args[2], name);
        return actions[i].run(job, err);
    }
    names[N_ACTIONS] = NULL;
    const char *near = cli_nearest(name, names);
    return cli_fail(err, KEPT_E_ARGUMENT,
                    "facts has no '%.60s'%s%s%s; it has add, list, search, forget, verify, repair, "
                    "export, compact",
                    name, near ? ", '" : "", near ? near : "", near ? "' is near" : "");
}

enum cli_exit cli_facts(const struct cli_settings *settings)
{
    struct job job = {.settings = settings, .path = settings->args[0], .with_store = *settings};
    struct kept_error err = {0};
    job.engine.settings = settings;
    kept_status status = run(&job, &err);
    enum cli_exit code = job.damaged ? CLI_BAD_FILE : CLI_OK;
    if (status != KEPT_OK)
        code = cli_engine_fail(&job.engine, &err);
    kept_facts_close(&job.facts);
    cli_fact_lines_finish(&job.lines);
    cli_engine_finish(&job.engine);
    return code;
}
