/*
 * Bonsai: text to image on a plain CPU. Apache-2.0 OR MIT.
 *
 * The rules of every function here (docs/c-api.md tells more):
 *  - Results are numbers: BONSAI_OK or a negative BONSAI_E_... . Where the last parameter is bonsai_error **error, it may
 *    be NULL; else it receives NULL, or an error object for bonsai_error_free.
 *  - Whoever makes a handle frees it with the function of its name; NULL is fine there. A handle may not be used after.
 *  - Structs begin with their size: fill them with their _init function, then set what you like. All zero is not enough.
 *  - Text in is UTF-8 with its length in bytes; BONSAI_NUL_TERMINATED as the length means up to the zero byte. Paths too.
 *  - Text and bytes out: call with NULL and 0 to learn the length, then with a buffer.
 *  - Nothing is printed, and nothing here ends the process. State is in handles; docs/c-api.md names the one exception.
 *  - Callbacks may not throw, jump out, or call anything but bonsai_cancel_..., bonsai_error_... and pure getters.
 */

#ifndef BONSAI_H
#define BONSAI_H

/* Made by cbindgen from bonsai-ffi; tests/header.rs keeps it so. */

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(BONSAI_SHARED)
#define BONSAI_API __declspec(dllimport)
#else
#define BONSAI_API
#endif

/* The length of text that ends with a zero byte. */
#define BONSAI_NUL_TERMINATED SIZE_MAX

/**
 * The version of this interface: libraries with the same number are interchangeable.
 */
#define BONSAI_ABI_VERSION 0

/**
 * The run waits until its turn comes.
 */
#define BONSAI_STAGE_QUEUED 0

/**
 * The prompt is read, layer by layer.
 */
#define BONSAI_STAGE_TEXT_ENCODE 1

/**
 * The noise is removed, step by step and block by block.
 */
#define BONSAI_STAGE_DENOISE 2

/**
 * The picture is decoded, part by part.
 */
#define BONSAI_STAGE_DECODE 3

/**
 * A picture is finished.
 */
#define BONSAI_STAGE_DONE 4

/**
 * As soon as possible: within a fraction of a second whatever is being done.
 */
#define BONSAI_CANCEL_NOW 0

/**
 * When the current picture of the request is finished.
 */
#define BONSAI_CANCEL_AFTER_CURRENT_IMAGE 1

/**
 * Three bytes a pixel: red, green, blue.
 */
#define BONSAI_FORMAT_RGB8 0

/**
 * Four bytes a pixel: red, green, blue, 255.
 */
#define BONSAI_FORMAT_RGBA8 1

/**
 * Three floats a pixel, 0 to 1, before they were rounded. Only for requests with keep_float.
 */
#define BONSAI_FORMAT_RGB_F32 2

#if defined(BONSAI_TEST_INJECT_PANICS)
/**
 * The next function that is called panics as it is entered.
 */
#define BONSAI_INJECT_AT_ENTRY 1
#endif

#if defined(BONSAI_TEST_INJECT_PANICS)
/**
 * The next run panics when its first part is done.
 */
#define BONSAI_INJECT_IN_RUN 2
#endif

#if defined(BONSAI_TEST_INJECT_PANICS)
/**
 * The next piece of work of any pool panics.
 */
#define BONSAI_INJECT_IN_JOB 3
#endif

/**
 * Something failed.
 */
#define BONSAI_LOG_ERROR 1

/**
 * Something is other than was asked for.
 */
#define BONSAI_LOG_WARN 2

/**
 * Something worth telling.
 */
#define BONSAI_LOG_INFO 3

/**
 * What is loaded, and how runs are set up.
 */
#define BONSAI_LOG_DEBUG 4

/**
 * Everything.
 */
#define BONSAI_LOG_TRACE 5

/**
 * The noise of diffusers on a CPU.
 */
#define BONSAI_NOISE_TORCH_CPU 0

/**
 * The noise of Apple's MLX.
 */
#define BONSAI_NOISE_MLX 1

/**
 * The most pictures of one request.
 */
#define BONSAI_MAX_IMAGES 1024

/**
 * bonsai_result_encode_png: leave prompt and recipe out of the file.
 */
