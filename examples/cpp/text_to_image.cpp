// A picture from a prompt, in C++17, with progress as a lambda.
// usage: text_to_image MODEL PROMPT OUTPUT.png [SEED]
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include <bonsai.hpp>

int main(int argc, char **argv) {
    if (argc < 4) {
        std::cerr << "usage: " << argv[0] << " MODEL PROMPT OUTPUT.png [SEED]\n";
        return 2;
    }
    try {
        const auto pipeline = bonsai::Pipeline::open(argv[1]);
        bonsai::Callbacks callbacks;
        callbacks.progress = [](const bonsai_progress &progress) {
            std::fprintf(stderr, "\r%3.0f%%", 100 * progress.fraction);
            return true;
        };
        const auto seed = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0;
        const auto pictures = pipeline.generate(bonsai::Request(argv[2]).seed(seed), callbacks);
        const auto png = pictures.png(0);
        std::ofstream file(argv[3], std::ios::binary);
        file.write(reinterpret_cast<const char *>(png.data()), static_cast<std::streamsize>(png.size()));
        file.close();
        if (!file) {
            std::cerr << "\n" << argv[3] << ": could not be written\n";
            return 1;
        }
        std::cerr << "\n";
    } catch (const bonsai::Error &error) {
        std::cerr << "\n" << bonsai_status_name(error.status()) << ": " << error.what() << "\n";
        return 1;
    }
    return 0;
}
