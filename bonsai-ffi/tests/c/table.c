/* Every export with everything that it may not be given: a status each time, and never a crash.
 * usage: table MODEL */
#include "check.h"

#include <signal.h>

static const char bad_utf8[] = "tr\xff\xfe";

/* A failed call whose error object says what its status says. */
#define FAILS(expected, call)                                                       \
    do {                                                                            \
        bonsai_error *error = NULL;                                                 \
        EXPECT(expected, call);                                                     \
        CHECK(error != NULL && bonsai_error_status(error) == (expected));           \
        CHECK(bonsai_error_message(error) != NULL && bonsai_error_message(error)[0]); \
        CHECK(bonsai_error_stage(error) != NULL && bonsai_error_stage(error)[0]);   \
        bonsai_error_free(error);                                                   \
    } while (0)

static void misc(void) {
    char text[256];
    size_t length = 0;
    int32_t status;

    CHECK(bonsai_abi_version() == BONSAI_ABI_VERSION);
    CHECK(strlen(bonsai_version_string()) >= 5);
    for (status = 0; status >= -20; status--) {
        CHECK(strncmp(bonsai_status_name(status), "BONSAI_", 7) == 0);
        CHECK(strcmp(bonsai_status_name(status), "BONSAI_E_UNKNOWN") != 0);
    }
    CHECK(strcmp(bonsai_status_name(1), "BONSAI_E_UNKNOWN") == 0);
    CHECK(strcmp(bonsai_status_name(INT32_MIN), "BONSAI_E_UNKNOWN") == 0);
    CHECK(strcmp(bonsai_status_name(BONSAI_E_PANIC), "BONSAI_E_PANIC") == 0);

    CHECK(bonsai_has_feature("preview") == 1);
    CHECK(bonsai_has_feature("time travel") == 0);
    EXPECT(BONSAI_E_NULL_ARG, bonsai_has_feature(NULL));
    EXPECT(BONSAI_E_INVALID_ARG, bonsai_has_feature(bad_utf8));

    FAILS(BONSAI_E_NULL_ARG, bonsai_cpu_features(text, sizeof text, NULL, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_cpu_features(NULL, 10, &length, &error));
    EXPECT(BONSAI_OK, bonsai_cpu_features(NULL, 0, &length, NULL));
    FAILS(BONSAI_E_BUFFER_TOO_SMALL, bonsai_cpu_features(text, length, &length, &error));
    EXPECT(BONSAI_OK, bonsai_cpu_features(text, length + 1, &length, NULL));
    CHECK(strlen(text) == length && text[0] == '{' && text[length - 1] == '}');

    EXPECT(BONSAI_E_NULL_ARG, bonsai_error_status(NULL));
    CHECK(bonsai_error_message(NULL) == NULL);
    CHECK(bonsai_error_stage(NULL) == NULL);
    CHECK(bonsai_error_file(NULL) == NULL);
    CHECK(bonsai_error_offset(NULL) == -1);
    bonsai_error_free(NULL);
}

static void cancels(void) {
    bonsai_cancel *cancel = NULL;
    FAILS(BONSAI_E_NULL_ARG, bonsai_cancel_new(NULL, &error));
    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    EXPECT(0, bonsai_cancel_is_requested(cancel));
    EXPECT(BONSAI_E_INVALID_ARG, bonsai_cancel_request(cancel, 2));
    EXPECT(BONSAI_E_INVALID_ARG, bonsai_cancel_request(cancel, -1));
    EXPECT(0, bonsai_cancel_is_requested(cancel));
    EXPECT(BONSAI_OK, bonsai_cancel_retain(cancel));
    bonsai_cancel_free(cancel);
    EXPECT(BONSAI_OK, bonsai_cancel_request(cancel, BONSAI_CANCEL_NOW));
    EXPECT(1, bonsai_cancel_is_requested(cancel));
    EXPECT(BONSAI_OK, bonsai_cancel_reset(cancel));
    EXPECT(0, bonsai_cancel_is_requested(cancel));
    EXPECT(BONSAI_OK, bonsai_cancel_request(cancel, BONSAI_CANCEL_AFTER_CURRENT_IMAGE));
    EXPECT(1, bonsai_cancel_is_requested(cancel));
    bonsai_cancel_free(cancel);

    EXPECT(BONSAI_E_NULL_ARG, bonsai_cancel_retain(NULL));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_cancel_request(NULL, BONSAI_CANCEL_NOW));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_cancel_is_requested(NULL));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_cancel_reset(NULL));
    bonsai_cancel_free(NULL);
}