#define BONSAI_PNG_NO_METADATA 1

/**
 * A flag that ends a run, from any thread. It is counted: bonsai_cancel_retain adds an owner, bonsai_cancel_free takes one
 * away. It may outlive pipelines, and several runs may share one.
 */
typedef struct bonsai_cancel bonsai_cancel;

/**
 * Why a call failed, in full. It belongs to whoever received it.
 */
typedef struct bonsai_error bonsai_error;

/**
 * A loaded model. Any number of threads may use one; runs beyond max_concurrent_runs wait for each other.
 */
typedef struct bonsai_pipeline bonsai_pipeline;

/**
 * Finished pictures. For one thread at a time.
 */
typedef struct bonsai_result bonsai_result;

/**
 * What a function says of its work: BONSAI_OK or one of the negative BONSAI_E_... numbers. Later versions may add numbers;
 * none is ever used for something else.
 */
typedef int32_t bonsai_status;

/**
 * How far a run is. Valid during the call.
 */
typedef struct bonsai_progress {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * One of BONSAI_STAGE_.... Later versions may add stages.
     */
    int32_t stage;
    /**
     * Layers, blocks or parts of the stage, or of its current step, that are done.
     */
    uint32_t done;
    /**
     * Of so many.
     */
    uint32_t total;
    /**
     * The denoising step, from 0; 0 in other stages.
     */
    uint32_t step;
    /**
     * Denoising steps in all.
     */
    uint32_t steps;
    /**
     * The picture, from 0.
     */
    uint32_t image;
    /**
     * Pictures of the request.
     */
    uint32_t images;
    /**
     * Of the whole request, 0 to 1, never less than before.
     */
    double fraction;
    /**
     * Since the run began.
     */
    double seconds;
} bonsai_progress;

/**
 * Told now and then how far a run is. 0 goes on; anything else ends the run with BONSAI_E_CANCELLED.
 */
typedef int32_t (*bonsai_progress_fn)(void *user_data, const struct bonsai_progress *progress);

/**
 * A picture in memory: rows from the top, pixels from the left. Set struct_size before you have one filled.
 */
typedef struct bonsai_image_view {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * 0.
     */
    uint32_t reserved_flags;
    /**
     * Pixels of a row.
     */
    uint32_t width;
    /**
     * Rows.
     */
    uint32_t height;
    /**
     * Values of a pixel.
     */
    uint32_t channels;
    /**
     * One of BONSAI_FORMAT_....
     */
    int32_t format;
    /**
     * Bytes from one row to the next.
     */
    uint64_t stride_bytes;
    /**
     * Bytes in all.
     */
    uint64_t length;
    /**
     * The pixels. Borrowed: from a result until it is freed, in a preview until the callback returns.
     */
    const uint8_t *data;
} bonsai_image_view;

/**
 * Shown a rough picture (RGB8; a pixel for each of the latent, which is an eighth of the sides; or as large as
 * the picture with options.preview_decoder) after step `step` (from 0) of `steps` of a picture. 0 goes on;
 * anything else ends the run with BONSAI_E_CANCELLED. Never changes what is painted.
 */
typedef int32_t (*bonsai_preview_fn)(void *user_data,
                                     const struct bonsai_image_view *preview,
                                     uint32_t image,
                                     uint32_t step,
                                     uint32_t steps);

/**
 * Receives a message: its level, the part of the library that it comes from, and the text, both valid during the call.
 * Called on the thread that called this library.
 */
typedef void (*bonsai_log_fn)(void *user_data,
                              int32_t level,
                              const char *target,
                              const char *message);

/**
 * Who watches a run: its own callbacks and nobody else's. They are called on the thread that called bonsai_generate, in
 * order, and never after it returned. Fill it with bonsai_callbacks_init.
 */
typedef struct bonsai_callbacks {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * 0.
     */
    uint32_t reserved_flags;
    /**
     * A preview after every so many steps, and after the last; 1 at first.
     */
    uint32_t preview_interval;
    /**
     * The least important of the messages that log receives: one of BONSAI_LOG_....
     */
    int32_t log_level;
    /**
     * May be NULL.
     */
    bonsai_progress_fn progress;
    /**
     * May be NULL.
     */
    bonsai_preview_fn preview;
    /**
     * Messages of this run; NULL: they go to the log of the pipeline.
     */
    bonsai_log_fn log;
    /**
     * Handed to all three.
     */
    void *user_data;
} bonsai_callbacks;

