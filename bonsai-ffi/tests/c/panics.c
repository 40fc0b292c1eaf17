/* A panic in every export: a status where the function returns one, its neutral answer elsewhere, and a process that goes
 * on. Needs a library with the feature `inject-panics`.
 * usage: panics MODEL */
#define BONSAI_TEST_INJECT_PANICS
#include "check.h"

/* The next call panics as it is entered. */
#define PANICS(call)                                              \
    do {                                                          \
        bonsai_test_inject_panic(BONSAI_INJECT_AT_ENTRY);         \
        EXPECT(BONSAI_E_PANIC, call);                             \
    } while (0)

/* The same, with an error object that tells where. */
#define PANICS_ALOUD(call)                                                        \
    do {                                                                          \
        bonsai_error *error = NULL;                                               \
        PANICS(call);                                                             \
        CHECK(error != NULL && bonsai_error_status(error) == BONSAI_E_PANIC);     \
        CHECK(strstr(bonsai_error_message(error), "injected into bonsai_") != NULL); \
        CHECK(strstr(bonsai_error_message(error), "inject.rs:") != NULL);         \
        bonsai_error_free(error);                                                 \
    } while (0)

int main(int argc, char **argv) {
    bonsai_options options;
    bonsai_request request = small_request();
    bonsai_callbacks callbacks;
    bonsai_model_reader reader;
    bonsai_pipeline *pipeline = NULL, *kept;
    bonsai_cancel *cancel = NULL;
    bonsai_result *result = NULL;
    bonsai_error *error = NULL;
    bonsai_image_view view;
    bonsai_timings timings;
    bonsai_estimated estimated;
    size_t length = 0;

    CHECK(argc == 2);
    /* those that return a status */
    PANICS(bonsai_options_init(&options, sizeof options));
    PANICS(bonsai_request_init(&request, sizeof request));
    PANICS(bonsai_callbacks_init(&callbacks, sizeof callbacks));
    PANICS(bonsai_model_reader_init(&reader, sizeof reader));
    PANICS(bonsai_has_feature("preview"));
    PANICS_ALOUD(bonsai_cpu_features(NULL, 0, &length, &error));
    PANICS_ALOUD(bonsai_cancel_new(&cancel, &error));
    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    PANICS(bonsai_cancel_retain(cancel));
    PANICS(bonsai_cancel_request(cancel, BONSAI_CANCEL_NOW));
    PANICS(bonsai_cancel_is_requested(cancel));
    PANICS(bonsai_cancel_reset(cancel));
    PANICS_ALOUD(bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, NULL, &pipeline, &error));
    PANICS_ALOUD(bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    kept = open_model(argv[1], 2);
    PANICS_ALOUD(bonsai_pipeline_info(kept, NULL, 0, &length, &error));
    request = small_request();
    PANICS_ALOUD(bonsai_generate(kept, &request, NULL, NULL, &result, &error));
    estimated.struct_size = sizeof estimated;
    PANICS_ALOUD(bonsai_estimate(kept, &request, &estimated, &error));
    OK(bonsai_generate(kept, &request, NULL, NULL, &result, &error)); /* a panic at the door poisons nothing */
    PANICS(bonsai_result_image_count(result, &length));
    view.struct_size = sizeof view, timings.struct_size = sizeof timings;
    PANICS_ALOUD(bonsai_result_image_view(result, 0, &view, &error));
    PANICS_ALOUD(bonsai_result_image_copy(result, 0, 0, NULL, 0, 0, &length, &error));
    PANICS_ALOUD(bonsai_result_encode_png(result, 0, 0, NULL, 0, &length, &error));
    PANICS_ALOUD(bonsai_result_metadata_json(result, 0, NULL, 0, &length, &error));
    PANICS_ALOUD(bonsai_result_timings(result, 0, &timings, &error));
    EXPECT(BONSAI_E_NOT_FOUND, bonsai_pipeline_open("no such", 7, NULL, &pipeline, &error));
    PANICS(bonsai_error_status(error));

    /* those that return something else */
#define ARMED (bonsai_test_inject_panic(BONSAI_INJECT_AT_ENTRY) == BONSAI_OK)
    CHECK(ARMED && bonsai_abi_version() == UINT32_MAX);
    CHECK(ARMED && bonsai_version_string()[0] == 0);
    CHECK(ARMED && strcmp(bonsai_status_name(0), "BONSAI_E_UNKNOWN") == 0);
    CHECK(ARMED && bonsai_error_message(error) == NULL);
    CHECK(ARMED && bonsai_error_stage(error) == NULL);
    CHECK(ARMED && bonsai_error_file(error) == NULL);
    CHECK(ARMED && bonsai_error_offset(error) == -1);
    CHECK(strstr(bonsai_error_message(error), "no such") != NULL);
    bonsai_test_inject_panic(BONSAI_INJECT_AT_ENTRY);
    bonsai_error_free(NULL);
    bonsai_test_inject_panic(BONSAI_INJECT_AT_ENTRY);
    bonsai_cancel_free(NULL);
    bonsai_test_inject_panic(BONSAI_INJECT_AT_ENTRY);
    bonsai_result_free(NULL);
    bonsai_test_inject_panic(BONSAI_INJECT_AT_ENTRY);
    bonsai_pipeline_free(NULL);
    bonsai_error_free(error);
    bonsai_cancel_free(cancel);
    bonsai_result_free(result);

    /* in the middle of a run: that pipeline is done for, and no other */
    error = NULL;
    bonsai_test_inject_panic(BONSAI_INJECT_IN_RUN);
    EXPECT(BONSAI_E_PANIC, bonsai_generate(kept, &request, NULL, NULL, &result, &error));
    CHECK(result == NULL && strstr(bonsai_error_message(error), "injected into a run") != NULL);
    bonsai_error_free(error);
    EXPECT(BONSAI_E_POISONED, bonsai_generate(kept, &request, NULL, NULL, &result, NULL));
    EXPECT(BONSAI_OK, bonsai_pipeline_info(kept, NULL, 0, &length, NULL));
    bonsai_pipeline_free(kept);

    /* on a thread of the pool: just as quiet, and its place is told */
    kept = open_model(argv[1], 2);
    error = NULL;
    bonsai_test_inject_panic(BONSAI_INJECT_IN_JOB);
    EXPECT(BONSAI_E_PANIC, bonsai_generate(kept, &request, NULL, NULL, &result, &error));
    CHECK(result == NULL && strstr(bonsai_error_message(error), "injected into a job") != NULL);
    CHECK(strstr(bonsai_error_message(error), "inject.rs:") != NULL);
    bonsai_error_free(error);
    EXPECT(BONSAI_E_POISONED, bonsai_generate(kept, &request, NULL, NULL, &result, NULL));
    bonsai_pipeline_free(kept);
    kept = open_model(argv[1], 2);
    OK(bonsai_generate(kept, &request, NULL, NULL, &result, &error));
    bonsai_result_free(result);
    bonsai_pipeline_free(kept);
    puts("panics: each one was caught");
    return 0;
}
