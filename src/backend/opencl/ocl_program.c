/* backend/opencl/ocl_program.c: kernels: building a program for a row, a format and keys, and the
 * cache of binaries.
 *
 * A cache file is named by a hash of its key: source, options, device, driver and platform. It
 * holds the whole key, so that equal hashes are told apart, and a hash of the binary, so that a
 * damaged file is a miss:
 *   "KEPTOCL1" | u64 key bytes | u64 binary bytes | u64 XXH3 of the binary | key | binary
 * Whatever goes wrong with the cache is logged and the program is built from source; a file is
 * replaced atomically. */
#include "backend/opencl/ocl.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/str.h"

#define MAGIC           "KEPTOCL1"
#define HEADER_BYTES    32
#define MAX_CACHE_BYTES ((size_t)64 << 20)
#define LOG_LINES       5 /* of a failed build that are passed on */

/* What is built, and for whom. */
struct recipe {
    struct ocl_device *d;
    const struct ocl_source *source;
    const char *stem;
    struct kept_strbuf options;
    struct kept_strbuf key;  /* of the cache */
    struct kept_strbuf path; /* of the cache file; empty: no cache */
};

static void recipe_finish(struct recipe *r)
{
    kept_strbuf_finish(&r->options);
    kept_strbuf_finish(&r->key);
    kept_strbuf_finish(&r->path);
}

static const struct ocl_source *source_of(const char *stem)
{
    for (size_t i = 0; i < ocl_n_sources; i++)
        if (strcmp(ocl_sources[i].stem, stem) == 0)
            return &ocl_sources[i];
    return NULL;
}

static kept_status recipe_init(struct recipe *r, struct ocl_device *d,
                               const struct kept_kernel_row *row, enum kept_format format,
                               const uint32_t *keys, struct kept_error *err)
{
    char version[128];
    *r = (struct recipe){.d = d, .source = source_of(row->stem), .stem = row->stem};
    if (r->source == NULL)
        return kept_fail(err, KEPT_E_UNSUPPORTED, "kernel %s has no OpenCL source", row->stem);
    kept_strbuf_puts(&r->options, "-cl-std=CL1.2");
    if (row->has_formats)
        kept_strbuf_printf(&r->options, " -DKEPT_FMT=%d", (int)format);
    for (uint32_t i = 0; i < row->n_keys; i++)
        kept_strbuf_printf(&r->options, " -D%s=%" PRIu32, row->key_names[i], keys[i]);
    if (d->cache_dir != NULL) {
        ocl_info_text(&d->api, d->ref.device, CL_DEVICE_VERSION, version, sizeof version);
        kept_strbuf_printf(&r->key, "%s %016" PRIx64 "\n%s\n%s\n%s\n%s\n%s\n", row->stem,
                           kept_hash64(r->source->text, r->source->n_bytes, 0),
                           r->options.text != NULL ? r->options.text : "", d->base.desc.name,
                           version, d->base.desc.driver, d->platform);
        if (!r->key.failed)
            kept_strbuf_printf(&r->path, "%s/opencl-%s-%016" PRIx64 ".bin", d->cache_dir, row->stem,
                               kept_hash64(r->key.text, r->key.n_bytes, 0));
    }
    if (!r->options.failed && !r->key.failed && !r->path.failed)
        return KEPT_OK;
    recipe_finish(r);
    return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to build kernel %s", row->stem);
}

/* ---- building ---- */

/* The first lines of the build log, on one line. */
static void build_log(const struct recipe *r, cl_program program, char *to, size_t cap_bytes)
{
    const struct ocl_api *api = &r->d->api;
    size_t n_bytes = 0;
    to[0] = '\0';
    if (api->GetProgramBuildInfo(program, r->d->ref.device, CL_PROGRAM_BUILD_LOG, 0, NULL,
                                 &n_bytes) != CL_SUCCESS)
        return;
    char *text = kept_calloc(n_bytes + 1, 1);
    if (text != NULL && api->GetProgramBuildInfo(program, r->d->ref.device, CL_PROGRAM_BUILD_LOG,
                                                 n_bytes, text, NULL) == CL_SUCCESS) {
        uint32_t lines = 0;
        char *end = text;
        for (; *end != '\0' && lines < LOG_LINES; end++)
            if (*end == '\n') {
                *end = ' ';
                lines++;
            }
        *end = '\0';
        kept_snprintf(to, cap_bytes, "%s", text);
    }
    kept_free(text);
}

