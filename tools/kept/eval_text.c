/* eval_text.c: text to tokens, without chat templates. */
#include "eval_text.h"

#include "fail.h"

kept_status cli_text_tokens(const struct cli_engine *engine, const char *path,
                            struct cli_tokens *out, struct kept_error *err)
{
    struct cli_buffer text = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    kept_status status = cli_read_file(path, &text, err);
    if (status == KEPT_OK)
        status = kept_tokenizer_encode(engine->tokenizer, text.n ? text.bytes : "", text.n,
                                       KEPT_ENCODE_ADD_SPECIAL, &ids, &n, err);
    if (status == KEPT_OK && !cli_tokens_add(out, ids, n))
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", n);
    kept_tokens_free(&ids);
    cli_buffer_finish(&text);
    return status;
}

kept_status cli_eval_tokens(const struct cli_engine *engine, struct cli_tokens *out,
                            struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    struct cli_buffer text = {0};
    if (!settings->ids && !settings->file)
        return cli_fail(err, KEPT_E_ARGUMENT, "there is no text: give -f FILE");
    if (!settings->ids)
        return cli_text_tokens(engine, settings->file, out, err);
    kept_status status = cli_read_file(settings->ids, &text, err);
    if (status == KEPT_OK)
        status = cli_parse_ids(&text, out, err);
    cli_buffer_finish(&text);
    return status;
}

kept_status cli_begin_tokens(const struct cli_engine *engine, const int32_t *tokens, size_t n,
                             struct cli_tokens *out, struct kept_error *err)
{
    out->n = 0;
    if (!cli_tokens_add(out, tokens, n))
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", n);
    if (n > 0 && kept_tokenizer_adds_bos(engine->tokenizer))
        out->ids[0] = kept_tokenizer_bos(engine->tokenizer);
    return KEPT_OK;
}
