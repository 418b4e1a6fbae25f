/* tests/unit/test_plan.c: what a plan promises: the same inputs give the same plan, regions lie
 * inside their buffers and never overlap while alive, weights take their bytes, calls stay inside
 * their arguments, verdicts and alternatives are true; and plans cut to small limits or into small
 * pieces compute the same. */
#include "core_run.h"

#include "base/alloc.h"
#include "kernel/contract.h"

static const char *const models[] = {"tiny-llama-plain", "tiny-llama-legacy", "tiny-llama-k",
                                     "tiny-gemma3"};
#define N_MODELS (sizeof models / sizeof *models)

static kept_device *device;

static kept_plan *make(const kept_model *model, const struct kept_profile *profile,
                       const struct kept_plan_params *params)
{
    kept_plan *plan = NULL;
    struct kept_error err = {0};
    if (kept_plan_create(model, profile, params, &plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    return plan;
}

/* ---- layout ---- */

static bool alive_together(const struct kept_region *a, const struct kept_region *b)
{
    if (a->category != KEPT_CATEGORY_ACTIVATIONS || b->category != KEPT_CATEGORY_ACTIVATIONS)
        return true;
    return a->program == b->program && a->first_use <= b->last_use && b->first_use <= a->last_use;
}

static void check_regions(const kept_plan *plan)
{
    uint64_t align = kept_plan_align(plan, 1), planned = 0;
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        planned += plan->buffers[i].bytes;
        assert_true(plan->buffers[i].bytes <= plan->profile.max_buffer_bytes);
    }
    assert_int_equal(planned, plan->info.planned_bytes);
    for (uint32_t i = 0; i < plan->n_regions; i++) {
        const struct kept_region *a = &plan->regions[i];
        assert_true(a->bytes > 0 && a->buffer < plan->n_buffers);
        assert_int_equal(a->offset % align, 0);
        assert_true(a->offset + a->bytes <= plan->buffers[a->buffer].bytes);
        for (uint32_t j = 0; j < i; j++) {
            const struct kept_region *b = &plan->regions[j];
            if (a->buffer != b->buffer || !alive_together(a, b))
                continue;
            assert_true(a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
        }
    }
}

static void check_call(const kept_plan *plan, uint32_t program, uint32_t i)
{
    const struct kept_call *call = &plan->programs[program].calls[i];
    const struct kept_kernel_row *row = kept_kernel_row(call->id);
    uint64_t bytes[KEPT_MAX_BINDS] = {0};
    struct kept_error err = {0};
    for (uint32_t a = 0; a < row->n_binds; a++) {
        const struct kept_arg *arg = &call->args[a];
        const struct kept_region *region = &plan->regions[arg->region];
        assert_true(arg->region < plan->n_regions && arg->n_bytes > 0);
        assert_int_equal((region->offset + arg->offset_bytes) % kept_plan_align(plan, 1), 0);
        assert_true(arg->offset_bytes + arg->n_bytes <= region->bytes);
        assert_true(arg->n_bytes <= plan->profile.max_binding_bytes);
        bytes[a] = (arg->n_bytes + 3) / 4 * 4;
        if (region->category != KEPT_CATEGORY_ACTIVATIONS)
            continue;
        assert_int_equal(region->program, (int)program);
        assert_true(region->first_use <= (int32_t)i && (int32_t)i <= region->last_use);
    }
    if (kept_kernel_check(call->id, call->format, call->keys, call->params, bytes, &err) != KEPT_OK)
        fail_msg("program %u, call %u: %s", program, i, err.message);
}

static void check_programs(const kept_plan *plan)
{
    for (uint32_t p = 0; p < plan->n_programs; p++) {
        const struct kept_program *program = &plan->programs[p];
        uint32_t next = 0;
        for (uint32_t i = 0; i < program->n_pieces; i++) {
            assert_int_equal(program->pieces[i].first_call, next);
            assert_true(program->pieces[i].n_calls > 0);
            next += program->pieces[i].n_calls;
        }
        assert_int_equal(next, program->n_calls);
        assert_false(program->pieces[0].head);
        assert_true(program->pieces[program->n_pieces - 1].head);
        for (uint32_t i = 0; i < program->n_calls; i++)
            check_call(plan, p, i);
    }
}

/* Every row of every tensor is loaded exactly once, tied ones too. */
static void check_weights(const kept_plan *plan)
{
    uint64_t loaded = 0;
    for (uint32_t i = 0; i < plan->n_spans; i++) {
        const struct kept_span *span = &plan->spans[i];
        uint64_t rows = 0;
        loaded += span->n_rows * (span->matrix ? span->tensor->n_bytes / span->tensor->dims[1]
                                               : span->tensor->n_bytes);
        for (uint32_t j = 0; j < plan->n_spans; j++)
            rows += plan->spans[j].tensor == span->tensor ? plan->spans[j].n_rows : 0;
        assert_int_equal(rows, span->matrix ? span->tensor->dims[1] : 1);
    }
    const struct kept_model_info *model = kept_model_info(plan->model);
    assert_true(loaded <= model->tensor_bytes);
    uint64_t factors = plan->shape->ropes[0].factors ? plan->shape->ropes[0].factors->n_bytes : 0;
    assert_int_equal(loaded + factors, model->tensor_bytes);
}

static uint64_t most_alive(const kept_plan *plan)
{
    uint64_t most = 0;
    for (uint32_t p = 0; p < plan->n_programs; p++)
        for (int32_t call = 0; call < (int32_t)plan->programs[p].n_calls; call++) {
            uint64_t alive = 0;
            for (uint32_t i = 0; i < plan->n_regions; i++) {
                const struct kept_region *region = &plan->regions[i];
                if (region->category == KEPT_CATEGORY_ACTIVATIONS && region->program == (int)p &&
                    region->first_use <= call && call <= region->last_use)
                    alive += kept_plan_align(plan, region->bytes);
            }
            most = alive > most ? alive : most;
        }
    return most;
}

static void check_plan(const kept_plan *plan)
{
    check_regions(plan);
    check_programs(plan);
    check_weights(plan);
    assert_int_equal(plan->info.lower_bound_bytes, most_alive(plan));
    assert_true(plan->info.activation_bytes >= plan->info.lower_bound_bytes);
    assert_true((double)plan->info.activation_bytes <= 1.10 * (double)plan->info.lower_bound_bytes);
}

static void layout_of_every_model(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{1, 1},   {2, 2},    {63, 512},  {64, 64},  {65, 65},
                                        {128, 1}, {200, 33}, {512, 512}, {0, 0},    {300, 100},
                                        {512, 1}, {448, 64}, {449, 65},  {512, 129}};
    struct kept_profile profile = run_profile(device);
    for (size_t m = 0; m < N_MODELS; m++) {
        kept_model *model = run_model(models[m]);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct kept_plan_params params = {.context_tokens = sizes[i][0],
                                              .chunk_tokens = sizes[i][1],
                                              .logits_rows = (uint32_t)i};
            kept_plan *plan = make(model, &profile, &params);
            const struct kept_plan_info *info = kept_plan_info(plan);
            assert_true(info->fits);
            assert_int_equal(info->context_tokens, sizes[i][0] ? sizes[i][0] : 512);
            assert_true(info->chunk_tokens <= info->context_tokens);
            assert_true(info->logits_rows >= 1 && info->logits_rows <= info->chunk_tokens);
            assert_int_equal(info->total_bytes, info->planned_bytes + info->driver_bytes);
            check_plan(plan);
            kept_plan_destroy(&plan);
        }
        kept_model_close(&model);
    }
}

