/* What the programs of this folder share: a check that names its line, and the small things that C99 lacks. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bonsai.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

/* A call that must return `expected`. */
#define EXPECT(expected, call)                                                                                  \
    do {                                                                                                        \
        const int32_t found_ = (call);                                                                          \
        if (found_ != (expected)) {                                                                             \
            fprintf(stderr, "%s:%d: %s is %s, expected %s\n", __FILE__, __LINE__, #call, bonsai_status_name(found_), \
                    bonsai_status_name(expected));                                                              \
            exit(1);                                                                                            \
        }                                                                                                       \
    } while (0)

/* Ends the program with the error's own words when a call failed. */
static inline void expect_ok(int32_t status, bonsai_error *error, int line) {
    if (status != BONSAI_OK) {
        fprintf(stderr, "line %d: %s: %s\n", line, bonsai_status_name(status), error ? bonsai_error_message(error) : "");
        exit(1);
    }
    CHECK(error == NULL);
}

#define OK(call)                             \
    do {                                     \
        bonsai_error *error = NULL;          \
        const int32_t status_ = (call);      \
        expect_ok(status_, error, __LINE__); \
    } while (0)

static inline bonsai_pipeline *open_model(const char *directory, uint32_t threads) {
    bonsai_options options;
    bonsai_pipeline *pipeline = NULL;
    EXPECT(BONSAI_OK, bonsai_options_init(&options, sizeof options));
    options.threads = threads;
    OK(bonsai_pipeline_open(directory, BONSAI_NUL_TERMINATED, &options, &pipeline, &error));
    CHECK(pipeline != NULL);
    return pipeline;
}

/* A request that is small and always the same. */
static inline bonsai_request small_request(void) {
    bonsai_request request;
    EXPECT(BONSAI_OK, bonsai_request_init(&request, sizeof request));
    request.prompt = "a tree";
    request.seed = 7;
    request.width = 64;
    request.height = 48;
    request.steps = 2;
    return request;
}

/* The PNG of a picture; the caller frees it. */
static inline unsigned char *png_of(const bonsai_result *result, size_t index, size_t *length) {
    unsigned char *png;
    size_t written = 0;
    OK(bonsai_result_encode_png(result, index, 0, NULL, 0, length, &error));
    CHECK(*length > 100);
    png = malloc(*length);
    CHECK(png != NULL);
    OK(bonsai_result_encode_png(result, index, 0, png, *length, &written, &error));
    CHECK(written == *length && memcmp(png, "\x89PNG\r\n\x1a\n", 8) == 0);
    return png;
}

/* Pages of this process that are in memory, in KiB; 0 where the system does not say. */
static inline long resident_kib(void) {
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) {
        return 0;
    }
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2) {
        resident = 0;
    }
    fclose(file);
    return resident * 4;
}

#endif
