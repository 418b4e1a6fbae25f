/* facts_out.h: what a store holds, as a table and as JSON. */
#ifndef KEPT_TOOL_FACTS_OUT_H
#define KEPT_TOOL_FACTS_OUT_H

#include <stdio.h>

#include <jansson.h>

#include "kept/facts.h"

/* Every fact, and one line about the store. */
kept_status cli_facts_print(FILE *to, kept_facts *facts, const char *path, struct kept_error *err);
/* One object: store, n_facts, n_damaged, payload, file_bytes, host_bytes, host_bytes_per_fact,
 * address_layer, header_hash, model_hash, facts [{id, tag, time, tokens, text}]. NULL: *err. */
json_t *cli_facts_json(kept_facts *facts, const char *path, struct kept_error *err);
/* JSON lines {id, text, tag, time} by rising id. */
kept_status cli_facts_export(FILE *to, kept_facts *facts, struct kept_error *err);

/* {id, tag, time, text} of a fact. */
json_t *cli_fact_json(const struct kept_fact *fact);
/* Bytes of the file; 0 when there is none. */
uint64_t cli_facts_file_bytes(const char *path);

#endif
