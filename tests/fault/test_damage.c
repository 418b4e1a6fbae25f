/* Damaged and hostile model files, through everything that reads them: open, plan, load, evaluate.
 * Each must end in an error with a sentence, or (where the damage is a weight's value) in an
 * answer; never in a crash, a leak or an endless run.
 * Meant for AddressSanitizer and UndefinedBehaviorSanitizer.
 *
 * test_damage MODEL SCRATCH_FILE
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "kept/kept.h"

struct file {
    unsigned char *bytes;
    size_t n_bytes, header_bytes;
};

static kept_device *device;
static const char *scratch;
static unsigned n_failed, n_cases, n_refused;

static void check(bool ok, const char *what, size_t at, const struct kept_error *err)
{
    n_cases++;
    if (ok)
        return;
    n_failed++;
    fprintf(stderr, "FAILED %s at %zu: %s\n", what, at, err->message);
}

static bool write_scratch(const unsigned char *bytes, size_t n_bytes)
{
    FILE *file = fopen(scratch, "wb");
    bool ok = file && fwrite(bytes, 1, n_bytes, file) == n_bytes;
    if (file && fclose(file) != 0)
        ok = false;
    return ok;
}

static kept_status load_and_run(kept_model *model, struct kept_error *err)
{
    static const int32_t tokens[] = {1, 2, 3};
    struct kept_profile profile;
    struct kept_plan_params params = {.context_tokens = 32, .chunk_tokens = 8};
    struct kept_eval_params eval = {.tokens = tokens, .n_tokens = 3};
    kept_plan *plan = NULL;
    kept_session *session = NULL;
    kept_device_profile(device, &profile);
    profile.memory_bytes = profile.free_bytes = 1u << 30;
    kept_status status = kept_plan_create(model, &profile, &params, &plan, err);
    if (status == KEPT_OK)
        status = kept_session_create(plan, device, NULL, NULL, &session, err);
    if (status == KEPT_OK)
        status = kept_session_eval(session, &eval, err);
    kept_session_destroy(&session);
    kept_plan_destroy(&plan);
    return status;
}

static kept_status whole_way(struct kept_error *err)
{
    kept_model *model = NULL;
    kept_status status = kept_model_open(scratch, NULL, &model, err);
    if (status == KEPT_OK)
        status = load_and_run(model, err);
    kept_model_close(&model);
    return status;
}

enum wanted { REFUSED, ANYTHING };

static void try_bytes(const unsigned char *bytes, size_t n_bytes, enum wanted wanted,
                      const char *what, size_t at)
{
    struct kept_error err = {0};
    int64_t live = kept_alloc_live();
    if (!write_scratch(bytes, n_bytes)) {
        check(false, "the scratch file cannot be written", at, &err);
        return;
    }
    kept_status status = whole_way(&err);
    n_refused += status != KEPT_OK;
    check(status == KEPT_OK || err.message[0] != '\0', "an error without a sentence", at, &err);
    check(wanted == ANYTHING || status != KEPT_OK, what, at, &err);
    check(kept_alloc_live() == live, "memory is left behind", at, &err);
}

static void truncate_everywhere(const struct file *file)
{
    for (size_t n = 0; n < file->header_bytes; n += n < 4096 ? 61 : 4096)
        try_bytes(file->bytes, n, REFUSED, "a cut header is accepted", n);
    for (size_t i = 0; i < 64; i++) {
        size_t n = file->header_bytes + (file->n_bytes - file->header_bytes) * i / 64;
        try_bytes(file->bytes, n, REFUSED, "cut data is accepted", n);
    }
}

/* Every byte of the first kilobyte, then a sample: metadata, vocabulary, directory. */
static void flip_bits(struct file *file)
{
    for (size_t i = 0; i < file->header_bytes; i += i < 1024 ? 1 : 37) {
        unsigned char mask = (unsigned char)(1u << (i % 8));
        file->bytes[i] ^= mask;
        try_bytes(file->bytes, file->n_bytes, ANYTHING, "", i);
        file->bytes[i] ^= mask;
    }
}

static unsigned char *find(const struct file *file, const char *text, size_t from)
{
    size_t n = strlen(text);
    for (size_t i = from; i + n <= file->header_bytes; i++)
        if (memcmp(file->bytes + i, text, n) == 0)
            return file->bytes + i;
    return NULL;
}

/* Overwrites n bytes that lie `skip` behind the text, tries, restores. */
static void patch(struct file *file, const char *text, size_t skip, const void *with, size_t n,
                  const char *what)
{
    unsigned char saved[64], *at = find(file, text, 0);
    struct kept_error none = {0};
    check(at != NULL && n <= sizeof saved, text, 0, &none);
    if (!at)
        return;
    memcpy(saved, at + skip, n);
    memcpy(at + skip, with, n);
    try_bytes(file->bytes, file->n_bytes, REFUSED, what, (size_t)(at - file->bytes));
    memcpy(at + skip, saved, n);
}

