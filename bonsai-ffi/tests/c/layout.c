/* The layout that every compiler must agree on. Compiled as C99 and C11 and, through the same header, as C++17. */
#include "bonsai.h"

#if defined(__cplusplus)
#define SAME(name, condition) static_assert(condition, #name)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define SAME(name, condition) _Static_assert(condition, #name)
#else
#define SAME(name, condition) typedef char name[(condition) ? 1 : -1]
#endif

#define P sizeof(void *)

SAME(options_size, sizeof(bonsai_options) == 40 + 11 * P);
SAME(options_log_level, offsetof(bonsai_options, log_level) == 16);
SAME(options_isa, offsetof(bonsai_options, isa) == 40);
SAME(options_parallel, offsetof(bonsai_options, parallel_user_data) == 40 + 8 * P);
SAME(options_last, offsetof(bonsai_options, preview_decoder) == 40 + 10 * P);

SAME(request_size, sizeof(bonsai_request) == 56 + 4 * P);
SAME(request_seed, offsetof(bonsai_request, seed) == 8);
SAME(request_guidance, offsetof(bonsai_request, guidance) == 36);
SAME(request_tiling, offsetof(bonsai_request, vae_tiling) == 48);
SAME(request_prompt, offsetof(bonsai_request, prompt) == 56);
SAME(request_last, offsetof(bonsai_request, sigma_count) == 56 + 3 * P);

SAME(callbacks_size, sizeof(bonsai_callbacks) == 16 + 4 * P);
SAME(callbacks_progress, offsetof(bonsai_callbacks, progress) == 16);
SAME(callbacks_last, offsetof(bonsai_callbacks, user_data) == 16 + 3 * P);

SAME(progress_size, sizeof(bonsai_progress) == 48);
SAME(progress_fraction, offsetof(bonsai_progress, fraction) == 32);

SAME(view_size, sizeof(bonsai_image_view) == 48);
SAME(view_stride, offsetof(bonsai_image_view, stride_bytes) == 24);
SAME(view_data, offsetof(bonsai_image_view, data) == 40);

SAME(timings_size, sizeof(bonsai_timings) == 32);
SAME(estimated_size, sizeof(bonsai_estimated) == 64);
SAME(file_name, offsetof(bonsai_model_file, name) == 8);
SAME(reader_files, offsetof(bonsai_model_reader, files) == 8 + P);
SAME(reader_last, offsetof(bonsai_model_reader, user_data) == 8 + 4 * P);

int layouts_agree(void);
int layouts_agree(void) { return BONSAI_OK; }