static kept_status build(const struct recipe *r, cl_program program, struct kept_error *err)
{
    char log[320];
    cl_int code =
        r->d->api.BuildProgram(program, 1, &r->d->ref.device, r->options.text, NULL, NULL);
    if (code == CL_SUCCESS)
        return KEPT_OK;
    build_log(r, program, log, sizeof log);
    return kept_fail(err, code == CL_OUT_OF_HOST_MEMORY ? KEPT_E_HOST_MEMORY : KEPT_E_DRIVER,
                     "kernel %s (%s) was not built: %s: %s", r->stem, r->options.text,
                     ocl_code_name(code), log);
}

/* Can the kernel run with the work-group that the keys ask for? */
static kept_status check_kernel(const struct recipe *r, cl_program program, uint32_t lanes,
                                struct kept_error *err)
{
    const struct ocl_api *api = &r->d->api;
    size_t most = 0;
    cl_ulong local_bytes = 0;
    cl_int code;
    cl_kernel kernel = api->CreateKernel(program, r->stem, &code);
    if (kernel == NULL)
        return ocl_fail(err, code, "kernel %s (%s)", r->stem, r->options.text);
    code = api->GetKernelWorkGroupInfo(kernel, r->d->ref.device, CL_KERNEL_WORK_GROUP_SIZE,
                                       sizeof most, &most, NULL);
    if (code == CL_SUCCESS)
        code = api->GetKernelWorkGroupInfo(kernel, r->d->ref.device, CL_KERNEL_LOCAL_MEM_SIZE,
                                           sizeof local_bytes, &local_bytes, NULL);
    api->ReleaseKernel(kernel);
    if (code != CL_SUCCESS)
        return ocl_fail(err, code, "kernel %s (%s)", r->stem, r->options.text);
    if (most < lanes)
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "kernel %s (%s) can have %zu work-items on %s, not %" PRIu32, r->stem,
                         r->options.text, most, r->d->base.desc.name, lanes);
    if (local_bytes > r->d->base.caps.max_shared_bytes)
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "kernel %s (%s) needs %llu bytes of local memory, %s has %" PRIu32,
                         r->stem, r->options.text, (unsigned long long)local_bytes,
                         r->d->base.desc.name, r->d->base.caps.max_shared_bytes);
    return KEPT_OK;
}

static kept_status program_of_source(const struct recipe *r, cl_program *out,
                                     struct kept_error *err)
{
    cl_int code;
    const char *text = r->source->text;
    cl_program program =
        r->d->api.CreateProgramWithSource(r->d->context, 1, &text, &r->source->n_bytes, &code);
    if (program == NULL)
        return ocl_fail(err, code, "kernel %s (%s)", r->stem, r->options.text);
    kept_status status = build(r, program, err);
    if (status != KEPT_OK) {
        r->d->api.ReleaseProgram(program);
        return status;
    }
    *out = program;
    return KEPT_OK;
}

/* ---- the cache ---- */