static void hostile_values(struct file *file)
{
    static const unsigned char huge[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
    static const unsigned char zero[8] = {0};
    static const unsigned char many_layers[4] = {0, 16, 0, 0}, odd[8] = {33};
    static const unsigned char type99[4] = {99};
    size_t dims = strlen("blk.0.attn_q.weight") + 4; /* after the name: n_dims, then dims */
    size_t value = strlen("llama.block_count") + 4;  /* after the key: type, then the value */
    patch(file, "GGUF", 0, "GGUX", 4, "a wrong magic is accepted");
    patch(file, "GGUF", 4, huge, 4, "an absurd version is accepted");
    patch(file, "GGUF", 8, huge, 8, "an absurd count of tensors is accepted");
    patch(file, "GGUF", 16, huge, 8, "an absurd count of values is accepted");
    patch(file, "general.architecture", 32, "lamma", 5, "an unknown architecture is accepted");
    patch(file, "llama.block_count", value, many_layers, 4, "4096 layers are accepted");
    patch(file, "llama.block_count", value, zero, 4, "no layers are accepted");
    patch(file, "llama.embedding_length", strlen("llama.embedding_length") + 4, odd, 4,
          "an embedding of 33 is accepted");
    patch(file, "blk.0.attn_q.weight", 0, "blk.0.attn_x.weight", 19,
          "a missing tensor is accepted");
    patch(file, "blk.0.attn_q.weight", dims, huge, 8, "an absurd dimension is accepted");
    patch(file, "blk.0.attn_q.weight", dims, zero, 8, "an empty tensor is accepted");
    patch(file, "blk.0.attn_q.weight", dims + 16, type99, 4, "an unknown type is accepted");
    patch(file, "blk.0.attn_q.weight", dims + 20, huge, 8, "an offset past the end is accepted");
    patch(file, "output_norm.weight", 0, "output_nurm.weight", 18, "a missing norm is accepted");
    patch(file, "token_embd.weight", strlen("token_embd.weight") + 12, odd, 8,
          "a vocabulary that differs from the embedding is accepted");
}

/* The file shrinks between the plan and the load. */
static void shrink_after_open(const struct file *file)
{
    struct kept_error err = {0};
    kept_model *model = NULL;
    if (!write_scratch(file->bytes, file->n_bytes) ||
        kept_model_open(scratch, NULL, &model, &err) != KEPT_OK) {
        check(false, "the whole file does not open", 0, &err);
        return;
    }
    check(truncate(scratch, (off_t)(file->n_bytes - 1000)) == 0, "truncate", 0, &err);
    kept_status status = load_and_run(model, &err);
    check(status == KEPT_E_IO || status == KEPT_E_FORMAT, "a file that shrank is loaded", 0, &err);
    kept_model_close(&model);
}

static bool read_model(const char *path, struct file *out)
{
    kept_inspection *inspection = NULL;
    struct kept_error err = {0};
    FILE *in = fopen(path, "rb");
    if (!in || kept_inspection_create(path, &inspection, &err) != KEPT_OK)
        return false;
    out->header_bytes = (size_t)kept_inspection_header_bytes(inspection);
    kept_inspection_destroy(&inspection);
    fseek(in, 0, SEEK_END);
    out->n_bytes = (size_t)ftell(in);
    rewind(in);
    out->bytes = malloc(out->n_bytes);
    bool ok = out->bytes && fread(out->bytes, 1, out->n_bytes, in) == out->n_bytes;
    fclose(in);
    return ok;
}

int main(int argc, char **argv)
{
    struct file file = {0};
    struct kept_error err = {0};
    struct kept_device_options options = {.n_threads = 1};
    if (argc != 3)
        return 2;
    scratch = argv[2];
    if (!read_model(argv[1], &file) ||
        kept_device_create("cpu", &options, &device, NULL, &err) != KEPT_OK) {
        fprintf(stderr, "cannot begin: %s\n", err.message);
        return 1;
    }
    /* The first run makes what the device keeps for its own life. */
    check(write_scratch(file.bytes, file.n_bytes) && whole_way(&err) == KEPT_OK,
          "the whole file works", 0, &err);
    try_bytes(file.bytes, file.n_bytes, ANYTHING, "", 0);
    check(n_refused == 0, "the whole file works", 0, &err);
    truncate_everywhere(&file);
    flip_bits(&file);
    hostile_values(&file);
    shrink_after_open(&file);
    kept_device_destroy(&device);
    remove(scratch);
    free(file.bytes);
    fprintf(stderr, "%u checks, %u files refused, %u failed\n", n_cases, n_refused, n_failed);
    return n_failed ? 1 : 0;
}
