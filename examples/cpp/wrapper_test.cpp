// What bonsai.hpp promises beyond the C interface: owners, errors, lambdas that throw, tokens that are shared.
#include <cstdlib>
#include <iostream>
#include <new>
#include <stdexcept>
#include <thread>

#include <bonsai.hpp>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            std::cerr << __FILE__ << ":" << __LINE__ << ": not so: " #condition "\n"; \
            std::exit(1);                                                             \
        }                                                                             \
    } while (0)

template <class Exception, class Body>
static Exception thrown_by(Body body) {
    try {
        body();
    } catch (const Exception &exception) {
        return exception;
    }
    std::cerr << "nothing was thrown\n";
    std::exit(1);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const auto missing = thrown_by<bonsai::Error>([] { bonsai::Pipeline::open("no such model"); });
    CHECK(missing.status() == BONSAI_E_NOT_FOUND && missing.stage() == "open" && missing.offset() == -1);
    CHECK(std::string(missing.what()).find("no such model") != std::string::npos);

    // threads and memory of the host's
    int taken = 0;
    const auto one_by_one = [](void *, std::size_t count, void (*body)(void *, std::size_t), void *context) {
        for (std::size_t index = 0; index < count; index++) {
            body(context, index);
        }
    };
    const auto take = [](void *user, std::size_t size, std::size_t alignment) -> void * {
        ++*static_cast<int *>(user);
        return ::operator new(size, std::align_val_t(alignment), std::nothrow);
    };
    const auto give_back = [](void *user, void *pointer, std::size_t, std::size_t alignment) {
        --*static_cast<int *>(user);
        ::operator delete(pointer, std::align_val_t(alignment));
    };
    {
        const auto options = bonsai::Options().parallel_for(one_by_one, 1, nullptr).memory(take, give_back, &taken);
        const auto hosted = bonsai::Pipeline::open(argv[1], options);
        CHECK(hosted.generate(bonsai::Request("a tree").size(32, 32).steps(1)).size() == 1 && taken > 0);
    }
    CHECK(taken == 0);

    auto opened = bonsai::Pipeline::open(argv[1], bonsai::Options().threads(2));
    const bonsai::Pipeline pipeline = std::move(opened);
    CHECK(pipeline.info().front() == '{' && pipeline.info().back() == '}');
    auto request = bonsai::Request("a tree").size(64, 48).steps(3).seed(1).image_count(2);

    CHECK(pipeline.estimate(request).peak_bytes > 0);
    bonsai::Callbacks callbacks;
    int previews = 0;
    double fraction = 0;
    callbacks.preview = [&](const bonsai::Preview &preview) {
        CHECK(preview.picture.width == 8 && preview.picture.height == 6 && preview.picture.rgb.size() == 8 * 6 * 3);
        return ++previews, true;
    };
    callbacks.preview_interval = 2;
    callbacks.progress = [&](const bonsai_progress &progress) { return fraction = progress.fraction, true; };
    const auto pictures = pipeline.generate(request, callbacks);
    CHECK(previews == 4 && fraction == 1 && pictures.size() == 2);
    const bonsai::Image image = pictures[1];
    CHECK(image.width == 64 && image.height == 48 && image.rgb.size() == 64 * 48 * 3);
    CHECK(pictures.copy(1, BONSAI_FORMAT_RGBA8).size() == 64 * 48 * 4);
    CHECK(pictures.metadata_json(1).find("\"seed\":2") != std::string::npos);
    CHECK(pictures.png(0).size() > pictures.png(0, false).size());
    CHECK(pictures.timings(0).steps == 3);
    CHECK(thrown_by<bonsai::Error>([&] { (void)pictures[2]; }).status() == BONSAI_E_INVALID_ARG);

    // what a lambda throws comes out where it was called from
    bonsai::Callbacks throwing;
    throwing.progress = [](const bonsai_progress &) -> bool { throw std::logic_error("from a lambda"); };
    CHECK(std::string(thrown_by<std::logic_error>([&] { pipeline.generate(request, throwing); }).what()) ==
          "from a lambda");

    // a shared token, from another thread, and what was finished before it
    bonsai::Cancel cancel;
    bonsai::Pictures finished;
    bonsai::Callbacks cancelling;
    cancelling.progress = [&](const bonsai_progress &progress) {
        if (progress.stage == BONSAI_STAGE_DONE) {
            std::thread([shared = cancel] { shared.request(); }).join();
        }
        return true;
    };
    const auto cancelled =
        thrown_by<bonsai::Error>([&] { pipeline.generate(request, cancelling, &cancel, &finished); });
    CHECK(cancelled.status() == BONSAI_E_CANCELLED && cancel.is_requested() && finished.size() == 1);
    CHECK(finished.png(0) == pictures.png(0));
    cancel.reset();
    CHECK(!cancel.is_requested());
    std::cout << "wrapper: as promised\n";
    return 0;
}
