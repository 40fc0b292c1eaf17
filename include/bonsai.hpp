/*
 * Bonsai for C++17: bonsai.h with owners, lambdas and errors that can't be overlooked. Header-only. Apache-2.0 OR MIT.
 *
 * What fails throws bonsai::Error. With BONSAI_NO_EXCEPTIONS defined it returns a bonsai::Expected instead, which holds the
 * value or the error; nothing is then thrown or caught here, and callbacks may not throw.
 *
 *     auto pipeline = bonsai::Pipeline::open("models/bonsai-image-4b-binary");
 *     auto pictures = pipeline.generate(bonsai::Request("a bonsai in a glass jar").size(512, 512).seed(42));
 *     save("bonsai.png", pictures.png(0));
 */
#ifndef BONSAI_HPP
#define BONSAI_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if __has_include(<span>) && defined(__cplusplus) && __cplusplus >= 202002L
#include <span>
#endif

#ifdef BONSAI_NO_EXCEPTIONS
#include <cstdlib>
#include <optional>
#else
#include <exception>
#include <stdexcept>
#endif

#include "bonsai.h"

namespace bonsai {

#if defined(__cpp_lib_span)
template <class T>
using Span = std::span<T>;
#else
/* As much of std::span, which C++17 lacks, as is needed here. */
template <class T>
class Span {
public:
    constexpr Span() = default;
    constexpr Span(T *data, std::size_t size) : data_(data), size_(size) {}
    constexpr T *data() const { return data_; }
    constexpr std::size_t size() const { return size_; }
    constexpr bool empty() const { return size_ == 0; }
    constexpr T *begin() const { return data_; }
    constexpr T *end() const { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/* Why something failed. */
class Error
#ifndef BONSAI_NO_EXCEPTIONS
    : public std::runtime_error
#endif
{
public:
    Error(bonsai_status status, std::string message, std::string stage = {}, std::string file = {}, std::int64_t offset = -1)
#ifndef BONSAI_NO_EXCEPTIONS
        : std::runtime_error(message),
#else
        :
#endif
          status_(status), message_(std::move(message)), stage_(std::move(stage)), file_(std::move(file)),
          offset_(offset) {
    }

    /* One of BONSAI_E_.... */
    bonsai_status status() const { return status_; }
    /* A sentence for people. */
    const std::string &message() const { return message_; }
    /* What was being done. */
    const std::string &stage() const { return stage_; }
    /* The file that it is about, or nothing. */
    const std::string &file() const { return file_; }
    /* The byte of that file, or -1. */
    std::int64_t offset() const { return offset_; }

private:
    bonsai_status status_;
    std::string message_, stage_, file_;
    std::int64_t offset_;
};

#ifdef BONSAI_NO_EXCEPTIONS
/* A value, or why there is none. Asking for the one that is not there ends the program. */
template <class T>
class [[nodiscard]] Expected {
public:
    Expected(T value) : value_(std::move(value)) {}
    Expected(Error error) : error_(std::move(error)) {}
    bool has_value() const { return value_.has_value(); }
    explicit operator bool() const { return has_value(); }
    T &value() & { return there(value_); }
    const T &value() const & { return there(value_); }
    T value() && { return std::move(there(value_)); }
    T &operator*() { return value(); }
    T *operator->() { return &value(); }
    const Error &error() const { return there(error_); }

private:
    template <class O>
    static auto there(O &optional) -> decltype(*optional) {
        if (!optional) {
            std::abort();
        }
        return *optional;
    }
    std::optional<T> value_;
    std::optional<Error> error_;
};
template <class T>
using Result = Expected<T>;
#else
template <class T>
using Result = T;
#endif

namespace detail {

struct Free {
    void operator()(bonsai_pipeline *p) const { bonsai_pipeline_free(p); }
    void operator()(bonsai_result *p) const { bonsai_result_free(p); }
    void operator()(bonsai_error *p) const { bonsai_error_free(p); }
    void operator()(bonsai_cancel *p) const { bonsai_cancel_free(p); }
};
template <class T>
using Owner = std::unique_ptr<T, Free>;

inline Error error_of(bonsai_status status, bonsai_error *raw) {
    const Owner<bonsai_error> error(raw);
    const auto text = [](const char *text) { return std::string(text != nullptr ? text : ""); };
    if (!error) {
        return Error(status, bonsai_status_name(status));
    }
    return Error(status, text(bonsai_error_message(raw)), text(bonsai_error_stage(raw)), text(bonsai_error_file(raw)),
                 bonsai_error_offset(raw));
}

template <class T>
Result<T> failed(bonsai_status status, bonsai_error *raw) {
#ifdef BONSAI_NO_EXCEPTIONS
    return Result<T>(error_of(status, raw));
#else
    throw error_of(status, raw);
#endif
}

/* Bytes or text of a function that tells their length first. */
template <class T, class Call>
Result<T> fetched(std::size_t extra, Call call) {
    std::size_t length = 0;
    bonsai_error *error = nullptr;
    bonsai_status status = call(static_cast<typename T::value_type *>(nullptr), std::size_t(0), &length, &error);
    if (status != BONSAI_OK) {
        return failed<T>(status, error);
    }
    T bytes(length + extra, typename T::value_type());
    status = call(bytes.data(), bytes.size(), &length, &error);
    if (status != BONSAI_OK) {
        return failed<T>(status, error);
    }
    bytes.resize(length);
    return bytes;
}

} /* namespace detail */

/* How a pipeline runs: the fields of `raw`, which must outlive the call that takes it. */
struct Options {
    bonsai_options raw;
    Options() { bonsai_options_init(&raw, sizeof raw); }
    Options &max_memory_bytes(std::uint64_t bytes) { return raw.max_memory_bytes = bytes, *this; }
    Options &threads(std::uint32_t threads) { return raw.threads = threads, *this; }
    /* The host's own threads, and where large buffers come from; what they are called with is yours. */
    Options &parallel_for(bonsai_parallel_for_fn function, std::uint32_t threads, void *user_data) {
        raw.parallel_for = function, raw.parallel_threads = threads, raw.parallel_user_data = user_data;
        return *this;
    }
    Options &memory(bonsai_alloc_fn alloc, bonsai_dealloc_fn dealloc, void *user_data) {
        raw.alloc = alloc, raw.dealloc = dealloc, raw.alloc_user_data = user_data;
        return *this;
    }
    Options &max_concurrent_runs(std::uint32_t runs) { return raw.max_concurrent_runs = runs, *this; }
    /* Names that live as long as this. */
    Options &precision(const char *name) { return raw.precision = name, *this; }
    Options &isa(const char *name) { return raw.isa = name, *this; }
    Options &preview_decoder(const char *path) { return raw.preview_decoder = path, *this; }
    /* Cancel::get of a token that ends the opening. */
    Options &cancel(const bonsai_cancel *token) { return raw.cancel = token, *this; }
};

/* What to paint. */
class Request {
public:
    explicit Request(std::string prompt) : prompt_(std::move(prompt)) { bonsai_request_init(&raw_, sizeof raw_); }
    Request &size(std::uint32_t width, std::uint32_t height) { return raw_.width = width, raw_.height = height, *this; }
    Request &seed(std::uint64_t seed) { return raw_.seed = seed, *this; }
    Request &steps(std::uint32_t steps) { return raw_.steps = steps, *this; }
    Request &image_count(std::uint32_t count) { return raw_.image_count = count, *this; }
    Request &guidance(float guidance) { return raw_.guidance = guidance, *this; }
    Request &vae_tiling(bool tiling) { return raw_.vae_tiling = tiling, *this; }
    Request &keep_float(bool keep) { return raw_.keep_float = keep, *this; }
    Request &timeout_ms(std::uint32_t limit) { return raw_.timeout_ms = limit, *this; }
    /* All the fields, for those without a function here. The prompt of this copy is that of the request. */
    bonsai_request raw() const {
        bonsai_request raw = raw_;
        raw.prompt = prompt_.data();
        raw.prompt_length = prompt_.size();
        return raw;
    }
    bonsai_request &fields() { return raw_; }

private:
    std::string prompt_;
    bonsai_request raw_;
};

/* A flag that ends runs from any thread. Copies share the flag. */
class Cancel {
public:
    Cancel() {
        bonsai_cancel *made = nullptr;
        bonsai_cancel_new(&made, nullptr);
        token_.reset(made);
    }
    Cancel(const Cancel &other) : token_(other.token_.get()) { bonsai_cancel_retain(token_.get()); }
    Cancel(Cancel &&) = default;
    Cancel &operator=(Cancel other) { return std::swap(token_, other.token_), *this; }
    void request() const { bonsai_cancel_request(token_.get(), BONSAI_CANCEL_NOW); }
    void request_after_current_image() const {
        bonsai_cancel_request(token_.get(), BONSAI_CANCEL_AFTER_CURRENT_IMAGE);
    }
    bool is_requested() const { return bonsai_cancel_is_requested(token_.get()) == 1; }
    void reset() const { bonsai_cancel_reset(token_.get()); }
    const bonsai_cancel *get() const { return token_.get(); }

private:
    detail::Owner<bonsai_cancel> token_;
};

/* A picture that somebody else owns: red, green, blue bytes, rows from the top. */
struct Image {
    std::uint32_t width = 0, height = 0;
    std::size_t stride_bytes = 0;
    Span<const std::uint8_t> rgb;

    explicit Image(const bonsai_image_view &view)
        : width(view.width), height(view.height), stride_bytes(static_cast<std::size_t>(view.stride_bytes)),
          rgb(view.data, static_cast<std::size_t>(view.length)) {}
};

/* A rough picture on the way. */
struct Preview {
    Image picture;
    std::uint32_t image, step, steps;
};

/* Who watches a run. true goes on, false ends it. What they throw ends the run too, and comes out of generate. */
struct Callbacks {
    std::function<bool(const bonsai_progress &)> progress;
    std::function<bool(const Preview &)> preview;
    std::function<void(int level, std::string_view target, std::string_view message)> log;
    std::uint32_t preview_interval = 1;
    std::int32_t log_level = BONSAI_LOG_WARN;
};

/* Finished pictures. */
class Pictures {
public:
    Pictures() = default;
    explicit Pictures(bonsai_result *owned) : result_(owned) {}

    std::size_t size() const {
        std::size_t count = 0;
        bonsai_result_image_count(result_.get(), &count);
        return count;
    }

    /* Picture `index`, valid as long as this. */
    Result<Image> operator[](std::size_t index) const {
        bonsai_image_view view = {};
        view.struct_size = sizeof view;
        bonsai_error *error = nullptr;
        const bonsai_status status = bonsai_result_image_view(result_.get(), index, &view, &error);
        return status == BONSAI_OK ? Result<Image>(Image(view)) : detail::failed<Image>(status, error);
    }

    /* Picture `index` as a PNG file. */
    Result<std::vector<std::uint8_t>> png(std::size_t index, bool metadata = true) const {
        const std::uint32_t flags = metadata ? 0 : BONSAI_PNG_NO_METADATA;
        return detail::fetched<std::vector<std::uint8_t>>(0, [&](auto *to, auto size, auto *length, auto **error) {
            return bonsai_result_encode_png(result_.get(), index, flags, to, size, length, error);
        });
    }

    /* Picture `index` in a format of BONSAI_FORMAT_..., rows without gaps. */
    Result<std::vector<std::uint8_t>> copy(std::size_t index, std::int32_t format) const {
        return detail::fetched<std::vector<std::uint8_t>>(0, [&](auto *to, auto size, auto *length, auto **error) {
            return bonsai_result_image_copy(result_.get(), index, format, to, size, 0, length, error);
        });
    }

    /* All that it takes to paint picture `index` again, as JSON. */
    Result<std::string> metadata_json(std::size_t index) const {
        return detail::fetched<std::string>(1, [&](auto *to, auto size, auto *length, auto **error) {
            return bonsai_result_metadata_json(result_.get(), index, to, size, length, error);
        });
    }

    Result<bonsai_timings> timings(std::size_t index) const {
        bonsai_timings timings = {};
        timings.struct_size = sizeof timings;
        bonsai_error *error = nullptr;
        const bonsai_status status = bonsai_result_timings(result_.get(), index, &timings, &error);
        return status == BONSAI_OK ? Result<bonsai_timings>(timings) : detail::failed<bonsai_timings>(status, error);
    }

private:
    detail::Owner<bonsai_result> result_;
};

/* A loaded model. Threads may share one. */
class Pipeline {
public:
    /* Opens a model directory; the path is UTF-8. */
    static Result<Pipeline> open(std::string_view directory, const Options &options = Options()) {
        bonsai_pipeline *made = nullptr;
        bonsai_error *error = nullptr;
        const bonsai_status status =
            bonsai_pipeline_open(directory.data(), directory.size(), &options.raw, &made, &error);
        return status == BONSAI_OK ? Result<Pipeline>(Pipeline(made)) : detail::failed<Pipeline>(status, error);
    }

    /* Opens a model that the host keeps. */
    static Result<Pipeline> open(const bonsai_model_reader &reader, const Options &options = Options()) {
        bonsai_pipeline *made = nullptr;
        bonsai_error *error = nullptr;
        const bonsai_status status = bonsai_pipeline_open_reader(&reader, &options.raw, &made, &error);
        return status == BONSAI_OK ? Result<Pipeline>(Pipeline(made)) : detail::failed<Pipeline>(status, error);
    }

    /* What the model is, as JSON. */
    Result<std::string> info() const {
        return detail::fetched<std::string>(1, [&](auto *to, auto size, auto *length, auto **error) {
            return bonsai_pipeline_info(pipeline_.get(), to, size, length, error);
        });
    }

    /* What a request will take. */
    Result<bonsai_estimated> estimate(const Request &request) const {
        bonsai_estimated estimated = {};
        estimated.struct_size = sizeof estimated;
        const bonsai_request wanted = request.raw();
        bonsai_error *error = nullptr;
        const bonsai_status status = bonsai_estimate(pipeline_.get(), &wanted, &estimated, &error);
        return status == BONSAI_OK ? Result<bonsai_estimated>(estimated) : detail::failed<bonsai_estimated>(status, error);
    }

    /* Paints. When a run ends early, `finished` receives the pictures that were done by then. */
    Result<Pictures> generate(const Request &request, const Callbacks &callbacks = {}, const Cancel *cancel = nullptr,
                              Pictures *finished = nullptr) const {
        Watch watch{callbacks};
        bonsai_callbacks raw;
        bonsai_callbacks_init(&raw, sizeof raw);
        raw.preview_interval = callbacks.preview_interval;
        raw.log_level = callbacks.log_level;
        raw.progress = callbacks.progress ? &Watch::progress : nullptr;
        raw.preview = callbacks.preview ? &Watch::preview : nullptr;
        raw.log = callbacks.log ? &Watch::log : nullptr;
        raw.user_data = &watch;
        const bonsai_request wanted = request.raw();
        bonsai_result *made = nullptr;
        bonsai_error *error = nullptr;
        const bonsai_status status = bonsai_generate(
            pipeline_.get(), &wanted, &raw, cancel != nullptr ? cancel->get() : nullptr, &made, &error);
        Pictures pictures(made);
        if (status == BONSAI_OK) {
            return pictures;
        }
        if (finished != nullptr) {
            *finished = std::move(pictures);
        }
#ifndef BONSAI_NO_EXCEPTIONS
        if (watch.thrown) {
            bonsai_error_free(error);
            std::rethrow_exception(watch.thrown);
        }
#endif
        return detail::failed<Pictures>(status, error);
    }

    const bonsai_pipeline *get() const { return pipeline_.get(); }

private:
    explicit Pipeline(bonsai_pipeline *owned) : pipeline_(owned) {}

    /* From C's callbacks to lambdas: nothing may be thrown through the library. */
    struct Watch {
        const Callbacks &callbacks;
#ifndef BONSAI_NO_EXCEPTIONS
        std::exception_ptr thrown = nullptr;
        template <class Body>
        std::int32_t answer(Body body) {
            try {
                return body() ? 0 : 1;
            } catch (...) {
                thrown = std::current_exception();
                return -1;
            }
        }
#else
        template <class Body>
        std::int32_t answer(Body body) {
            return body() ? 0 : 1;
        }
#endif
        static std::int32_t progress(void *user, const bonsai_progress *progress) {
            auto &watch = *static_cast<Watch *>(user);
            return watch.answer([&] { return watch.callbacks.progress(*progress); });
        }
        static std::int32_t preview(void *user, const bonsai_image_view *view, std::uint32_t image, std::uint32_t step,
                                    std::uint32_t steps) {
            auto &watch = *static_cast<Watch *>(user);
            return watch.answer([&] { return watch.callbacks.preview(Preview{Image(*view), image, step, steps}); });
        }
        static void log(void *user, std::int32_t level, const char *target, const char *message) {
            auto &watch = *static_cast<Watch *>(user);
            watch.answer([&] { return watch.callbacks.log(level, target, message), true; });
        }
    };

    detail::Owner<bonsai_pipeline> pipeline_;
};

} /* namespace bonsai */

#endif
