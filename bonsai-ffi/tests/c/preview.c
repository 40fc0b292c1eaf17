/* Previews by a decoder of their own: as large as the picture, and the picture is what it is without them. And opening a
 * model with options that name something else, or that is cancelled.
 * usage: preview MODEL TAEF2 */
#include "check.h"

struct watch {
    uint32_t width, height, seen;
};

static int32_t preview(void *user, const bonsai_image_view *view, uint32_t image, uint32_t step, uint32_t steps) {
    struct watch *watch = user;
    CHECK(view->width == watch->width && view->height == watch->height);
    CHECK(view->format == BONSAI_FORMAT_RGB8 && view->length == (uint64_t)3 * view->width * view->height);
    CHECK(image == 0 && step == watch->seen && steps == 2);
    watch->seen++;
    return 0;
}

/* The picture as PNG, watched. */
static unsigned char *painted(const bonsai_pipeline *pipeline, struct watch *watch, size_t *length) {
    bonsai_callbacks callbacks;
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    unsigned char *png;
    EXPECT(BONSAI_OK, bonsai_callbacks_init(&callbacks, sizeof callbacks));
    callbacks.preview = preview, callbacks.user_data = watch;
    OK(bonsai_generate(pipeline, &request, &callbacks, NULL, &result, &error));
    CHECK(watch->seen == 2);
    png = png_of(result, 0, length);
    bonsai_result_free(result);
    return png;
}

/* Opening fails so, with `part` in the message. */
static void refused(const char *model, const bonsai_options *options, int32_t status, const char *part) {
    bonsai_pipeline *pipeline = NULL;
    bonsai_error *error = NULL;
    EXPECT(status, bonsai_pipeline_open(model, BONSAI_NUL_TERMINATED, options, &pipeline, &error));
    CHECK(pipeline == NULL && error != NULL);
    if (strstr(bonsai_error_message(error), part) == NULL) {
        fprintf(stderr, "expected %s in: %s\n", part, bonsai_error_message(error));
        exit(1);
    }
    bonsai_error_free(error);
}

int main(int argc, char **argv) {
    bonsai_options options;
    bonsai_pipeline *pipeline = open_model(argv[1], 2);
    bonsai_cancel *cancel = NULL;
    struct watch small = {8, 6, 0}, large = {64, 48, 0};
    size_t lengths[2];
    unsigned char *pngs[2];
    char path[4096];

    CHECK(argc == 3);
    pngs[0] = painted(pipeline, &small, &lengths[0]);
    bonsai_pipeline_free(pipeline);
    EXPECT(BONSAI_OK, bonsai_options_init(&options, sizeof options));
    CHECK(options.preview_decoder == NULL && options.cancel == NULL);
    options.threads = 2, options.preview_decoder = argv[2];
    OK(bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, &options, &pipeline, &error));
    pngs[1] = painted(pipeline, &large, &lengths[1]);
    bonsai_pipeline_free(pipeline);
    CHECK(lengths[0] == lengths[1] && memcmp(pngs[0], pngs[1], lengths[0]) == 0);
    free(pngs[0]);
    free(pngs[1]);
    CHECK(bonsai_has_feature("preview_decoder") == 1);

    options.preview_decoder = "tiny";
    refused(argv[1], &options, BONSAI_E_NOT_FOUND, "TAEF2");
    options.preview_decoder = "no such file";
    refused(argv[1], &options, BONSAI_E_NOT_FOUND, "no such file");
    options.preview_decoder = "\xff";
    refused(argv[1], &options, BONSAI_E_INVALID_ARG, "options.preview_decoder");
    snprintf(path, sizeof path, "%s/vae/diffusion_pytorch_model.safetensors", argv[1]);
    options.preview_decoder = path;
    refused(argv[1], &options, BONSAI_E_MODEL_MISMATCH, "TAEF2");

    options.preview_decoder = argv[2];
    EXPECT(BONSAI_OK, bonsai_cancel_new(&cancel, NULL));
    options.cancel = cancel;
    OK(bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, &options, &pipeline, &error));
    bonsai_pipeline_free(pipeline);
    EXPECT(BONSAI_OK, bonsai_cancel_request(cancel, BONSAI_CANCEL_NOW));
    refused(argv[1], &options, BONSAI_E_CANCELLED, "cancel");
    EXPECT(BONSAI_OK, bonsai_cancel_reset(cancel));
    OK(bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, &options, &pipeline, &error));
    bonsai_cancel_free(cancel);
    bonsai_pipeline_free(pipeline);
    puts("preview: as large as the picture, which stays as it is");
    return 0;
}
