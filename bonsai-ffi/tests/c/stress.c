/* Cancels at random times from another thread, then pictures over and over: nothing hangs, crashes or grows.
 * usage: stress MODEL CANCELS CYCLES */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <time.h>

/* What may be resident after the cycles beyond what was there after the warm-up. */
enum { WARM_UP = 50, GROWTH_KIB = 1024 };

struct canceller {
    const bonsai_cancel *cancel;
    long nanoseconds;
};

static void *cancel_later(void *argument) {
    const struct canceller *canceller = argument;
    struct timespec wait;
    wait.tv_sec = 0, wait.tv_nsec = canceller->nanoseconds;
    nanosleep(&wait, NULL);
    EXPECT(BONSAI_OK, bonsai_cancel_request(canceller->cancel, BONSAI_CANCEL_NOW));
    return NULL;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    bonsai_pipeline *pipeline;
    bonsai_cancel *cancel = NULL;
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    long cancels, cycles, i, cancelled = 0, painted = 0, before = 0, after;
    unsigned random = 1;
    double whole;

    CHECK(argc == 4);
    cancels = atol(argv[2]), cycles = atol(argv[3]);
    pipeline = open_model(argv[1], 2);
    request.steps = 1, request.width = request.height = 32;
    for (i = 0; i < 3; i++) {
        whole = now();
        OK(bonsai_generate(pipeline, &request, NULL, NULL, &result, &error));
        whole = now() - whole;
        bonsai_result_free(result);
    }
    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    for (i = 0; i < cancels; i++) {
        struct canceller canceller;
        pthread_t thread;
        int32_t status;
        random = random * 1664525u + 1013904223u;
        canceller.cancel = cancel;
        /* from before the start to a little after the end of a run */
        canceller.nanoseconds = (long)(whole * 1.2e9 * (random >> 8) / (1 << 24)) % 1000000000;
        CHECK(pthread_create(&thread, NULL, cancel_later, &canceller) == 0);
        result = NULL;
        status = bonsai_generate(pipeline, &request, NULL, cancel, &result, NULL);
        CHECK(status == BONSAI_OK || status == BONSAI_E_CANCELLED);
        CHECK((status == BONSAI_OK) == (result != NULL));
        cancelled += status == BONSAI_E_CANCELLED, painted += status == BONSAI_OK;
        pthread_join(thread, NULL);
        bonsai_result_free(result);
        EXPECT(BONSAI_OK, bonsai_cancel_reset(cancel));
    }
    bonsai_cancel_free(cancel);

    for (i = 0; i < WARM_UP + cycles; i++) {
        if (i == WARM_UP) {
            before = resident_kib();
        }
        OK(bonsai_generate(pipeline, &request, NULL, NULL, &result, &error));
        bonsai_result_free(result);
    }
    after = resident_kib();
    bonsai_pipeline_free(pipeline);
    printf("stress: %ld cancelled, %ld finished before; %ld cycles, resident %+ld KiB\n", cancelled, painted, cycles,
           after - before);
    CHECK(cycles < 1000 || after - before <= GROWTH_KIB);
    return 0;
}