/* The init functions: sizes that no version had, and a newer version's. */
#define INIT(type, name)                                                                 \
    do {                                                                                 \
        union {                                                                          \
            type value;                                                                  \
            unsigned char bytes[sizeof(type) + 64];                                      \
        } room;                                                                          \
        size_t i;                                                                        \
        memset(&room, 0xa5, sizeof room);                                                \
        EXPECT(BONSAI_E_NULL_ARG, name(NULL, sizeof(type)));                             \
        EXPECT(BONSAI_E_INVALID_STRUCT, name(&room.value, 0));                           \
        EXPECT(BONSAI_E_INVALID_STRUCT, name(&room.value, 4));                           \
        EXPECT(BONSAI_E_INVALID_STRUCT, name(&room.value, sizeof(type) - 4));            \
        EXPECT(BONSAI_E_INVALID_STRUCT, name(&room.value, SIZE_MAX));                    \
        for (i = 0; i < sizeof room; i++) CHECK(room.bytes[i] == 0xa5);                  \
        EXPECT(BONSAI_OK, name(&room.value, sizeof(type)));                              \
        CHECK(room.value.struct_size == sizeof(type) && room.value.reserved_flags == 0); \
        CHECK(room.bytes[sizeof(type)] == 0xa5);                                         \
        EXPECT(BONSAI_OK, name(&room.value, sizeof(type) + 16));                         \
        CHECK(room.value.struct_size == sizeof(type) + 16);                              \
        for (i = 0; i < 16; i++) CHECK(room.bytes[sizeof(type) + i] == 0);               \
        CHECK(room.bytes[sizeof(type) + 16] == 0xa5);                                    \
    } while (0)

static void inits(void) {
    INIT(bonsai_options, bonsai_options_init);
    INIT(bonsai_request, bonsai_request_init);
    INIT(bonsai_callbacks, bonsai_callbacks_init);
    INIT(bonsai_model_reader, bonsai_model_reader_init);
}

/* A call that reads a struct, with sizes of every kind. */
#define SIZES(type, good, call)                                              \
    do {                                                                     \
        union {                                                              \
            type value;                                                      \
            unsigned char bytes[sizeof(type) + 64];                          \
        } room;                                                              \
        const type *given = &room.value;                                     \
        memset(&room, 0, sizeof room);                                       \
        room.value = (good);                                                 \
        room.value.struct_size = 0;                                          \
        FAILS(BONSAI_E_INVALID_STRUCT, call);                                \
        room.value.struct_size = (uint32_t)sizeof(type) - 4;                 \
        FAILS(BONSAI_E_INVALID_STRUCT, call);                                \
        room.value.struct_size = UINT32_MAX;                                 \
        FAILS(BONSAI_E_INVALID_STRUCT, call);                                \
        room.value.struct_size = (uint32_t)sizeof(type) + 32;                \
        room.bytes[sizeof(type) + 31] = 1;                                   \
        FAILS(BONSAI_E_UNSUPPORTED, call);                                   \
        room.value.struct_size = (uint32_t)sizeof(type);                     \
        room.value.reserved_flags = 1;                                       \
        FAILS(BONSAI_E_UNSUPPORTED, call);                                   \
        room.value.reserved_flags = 0;                                       \
        room.bytes[sizeof(type) + 31] = 0;                                   \
        room.value.struct_size = (uint32_t)sizeof(type) + 32;                \
        {                                                                    \
            bonsai_error *error = NULL;                                      \
            EXPECT(BONSAI_OK, call);                                         \
            CHECK(error == NULL);                                            \
        }                                                                    \
    } while (0)

/* A call that fills a struct, with sizes of every kind: a larger one is filled as far as this library goes, and cleared
 * behind it. */