/**
 * What to paint. Fill it with bonsai_request_init, then set the prompt.
 */
typedef struct bonsai_request {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * 0.
     */
    uint32_t reserved_flags;
    /**
     * Seed of the noise. Picture i of the request has seed + i, and is the same whatever else is painted.
     */
    uint64_t seed;
    /**
     * Width in pixels, a multiple of 16; 0: the model's.
     */
    uint32_t width;
    /**
     * Height in pixels, a multiple of 16; 0: the model's.
     */
    uint32_t height;
    /**
     * Denoising steps; 0: the model's.
     */
    uint32_t steps;
    /**
     * Pictures to paint, 1 at first.
     */
    uint32_t image_count;
    /**
     * One of BONSAI_NOISE_....
     */
    int32_t noise_source;
    /**
     * Guidance value, for models that read one; below 0: the model's.
     */
    float guidance;
    /**
     * Tokens of the prompt, padding included; 0: the model's.
     */
    uint32_t max_sequence_length;
    /**
     * Longest time for the whole request in milliseconds, looked at after each block of the network; 0: no limit.
     */
    uint32_t timeout_ms;
    /**
     * 1: decode the picture in tiles. Less memory, slightly other tones.
     */
    uint8_t vae_tiling;
    /**
     * 1: keep the picture as it was before it was rounded to bytes, for BONSAI_FORMAT_RGB_F32.
     */
    uint8_t keep_float;
    /**
     * 0.
     */
    uint8_t reserved[6];
    /**
     * The prompt, UTF-8. It may be empty and may not be NULL.
     */
    const char *prompt;
    /**
     * Its length in bytes, or BONSAI_NUL_TERMINATED.
     */
    size_t prompt_length;
    /**
     * Noise levels instead of those that follow from the steps, strictly descending; NULL as a rule.
     */
    const float *sigmas;
    /**
     * Their number.
     */
    size_t sigma_count;
} bonsai_request;

/**
 * What a picture will take. Set struct_size before you have one filled.
 */
typedef struct bonsai_estimated {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * Denoising steps that it counts.
     */
    uint32_t steps;
    /**
     * The most memory of the whole process that is resident at any time, in bytes; mapped weights are counted.
     */
    uint64_t peak_bytes;
    /**
     * Memory that stays as long as the pipeline lives.
     */
    uint64_t base_bytes;
    /**
     * The peak while the prompt is read.
     */
    uint64_t text_encode_bytes;
    /**
     * The peak while the noise is removed.
     */
    uint64_t denoise_bytes;
    /**
     * The peak while the picture is decoded.
     */
    uint64_t decode_bytes;
    /**
     * Multiply-accumulates of one picture.
     */
    uint64_t macs;
    /**
     * Seconds for all pictures of the request, at the speed of the picture that this pipeline finished last; negative while
     * it has finished none.
     */
    double expected_seconds;
} bonsai_estimated;

/**
 * Takes memory: `size` bytes, never 0, at a multiple of `alignment`, a power of two. NULL when there is none. Called on
 * any thread.
 */
typedef void *(*bonsai_alloc_fn)(void *user_data, size_t size, size_t alignment);

/**
 * Takes back what a bonsai_alloc_fn gave, with the same size and alignment. Called on any thread.
 */
typedef void (*bonsai_dealloc_fn)(void *user_data, void *pointer, size_t size, size_t alignment);

/**
 * Calls `body(context, i)` for `i` from 0 to `count - 1`, on whatever threads, and returns when all calls have returned.
 * `body` may be called from any thread, and several times at once; neither it nor `context` may be used afterwards. What is
 * painted does not depend on how this is done.
 */
typedef void (*bonsai_parallel_for_fn)(void *user_data,
                                       size_t count,
                                       void (*body)(void *context, size_t index),
                                       void *context);

/**
 * How a pipeline runs. Fill it with bonsai_options_init.
 */