static uint64_t load_u64(const char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The binary inside a cache file; NULL when the file is not of this key or damaged. */
static const char *unwrap(const struct recipe *r, const char *file, size_t n_bytes,
                          size_t *binary_bytes)
{
    size_t key_bytes = r->key.n_bytes;
    if (n_bytes < HEADER_BYTES + key_bytes || memcmp(file, MAGIC, 8) != 0 ||
        load_u64(file + 8) != key_bytes ||
        load_u64(file + 16) != n_bytes - HEADER_BYTES - key_bytes ||
        memcmp(file + HEADER_BYTES, r->key.text, key_bytes) != 0)
        return NULL;
    const char *binary = file + HEADER_BYTES + key_bytes;
    *binary_bytes = n_bytes - HEADER_BYTES - key_bytes;
    return *binary_bytes != 0 && kept_hash64(binary, *binary_bytes, 0) == load_u64(file + 24)
               ? binary
               : NULL;
}

/* The program of the cache file, or NULL: then it is built from source. */
static cl_program program_of_cache(const struct recipe *r)
{
    struct kept_error err;
    char *file = NULL;
    size_t n_bytes = 0, binary_bytes = 0;
    if (r->path.n_bytes == 0 || !kept_file_exists(r->path.text) ||
        kept_file_load(r->path.text, MAX_CACHE_BYTES, &file, &n_bytes, &err) != KEPT_OK)
        return NULL;
    cl_program program = NULL;
    const char *binary = unwrap(r, file, n_bytes, &binary_bytes);
    if (binary == NULL) {
        kept_logf(&r->d->base.log, KEPT_LOG_WARN, "%s is damaged; the kernel is built again",
                  r->path.text);
    } else {
        const unsigned char *bytes = (const unsigned char *)binary;
        cl_int loaded = CL_SUCCESS, code;
        program = r->d->api.CreateProgramWithBinary(r->d->context, 1, &r->d->ref.device,
                                                    &binary_bytes, &bytes, &loaded, &code);
        if (program != NULL && build(r, program, &err) != KEPT_OK) {
            kept_logf(&r->d->base.log, KEPT_LOG_WARN, "%s was refused by the driver: %s",
                      r->path.text, err.message);
            r->d->api.ReleaseProgram(program);
            program = NULL;
        }
    }
    kept_free(file);
    return program;
}

static void cache_store(const struct recipe *r, cl_program program)
{
    const struct ocl_api *api = &r->d->api;
    struct kept_error err;
    size_t n_bytes = 0;
    if (r->path.n_bytes == 0 ||
        api->GetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof n_bytes, &n_bytes, NULL) !=
            CL_SUCCESS ||
        n_bytes == 0 || n_bytes > MAX_CACHE_BYTES / 2)
        return;
    size_t at = HEADER_BYTES + r->key.n_bytes;
    char *file = kept_alloc(at + n_bytes);
    if (file == NULL)
        return;
    unsigned char *binary = (unsigned char *)file + at;
    if (api->GetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) ==
        CL_SUCCESS) {
        uint64_t numbers[3] = {r->key.n_bytes, n_bytes, kept_hash64(binary, n_bytes, 0)};
        memcpy(file, MAGIC, 8);
        memcpy(file + 8, numbers, sizeof numbers);
        memcpy(file + HEADER_BYTES, r->key.text, r->key.n_bytes);
        if (kept_dir_make(r->d->cache_dir, &err) != KEPT_OK ||
            kept_file_replace(r->path.text, file, at + n_bytes, &err) != KEPT_OK)
            kept_logf(&r->d->base.log, KEPT_LOG_WARN, "kernel %s is not cached: %s", r->stem,
                      err.message);
    }
    kept_free(file);
}

/* ---- the slots ---- */

static kept_status program_create(const struct recipe *r, uint32_t lanes, cl_program *out,
                                  struct kept_error *err)
{
    cl_program program = program_of_cache(r);
    if (program != NULL) {
        if (check_kernel(r, program, lanes, err) == KEPT_OK) {
            *out = program;
            return KEPT_OK;
        }
        r->d->api.ReleaseProgram(program);
    }
    kept_status status = program_of_source(r, &program, err);
    if (status != KEPT_OK)
        return status;
    status = check_kernel(r, program, lanes, err);
    if (status != KEPT_OK) {
        r->d->api.ReleaseProgram(program);
        return status;
    }
    cache_store(r, program);
    *out = program;
    return KEPT_OK;
}

kept_status ocl_kernel_create(struct kept_device *device, const struct kept_kernel_row *row,
                              enum kept_format format, const uint32_t *keys,
                              struct kept_kernel **out, struct kept_error *err)
{
    struct recipe recipe;
    *out = NULL;
    struct ocl_kernel *k = kept_calloc(1, sizeof *k);
    if (k == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for kernel %s", row->stem);
    kept_status status = recipe_init(&recipe, (struct ocl_device *)device, row, format, keys, err);
    if (status == KEPT_OK) {
        status = program_create(&recipe, keys[0], &k->program, err);
        recipe_finish(&recipe);
    }
    if (status != KEPT_OK) {
        kept_free(k);
        return status;
    }
    k->base = (struct kept_kernel){.device = device, .row = row, .format = format};
    memcpy(k->base.keys, keys, row->n_keys * sizeof *keys);
    *out = &k->base;
    return KEPT_OK;
}

void ocl_kernel_destroy(struct kept_kernel *kernel)
{
    struct ocl_kernel *k = (struct ocl_kernel *)kernel;
    ((struct ocl_device *)kernel->device)->api.ReleaseProgram(k->program);
    kept_free(k);
}