#define FILLS(type, call)                                              \
    do {                                                               \
        union {                                                        \
            type value;                                                \
            unsigned char bytes[sizeof(type) + 64];                    \
        } room;                                                        \
        type *given = &room.value;                                     \
        size_t i;                                                      \
        memset(&room, 0xa5, sizeof room);                              \
        room.value.struct_size = 0;                                    \
        FAILS(BONSAI_E_INVALID_STRUCT, call);                          \
        room.value.struct_size = (uint32_t)sizeof(type) - 4;           \
        FAILS(BONSAI_E_INVALID_STRUCT, call);                          \
        room.value.struct_size = UINT32_MAX;                           \
        FAILS(BONSAI_E_INVALID_STRUCT, call);                          \
        for (i = 4; i < sizeof room; i++) CHECK(room.bytes[i] == 0xa5); \
        room.value.struct_size = (uint32_t)sizeof(type) + 32;          \
        OK(call);                                                      \
        CHECK(room.value.struct_size == sizeof(type) + 32);            \
        for (i = 0; i < 32; i++) CHECK(room.bytes[sizeof(type) + i] == 0); \
        CHECK(room.bytes[sizeof(type) + 32] == 0xa5);                  \
    } while (0)

static int32_t nothing_to_read(void *user, const char *name, uint64_t offset, void *buffer, size_t length) {
    (void)user, (void)name, (void)offset, (void)buffer, (void)length;
    return 1;
}

static void *no_memory(void *user, size_t size, size_t alignment) {
    (void)user, (void)size, (void)alignment;
    return NULL;
}

static void no_threads(void *user, size_t count, void (*body)(void *context, size_t index), void *context) {
    (void)user, (void)count, (void)body, (void)context;
}

static void no_memory_back(void *user, void *pointer, size_t size, size_t alignment) {
    (void)user, (void)pointer, (void)size, (void)alignment;
}

