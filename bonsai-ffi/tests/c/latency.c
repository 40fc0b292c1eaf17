/* How long a cancel takes, from the request to the return, in each stage: a measurement, not a test. Cancels come at random
 * moments that are spread over the stage.
 * usage: latency MODEL WIDTH HEIGHT ROUNDS [TAEF2 [STAGE]]
 * With TAEF2, unless it is "-", also in the previews that it paints; with STAGE only where a line's name begins so. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <time.h>

enum { MAX_ROUNDS = 1000, SHORT_PROMPT = 64 };

static double clock_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double now(void) {
    return clock_of(CLOCK_MONOTONIC);
}

/* What all threads have worked: it tells of the library where other programs keep the machine busy. */
static double worked(void) {
    return clock_of(CLOCK_PROCESS_CPUTIME_ID);
}

static double uniform(void) {
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return (double)(state >> 8) / (1 << 24);
}

/* The canceller: waits until a stage begins, then for a while, then asks. */
struct watch {
    pthread_mutex_t lock;
    pthread_cond_t begun;
    int stage, is_begun;
    double start, end, wait, asked, returned, worked;
    bonsai_cancel *cancel;
};

/* What is watched besides the stages of the interface. */
enum { LOAD = 100, PREVIEW };

static void mark(struct watch *watch) {
    pthread_mutex_lock(&watch->lock);
    if (!watch->is_begun) {
        watch->is_begun = 1;
        watch->start = now();
        pthread_cond_signal(&watch->begun);
    }
    pthread_mutex_unlock(&watch->lock);
}

static int32_t progress(void *user, const bonsai_progress *progress) {
    struct watch *watch = user;
    const int whole = progress->done == progress->total;
    /* a stage begins where the one before it ends */
    if (progress->stage == BONSAI_STAGE_TEXT_ENCODE && whole) {
        if (watch->stage == BONSAI_STAGE_TEXT_ENCODE) {
            watch->end = now();
        } else if (watch->stage == BONSAI_STAGE_DENOISE) {
            mark(watch);
        }
    } else if (progress->stage == BONSAI_STAGE_DENOISE && whole) {
        if (watch->stage == BONSAI_STAGE_DENOISE) {
            watch->end = now();
        } else if (watch->stage == BONSAI_STAGE_DECODE || watch->stage == PREVIEW) {
            mark(watch);
        }
    } else if (progress->stage == BONSAI_STAGE_DONE && watch->stage == BONSAI_STAGE_DECODE) {
        watch->end = now();
    }
    return 0;
}

static int32_t preview(void *user, const bonsai_image_view *view, uint32_t image, uint32_t step, uint32_t steps) {
    (void)view, (void)image, (void)step, (void)steps;
    ((struct watch *)user)->end = now();
    return 0;
}