/* ---- determinism ---- */

static void assert_same_calls(const struct kept_program *a, const struct kept_program *b)
{
    assert_int_equal(a->n_calls, b->n_calls);
    assert_int_equal(a->n_pieces, b->n_pieces);
    for (uint32_t i = 0; i < a->n_calls; i++) {
        const struct kept_call *x = &a->calls[i], *y = &b->calls[i];
        assert_true(x->id == y->id && x->format == y->format);
        assert_memory_equal(x->keys, y->keys, sizeof x->keys);
        assert_memory_equal(x->grid, y->grid, sizeof x->grid);
        assert_memory_equal(x->params, y->params, sizeof x->params);
        for (uint32_t k = 0; k < KEPT_MAX_BINDS; k++) {
            assert_int_equal(x->args[k].region, y->args[k].region);
            assert_int_equal(x->args[k].offset_bytes, y->args[k].offset_bytes);
            assert_int_equal(x->args[k].n_bytes, y->args[k].n_bytes);
        }
    }
}

static void assert_same(const kept_plan *a, const kept_plan *b)
{
    assert_memory_equal(&a->info, &b->info, sizeof a->info);
    for (uint32_t i = 0; i < a->n_regions; i++) {
        struct kept_region_info x, y;
        assert_true(kept_plan_region(a, i, &x) && kept_plan_region(b, i, &y));
        assert_string_equal(x.name, y.name);
        assert_string_equal(x.category, y.category);
        assert_string_equal(x.why, y.why);
        assert_true(x.buffer == y.buffer && x.bytes == y.bytes && x.offset == y.offset);
        assert_true(x.first_use == y.first_use && x.last_use == y.last_use);
    }
    for (uint32_t i = 0; i < a->n_choices; i++) {
        struct kept_choice_info x, y;
        assert_true(kept_plan_choice(a, i, &x) && kept_plan_choice(b, i, &y));
        assert_string_equal(x.what, y.what);
        assert_string_equal(x.chosen, y.chosen);
        assert_string_equal(x.why, y.why);
    }
    assert_int_equal(a->n_programs, b->n_programs);
    for (uint32_t p = 0; p < a->n_programs; p++)
        assert_same_calls(&a->programs[p], &b->programs[p]);
}

