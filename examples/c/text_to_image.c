/* A picture from a prompt, in C99.
 * usage: text_to_image MODEL PROMPT OUTPUT.png [SEED] */
#include <stdio.h>
#include <stdlib.h>

#include "bonsai.h"

static int32_t show_progress(void *user_data, const bonsai_progress *progress) {
    (void)user_data;
    fprintf(stderr, "\r%3.0f%%", 100 * progress->fraction);
    return 0; /* anything else would end the work */
}

static int failed(const char *what, int32_t status, bonsai_error *error) {
    const char *message = error != NULL ? bonsai_error_message(error) : bonsai_status_name(status);
    fprintf(stderr, "\n%s: %s\n", what, message);
    bonsai_error_free(error);
    return 1;
}

static int write_file(const char *path, const unsigned char *bytes, size_t length) {
    FILE *file = fopen(path, "wb");
    int written = file != NULL && fwrite(bytes, 1, length, file) == length;
    if (file != NULL && fclose(file) != 0) {
        written = 0;
    }
    if (!written) {
        perror(path);
    }
    return written ? 0 : 1;
}

static int save_png(const bonsai_result *result, const char *path) {
    bonsai_error *error = NULL;
    size_t length = 0;
    int failure;
    unsigned char *png;
    int32_t status = bonsai_result_encode_png(result, 0, 0, NULL, 0, &length, &error);
    if (status != BONSAI_OK) {
        return failed("png", status, error);
    }
    png = malloc(length);
    if (png == NULL) {
        return failed("png", BONSAI_E_OUT_OF_MEMORY, NULL);
    }
    status = bonsai_result_encode_png(result, 0, 0, png, length, &length, &error);
    failure = status == BONSAI_OK ? write_file(path, png, length) : failed("png", status, error);
    free(png);
    return failure;
}

int main(int argc, char **argv) {
    bonsai_pipeline *pipeline = NULL;
    bonsai_request request;
    bonsai_callbacks callbacks;
    bonsai_result *result = NULL;
    bonsai_error *error = NULL;
    int32_t status;
    int failure;

    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL PROMPT OUTPUT.png [SEED]\n", argv[0]);
        return 2;
    }
    if (bonsai_abi_version() != BONSAI_ABI_VERSION) {
        fprintf(stderr, "the library is of another version than its header\n");
        return 1;
    }
    status = bonsai_pipeline_open(argv[1], BONSAI_NUL_TERMINATED, NULL, &pipeline, &error);
    if (status != BONSAI_OK) {
        return failed("open", status, error);
    }
    bonsai_request_init(&request, sizeof request);
    request.prompt = argv[2];
    request.seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    bonsai_callbacks_init(&callbacks, sizeof callbacks);
    callbacks.progress = show_progress;
    status = bonsai_generate(pipeline, &request, &callbacks, NULL, &result, &error);
    fputc('\n', stderr);
    failure = status == BONSAI_OK ? save_png(result, argv[3]) : failed("generate", status, error);
    bonsai_result_free(result);
    bonsai_pipeline_free(pipeline);
    return failure;
}
