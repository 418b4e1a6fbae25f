/* tests/unit/test_device.c: names of devices, the list, and profiles: on a machine with any drivers
 * or none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/alloc.h"
#include "kept/kept.h"

static void names_that_are_none(void **state)
{
    (void)state;
    static const char *const names[] = {
        "",          "gpu",       "Vulkan",
        "cpu:",      "cpu:x",     "cpu:-1",
        "vulkan:",   "vulkan:1x", "vulkan:99999999999999999999999",
        "vulkan:32", ":0",        "auto:0",
        "auto ",     "cpu0",      " cpu",
        "vulkan 0",  "cpu:0:0",   "a-name-that-is-longer-than-any-of-an-api:0",
        "%s%n%s%n"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct kept_error err = {0};
        kept_device *device = (kept_device *)1;
        char choice[256] = "untouched";
        assert_int_equal(kept_device_create(names[i], NULL, &device, choice, &err),
                         KEPT_E_ARGUMENT);
        assert_null(device);
        assert_string_equal(choice, "untouched");
        assert_int_equal(err.status, KEPT_E_ARGUMENT);
        assert_true(err.message[0] != '\0');
    }
}

static void missing_arguments(void **state)
{
    (void)state;
    kept_device *device = NULL;
    struct kept_device_list *list = NULL;
    assert_int_equal(kept_device_create(NULL, NULL, &device, NULL, NULL), KEPT_E_ARGUMENT);
    assert_int_equal(kept_device_create("cpu", NULL, NULL, NULL, NULL), KEPT_E_ARGUMENT);
    assert_int_equal(kept_device_list_create(NULL, NULL, NULL), KEPT_E_ARGUMENT);
    kept_device_destroy(&device);
    kept_device_destroy(NULL);
    kept_device_list_destroy(&list);
    kept_device_list_destroy(NULL);
}

static void a_device_that_is_not_there(void **state)
{
    (void)state;
    static const char *const names[] = {"vulkan:31", "opencl:31", "cpu:1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct kept_error err = {0};
        kept_device *device = NULL;
        assert_int_equal(kept_device_create(names[i], NULL, &device, NULL, &err), KEPT_E_NO_DEVICE);
        assert_non_null(strstr(err.message, names[i]));
    }
}

static void the_cpu_is_always_usable(void **state)
{
    (void)state;
    static const char *const names[] = {"cpu", "cpu:0"};
    for (size_t i = 0; i < 2; i++) {
        struct kept_error err = {0};
        kept_device *device = NULL;
        struct kept_profile profile;
        char choice[256];
        assert_int_equal(kept_device_create(names[i], NULL, &device, choice, &err), KEPT_OK);
        assert_non_null(strstr(choice, "asked for"));
        kept_device_profile(device, &profile);
        assert_string_equal(profile.id, "cpu");
        assert_string_equal(profile.api, "cpu");
        assert_true(profile.memory_bytes >= 1u << 20);
        assert_true(profile.max_buffer_bytes >= 1u << 20);
        assert_true(profile.max_binding_bytes >= 1u << 20);
        kept_device_destroy(&device);
        assert_null(device);
    }
}

static void auto_finds_something(void **state)
{
    (void)state;
    struct kept_error err = {0};
    kept_device *device = NULL;
    struct kept_profile profile;
    char choice[256];
    assert_int_equal(kept_device_create("auto", NULL, &device, choice, &err), KEPT_OK);
    kept_device_profile(device, &profile);
    /* software Vulkan and OpenCL only when named */
    assert_true(strcmp(profile.type, "cpu") != 0 || strcmp(profile.api, "cpu") == 0);
    assert_memory_equal(choice, profile.id, strlen(profile.id));
    kept_device_destroy(&device);
}

static uint32_t faces_of(const struct kept_device_list *list, const char *api)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < list->n_devices; i++)
        n += strcmp(list->devices[i].profile.api, api) == 0;
    return n;
}

static void the_list_says_why(void **state)
{
    (void)state;
    int64_t live = kept_alloc_live();
    struct kept_error err = {0};
    struct kept_device_list *list = NULL;
    assert_int_equal(kept_device_list_create(NULL, &list, &err), KEPT_OK);
    assert_int_equal(list->n_apis, 3);
    for (uint32_t i = 0; i < list->n_apis; i++) {
        assert_int_equal(list->apis[i].n_devices, faces_of(list, list->apis[i].api));
        assert_true(list->apis[i].n_devices > 0 || list->apis[i].why[0] != '\0');
    }
    assert_int_equal(faces_of(list, "cpu"), 1);
    for (uint32_t i = 0; i < list->n_devices; i++) {
        const struct kept_device_info *info = &list->devices[i];
        assert_true(info->profile.id[0] != '\0');
        assert_true(info->usable ? info->profile.max_binding_bytes != 0 : info->why_not[0] != '\0');
        for (uint32_t j = 0; j < i; j++)
            assert_string_not_equal(info->profile.id, list->devices[j].profile.id);
    }
    kept_device_list_destroy(&list);
    assert_null(list);
    assert_int_equal(kept_alloc_live(), live);
}

static void the_list_without_host_memory(void **state)
{
    (void)state;
    int64_t live = kept_alloc_live();
    for (uint64_t n = 1; n <= 3; n++) {
        struct kept_device_list *list = NULL;
        kept_alloc_fail_at(n);
        kept_status status = kept_device_list_create(NULL, &list, NULL);
        kept_alloc_fail_at(0);
        assert_true(status == KEPT_E_HOST_MEMORY || list);
        kept_device_list_destroy(&list);
        assert_int_equal(kept_alloc_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_are_none),          cmocka_unit_test(missing_arguments),
        cmocka_unit_test(a_device_that_is_not_there),   cmocka_unit_test(the_cpu_is_always_usable),
        cmocka_unit_test(auto_finds_something),         cmocka_unit_test(the_list_says_why),
        cmocka_unit_test(the_list_without_host_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