typedef struct bonsai_options {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * 0.
     */
    uint32_t reserved_flags;
    /**
     * Threads that work: the one that calls and those of a pool of the pipeline's own; 0: as many as the system offers. Not used
     * with parallel_for.
     */
    uint32_t threads;
    /**
     * How many runs may go on at once; further ones wait. 1 at first.
     */
    uint32_t max_concurrent_runs;
    /**
     * The least important of the messages that log receives: one of BONSAI_LOG_....
     */
    int32_t log_level;
    /**
     * Threads that parallel_for uses at once; at least 1 with parallel_for.
     */
    uint32_t parallel_threads;
    /**
     * 1: a run that would have to wait returns BONSAI_E_BUSY instead.
     */
    uint8_t fail_when_busy;
    /**
     * 0.
     */
    uint8_t reserved[7];
    /**
     * The most memory that this process may have resident while a picture is made, in bytes: the plan keeps it or the
     * request is refused with BONSAI_E_MEMORY_BUDGET. 0: no budget.
     */
    uint64_t max_memory_bytes;
    /**
     * The instruction set by its name, as bonsai_cpu_features lists them; NULL: the best, or the lower one that the
     * environment variable BONSAI_ISA names. With a zero byte at its end.
     */
    const char *isa;
    /**
     * Arithmetic of the activations by its name, as the command's --precision lists them; NULL: the default. With a zero byte
     * at its end.
     */
    const char *precision;
    /**
     * Receives messages of loading and of runs that have no log of their own; may be NULL.
     */
    bonsai_log_fn log;
    /**
     * Handed to log.
     */
    void *log_user_data;
    /**
     * Where large buffers come from; NULL: Rust's allocator. Together with dealloc. Valid until the pipeline and all its
     * results are freed.
     */
    bonsai_alloc_fn alloc;
    /**
     * Where they go.
     */
    bonsai_dealloc_fn dealloc;
    /**
     * Handed to alloc and dealloc.
     */
    void *alloc_user_data;
    /**
     * The host's own threads instead of a pool; may be NULL. Valid until the pipeline is freed.
     */
    bonsai_parallel_for_fn parallel_for;
    /**
     * Handed to parallel_for.
     */
    void *parallel_user_data;
    /**
     * Ends the opening with BONSAI_E_CANCELLED when it is requested; may be NULL. Runs have a token of their own.
     */
    const struct bonsai_cancel *cancel;
    /**
     * A TAEF2 that paints previews, as large as the picture: its file, its folder, or "tiny" for the one in the model's
     * directory; with a zero byte at its end. NULL: previews are a pixel for each of the latent, and cost next to nothing.
     */
    const char *preview_decoder;
} bonsai_options;

/**
 * A file of a model that the host keeps.
 */
typedef struct bonsai_model_file {
    /**
     * Its size in bytes.
     */
    uint64_t size;
    /**
     * Its name relative to the model, as "transformer/config.json", with a zero byte at its end.
     */
    const char *name;
} bonsai_model_file;

/**
 * Fills `buffer` with the `length` bytes of a file from `offset` on; 0 when all of them are there. Called only while
 * bonsai_pipeline_open_reader runs, on its thread.
 */
typedef int32_t (*bonsai_read_at_fn)(void *user_data,
                                     const char *name,
                                     uint64_t offset,
                                     void *buffer,
                                     size_t length);

/**
 * A model that lies in no directory: in a pack of game assets, in memory, behind a cache. Fill it with
 * bonsai_model_reader_init.
 */
typedef struct bonsai_model_reader {
    /**
     * Size of this struct in bytes.
     */
    uint32_t struct_size;
    /**
     * 0.
     */
    uint32_t reserved_flags;
    /**
     * What the model is called in metadata, with a zero byte at its end; NULL: "model".
     */
    const char *name;
    /**
     * All its files.
     */
    const struct bonsai_model_file *files;
    /**
     * Their number.
     */
    size_t file_count;
    /**
     * Reads them.
     */
    bonsai_read_at_fn read_at;
    /**
     * Handed to read_at.
     */
    void *user_data;
} bonsai_model_reader;

/**
 * How long a picture took.
 */
