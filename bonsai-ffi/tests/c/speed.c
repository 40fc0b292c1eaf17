/* How fast two builds of the shared library paint, picture by picture in turns, so that both meet the same machine: a
 * measurement, not a test. Their pictures must be the same.
 * usage: speed LIBRARY LIBRARY MODEL WIDTH HEIGHT STEPS ROUNDS */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <dlfcn.h>

enum { MAX_ROUNDS = 1000, STAGES = 4 };

/* What is called of a library. */
struct library {
    bonsai_status (*options_init)(bonsai_options *, size_t);
    bonsai_status (*open)(const char *, size_t, const bonsai_options *, bonsai_pipeline **, bonsai_error **);
    bonsai_status (*request_init)(bonsai_request *, size_t);
    bonsai_status (*generate)(const bonsai_pipeline *, const bonsai_request *, const bonsai_callbacks *,
                              const bonsai_cancel *, bonsai_result **, bonsai_error **);
    bonsai_status (*timings)(const bonsai_result *, size_t, bonsai_timings *, bonsai_error **);
    bonsai_status (*view)(const bonsai_result *, size_t, bonsai_image_view *, bonsai_error **);
    void (*result_free)(bonsai_result *);
    bonsai_pipeline *pipeline;
    double seconds[STAGES][MAX_ROUNDS];
};

/* A function of a library; the way around what C says of pointers to functions is the one of POSIX. */
#define GET(field, name)                               \
    do {                                               \
        *(void **)&library->field = dlsym(from, name); \
        CHECK(library->field != NULL);                 \
    } while (0)

static void load(struct library *library, const char *path, const char *model) {
    bonsai_options options;
    void *from = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (from == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    GET(options_init, "bonsai_options_init");
    GET(open, "bonsai_pipeline_open");
    GET(request_init, "bonsai_request_init");
    GET(generate, "bonsai_generate");
    GET(timings, "bonsai_result_timings");
    GET(view, "bonsai_result_image_view");
    GET(result_free, "bonsai_result_free");
    CHECK(library->options_init(&options, sizeof options) == BONSAI_OK);
    CHECK(library->open(model, BONSAI_NUL_TERMINATED, &options, &library->pipeline, NULL) == BONSAI_OK);
}

/* Paints a picture and notes how long each stage took; the caller frees the picture. */
static bonsai_result *paint(struct library *library, bonsai_request request, long round) {
    bonsai_result *result = NULL;
    bonsai_timings took;
    char prompt[32];
    /* a prompt that was read before is not read again */
    snprintf(prompt, sizeof prompt, "a tree %ld", round);
    request.prompt = prompt;
    took.struct_size = sizeof took;
    CHECK(library->generate(library->pipeline, &request, NULL, NULL, &result, NULL) == BONSAI_OK);
    CHECK(library->timings(result, 0, &took, NULL) == BONSAI_OK);
    if (round >= 0) {
        library->seconds[0][round] = took.text_encode_seconds;
        library->seconds[1][round] = took.denoise_seconds;
        library->seconds[2][round] = took.decode_seconds;
        library->seconds[3][round] = took.text_encode_seconds + took.denoise_seconds + took.decode_seconds;
    }
    return result;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static const char *const names[STAGES] = {"text encoding", "denoising", "decoding", "whole picture"};
    static struct library libraries[2];
    bonsai_request request;
    long rounds, round;
    int i, stage;
    CHECK(argc == 8);
    rounds = atol(argv[7]);
    CHECK(rounds > 0 && rounds <= MAX_ROUNDS);
    for (i = 0; i < 2; i++) {
        load(&libraries[i], argv[1 + i], argv[3]);
    }
    CHECK(libraries[0].generate != libraries[1].generate);
    CHECK(libraries[0].request_init(&request, sizeof request) == BONSAI_OK);
    request.width = (uint32_t)atol(argv[4]), request.height = (uint32_t)atol(argv[5]);
    request.steps = (uint32_t)atol(argv[6]), request.seed = 7;
    /* round -1 brings the files into memory */
    for (round = -1; round < rounds; round++) {
        bonsai_result *results[2];
        bonsai_image_view views[2];
        for (i = 0; i < 2; i++) {
            const int which = (i + (int)round) & 1;
            results[which] = paint(&libraries[which], request, round);
            views[which].struct_size = sizeof views[which];
            CHECK(libraries[which].view(results[which], 0, &views[which], NULL) == BONSAI_OK);
        }
        CHECK(views[0].length == views[1].length);
        CHECK(memcmp(views[0].data, views[1].data, (size_t)views[0].length) == 0);
        for (i = 0; i < 2; i++) {
            libraries[i].result_free(results[i]);
        }
    }
    printf("%-16s %12s %12s %28s\n", "stage", "first", "second", "first / second, median (of)");
    for (stage = 0; stage < STAGES; stage++) {
        double ratios[MAX_ROUNDS];
        for (round = 0; round < rounds; round++) {
            ratios[round] = libraries[0].seconds[stage][round] / libraries[1].seconds[stage][round];
        }
        qsort(ratios, (size_t)rounds, sizeof *ratios, by_size);
        for (i = 0; i < 2; i++) {
            qsort(libraries[i].seconds[stage], (size_t)rounds, sizeof **libraries[i].seconds, by_size);
        }
        printf("%-16s %9.3f s  %9.3f s  %10.3f (%.3f to %.3f)\n", names[stage], libraries[0].seconds[stage][rounds / 2],
               libraries[1].seconds[stage][rounds / 2], ratios[rounds / 2], ratios[0], ratios[rounds - 1]);
    }
    return 0;
}
