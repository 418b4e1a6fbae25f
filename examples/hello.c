/* hello.c: the smallest whole use of the library: one prompt, a streamed answer.
 *     cc hello.c $(pkg-config --cflags --libs kept) -o hello
 *     ./hello model.gguf "Once upon a time" [auto|vulkan|opencl|cpu]
 */
#include <stdio.h>
#include <string.h>

#include <kept/kept.h>

#define TRY(call) if ((call) != KEPT_OK) goto done

int main(int argc, char **argv)
{
    struct kept_error err;
    struct kept_plan_params options = {.context_tokens = 512};
    struct kept_sampler_params greedy = {.temperature = 0};
    struct kept_eval_params step = {0};
    struct kept_text_stream stream = {.begun = true};
    struct kept_profile profile;
    kept_model *model = NULL;
    kept_device *device = NULL;
    kept_plan *plan = NULL;
    kept_session *session = NULL;
    kept_sampler *sampler = NULL;
    char text[1024];
    int32_t *ids = NULL, token;
    size_t n;
    int code = 1;

    if (argc < 3)
        return fprintf(stderr, "usage: hello MODEL PROMPT [DEVICE]\n"), 2;
    TRY(kept_model_open(argv[1], NULL, &model, &err));
    const kept_tokenizer *tokenizer = kept_model_tokenizer(model);
    TRY(kept_tokenizer_encode(tokenizer, argv[2], strlen(argv[2]), KEPT_ENCODE_ADD_SPECIAL, &ids,
                              &n, &err));
    TRY(kept_device_create(argc > 3 ? argv[3] : "auto", NULL, &device, NULL, &err));
    kept_device_profile(device, &profile);
    TRY(kept_plan_create(model, &profile, &options, &plan, &err));
    TRY(kept_session_create(plan, device, NULL, NULL, &session, &err));
    TRY(kept_sampler_create(&greedy, kept_tokenizer_count(tokenizer), &sampler, &err));
    for (step.tokens = ids, step.n_tokens = (uint32_t)n; kept_session_position(session) < 512;) {
        TRY(kept_session_eval(session, &step, &err));
        TRY(kept_session_sample(session, sampler, &token, &err));
        if (kept_tokenizer_is_end(tokenizer, token))
            break;
        TRY(kept_text_stream_push(tokenizer, &stream, token, 0, text, sizeof text, &n, &err));
        fwrite(text, 1, n, stdout);
        fflush(stdout);
        step.tokens = &token, step.n_tokens = 1;
    }
    putchar('\n');
    code = 0;
done:
    if (code)
        fprintf(stderr, "hello: %s\n", err.message);
    kept_sampler_destroy(&sampler), kept_session_destroy(&session), kept_plan_destroy(&plan);
    kept_device_destroy(&device), kept_tokens_free(&ids), kept_model_close(&model);
    return code;
}