typedef struct bonsai_timings {
    /**
     * Size of this struct in bytes; set it before you have one filled.
     */
    uint32_t struct_size;
    /**
     * Denoising steps.
     */
    uint32_t steps;
    /**
     * Prompt to embeddings, in seconds.
     */
    double text_encode_seconds;
    /**
     * All denoising steps.
     */
    double denoise_seconds;
    /**
     * Latents to picture.
     */
    double decode_seconds;
} bonsai_timings;

/**
 * Done.
 */
#define BONSAI_OK 0

/**
 * A pointer was NULL where something was expected.
 */
#define BONSAI_E_NULL_ARG -1

/**
 * A value is out of its range, or text is not UTF-8.
 */
#define BONSAI_E_INVALID_ARG -2

/**
 * The struct_size of a struct belongs to no version.
 */
#define BONSAI_E_INVALID_STRUCT -3

/**
 * This version knows no such thing; also a struct from a newer header with something set in its unknown part.
 */
#define BONSAI_E_UNSUPPORTED -4

/**
 * A file or folder is not there.
 */
#define BONSAI_E_NOT_FOUND -5

/**
 * The system, or a read callback, refused.
 */
#define BONSAI_E_IO -6

/**
 * A file's bytes are not what its format demands.
 */
#define BONSAI_E_MODEL_FORMAT -7

/**
 * The files are sound but do not make the model that their config describes.
 */
#define BONSAI_E_MODEL_MISMATCH -8

/**
 * The tokenizer's files are unusable.
 */
#define BONSAI_E_TOKENIZER -9

/**
 * A buffer could not be had.
 */
#define BONSAI_E_OUT_OF_MEMORY -10

/**
 * The work needs more memory than it was granted.
 */
#define BONSAI_E_MEMORY_BUDGET -11

/**
 * The cancel token was set, or a callback said stop. Finished pictures are kept.
 */
#define BONSAI_E_CANCELLED -12

/**
 * The work took longer than the request's timeout.
 */
#define BONSAI_E_TIMEOUT -13

/**
 * All runs of the pipeline are taken and fail_when_busy is set.
 */
#define BONSAI_E_BUSY -14

/**
 * NaN or infinity came out where numbers were expected.
 */
#define BONSAI_E_NUMERICAL -15

/**
 * A callback called a function that may not be called from one.
 */
#define BONSAI_E_REENTRANT -16

/**
 * The pipeline panicked before; it can only be asked about and freed.
 */
#define BONSAI_E_POISONED -17

/**
 * A fault of the library, caught. The pipeline is poisoned; the process is not.
 */
#define BONSAI_E_PANIC -18

/**
 * The buffer is too small; the length that is needed was written.
 */
#define BONSAI_E_BUFFER_TOO_SMALL -19

/**
 * A fault of the library.
 */
#define BONSAI_E_INTERNAL -20

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * BONSAI_ABI_VERSION of the library, to compare with that of the header.
 */
BONSAI_API uint32_t bonsai_abi_version(void);

/**
 * The version of the engine, as "0.1.0". Never to be freed.
 */
BONSAI_API const char *bonsai_version_string(void);

/**
 * 1 when this build has the feature of that name ("gguf", "preview", ...; zero byte at its end), 0 when not or not known, a
 * negative status for NULL or bytes that are not UTF-8.
 */
BONSAI_API
int32_t bonsai_has_feature(const char *name);

/**
 * What this CPU offers, as JSON: {"isa": "avx2", "available": ["portable", "avx2"], "threads": 8}. `length` receives the
 * bytes without the zero byte at the end, for which the buffer needs room.
 */
BONSAI_API
bonsai_status bonsai_cpu_features(char *buffer,
                                  size_t capacity,
                                  size_t *length,
                                  struct bonsai_error **error);

/**
 * Fills callbacks with none. `struct_size` is sizeof(bonsai_callbacks).
 */
BONSAI_API
bonsai_status bonsai_callbacks_init(struct bonsai_callbacks *callbacks,
                                    size_t struct_size);

/**
 * Makes a token that is not set, with one owner.
 */
BONSAI_API bonsai_status bonsai_cancel_new(struct bonsai_cancel **out, struct bonsai_error **error);

/**
 * Adds an owner.
 */
BONSAI_API bonsai_status bonsai_cancel_retain(const struct bonsai_cancel *cancel);

