/* Work that a second thread ends, in every stage, and how long the first takes to come back.
 * usage: cancel_from_thread MODEL [WIDTH HEIGHT [LONGEST_MS [STAGE]]]
 * With LONGEST_MS it fails when one takes longer; with STAGE, a number of BONSAI_STAGE_..., it tries that one alone, once. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bonsai.h"

/* Shared by the thread that paints and the one that cancels. */
struct shared {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bonsai_cancel *cancel;
    int32_t stage;        /* the stage to cancel in */
    double wait;          /* how long after its first sign, in seconds */
    int reached, ended;   /* the stage has begun; the run is over */
    double asked;         /* when the cancel was requested */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int32_t watch(void *user_data, const bonsai_progress *progress) {
    struct shared *shared = user_data;
    if (progress->stage == shared->stage) {
        pthread_mutex_lock(&shared->lock);
        shared->reached = 1;
        pthread_cond_signal(&shared->changed);
        pthread_mutex_unlock(&shared->lock);
    }
    return 0;
}

static void *cancel(void *argument) {
    struct shared *shared = argument;
    struct timespec wait;
    pthread_mutex_lock(&shared->lock);
    while (!shared->reached && !shared->ended) {
        pthread_cond_wait(&shared->changed, &shared->lock);
    }
    pthread_mutex_unlock(&shared->lock);
    wait.tv_sec = 0, wait.tv_nsec = (long)(1e9 * shared->wait);
    nanosleep(&wait, NULL);
    shared->asked = now();
    bonsai_cancel_request(shared->cancel, BONSAI_CANCEL_NOW);
    return NULL;
}

int main(int argc, char **argv) {
    static const char *names[] = {"queue", "text encoder", "denoising", "decoder"};
    bonsai_pipeline *pipeline = NULL;
    bonsai_request request;
    bonsai_callbacks callbacks;
    bonsai_error *error = NULL;
    struct shared shared;
    double longest = argc > 4 ? atof(argv[4]) / 1000 : 0;
    const int32_t only = argc > 5 ? (int32_t)atoi(argv[5]) : -1;
    int failure = 0;

    if (argc < 2 || argc == 3 || argc > 6) {
        fprintf(stderr, "usage: %s MODEL [WIDTH HEIGHT [LONGEST_MS [STAGE]]]\n", argv[0]);
        return 2;
    }
    if (bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, NULL, &pipeline, &error) != BONSAI_OK) {
        fprintf(stderr, "open: %s\n", bonsai_error_message(error));
        bonsai_error_free(error);
        return 1;
    }
    bonsai_request_init(&request, sizeof request);
    request.prompt = "a bonsai tree";
    request.steps = 1;
    request.width = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    request.height = argc > 2 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    bonsai_callbacks_init(&callbacks, sizeof callbacks);
    callbacks.progress = watch;
    callbacks.user_data = &shared;
    pthread_mutex_init(&shared.lock, NULL);
    pthread_cond_init(&shared.changed, NULL);
    bonsai_cancel_new(&shared.cancel, NULL);
    for (shared.stage = BONSAI_STAGE_QUEUED; shared.stage <= BONSAI_STAGE_DECODE; shared.stage++) {
        int try;
        for (try = 0; try < (only < 0 ? 3 : only == shared.stage ? 1 : 0); try++) {
            bonsai_result *result = NULL;
            pthread_t thread;
            int32_t status;
            double ended;
            shared.reached = shared.ended = 0;
            shared.wait = only < 0 ? 0.037 * try : 0.05;
            pthread_create(&thread, NULL, cancel, &shared);
            status = bonsai_generate(pipeline, &request, &callbacks, shared.cancel, &result, NULL);
            ended = now();
            pthread_mutex_lock(&shared.lock);
            shared.ended = 1;
            pthread_cond_signal(&shared.changed);
            pthread_mutex_unlock(&shared.lock);
            pthread_join(thread, NULL);
            if (status == BONSAI_E_CANCELLED) {
                const double latency = ended - shared.asked;
                printf("%s: back after %.1f ms\n", names[shared.stage], 1000 * latency);
                failure |= longest > 0 && latency > longest;
            } else {
                printf("%s: %s before the cancel\n", names[shared.stage], bonsai_status_name(status));
                failure |= status != BONSAI_OK;
            }
            bonsai_result_free(result);
            bonsai_cancel_reset(shared.cancel);
        }
    }
    bonsai_cancel_free(shared.cancel);
    bonsai_pipeline_free(pipeline);
    pthread_cond_destroy(&shared.changed);
    pthread_mutex_destroy(&shared.lock);
    return failure;
}
