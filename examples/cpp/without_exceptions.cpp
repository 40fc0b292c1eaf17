// The same for programs that are compiled without exceptions: what may fail returns a bonsai::Expected.
// usage: without_exceptions MODEL PROMPT OUTPUT.png [SEED]
#include <cstdio>
#include <cstdlib>

#include <bonsai.hpp>

static int failed(const bonsai::Error &error) {
    std::fprintf(stderr, "%s: %s\n", bonsai_status_name(error.status()), error.message().c_str());
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s MODEL PROMPT OUTPUT.png [SEED]\n", argv[0]);
        return 2;
    }
    const auto pipeline = bonsai::Pipeline::open(argv[1]);
    if (!pipeline) {
        return failed(pipeline.error());
    }
    const auto seed = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0;
    const auto pictures = pipeline.value().generate(bonsai::Request(argv[2]).seed(seed));
    if (!pictures) {
        return failed(pictures.error());
    }
    const auto png = pictures.value().png(0);
    if (!png) {
        return failed(png.error());
    }
    std::FILE *file = std::fopen(argv[3], "wb");
    const auto &bytes = png.value();
    const bool written = file != nullptr && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    if (file != nullptr) {
        std::fclose(file);
    }
    return written ? 0 : 1;
}