/**
 * Asks the runs of this token to end: BONSAI_CANCEL_NOW or BONSAI_CANCEL_AFTER_CURRENT_IMAGE. From any thread, from
 * callbacks, and from signal handlers: it sets a flag and does nothing else.
 */
BONSAI_API
bonsai_status bonsai_cancel_request(const struct bonsai_cancel *cancel,
                                    int32_t mode);

/**
 * 1 when somebody asked, in either mode, 0 when not; a negative status for NULL.
 */
BONSAI_API int32_t bonsai_cancel_is_requested(const struct bonsai_cancel *cancel);

/**
 * Makes the token usable again. Not while a run that it ended is still on its way back.
 */
BONSAI_API bonsai_status bonsai_cancel_reset(const struct bonsai_cancel *cancel);

/**
 * Takes an owner away; with the last the token goes. NULL is fine.
 */
BONSAI_API void bonsai_cancel_free(struct bonsai_cancel *cancel);

/**
 * The status that the failed call returned; BONSAI_E_NULL_ARG for NULL.
 */
BONSAI_API bonsai_status bonsai_error_status(const struct bonsai_error *error);

/**
 * A sentence for people, in UTF-8: names the file, tensor or field and what was expected. It lives as long as the error.
 * NULL for NULL.
 */
BONSAI_API
const char *bonsai_error_message(const struct bonsai_error *error);

/**
 * What was being done: "open", "text_encode", "denoise", "decode", or the name of the function. It lives as long as the
 * error. NULL for NULL.
 */
BONSAI_API
const char *bonsai_error_stage(const struct bonsai_error *error);

/**
 * The file that it is about, or NULL where it is about none. It lives as long as the error.
 */
BONSAI_API const char *bonsai_error_file(const struct bonsai_error *error);

/**
 * The byte of that file, from its start, that it is about; -1 where it is about none, and for NULL.
 */
BONSAI_API int64_t bonsai_error_offset(const struct bonsai_error *error);

/**
 * Frees an error. NULL is fine.
 */
BONSAI_API void bonsai_error_free(struct bonsai_error *error);

/**
 * What a request will take, without painting: memory by the plan that bonsai_generate would follow, and time. Fails as that
 * would when the request is out of range or no plan keeps options.max_memory_bytes. estimated->struct_size must be set.
 */
BONSAI_API
bonsai_status bonsai_estimate(const struct bonsai_pipeline *pipeline,
                              const struct bonsai_request *request,
                              struct bonsai_estimated *estimated,
                              struct bonsai_error **error);

/**
 * Paints. `callbacks` and `cancel` may be NULL. Returns when all pictures are finished or the run ended otherwise. `out`
 * receives the pictures that were finished: all of them, or, with BONSAI_E_CANCELLED and BONSAI_E_TIMEOUT, those so far, or
 * NULL when there is none.
 */
BONSAI_API
bonsai_status bonsai_generate(const struct bonsai_pipeline *pipeline,
                              const struct bonsai_request *request,
                              const struct bonsai_callbacks *callbacks,
                              const struct bonsai_cancel *cancel,
                              struct bonsai_result **out,
                              struct bonsai_error **error);

#if defined(BONSAI_TEST_INJECT_PANICS)
/**
 * Tests only: makes the next call of this thread panic, or the next piece of work, once.
 */
BONSAI_API int32_t bonsai_test_inject_panic(int32_t place);
#endif

/**
 * Fills options with what a pipeline does when nobody says otherwise. `struct_size` is sizeof(bonsai_options).
 */
BONSAI_API
bonsai_status bonsai_options_init(struct bonsai_options *options,
                                  size_t struct_size);

/**
 * Opens a model directory. `options` may be NULL. Takes a while: tensors are checked, and weights are read as they are
 * needed. The files may not be changed or cut while the pipeline lives.
 */
BONSAI_API
bonsai_status bonsai_pipeline_open(const char *directory,
                                   size_t directory_length,
                                   const struct bonsai_options *options,
                                   struct bonsai_pipeline **out,
                                   struct bonsai_error **error);

/**
 * Opens a model that the host keeps; `options` may be NULL. All files that are needed are read, whole, before this returns;
 * weights stay in memory, in buffers from options.alloc.
 */
