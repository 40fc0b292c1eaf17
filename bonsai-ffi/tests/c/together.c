/* Two pipelines in one process, at once, with callbacks of their own: neither hears the other. And one pipeline used by two
 * threads: its runs follow each other, or one is told that it is busy.
 * usage: together MODEL */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

enum { ROUNDS = 8 };

struct side {
    pthread_t thread;
    bonsai_pipeline *pipeline;
    uint32_t width;
    uint64_t seed;
    int events, previews, logs, inside;
    double fraction;
};

static int32_t progress(void *user, const bonsai_progress *progress) {
    struct side *side = user;
    CHECK(pthread_equal(pthread_self(), side->thread));
    CHECK(side->inside == 1);
    CHECK(progress->fraction >= side->fraction && progress->fraction <= 1);
    CHECK(progress->done <= progress->total && progress->image < progress->images);
    side->fraction = progress->fraction;
    side->events++;
    return 0;
}

static int32_t preview(void *user, const bonsai_image_view *view, uint32_t image, uint32_t step, uint32_t steps) {
    struct side *side = user;
    CHECK(pthread_equal(pthread_self(), side->thread));
    CHECK(view->width == side->width / 8 && view->length == view->stride_bytes * view->height);
    CHECK(image == 0 && step < steps && steps == 2);
    side->previews++;
    return 0;
}

static void hear(void *user, int32_t level, const char *target, const char *message) {
    struct side *side = user;
    char width[32];
    CHECK(level == BONSAI_LOG_DEBUG && strncmp(target, "bonsai_core", 11) == 0);
    snprintf(width, sizeof width, "width=%u", (unsigned)side->width);
    CHECK(strstr(message, width) != NULL);
    side->logs++;
}

static void *work(void *argument) {
    struct side *side = argument;
    bonsai_request request = small_request();
    bonsai_callbacks callbacks;
    int round;
    side->thread = pthread_self();
    request.width = side->width, request.seed = side->seed;
    EXPECT(BONSAI_OK, bonsai_callbacks_init(&callbacks, sizeof callbacks));
    callbacks.progress = progress, callbacks.preview = preview, callbacks.log = hear;
    callbacks.log_level = BONSAI_LOG_DEBUG, callbacks.user_data = side;
    for (round = 0; round < ROUNDS; round++) {
        bonsai_result *result = NULL;
        side->inside = 1, side->fraction = 0;
        OK(bonsai_generate(side->pipeline, &request, &callbacks, NULL, &result, &error));
        side->inside = 0;
        CHECK(side->fraction == 1);
        bonsai_result_free(result);
    }
    CHECK(side->previews == 2 * ROUNDS && side->events > 10 * ROUNDS && side->logs == ROUNDS);
    return NULL;
}

/* Starts another run while this one is going on. */
struct busy {
    bonsai_pipeline *pipeline;
    int tried;
};

static void *intrude(void *argument) {
    struct busy *busy = argument;
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    EXPECT(BONSAI_E_BUSY, bonsai_generate(busy->pipeline, &request, NULL, NULL, &result, NULL));
    return NULL;
}

static int32_t while_running(void *user, const bonsai_progress *progress) {
    struct busy *busy = user;
    if (progress->stage == BONSAI_STAGE_DENOISE && !busy->tried) {
        pthread_t thread;
        busy->tried = 1;
        CHECK(pthread_create(&thread, NULL, intrude, busy) == 0);
        pthread_join(thread, NULL);
    }
    return 0;
}

int main(int argc, char **argv) {
    struct side sides[2];
    pthread_t threads[2];
    int i;
    CHECK(argc == 2);
    for (i = 0; i < 2; i++) {
        memset(&sides[i], 0, sizeof sides[i]);
        sides[i].pipeline = open_model(argv[1], 1);
        sides[i].width = i == 0 ? 64 : 96;
        sides[i].seed = (uint64_t)i;
    }
    for (i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, &sides[i]) == 0);
    }
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    bonsai_pipeline_free(sides[1].pipeline);

    /* the same pipeline from both sides: the runs wait for each other */
    sides[1] = sides[0];
    for (i = 0; i < 2; i++) {
        sides[i].events = sides[i].previews = sides[i].logs = 0;
        CHECK(pthread_create(&threads[i], NULL, work, &sides[i]) == 0);
    }
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    bonsai_pipeline_free(sides[0].pipeline);

    {
        struct busy busy = {NULL, 0};
        bonsai_options options;
        bonsai_callbacks callbacks;
        bonsai_request request = small_request();
        bonsai_result *result = NULL;
        EXPECT(BONSAI_OK, bonsai_options_init(&options, sizeof options));
        EXPECT(BONSAI_OK, bonsai_callbacks_init(&callbacks, sizeof callbacks));
        options.threads = 1, options.fail_when_busy = 1;
        OK(bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, &options, &busy.pipeline, &error));
        callbacks.progress = while_running, callbacks.user_data = &busy;
        OK(bonsai_generate(busy.pipeline, &request, &callbacks, NULL, &result, &error));
        CHECK(busy.tried);
        bonsai_result_free(result);
        bonsai_pipeline_free(busy.pipeline);
    }
    puts("together: each heard its own");
    return 0;
}