static void same_inputs_same_plan(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_plan_params params = {.context_tokens = 256, .chunk_tokens = 128};
    for (size_t m = 0; m < N_MODELS; m++) {
        kept_model *model = run_model(models[m]), *again = run_model(models[m]);
        kept_plan *a = make(model, &profile, &params), *b = make(again, &profile, &params);
        assert_same(a, b);
        struct kept_region_info region;
        struct kept_choice_info choice;
        struct kept_alternative_info alternative;
        assert_false(kept_plan_region(a, a->n_regions, &region));
        assert_false(kept_plan_choice(a, a->n_choices, &choice));
        assert_false(kept_plan_alternative(a, 0, &alternative));
        kept_plan_destroy(&a);
        kept_plan_destroy(&b);
        kept_model_close(&model);
        kept_model_close(&again);
    }
}

/* ---- verdicts ---- */

static uint32_t option_of(const char *change, const char *option, uint32_t fallback)
{
    const char *at = strstr(change, option);
    return at ? (uint32_t)strtoul(at + strlen(option), NULL, 10) : fallback;
}

/* Every alternative is planned again: it fits and takes what was said. */
static uint32_t check_alternatives(const kept_plan *plan, const struct kept_plan_params *params)
{
    struct kept_alternative_info other;
    uint32_t n = 0;
    for (; kept_plan_alternative(plan, n, &other); n++) {
        struct kept_plan_params changed = *params;
        changed.context_tokens = option_of(other.change, "--context ", params->context_tokens);
        changed.chunk_tokens = option_of(other.change, "--chunk ", params->chunk_tokens);
        if (strstr(other.change, "--kv q8_0"))
            changed.k_type = changed.v_type = KEPT_SLOT_Q8_0;
        if (strstr(other.change, "--retain scored")) {
            changed.retain.mode = KEPT_RETAIN_SCORED;
            changed.retain.budget_percent = (float)option_of(other.change, "--retain-budget ", 0);
        }
        assert_non_null(other.quality);
        kept_plan *again = make(plan->model, kept_plan_profile(plan), &changed);
        assert_true(kept_plan_info(again)->fits);
        assert_int_equal(kept_plan_info(again)->total_bytes, other.total_bytes);
        kept_plan_destroy(&again);
    }
    assert_int_equal(n, kept_plan_info(plan)->n_alternatives);
    return n;
}