BONSAI_API
bonsai_status bonsai_pipeline_open_reader(const struct bonsai_model_reader *reader,
                                          const struct bonsai_options *options,
                                          struct bonsai_pipeline **out,
                                          struct bonsai_error **error);

/**
 * What a pipeline is and does when a request does not say, as JSON: {"name", "isa", "precision", "threads", "width", "height", "steps",
 * "max_sequence_length", "guidance"}. `length` receives the bytes without the zero byte at the end, for which the buffer
 * needs room.
 */
BONSAI_API
bonsai_status bonsai_pipeline_info(const struct bonsai_pipeline *pipeline,
                                   char *buffer,
                                   size_t capacity,
                                   size_t *length,
                                   struct bonsai_error **error);

/**
 * Frees a pipeline. Runs that are going on finish; results stay. NULL is fine.
 */
BONSAI_API void bonsai_pipeline_free(struct bonsai_pipeline *pipeline);

/**
 * Fills a reader with nothing. `struct_size` is sizeof(bonsai_model_reader).
 */
BONSAI_API
bonsai_status bonsai_model_reader_init(struct bonsai_model_reader *reader,
                                       size_t struct_size);

/**
 * Fills a request with the model's defaults, seed 0 and no prompt. `struct_size` is sizeof(bonsai_request).
 */
BONSAI_API
bonsai_status bonsai_request_init(struct bonsai_request *request,
                                  size_t struct_size);

/**
 * Number of pictures.
 */
BONSAI_API
bonsai_status bonsai_result_image_count(const struct bonsai_result *result,
                                        size_t *count);

/**
 * Looks at picture `index` (from 0): BONSAI_FORMAT_RGB8, borrowed until the result is freed. view->struct_size must be set.
 */
BONSAI_API
bonsai_status bonsai_result_image_view(const struct bonsai_result *result,
                                       size_t index,
                                       struct bonsai_image_view *view,
                                       struct bonsai_error **error);

/**
 * Copies picture `index` into memory of the caller's, as one of BONSAI_FORMAT_..., with `stride_bytes` from one row to the
 * next (0: rows without a gap). `length` receives the bytes that are needed; with NULL and capacity 0 that is all. Bytes
 * between rows are not touched.
 */
BONSAI_API
bonsai_status bonsai_result_image_copy(const struct bonsai_result *result,
                                       size_t index,
                                       int32_t format,
                                       uint8_t *destination,
                                       size_t capacity,
                                       size_t stride_bytes,
                                       size_t *length,
                                       struct bonsai_error **error);

/**
 * Picture `index` as a PNG file: the same bytes as the command `bonsai generate` writes. `flags`: 0 or
 * BONSAI_PNG_NO_METADATA. `length` receives its bytes.
 */
BONSAI_API
bonsai_status bonsai_result_encode_png(const struct bonsai_result *result,
                                       size_t index,
                                       uint32_t flags,
                                       uint8_t *buffer,
                                       size_t capacity,
                                       size_t *length,
                                       struct bonsai_error **error);

/**
 * All that it takes to paint picture `index` again, as one line of JSON: the text that PNG files carry as "bonsai". `length`
 * receives the bytes without the zero byte at the end, for which the buffer needs room.
 */
BONSAI_API
bonsai_status bonsai_result_metadata_json(const struct bonsai_result *result,
                                          size_t index,
                                          char *buffer,
                                          size_t capacity,
                                          size_t *length,
                                          struct bonsai_error **error);

/**
 * How long picture `index` took. timings->struct_size must be set.
 */
BONSAI_API
bonsai_status bonsai_result_timings(const struct bonsai_result *result,
                                    size_t index,
                                    struct bonsai_timings *timings,
                                    struct bonsai_error **error);

/**
 * Frees a result, and what was borrowed from it. NULL is fine.
 */
BONSAI_API void bonsai_result_free(struct bonsai_result *result);

/**
 * The name of a status, as "BONSAI_E_IO", or "BONSAI_E_UNKNOWN". Never NULL, never to be freed.
 */
BONSAI_API const char *bonsai_status_name(bonsai_status status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BONSAI_H */
