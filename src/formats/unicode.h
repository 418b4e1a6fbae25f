/* formats/unicode.h: UTF-8 and the few character properties that tokenizers and templates ask for.
 */
#ifndef KEPT_FORMATS_UNICODE_H
#define KEPT_FORMATS_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEPT_RUNE_NONE 0xFFFFFFFFu

/* Decodes the character at text (n_bytes > 0). Returns its length 1…4 and writes it to *out; for
 * bytes that are not UTF-8 (surrogates and overlong forms included) returns 1 and KEPT_RUNE_NONE.
 */
size_t kept_utf8_next(const char *text, size_t n_bytes, uint32_t *out);
/* Writes rune (≤ 0x10FFFF) to `to` and returns its length 1…4. */
size_t kept_utf8_put(uint32_t rune, char to[4]);
/* Offset of the first byte that is not UTF-8, or n_bytes. */
size_t kept_utf8_valid_prefix(const char *text, size_t n_bytes);
/* Number of characters; an invalid byte counts as one. */
size_t kept_utf8_count(const char *text, size_t n_bytes);
/* How many of the last bytes (0…3) may begin a character that is not complete. */
size_t kept_utf8_partial_tail(const char *text, size_t n_bytes);

/* White space as Python's str.isspace has it. */
bool kept_rune_is_space(uint32_t rune);
uint32_t kept_rune_upper(uint32_t rune); /* one to one: U+00DF stays */
uint32_t kept_rune_lower(uint32_t rune);
bool kept_rune_is_cased(uint32_t rune);

#endif
