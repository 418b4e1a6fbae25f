/* facts_out.c: facts for people and for programs. */
#include "facts_out.h"

#include <sys/stat.h>
#include <time.h>

#include "fail.h"
#include "json_out.h"
#include "past.h"
#include "terminal.h"

uint64_t cli_facts_file_bytes(const char *path)
{
    struct stat stat_of;
    return stat(path, &stat_of) == 0 ? (uint64_t)stat_of.st_size : 0;
}

static bool print_fact(void *user, const struct kept_fact *fact)
{
    char when[32] = "";
    time_t seconds = (time_t)fact->time_s;
    struct tm local;
    if (localtime_r(&seconds, &local))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M", &local);
    fprintf(user, "%-16s %-14s %-16s %6u  ", fact->id, fact->tag, when, fact->n_tokens);
    /* On one line, whatever is in it. */
    for (const char *c = fact->text; *c; c++)
        fputc((unsigned char)*c < ' ' || *c == 127 ? ' ' : *c, user);
    fputc('\n', user);
    return true;
}

kept_status cli_facts_print(FILE *to, kept_facts *facts, const char *path, struct kept_error *err)
{
    struct kept_facts_info info;
    char file[32], host[32];
    kept_facts_info(facts, &info);
    if (info.n_facts)
        fprintf(to, "%-16s %-14s %-16s %6s  %s\n", "id", "tag", "written", "tokens", "text");
    kept_status status = kept_facts_each(facts, print_fact, to, err);
    if (status != KEPT_OK)
        return status;
    fprintf(to, "%s%s holds %llu fact%s: %s on disk (%s), %s in host memory.\n",
            info.n_facts ? "\n" : "", path, (unsigned long long)info.n_facts,
            info.n_facts == 1 ? "" : "s", cli_bytes(file, cli_facts_file_bytes(path)),
            cli_slot_type_name(info.payload), cli_bytes(host, info.host_bytes));
    if (info.n_damaged)
        fprintf(to, "%llu more are damaged: 'kept facts %s repair' removes them.\n",
                (unsigned long long)info.n_damaged, path);
    return KEPT_OK;
}

json_t *cli_fact_json(const struct kept_fact *fact)
{
    return json_pack("{s:o, s:o, s:o, s:I}", "id", cli_json_text(fact->id, SIZE_MAX), "text",
                     cli_json_text(fact->text, SIZE_MAX), "tag", cli_json_text(fact->tag, SIZE_MAX),
                     "time", (json_int_t)fact->time_s);
}

static bool append_fact(void *user, const struct kept_fact *fact)
{
    json_t *object = cli_fact_json(fact);
    json_object_set_new(object, "tokens", json_integer(fact->n_tokens));
    json_array_append_new(user, object);
    return true;
}

json_t *cli_facts_json(kept_facts *facts, const char *path, struct kept_error *err)
{
    struct kept_facts_info info;
    char header[20], model[20];
    json_t *list = json_array();
    if (kept_facts_each(facts, append_fact, list, err) != KEPT_OK) {
        json_decref(list);
        return NULL;
    }
    kept_facts_info(facts, &info);
    snprintf(header, sizeof header, "%016llx", (unsigned long long)info.header_hash);
    snprintf(model, sizeof model, "%016llx", (unsigned long long)info.model_hash);
    return json_pack(
        "{s:o, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:o}", "store",
        cli_json_text(path, SIZE_MAX), "n_facts", (json_int_t)info.n_facts, "n_damaged",
        (json_int_t)info.n_damaged, "payload", cli_slot_type_name(info.payload), "file_bytes",
        (json_int_t)cli_facts_file_bytes(path), "host_bytes", (json_int_t)info.host_bytes,
        "host_bytes_per_fact", (json_int_t)info.host_bytes_per_fact, "address_layer",
        (json_int_t)info.address_layer, "header_hash", header, "model_hash", model, "facts", list);
}

struct exporting {
    FILE *to;
    bool failed;
};

static bool export_fact(void *user, const struct kept_fact *fact)
{
    struct exporting *exporting = user;
    json_t *object = cli_fact_json(fact);
    exporting->failed =
        !object || json_dumpf(object, exporting->to, 0) != 0 || fputc('\n', exporting->to) == EOF;
    json_decref(object);
    return !exporting->failed;
}

kept_status cli_facts_export(FILE *to, kept_facts *facts, struct kept_error *err)
{
    struct exporting exporting = {.to = to};
    kept_status status = kept_facts_each(facts, export_fact, &exporting, err);
    if (status == KEPT_OK && (exporting.failed || fflush(to) != 0))
        status = cli_fail(err, KEPT_E_IO, "the facts could not be written out");
    return status;
}