static void opens(const char *model) {
    const size_t whole = BONSAI_NUL_TERMINATED;
    bonsai_pipeline *pipeline = NULL;
    bonsai_options options;
    bonsai_options good;
    bonsai_model_reader reader;
    bonsai_model_file file = {4, "transformer/config.json"};
    bonsai_model_file twice[2];
    bonsai_error *error = NULL;

    EXPECT(BONSAI_OK, bonsai_options_init(&good, sizeof good));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open(NULL, whole, NULL, &pipeline, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open(NULL, 0, NULL, &pipeline, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open(model, whole, NULL, NULL, &error));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_pipeline_open(NULL, whole, NULL, NULL, NULL));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(bad_utf8, whole, NULL, &pipeline, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(bad_utf8, 4, NULL, &pipeline, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, SIZE_MAX - 1, NULL, &pipeline, &error));
    FAILS(BONSAI_E_NOT_FOUND, bonsai_pipeline_open("no/such/model", whole, NULL, &pipeline, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open("", 0, NULL, &pipeline, &error));
    CHECK(pipeline == NULL);

    options = good, options.max_concurrent_runs = 0;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.threads = UINT32_MAX;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.isa = "abacus";
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.isa = bad_utf8;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.precision = "perfect";
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.precision = bad_utf8;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.precision = "f32";
    EXPECT(BONSAI_OK, bonsai_pipeline_open(model, whole, &options, &pipeline, NULL));
    bonsai_pipeline_free(pipeline), pipeline = NULL;
    options = good, options.fail_when_busy = 2;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.reserved[6] = 1;
    FAILS(BONSAI_E_UNSUPPORTED, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.log_level = 9;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.alloc = no_memory;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.dealloc = no_memory_back;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.parallel_for = no_threads;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options.parallel_threads = UINT32_MAX;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    options = good, options.preview_decoder = bad_utf8;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open(model, whole, &options, &pipeline, &error));
    SIZES(bonsai_options, good,
          (bonsai_pipeline_free(pipeline), pipeline = NULL,
           bonsai_pipeline_open(model, whole, given, &pipeline, &error)));
    CHECK(pipeline != NULL);
    bonsai_pipeline_free(pipeline);
    bonsai_pipeline_free(NULL);

    /* a host without memory */
    options = good, options.alloc = no_memory, options.dealloc = no_memory_back;
    EXPECT(BONSAI_OK, bonsai_pipeline_open(model, whole, &options, &pipeline, NULL));
    {
        bonsai_request request = small_request();
        bonsai_result *result = NULL;
        FAILS(BONSAI_E_OUT_OF_MEMORY, bonsai_generate(pipeline, &request, NULL, NULL, &result, &error));
        CHECK(result == NULL);
    }
    bonsai_pipeline_free(pipeline);

    /* a folder that is no model, by a name that ends before its zero */
    EXPECT(BONSAI_E_NOT_FOUND, bonsai_pipeline_open("/dev/null and more", 4, NULL, &pipeline, &error));
    CHECK(pipeline == NULL && strstr(bonsai_error_message(error), "/dev") != NULL);
    CHECK(strcmp(bonsai_error_stage(error), "open") == 0 && bonsai_error_offset(error) == -1);
    bonsai_error_free(error);

    EXPECT(BONSAI_OK, bonsai_model_reader_init(&reader, sizeof reader));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open_reader(NULL, NULL, &pipeline, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error)); /* read_at */
    reader.read_at = nothing_to_read;
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open_reader(&reader, NULL, NULL, &error));
    FAILS(BONSAI_E_NOT_FOUND, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    reader.file_count = 1;
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error)); /* files */
    reader.files = &file;
    FAILS(BONSAI_E_NOT_FOUND, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    twice[0] = twice[1] = file;
    reader.files = twice, reader.file_count = 2;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    twice[1].name = NULL;
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    twice[1].name = bad_utf8;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    twice[1].name = "bonsai.json";
    twice[1].size = 10;
    FAILS(BONSAI_E_IO, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    EXPECT(BONSAI_E_IO, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    CHECK(strcmp(bonsai_error_file(error), "bonsai.json") == 0 && bonsai_error_offset(error) == 0);
    bonsai_error_free(error), error = NULL;
    twice[1].size = UINT64_MAX;
    FAILS(BONSAI_E_MODEL_FORMAT, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    reader.name = bad_utf8;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    reader.name = NULL, reader.file_count = SIZE_MAX;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    reader.struct_size = 8;
    FAILS(BONSAI_E_INVALID_STRUCT, bonsai_pipeline_open_reader(&reader, NULL, &pipeline, &error));
    {
        /* of a newer header, with nothing and then something set that this library does not know */
        struct {
            bonsai_model_reader value;
            uint64_t unknown;
        } newer;
        memset(&newer, 0, sizeof newer);
        EXPECT(BONSAI_OK, bonsai_model_reader_init(&newer.value, sizeof newer));
        newer.value.read_at = nothing_to_read, newer.value.files = &file, newer.value.file_count = 1;
        FAILS(BONSAI_E_NOT_FOUND, bonsai_pipeline_open_reader(&newer.value, NULL, &pipeline, &error));
        newer.unknown = 1;
        FAILS(BONSAI_E_UNSUPPORTED, bonsai_pipeline_open_reader(&newer.value, NULL, &pipeline, &error));
        newer.unknown = 0, newer.value.reserved_flags = 1;
        FAILS(BONSAI_E_UNSUPPORTED, bonsai_pipeline_open_reader(&newer.value, NULL, &pipeline, &error));
    }
}

static void requests(const bonsai_pipeline *pipeline) {
    bonsai_result *result = NULL;
    bonsai_request request, good = small_request();
    bonsai_callbacks callbacks, quiet;
    float sigmas[2] = {0.5f, 0.9f};
    char text[8];
    size_t length = 0;

    EXPECT(BONSAI_OK, bonsai_callbacks_init(&quiet, sizeof quiet));
    FAILS(BONSAI_E_NULL_ARG, bonsai_generate(NULL, &good, NULL, NULL, &result, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_generate(pipeline, NULL, NULL, NULL, &result, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_generate(pipeline, &good, NULL, NULL, NULL, &error));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_generate(NULL, NULL, NULL, NULL, NULL, NULL));
#define REFUSED(expected, change)                                                               \
    do {                                                                                        \
        request = good;                                                                         \
        change;                                                                                 \
        FAILS(expected, bonsai_generate(pipeline, &request, &quiet, NULL, &result, &error));    \
        CHECK(result == NULL);                                                                  \
    } while (0)
    REFUSED(BONSAI_E_NULL_ARG, request.prompt = NULL);
    REFUSED(BONSAI_E_INVALID_ARG, request.prompt = bad_utf8);
    REFUSED(BONSAI_E_INVALID_ARG, request.prompt_length = SIZE_MAX / 2 + 1);
    REFUSED(BONSAI_E_INVALID_ARG, request.width = 17);
    REFUSED(BONSAI_E_INVALID_ARG, request.height = UINT32_MAX);
    REFUSED(BONSAI_E_INVALID_ARG, request.steps = UINT32_MAX);
    REFUSED(BONSAI_E_INVALID_ARG, request.image_count = 0);
    REFUSED(BONSAI_E_INVALID_ARG, request.image_count = BONSAI_MAX_IMAGES + 1);
    REFUSED(BONSAI_E_INVALID_ARG, request.noise_source = 2);
    REFUSED(BONSAI_E_INVALID_ARG, request.noise_source = -1);
    REFUSED(BONSAI_E_INVALID_ARG, request.max_sequence_length = UINT32_MAX);
    REFUSED(BONSAI_E_INVALID_ARG, request.vae_tiling = 7);
    REFUSED(BONSAI_E_INVALID_ARG, request.keep_float = 255);
    REFUSED(BONSAI_E_UNSUPPORTED, request.reserved[0] = 1);
    REFUSED(BONSAI_E_NULL_ARG, request.sigma_count = 1);
    REFUSED(BONSAI_E_INVALID_ARG, (request.sigmas = sigmas, request.sigma_count = 2));
    REFUSED(BONSAI_E_INVALID_ARG, (request.sigmas = sigmas, request.sigma_count = SIZE_MAX));
    REFUSED(BONSAI_E_TIMEOUT, (request.timeout_ms = 1, request.steps = 200, request.width = 512));

    callbacks = quiet, callbacks.preview_interval = 0;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_generate(pipeline, &good, &callbacks, NULL, &result, &error));
    callbacks = quiet, callbacks.log_level = 0;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_generate(pipeline, &good, &callbacks, NULL, &result, &error));
    SIZES(bonsai_callbacks, quiet,
          (bonsai_result_free(result), result = NULL,
           bonsai_generate(pipeline, &good, given, NULL, &result, &error)));
    SIZES(bonsai_request, good,
          (bonsai_result_free(result), result = NULL,
           bonsai_generate(pipeline, given, NULL, NULL, &result, &error)));
    bonsai_result_free(result);

    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_info(NULL, text, sizeof text, &length, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_info(pipeline, text, sizeof text, NULL, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_pipeline_info(pipeline, NULL, 1, &length, &error));
    FAILS(BONSAI_E_BUFFER_TOO_SMALL, bonsai_pipeline_info(pipeline, text, sizeof text, &length, &error));
    EXPECT(BONSAI_E_BUFFER_TOO_SMALL, bonsai_pipeline_info(pipeline, text, sizeof text, &length, NULL));
    CHECK(length > sizeof text);
}

static void estimates(const char *model, const bonsai_pipeline *pipeline) {
    bonsai_request request = small_request(), larger = small_request();
    bonsai_estimated estimated, more;
    bonsai_options options;
    bonsai_pipeline *poor = NULL;
    bonsai_result *result = NULL;

    memset(&estimated, 0, sizeof estimated);
    FAILS(BONSAI_E_INVALID_STRUCT, bonsai_estimate(pipeline, &request, &estimated, &error));
    estimated.struct_size = sizeof estimated;
    FAILS(BONSAI_E_NULL_ARG, bonsai_estimate(NULL, &request, &estimated, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_estimate(pipeline, NULL, &estimated, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_estimate(pipeline, &request, NULL, &error));
    larger.width = 17;
    FAILS(BONSAI_E_INVALID_ARG, bonsai_estimate(pipeline, &larger, &estimated, &error));
    FILLS(bonsai_estimated, bonsai_estimate(pipeline, &request, given, &error));
    OK(bonsai_estimate(pipeline, &request, &estimated, &error));
    CHECK(estimated.steps == 2 && estimated.macs > 0 && estimated.expected_seconds > 0);
    CHECK(estimated.peak_bytes >= estimated.denoise_bytes && estimated.peak_bytes >= estimated.decode_bytes);
    CHECK(estimated.peak_bytes >= estimated.text_encode_bytes && estimated.decode_bytes > 0);
    larger.width = larger.height = 512;
    more = estimated;
    OK(bonsai_estimate(pipeline, &larger, &more, &error));
    CHECK(more.macs > estimated.macs && more.peak_bytes > estimated.peak_bytes);

    /* a budget that nothing keeps */
    EXPECT(BONSAI_OK, bonsai_options_init(&options, sizeof options));
    options.max_memory_bytes = 1 << 20;
    OK(bonsai_pipeline_open(model, BONSAI_NUL_TERMINATED, &options, &poor, &error));
    FAILS(BONSAI_E_MEMORY_BUDGET, bonsai_estimate(poor, &request, &estimated, &error));
    FAILS(BONSAI_E_MEMORY_BUDGET, bonsai_generate(poor, &request, NULL, NULL, &result, &error));
    bonsai_pipeline_free(poor);
}

static void results(const bonsai_pipeline *pipeline) {
    bonsai_result *result = NULL;
    bonsai_request request = small_request();
    bonsai_image_view view;
    bonsai_timings timings;
    unsigned char pixel[16];
    size_t count = 0, length = 0;
    unsigned char *rgba;
    char text[4];

    request.image_count = 2;
    OK(bonsai_generate(pipeline, &request, NULL, NULL, &result, &error));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_result_image_count(NULL, &count));
    EXPECT(BONSAI_E_NULL_ARG, bonsai_result_image_count(result, NULL));
    EXPECT(BONSAI_OK, bonsai_result_image_count(result, &count));
    CHECK(count == 2);

    memset(&view, 0, sizeof view);
    FAILS(BONSAI_E_INVALID_STRUCT, bonsai_result_image_view(result, 0, &view, &error));
    view.struct_size = sizeof view;
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_image_view(NULL, 0, &view, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_image_view(result, 0, NULL, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_view(result, 2, &view, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_view(result, SIZE_MAX, &view, &error));
    FILLS(bonsai_image_view, bonsai_result_image_view(result, 0, given, &error));
    OK(bonsai_result_image_view(result, 1, &view, &error));
    CHECK(view.width == 64 && view.height == 48 && view.channels == 3 && view.stride_bytes == 192);
    CHECK(view.length == 64 * 48 * 3 && view.format == BONSAI_FORMAT_RGB8 && view.struct_size == sizeof view);

    FAILS(BONSAI_E_NULL_ARG, bonsai_result_image_copy(NULL, 0, 0, NULL, 0, 0, &length, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_image_copy(result, 0, 0, NULL, 0, 0, NULL, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_image_copy(result, 0, 0, NULL, 1 << 20, 0, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_copy(result, 2, 0, NULL, 0, 0, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_copy(result, 0, 3, NULL, 0, 0, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_copy(result, 0, -1, NULL, 0, 0, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_copy(result, 0, 1, NULL, 0, 255, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_image_copy(result, 0, 1, NULL, 0, SIZE_MAX, &length, &error));
    FAILS(BONSAI_E_BUFFER_TOO_SMALL, bonsai_result_image_copy(result, 0, 0, pixel, sizeof pixel, 0, &length, &error));
    OK(bonsai_result_image_copy(result, 1, BONSAI_FORMAT_RGBA8, NULL, 0, 260, &length, &error));
    CHECK(length == 47 * 260 + 256);
    rgba = malloc(length);
    CHECK(rgba != NULL);
    memset(rgba, 0x5a, length);
    FAILS(BONSAI_E_BUFFER_TOO_SMALL,
          bonsai_result_image_copy(result, 1, BONSAI_FORMAT_RGBA8, rgba, length - 1, 260, &length, &error));
    OK(bonsai_result_image_copy(result, 1, BONSAI_FORMAT_RGBA8, rgba, length, 260, &length, &error));
    CHECK(rgba[0] == view.data[0] && rgba[2] == view.data[2] && rgba[3] == 255);
    CHECK(rgba[256] == 0x5a && rgba[260 + 5] == view.data[192 + 4] && rgba[length - 1] == 255);
    free(rgba);
    FAILS(BONSAI_E_UNSUPPORTED,
          bonsai_result_image_copy(result, 0, BONSAI_FORMAT_RGB_F32, (rgba = malloc(64 * 48 * 12)), 64 * 48 * 12, 0,
                                   &length, &error));
    free(rgba);

    FAILS(BONSAI_E_NULL_ARG, bonsai_result_encode_png(NULL, 0, 0, NULL, 0, &length, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_encode_png(result, 0, 0, NULL, 0, NULL, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_encode_png(result, 0, 0, NULL, 9, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_encode_png(result, 2, 0, NULL, 0, &length, &error));
    FAILS(BONSAI_E_UNSUPPORTED, bonsai_result_encode_png(result, 0, 2, NULL, 0, &length, &error));
    FAILS(BONSAI_E_BUFFER_TOO_SMALL, bonsai_result_encode_png(result, 0, 0, pixel, sizeof pixel, &length, &error));

    FAILS(BONSAI_E_NULL_ARG, bonsai_result_metadata_json(NULL, 0, NULL, 0, &length, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_metadata_json(result, 0, NULL, 0, NULL, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_metadata_json(result, 0, NULL, 9, &length, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_metadata_json(result, 2, NULL, 0, &length, &error));
    FAILS(BONSAI_E_BUFFER_TOO_SMALL, bonsai_result_metadata_json(result, 0, text, sizeof text, &length, &error));

    memset(&timings, 0, sizeof timings);
    FAILS(BONSAI_E_INVALID_STRUCT, bonsai_result_timings(result, 0, &timings, &error));
    timings.struct_size = sizeof timings;
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_timings(NULL, 0, &timings, &error));
    FAILS(BONSAI_E_NULL_ARG, bonsai_result_timings(result, 0, NULL, &error));
    FAILS(BONSAI_E_INVALID_ARG, bonsai_result_timings(result, 2, &timings, &error));
    FILLS(bonsai_timings, bonsai_result_timings(result, 0, given, &error));
    OK(bonsai_result_timings(result, 0, &timings, &error));
    CHECK(timings.steps == 2 && timings.denoise_seconds > 0 && timings.decode_seconds > 0);
    bonsai_result_free(result);
    bonsai_result_free(NULL);

    /* floats round to the bytes */
    request.image_count = 1, request.keep_float = 1, request.seed += 1;
    {
        float *floats;
        bonsai_result *again = NULL;
        size_t i;
        OK(bonsai_generate(pipeline, &request, NULL, NULL, &again, &error));
        view.struct_size = sizeof view;
        OK(bonsai_result_image_view(again, 0, &view, &error));
        OK(bonsai_result_image_copy(again, 0, BONSAI_FORMAT_RGB_F32, NULL, 0, 0, &length, &error));
        CHECK(length == 64 * 48 * 12);
        floats = malloc(length);
        CHECK(floats != NULL);
        OK(bonsai_result_image_copy(again, 0, BONSAI_FORMAT_RGB_F32, (uint8_t *)floats, length, 0, &length, &error));
        for (i = 0; i < 64 * 48 * 3; i++) {
            const float off = floats[i] * 255.0f - (float)view.data[i];
            CHECK(floats[i] >= 0 && floats[i] <= 1 && off <= 0.5001f && off >= -0.5001f);
        }
        free(floats);
        bonsai_result_free(again);
    }
}

/* Inside a callback: looking and cancelling work, everything else is refused. */
struct reentry {
    const bonsai_pipeline *pipeline;
    int calls;
};

static int32_t reenter(void *user, const bonsai_progress *progress) {
    struct reentry *reentry = user;
    bonsai_request request = small_request();
    bonsai_pipeline *opened = NULL;
    bonsai_result *result = NULL;
    bonsai_cancel *cancel = NULL;
    size_t length = 0;

    CHECK(progress->struct_size == sizeof *progress);
    if (reentry->calls++ > 0) {
        return 0;
    }
    FAILS(BONSAI_E_REENTRANT, bonsai_generate(reentry->pipeline, &request, NULL, NULL, &result, &error));
    FAILS(BONSAI_E_REENTRANT, bonsai_pipeline_open("x", 1, NULL, &opened, &error));
    FAILS(BONSAI_E_REENTRANT, bonsai_pipeline_open_reader(NULL, NULL, &opened, &error));
    EXPECT(BONSAI_OK, bonsai_pipeline_info(reentry->pipeline, NULL, 0, &length, NULL));
    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    EXPECT(BONSAI_OK, bonsai_cancel_request(cancel, BONSAI_CANCEL_NOW));
    bonsai_cancel_free(cancel);
    return 0;
}

static int32_t stop_in(void *user, const bonsai_progress *progress) {
    return progress->stage == *(int32_t *)user ? 5 : 0;
}

static void callbacks(const bonsai_pipeline *pipeline) {
    struct reentry reentry;
    bonsai_callbacks callbacks;
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    char prompt[] = "tree 0";
    int32_t stage;

    EXPECT(BONSAI_OK, bonsai_callbacks_init(&callbacks, sizeof callbacks));
    reentry.pipeline = pipeline, reentry.calls = 0;
    callbacks.progress = reenter, callbacks.user_data = &reentry;
    OK(bonsai_generate(pipeline, &request, &callbacks, NULL, &result, &error));
    CHECK(reentry.calls > 10);
    bonsai_result_free(result);

    for (stage = BONSAI_STAGE_QUEUED; stage <= BONSAI_STAGE_DECODE; stage++) {
        callbacks.progress = stop_in, callbacks.user_data = &stage;
        /* a prompt that was read before is not read again */
        prompt[sizeof prompt - 2] = (char)('0' + stage);
        request.prompt = prompt;
        FAILS(BONSAI_E_CANCELLED, bonsai_generate(pipeline, &request, &callbacks, NULL, &result, &error));
        CHECK(result == NULL);
    }
    /* a stop after the last picture comes too late to lose it */
    stage = BONSAI_STAGE_DONE;
    request.image_count = 3;
    {
        size_t count = 0;
        FAILS(BONSAI_E_CANCELLED, bonsai_generate(pipeline, &request, &callbacks, NULL, &result, &error));
        EXPECT(BONSAI_OK, bonsai_result_image_count(result, &count));
        CHECK(count == 1);
        bonsai_result_free(result);
    }
}

/* A signal handler may ask for a cancel. */
static const bonsai_cancel *signalled;

static void on_signal(int number) {
    (void)number;
    bonsai_cancel_request(signalled, BONSAI_CANCEL_NOW);
}

static int32_t send_signal(void *user, const bonsai_progress *progress) {
    (void)user;
    if (progress->stage == BONSAI_STAGE_DENOISE) {
        CHECK(raise(SIGTERM) == 0);
    }
    return 0;
}

static void cancelled_by_signal(const bonsai_pipeline *pipeline) {
    bonsai_callbacks callbacks;
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    bonsai_cancel *cancel = NULL;

    EXPECT(BONSAI_OK, bonsai_callbacks_init(&callbacks, sizeof callbacks));
    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    callbacks.progress = send_signal, signalled = cancel;
    CHECK(signal(SIGTERM, on_signal) != SIG_ERR);
    FAILS(BONSAI_E_CANCELLED, bonsai_generate(pipeline, &request, &callbacks, cancel, &result, &error));
    CHECK(result == NULL && signal(SIGTERM, SIG_DFL) != SIG_ERR);
    bonsai_cancel_free(cancel);
}

static void cancelled_runs(const bonsai_pipeline *pipeline) {
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    bonsai_cancel *cancel = NULL;
    size_t count = 0;

    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    EXPECT(BONSAI_OK, bonsai_cancel_request(cancel, BONSAI_CANCEL_NOW));
    FAILS(BONSAI_E_CANCELLED, bonsai_generate(pipeline, &request, NULL, cancel, &result, &error));
    CHECK(result == NULL);
    EXPECT(BONSAI_OK, bonsai_cancel_reset(cancel));
    EXPECT(BONSAI_OK, bonsai_cancel_request(cancel, BONSAI_CANCEL_AFTER_CURRENT_IMAGE));
    request.image_count = 3;
    FAILS(BONSAI_E_CANCELLED, bonsai_generate(pipeline, &request, NULL, cancel, &result, &error));
    EXPECT(BONSAI_OK, bonsai_result_image_count(result, &count));
    CHECK(count == 1);
    bonsai_result_free(result);
    bonsai_cancel_free(cancel);
}

int main(int argc, char **argv) {
    bonsai_pipeline *pipeline;
    CHECK(argc == 2);
    misc();
    cancels();
    inits();
    opens(argv[1]);
    pipeline = open_model(argv[1], 2);
    requests(pipeline);
    results(pipeline);
    estimates(argv[1], pipeline);
    callbacks(pipeline);
    cancelled_runs(pipeline);
    cancelled_by_signal(pipeline);
    /* free, then new: nothing of the old one lingers */
    bonsai_pipeline_free(pipeline);
    pipeline = open_model(argv[1], 1);
    results(pipeline);
    bonsai_pipeline_free(pipeline);
    puts("table: every answer as expected");
    return 0;
}