static void assert_refused(const kept_plan *plan)
{
    struct kept_error err = {0};
    kept_session *session = (kept_session *)1;
    assert_int_equal(kept_session_create(plan, device, NULL, NULL, &session, &err), KEPT_E_BUDGET);
    assert_null(session);
}

static void exactly_the_budget_fits(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    for (size_t m = 0; m < N_MODELS; m++) {
        kept_model *model = run_model(models[m]);
        struct kept_plan_params params = {.context_tokens = 512, .chunk_tokens = 256};
        kept_plan *plan = make(model, &profile, &params);
        uint64_t total = kept_plan_info(plan)->total_bytes;
        kept_plan_destroy(&plan);

        params.memory_bytes = total;
        plan = make(model, &profile, &params);
        assert_true(kept_plan_info(plan)->fits);
        assert_int_equal(kept_plan_info(plan)->n_alternatives, 0);
        kept_plan_destroy(&plan);

        params.memory_bytes = total - 1;
        plan = make(model, &profile, &params);
        assert_false(kept_plan_info(plan)->fits);
        assert_true(check_alternatives(plan, &params) > 0);
        assert_refused(plan);
        kept_plan_destroy(&plan);

        for (uint64_t part = 1; part < 16; part++) { /* some have alternatives, some have none */
            params.memory_bytes = total * part / 16;
            plan = make(model, &profile, &params);
            assert_false(kept_plan_info(plan)->fits);
            check_alternatives(plan, &params);
            assert_refused(plan);
            kept_plan_destroy(&plan);
        }
        kept_model_close(&model);
    }
}

static void free_memory_less_the_margin(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    kept_model *model = run_model(models[0]);
    struct kept_plan_params params = {.context_tokens = 64, .margin_bytes = 1000};
    kept_plan *plan = make(model, &profile, &params);
    uint64_t total = kept_plan_info(plan)->total_bytes;
    kept_plan_destroy(&plan);
    profile.free_bytes = total + 1000;
    plan = make(model, &profile, &params);
    assert_true(kept_plan_info(plan)->fits);
    assert_int_equal(kept_plan_info(plan)->budget_bytes, total);
    kept_plan_destroy(&plan);
    profile.free_bytes = total + 999;
    plan = make(model, &profile, &params);
    assert_false(kept_plan_info(plan)->fits);
    kept_plan_destroy(&plan);
    profile.free_bytes = 500; /* less than the margin */
    plan = make(model, &profile, &params);
    assert_false(kept_plan_info(plan)->fits);
    kept_plan_destroy(&plan);
    profile.free_bytes = profile.memory_bytes = 0; /* unknown */
    plan = make(model, &profile, &params);
    assert_true(kept_plan_info(plan)->fits);
    assert_int_equal(kept_plan_info(plan)->budget_bytes, 0);
    kept_plan_destroy(&plan);
    kept_model_close(&model);
}

/* ---- refusals ---- */

static void assert_plan_fails(const kept_model *model, const struct kept_profile *profile,
                              const struct kept_plan_params *params, kept_status want)
{
    kept_plan *plan = (kept_plan *)1;
    struct kept_error err = {0};
    int64_t live = kept_alloc_live();
    kept_status status = kept_plan_create(model, profile, params, &plan, &err);
    if (status != want)
        fail_msg("%s instead of %s: %s", kept_status_name(status), kept_status_name(want),
                 err.message);
    assert_null(plan);
    assert_true(err.message[0] != '\0');
    assert_int_equal(kept_alloc_live(), live);
}

