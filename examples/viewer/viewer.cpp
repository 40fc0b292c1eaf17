// A window in which a picture comes into being: previews while it is painted, then the picture. Escape cancels.
// usage: viewer MODEL PROMPT [WIDTH HEIGHT [STEPS [SEED [SCREENSHOTS]]]]
// With SCREENSHOTS, a folder, each change of the window is saved there as a BMP file, and the window closes at the end.
#include <SDL.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <bonsai.hpp>

namespace {

// Pixels on their way from the thread that paints to the one that shows.
struct Frame {
    int width, height;
    std::vector<std::uint8_t> rgb;
    std::string caption;

    Frame(const bonsai::Image &image, std::string caption)
        : width(static_cast<int>(image.width)), height(static_cast<int>(image.height)),
          rgb(image.rgb.begin(), image.rgb.end()), caption(std::move(caption)) {}
};

class Easel {
public:
    void put(Frame frame) {
        const std::lock_guard<std::mutex> lock(mutex_);
        frame_ = std::move(frame);
    }
    std::optional<Frame> take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return std::exchange(frame_, std::nullopt);
    }
    // Whether a frame has not been shown yet.
    bool waiting() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return frame_.has_value();
    }

private:
    std::mutex mutex_;
    std::optional<Frame> frame_;
};

struct Shown {
    SDL_Window *window = nullptr;
    SDL_Renderer *renderer = nullptr;
    SDL_Texture *texture = nullptr;

    ~Shown() {
        SDL_DestroyTexture(texture);
        SDL_DestroyRenderer(renderer);
        SDL_DestroyWindow(window);
        SDL_Quit();
    }

    // Stretches a frame over the window.
    void show(const Frame &frame) {
        SDL_DestroyTexture(texture);
        texture = SDL_CreateTexture(renderer, SDL_PIXELFORMAT_RGB24, SDL_TEXTUREACCESS_STATIC, frame.width, frame.height);
        SDL_UpdateTexture(texture, nullptr, frame.rgb.data(), 3 * frame.width);
        SDL_SetWindowTitle(window, frame.caption.c_str());
        redraw();
    }

    void redraw() {
        SDL_RenderClear(renderer);
        if (texture != nullptr) {
            SDL_RenderCopy(renderer, texture, nullptr, nullptr);
        }
        SDL_RenderPresent(renderer);
    }

    // What is in the window, to a file.
    bool save(const std::string &path) {
        int width = 0, height = 0;
        SDL_GetRendererOutputSize(renderer, &width, &height);
        SDL_Surface *surface = SDL_CreateRGBSurfaceWithFormat(0, width, height, 24, SDL_PIXELFORMAT_RGB24);
        // what was presented need not be there any more
        SDL_RenderCopy(renderer, texture, nullptr, nullptr);
        const bool saved =
            surface != nullptr &&
            SDL_RenderReadPixels(renderer, nullptr, SDL_PIXELFORMAT_RGB24, surface->pixels, surface->pitch) == 0 &&
            SDL_SaveBMP(surface, path.c_str()) == 0;
        SDL_FreeSurface(surface);
        return saved;
    }
};

int failed(const std::string &what) {
    std::cerr << what << "\n";
    return 1;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        return failed(std::string("usage: ") + argv[0] + " MODEL PROMPT [WIDTH HEIGHT [STEPS [SEED [SCREENSHOTS]]]]");
    }
    const auto number = [&](int index, unsigned long otherwise) {
        return argc > index ? std::strtoul(argv[index], nullptr, 10) : otherwise;
    };
    const auto width = static_cast<std::uint32_t>(number(3, 512)), height = static_cast<std::uint32_t>(number(4, 512));
    const auto steps = static_cast<std::uint32_t>(number(5, 4));
    const std::string screenshots = argc > 7 ? argv[7] : "";
    const auto request = bonsai::Request(argv[2]).size(width, height).steps(steps).seed(number(6, 42));

    Shown shown;
    if (SDL_Init(SDL_INIT_VIDEO) != 0) {
        return failed(SDL_GetError());
    }
    shown.window = SDL_CreateWindow("loading", SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED, static_cast<int>(width),
                                    static_cast<int>(height), SDL_WINDOW_RESIZABLE);
    shown.renderer = SDL_CreateRenderer(shown.window, -1, SDL_RENDERER_SOFTWARE);
    if (shown.window == nullptr || shown.renderer == nullptr) {
        return failed(SDL_GetError());
    }

    Easel easel;
    bonsai::Cancel cancel;
    std::atomic<bool> over{false};
    std::string failure;
    std::thread painter([&] {
        try {
            const auto pipeline = bonsai::Pipeline::open(argv[1]);
            bonsai::Callbacks callbacks;
            callbacks.preview = [&](const bonsai::Preview &preview) {
                easel.put({preview.picture, "step " + std::to_string(preview.step + 1) + "/" + std::to_string(preview.steps)});
                // for the screenshots every preview must be seen, for people the last is enough
                while (!screenshots.empty() && easel.waiting() && !cancel.is_requested()) {
                    SDL_Delay(5);
                }
                return true;
            };
            const auto pictures = pipeline.generate(request, callbacks, &cancel);
            easel.put({pictures[0], argv[2]});
        } catch (const bonsai::Error &error) {
            failure = error.what();
        }
        over = true;
    });

    bool open = true;
    int frames = 0;
    while (open) {
        SDL_Event event;
        while (SDL_PollEvent(&event)) {
            const bool escape = event.type == SDL_KEYDOWN && event.key.keysym.sym == SDLK_ESCAPE;
            if (event.type == SDL_QUIT || escape) {
                open = false;
            } else if (event.type == SDL_WINDOWEVENT) {
                shown.redraw();
            }
        }
        const bool last = over;
        if (auto frame = easel.take()) {
            shown.show(*frame);
            const std::string path = screenshots + "/" + std::to_string(frames++) + ".bmp";
            if (!screenshots.empty() && !shown.save(path)) {
                failure = SDL_GetError();
                open = false;
            }
        } else if (last && (!screenshots.empty() || !failure.empty())) {
            open = false;
        }
        SDL_Delay(10);
    }
    cancel.request();
    painter.join();
    if (!failure.empty()) {
        return failed(failure);
    }
    std::cout << frames << " frames\n";
    return 0;
}
