/* tests/fuzz/fuzz_jinja.c: any template on a conversation. The spans of content must be ascending,
 * disjoint and within the text; failures must come with a sentence and leave nothing behind. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "formats/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static const struct kept_chat_message messages[] = {{"system", "be brief"},
                                                        {"user", " a <|b|> \xC3\xA9 "},
                                                        {"assistant", "<think>x</think>y"},
                                                        {"user", ""}};
    struct kept_chat_input input = {messages, 4, KEPT_CHAT_ADD_GENERATION_PROMPT, "<s>", "</s>"};
    struct kept_chat_text text;
    struct kept_error err = {0};
    char *template_text = malloc(n_bytes + 1);
    if (n_bytes)
        memcpy(template_text, bytes, n_bytes);
    template_text[n_bytes] = '\0';

    int64_t live = kept_alloc_live();
    kept_status status = kept_chat_render(template_text, &input, &text, &err);
    if (status ? text.text != NULL || !err.message[0]
               : !text.text || text.text[text.n_bytes] != '\0')
        abort();
    size_t at = 0;
    for (size_t i = 0; i < text.n_content; i++) {
        if (text.content[i].begin < at || text.content[i].end <= text.content[i].begin ||
            text.content[i].end > text.n_bytes)
            abort();
        at = text.content[i].end;
    }
    kept_chat_text_finish(&text);
    if (kept_alloc_live() != live)
        abort();
    free(template_text);
    return 0;
}