static void options_out_of_range(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    kept_model *model = run_model(models[0]);
    static const struct kept_plan_params bad[] = {
        {.context_tokens = 513},
        {.context_tokens = UINT32_MAX},
        {.context_tokens = 64, .chunk_tokens = 16385},
        {.chunk_tokens = UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_plan_fails(model, &profile, &bad[i], KEPT_E_ARGUMENT);
    assert_plan_fails(NULL, &profile, NULL, KEPT_E_ARGUMENT);
    assert_plan_fails(model, NULL, NULL, KEPT_E_ARGUMENT);
    assert_int_equal(kept_plan_create(model, &profile, NULL, NULL, NULL), KEPT_E_ARGUMENT);
    kept_model_close(&model);
}

static void profiles_that_make_no_sense(void **state)
{
    (void)state;
    const struct kept_profile good = run_profile(device);
    kept_model *model = run_model(models[0]);
    struct kept_profile bad = {0};
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    bad = good;
    bad.max_buffer_bytes = (1u << 20) - 1;
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    bad = good;
    bad.max_binding_bytes = 0;
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    bad = good;
    bad.binding_align_bytes = 48;
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    bad = good;
    bad.binding_align_bytes = 8192;
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    bad = good;
    bad.word_order = 2;
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    memset(&bad, 0xFF, sizeof bad); /* texts without an end */
    bad.host_visible = bad.host_buffers_mapped = bad.subgroup_ops = bad.int_dot = true;
    bad.timestamps = true;
    assert_plan_fails(model, &bad, NULL, KEPT_E_ARGUMENT);
    kept_model_close(&model);
}

static void huge_numbers_do_no_harm(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_plan_params params = {.context_tokens = 512, .chunk_tokens = 512};
    kept_model *model = run_model("tiny-gemma3");
    profile.compute_units = profile.max_group_lanes = UINT32_MAX;
    profile.max_buffer_bytes = profile.max_binding_bytes = UINT64_MAX;
    profile.memory_bytes = profile.free_bytes = UINT64_MAX;
    kept_plan *plan = make(model, &profile, &params);
    check_plan(plan);
    kept_plan_destroy(&plan);
    profile.max_group_lanes = 1;
    profile.compute_units = 0;
    plan = make(model, &profile, &params);
    check_plan(plan);
    kept_plan_destroy(&plan);
    kept_model_close(&model);
}

static void a_plan_for_another_device(void **state)
{
    (void)state;
    kept_model *model = run_model(models[0]);
    struct kept_plan_params params = {.context_tokens = 64};
    for (int kind = 0; kind < 4; kind++) {
        struct kept_profile profile = run_profile(device);
        struct kept_error err = {0};
        kept_session *session = NULL;
        if (kind == 0)
            snprintf(profile.api, sizeof profile.api, "vulkan");
        if (kind == 1)
            profile.word_order = !profile.word_order;
        if (kind == 2)
            profile.host_visible = !profile.host_visible;
        if (kind == 3)
            profile.max_group_lanes = UINT32_MAX;
        kept_plan *plan = make(model, &profile, &params);
        assert_int_equal(kept_session_create(plan, device, NULL, NULL, &session, &err),
                         KEPT_E_MISMATCH);
        assert_null(session);
        kept_plan_destroy(&plan);
    }
    kept_model_close(&model);
}

/* ---- cut plans compute the same ---- */

static void small_limits_cut_matrices_and_buffers(void **state)
{
    (void)state;
    struct kept_plan_params params = {.context_tokens = 128, .chunk_tokens = 12};
    struct run whole = {0}, cut = {0};
    struct kept_profile profile = run_profile(device);
    run_open(&whole, device, "tiny-llama-k", 128, 12);
    assert_int_equal(whole.plan->embedding.n_pieces, 1);
    struct run_rows want = run_rows_of(&whole, 100);
    run_close(&whole);

    profile.max_binding_bytes = 40960;
    profile.max_buffer_bytes = 65536;
    run_open_tuned(&cut, device, "tiny-llama-k", &profile, 4, &params);
    check_plan(cut.plan);
    assert_true(cut.plan->embedding.n_pieces > 1);
    assert_true(cut.plan->n_buffers > 6);
    run_must_eval(cut.session, 60);
    run_assert_row(&cut, &want, "cut to small bindings, prefill");
    while (kept_session_position(cut.session) < 100) {
        run_must_eval(cut.session, 1);
        run_assert_row(&cut, &want, "cut to small bindings, decode");
    }
    struct kept_session_stats stats;
    kept_session_stats(cut.session, &stats);
    assert_int_equal(stats.planned_bytes, stats.actual_bytes);
    run_close(&cut);
    free(want.rows);
}

static void many_pieces_give_the_same_logits(void **state)
{
    (void)state;
    struct kept_plan_params params = {.context_tokens = 320, .chunk_tokens = 96};
    struct kept_profile profile = run_profile(device);
    for (size_t m = 0; m < N_MODELS; m++) {
        struct run whole = {0}, cut = {0};
        run_open(&whole, device, models[m], 320, 96);
        uint32_t n_whole = whole.plan->programs[0].n_calls;
        struct run_rows want = run_rows_of(&whole, 200);
        run_close(&whole);
        run_open_tuned(&cut, device, models[m], &profile, 0, &params);
        check_plan(cut.plan);
        for (uint32_t p = 0; p < cut.plan->n_programs; p++)
            assert_int_equal(cut.plan->programs[p].n_pieces, cut.plan->programs[p].n_calls);
        assert_true(cut.plan->programs[0].n_calls > n_whole); /* the head is in parts */
        run_must_eval(cut.session, 190);
        run_assert_row(&cut, &want, "cut into pieces, prefill");
        while (kept_session_position(cut.session) < 200) {
            run_must_eval(cut.session, 1);
            run_assert_row(&cut, &want, "cut into pieces, decode");
        }
        run_close(&cut);
        free(want.rows);
    }
}

static void regions_beyond_a_binding_are_refused(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_tuning tuning;
    struct kept_error err = {0};
    kept_model *model = run_model("tiny-llama-k");
    kept_plan *plan = NULL;
    kept_tune_device(&profile, &tuning);
    static const struct {
        uint64_t binding, buffer;
        struct kept_plan_params params;
        const char *says;
    } cases[] = {
        {40960, 1 << 20, {.context_tokens = 128, .chunk_tokens = 64}, "--chunk"},
        {40960, 1 << 20, {.context_tokens = 512, .chunk_tokens = 8}, "--context 320"},
        {40960, 1 << 20, {.context_tokens = 128, .chunk_tokens = 38, .logits_rows = 38}, "logits"},
        {1024, 1024, {.context_tokens = 64, .chunk_tokens = 8}, "token_embd"},
        {1 << 20, 65536, {.context_tokens = 128, .chunk_tokens = 64}, "--chunk"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        profile.max_binding_bytes = cases[i].binding;
        profile.max_buffer_bytes = cases[i].buffer;
        assert_int_equal(kept_plan_make(model, &profile, &tuning, &cases[i].params, &plan, &err),
                         KEPT_E_UNSUPPORTED);
        assert_null(plan);
        if (!strstr(err.message, cases[i].says))
            fail_msg("case %zu: %s", i, err.message);
    }
    kept_model_close(&model);
}

/* ---- real models, where there are any ---- */

static kept_model *real_model(const char *name)
{
    char path[1024];
    kept_model *model = NULL;
    const char *folder = getenv("KEPT_TEST_MODELS");
    if (!folder)
        return NULL;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    return kept_model_open(path, NULL, &model, NULL) == KEPT_OK ? model : NULL;
}

static void real_models_at_full_size(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm2-135m-q4_1", "gemma3-270m-q4_k_m"};
    struct kept_plan_params params = {.context_tokens = 8192, .chunk_tokens = 512};
    struct kept_profile profile = run_profile(device);
    uint32_t n = 0;
    for (size_t i = 0; i < 2; i++) {
        kept_model *model = real_model(names[i]);
        if (!model)
            continue;
        n++;
        kept_plan *plan = make(model, &profile, &params);
        const struct kept_plan_info *info = kept_plan_info(plan);
        uint64_t file_bytes = kept_model_info(model)->tensor_bytes;
        check_plan(plan);
        assert_true(info->weight_bytes <= file_bytes + file_bytes / 100);
        uint64_t besides = info->total_bytes - info->weight_bytes - info->kv_bytes;
        if (i == 0) {
            assert_true(info->total_bytes <= 286ull << 20);
            assert_true(besides <= 12ull << 20);
        }
        kept_plan_destroy(&plan);
        kept_model_close(&model);
    }
    if (n == 0)
        skip();
}

/* A card with bindings of 1 MiB: gate and up, and all large matrices, in pieces; and every call a
 * submission of its own. */
static void a_real_model_on_the_smallest_device(void **state)
{
    (void)state;
    struct kept_plan_params params = {.context_tokens = 1024, .chunk_tokens = 48};
    struct kept_profile profile = run_profile(device);
    struct kept_tuning tuning;
    struct kept_error err = {0};
    struct run whole = {0}, cut = {0};
    whole.model = real_model("smollm2-135m-q4_1");
    if (!whole.model)
        skip();
    whole.plan = make(whole.model, &profile, &params);
    assert_int_equal(kept_session_create(whole.plan, device, NULL, NULL, &whole.session, &err),
                     KEPT_OK);
    struct run_rows want = run_rows_of(&whole, 60);
    kept_session_destroy(&whole.session);

    profile.max_binding_bytes = profile.max_buffer_bytes = 1 << 20;
    kept_tune_device(&profile, &tuning);
    tuning.mops_per_unit = 0;
    assert_int_equal(kept_plan_make(whole.model, &profile, &tuning, &params, &cut.plan, &err),
                     KEPT_OK);
    kept_plan_judge(cut.plan);
    cut.plan->err = NULL;
    check_plan(cut.plan);
    assert_true(cut.plan->embedding.n_pieces > 10);
    assert_true(cut.plan->layers[0].gate_up[0].paired);
    assert_true(cut.plan->layers[0].gate_up[0].n_pieces > 1);
    assert_int_equal(kept_session_create(cut.plan, device, NULL, NULL, &cut.session, &err),
                     KEPT_OK);
    run_must_eval(cut.session, 50);
    run_assert_row(&cut, &want, "a real model in pieces, prefill");
    while (kept_session_position(cut.session) < 60) {
        run_must_eval(cut.session, 1);
        run_assert_row(&cut, &want, "a real model in pieces, decode");
    }
    free(want.rows);
    run_close(&cut);
    run_close(&whole);
}

static int open_device(void **state)
{
    (void)state;
    device = run_device();
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    kept_device_destroy(&device);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_of_every_model),
        cmocka_unit_test(same_inputs_same_plan),
        cmocka_unit_test(exactly_the_budget_fits),
        cmocka_unit_test(free_memory_less_the_margin),
        cmocka_unit_test(options_out_of_range),
        cmocka_unit_test(profiles_that_make_no_sense),
        cmocka_unit_test(huge_numbers_do_no_harm),
        cmocka_unit_test(a_plan_for_another_device),
        cmocka_unit_test(small_limits_cut_matrices_and_buffers),
        cmocka_unit_test(many_pieces_give_the_same_logits),
        cmocka_unit_test(regions_beyond_a_binding_are_refused),
        cmocka_unit_test(real_models_at_full_size),
        cmocka_unit_test(a_real_model_on_the_smallest_device),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
