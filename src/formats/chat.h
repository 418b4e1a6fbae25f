/* formats/chat.h: renders a conversation by a chat template, and says which bytes messages wrote.
 */
#ifndef KEPT_FORMATS_CHAT_H
#define KEPT_FORMATS_CHAT_H

#include "kept/tokenizer.h"

/* What the template sees as messages, add_generation_prompt, bos_token, eos_token (tools and
 * documents are none). */
struct kept_chat_input {
    const struct kept_chat_message *messages;
    size_t n_messages;
    uint32_t flags;        /* enum kept_chat_flags */
    const char *bos, *eos; /* NULL: empty */
};

/* As kept_chat_format, with the template's text given. */
kept_status kept_chat_render(const char *template_text, const struct kept_chat_input *input,
                             struct kept_chat_text *out, struct kept_error *err);

#endif