static void *cancel_later(void *argument) {
    struct watch *watch = argument;
    struct timespec wait;
    pthread_mutex_lock(&watch->lock);
    while (!watch->is_begun) {
        pthread_cond_wait(&watch->begun, &watch->lock);
    }
    pthread_mutex_unlock(&watch->lock);
    wait.tv_sec = (time_t)watch->wait;
    wait.tv_nsec = (long)(1e9 * (watch->wait - (double)wait.tv_sec));
    nanosleep(&wait, NULL);
    watch->worked = worked();
    watch->asked = now();
    EXPECT(BONSAI_OK, bonsai_cancel_request(watch->cancel, BONSAI_CANCEL_NOW));
    return NULL;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What is measured. */
struct subject {
    const char *name, *model;
    /* how the names of what is measured begin */
    const char *only;
    bonsai_options options;
    /* NULL: opened for each run */
    bonsai_pipeline *pipeline;
    bonsai_request request;
    int stage;
};

static bonsai_pipeline *opened(const struct subject *subject) {
    bonsai_pipeline *pipeline = NULL;
    OK(bonsai_pipeline_open(subject->model, BONSAI_NUL_TERMINATED, &subject->options, &pipeline, &error));
    return pipeline;
}

static int32_t work(const struct subject *subject, struct watch *watch, const bonsai_cancel *cancel) {
    bonsai_callbacks callbacks;
    bonsai_options options = subject->options;
    bonsai_request request = subject->request;
    bonsai_pipeline *pipeline = NULL;
    bonsai_result *result = NULL;
    /* a prompt that was read before is not read again */
    static unsigned long runs;
    char prompt[32];
    int32_t status;
    snprintf(prompt, sizeof prompt, "a tree %lu", runs++);
    request.prompt = prompt;
    if (subject->stage == LOAD || subject->stage == BONSAI_STAGE_TEXT_ENCODE) {
        mark(watch);
    }
    if (subject->stage == LOAD) {
        options.cancel = cancel;
        status = bonsai_pipeline_open(subject->model, BONSAI_NUL_TERMINATED, &options, &pipeline, NULL);
        watch->end = watch->returned = now();
        watch->worked = worked() - watch->worked;
        bonsai_pipeline_free(pipeline);
        return status;
    }
    EXPECT(BONSAI_OK, bonsai_callbacks_init(&callbacks, sizeof callbacks));
    callbacks.progress = progress, callbacks.user_data = watch;
    callbacks.preview = subject->stage == PREVIEW ? preview : NULL;
    pipeline = subject->pipeline != NULL ? subject->pipeline : opened(subject);
    status = bonsai_generate(pipeline, &request, &callbacks, cancel, &result, NULL);
    watch->returned = now();
    watch->worked = worked() - watch->worked;
    bonsai_result_free(result);
    if (subject->pipeline == NULL) {
        bonsai_pipeline_free(pipeline);
    }
    return status;
}

static void measure(const struct subject *subject, long rounds) {
    static double taken[MAX_ROUNDS];
    struct watch watch;
    double length, most = 0;
    long i, count = 0;
    if (strncmp(subject->name, subject->only, strlen(subject->only)) != 0) {
        return;
    }
    memset(&watch, 0, sizeof watch);
    CHECK(pthread_mutex_init(&watch.lock, NULL) == 0 && pthread_cond_init(&watch.begun, NULL) == 0);
    EXPECT(BONSAI_OK, bonsai_cancel_new(&watch.cancel, NULL));
    watch.stage = subject->stage;
    /* the first time, files come from the disk */
    EXPECT(BONSAI_OK, work(subject, &watch, NULL));
    if (subject->stage == LOAD) {
        watch.is_begun = 0;
        EXPECT(BONSAI_OK, work(subject, &watch, NULL));
    }
    length = watch.end - watch.start;
    for (i = 0; i < rounds; i++) {
        pthread_t thread;
        int32_t status;
        watch.is_begun = 0;
        watch.wait = length * ((double)i + uniform()) / (double)rounds;
        CHECK(pthread_create(&thread, NULL, cancel_later, &watch) == 0);
        status = work(subject, &watch, watch.cancel);
        /* nobody waits for a stage that never began */
        mark(&watch);
        pthread_join(thread, NULL);
        CHECK(status == BONSAI_OK || status == BONSAI_E_CANCELLED);
        if (status == BONSAI_E_CANCELLED) {
            taken[count++] = 1e3 * (watch.returned - watch.asked);
            most = watch.worked > most ? watch.worked : most;
        }
        EXPECT(BONSAI_OK, bonsai_cancel_reset(watch.cancel));
    }
    qsort(taken, (size_t)count, sizeof *taken, by_size);
    if (count > 0) {
        printf("%-28s %8.2f s %8ld %8.0f ms %8.0f ms %8.0f ms\n", subject->name, length, count, taken[count / 2],
               taken[count - 1], 1e3 * most);
    } else {
        printf("%-28s %8.2f s: over before it could be cancelled\n", subject->name, length);
    }
    fflush(stdout);
    bonsai_cancel_free(watch.cancel);
    pthread_cond_destroy(&watch.begun);
    pthread_mutex_destroy(&watch.lock);
}

/* The least memory that the decoder can do with, where a budget changes its plan; 0 where it does not. */
static uint64_t least_memory(struct subject subject) {
    uint64_t found = 0;
    for (;;) {
        bonsai_estimated estimated;
        int32_t status;
        estimated.struct_size = sizeof estimated;
        subject.pipeline = opened(&subject);
        status = bonsai_estimate(subject.pipeline, &subject.request, &estimated, NULL);
        bonsai_pipeline_free(subject.pipeline);
        if (status != BONSAI_OK) {
            return found;
        }
        found = subject.options.max_memory_bytes;
        if (estimated.decode_bytes < estimated.peak_bytes) {
            return found;
        }
        subject.options.max_memory_bytes = estimated.peak_bytes - 1;
    }
}

int main(int argc, char **argv) {
    struct subject subject;
    long rounds;
    const char *taef2;
    CHECK(argc >= 5 && argc <= 7);
    taef2 = argc > 5 && strcmp(argv[5], "-") != 0 ? argv[5] : NULL;
    rounds = atol(argv[4]);
    CHECK(rounds > 0 && rounds <= MAX_ROUNDS);
    memset(&subject, 0, sizeof subject);
    subject.model = argv[1], subject.only = argc > 6 ? argv[6] : "";
    EXPECT(BONSAI_OK, bonsai_options_init(&subject.options, sizeof subject.options));
    subject.request = small_request();
    subject.request.width = (uint32_t)atol(argv[2]), subject.request.height = (uint32_t)atol(argv[3]);
    subject.request.steps = 1;
    printf("%-28s %10s %8s %11s %11s %11s\n", "stage", "length", "cancels", "median", "worst", "worst CPU");

    subject.name = "load", subject.stage = LOAD;
    measure(&subject, rounds);
    subject.pipeline = opened(&subject);
    subject.name = "text encoding", subject.stage = BONSAI_STAGE_TEXT_ENCODE;
    measure(&subject, rounds);
    /* what follows is cut into pieces of the same size, however long the prompt is, which only takes time here */
    subject.request.max_sequence_length = SHORT_PROMPT;
    subject.name = "denoising", subject.stage = BONSAI_STAGE_DENOISE;
    measure(&subject, rounds);
    subject.name = "decoding", subject.stage = BONSAI_STAGE_DECODE;
    measure(&subject, rounds);
    bonsai_pipeline_free(subject.pipeline);

    subject.options.max_memory_bytes = least_memory(subject);
    if (subject.options.max_memory_bytes > 0) {
        subject.pipeline = opened(&subject);
        subject.name = "decoding in strips";
        measure(&subject, rounds);
        bonsai_pipeline_free(subject.pipeline);
    }
    subject.options.max_memory_bytes = 0;
    /* the map is fitted at the first preview of a pipeline */
    subject.pipeline = NULL;
    subject.name = "preview, its map fitted", subject.stage = PREVIEW;
    measure(&subject, rounds);
    if (taef2 != NULL) {
        subject.options.preview_decoder = taef2;
        subject.pipeline = opened(&subject);
        subject.name = "preview, by TAEF2";
        measure(&subject, rounds);
        bonsai_pipeline_free(subject.pipeline);
    }
    return 0;
}
