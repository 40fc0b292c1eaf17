#!/usr/bin/env bash
# The C interface as its users meet it: installed, found by CMake and pkg-config, painting what the command paints, leaving
# nothing behind under sanitizers. A check that could not run says so; the last line counts them.
# usage: tools/check-c.sh [quick]   quick leaves out cargo cinstall and the sanitizers
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
work=$PWD/target/check-c
prefix=$work/prefix
model=$PWD/golden/model
skipped=()
skip() { printf 'SKIPPED: %s\n' "$*"; skipped+=("$*"); }
has() { command -v "$1" >/dev/null; }
strict="-g -Wall -Wextra -Werror -pedantic -Iinclude"
system="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"
mkdir -p "$work"

if ! has gcc; then skip "the C interface: no gcc"; exit 0; fi
rm -rf "$prefix"
tools/install-c.sh "$prefix" 2>&1 | tee "$work/install.log"

echo "-- only bonsai_ symbols are exported, and the library is small"
others=$(nm -D --defined-only "$prefix/lib/libbonsai.so.0" | awk '{print $3}' | grep -v '^bonsai_' || true)
[ -z "$others" ] || { echo "exported as well: $others"; exit 1; }
exported=$(nm -D --defined-only "$prefix/lib/libbonsai.so.0" | awk '{print $3}' | sort)
declared=$(grep -o '\bbonsai_[a-z0-9_]*(' include/bonsai.h | tr -d '(' | grep -v '^bonsai_test_' | sort -u)
[ "$exported" = "$declared" ] || { echo "exported and declared differ"; diff <(echo "$exported") <(echo "$declared"); exit 1; }
readelf -d "$prefix/lib/libbonsai.so.0" | grep -q 'SONAME.*\[libbonsai.so.0\]' || { echo "soname"; exit 1; }
bytes=$(stat -c %s "$prefix/lib/libbonsai.so.0")
echo "libbonsai.so.0: $(echo "$exported" | wc -l) functions, $bytes bytes"
[ "$bytes" -le 6000000 ] || { echo "expected at most 6,000,000 bytes"; exit 1; }
# what a static link needs, as the compiler says it
needed=$(sed -n 's/.*native-static-libs: //p' "$work/install.log" | tail -1)
[ "$(uname -s)" != Linux ] || [ "$needed" = "$system" ] || { echo "a static link needs $needed, expected $system"; exit 1; }

echo "-- every example paints what the command paints"
cargo build --release -q -p bonsai-cli
"$target/release/bonsai" generate -q -m "$model" -s 7 -o "$work/command.png" "a tree" >/dev/null
same() { cmp "$work/command.png" "$1" && echo "same bytes: $2"; }
if has pkg-config; then
  export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
  # shellcheck disable=SC2046
  gcc -std=c99 $strict examples/c/text_to_image.c -o "$work/text_to_image" $(pkg-config --cflags --libs bonsai) -Wl,-rpath,"$prefix/lib"
  "$work/text_to_image" "$model" "a tree" "$work/c.png" 7 2>/dev/null
  same "$work/c.png" "C, through pkg-config"
  # shellcheck disable=SC2046
  gcc -std=c99 $strict examples/c/text_to_image.c -o "$work/text_to_image_static" "$prefix/lib/libbonsai.a" $(pkg-config --static --libs-only-other --libs-only-l bonsai | sed 's/-lbonsai//')
  "$work/text_to_image_static" "$model" "a tree" "$work/c_static.png" 7 2>/dev/null
  same "$work/c_static.png" "C, linked statically"
  # shellcheck disable=SC2046
  gcc -std=c99 $strict examples/c/cancel_from_thread.c -o "$work/cancel_from_thread" $(pkg-config --cflags --libs bonsai) -lpthread -Wl,-rpath,"$prefix/lib"
  "$work/cancel_from_thread" "$model"
else
  skip "pkg-config: not on this machine"
fi
if has cmake; then
  cmake -S examples/cpp -B "$work/cpp" -DCMAKE_PREFIX_PATH="$prefix" -DMODEL="$model" >/dev/null
  cmake --build "$work/cpp" >/dev/null
  (cd "$work/cpp" && ctest --output-on-failure | tail -8)
  same "$work/cpp/text_to_image.png" "C++, through find_package"
  same "$work/cpp/without_exceptions.png" "C++ without exceptions"
else
  skip "the CMake package: no cmake"
fi
if has python3; then
  python3 examples/python/text_to_image.py "$prefix/lib/libbonsai.so.0" "$model" "a tree" "$work/python.png" 7
  same "$work/python.png" "Python, through ctypes"
else
  skip "the Python script: no python3"
fi
if has cmake && has Xvfb && pkg-config --exists sdl2 2>/dev/null; then
  cmake -S examples/viewer -B "$work/viewer" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
  cmake --build "$work/viewer" >/dev/null
  rm -rf "$work/screenshots"
  mkdir "$work/screenshots"
  LD_LIBRARY_PATH=$prefix/lib timeout 120 xvfb-run -a "$work/viewer/viewer" "$model" "a tree" 96 64 4 7 "$work/screenshots"
  [ "$(find "$work/screenshots" -name '*.bmp' | wc -l)" = 5 ] || { echo "expected 4 previews and a picture"; exit 1; }
else
  skip "the viewer: no SDL2 (libsdl2-dev) or no Xvfb"
fi
# the engine is a download of 150 MB that is kept: CI_GODOT_DIR names a folder for it
godot=${CI_GODOT_DIR:-$PWD/target/godot}
if [ -x "$godot/run" ] || timeout 600 tools/debian-suite.sh "$godot" forky godot >"$work/godot.log" 2>&1; then
  timeout 120 examples/godot/build.sh "$godot/run godot" "$prefix" "$model" "$work/godot" "$work/command.png" >"$work/godot.log" 2>&1 || { cat "$work/godot.log"; exit 1; }
  tail -1 "$work/godot.log"
else
  tail -3 "$work/godot.log"
  skip "Godot: the engine could not be had"
fi

echo "-- every program, as strictly as compilers can"
for compiler in gcc clang; do
  has $compiler || { skip "$compiler: not on this machine"; continue; }
  for source in bonsai-ffi/tests/c/*.c examples/c/*.c; do
    for standard in c99 c11; do $compiler -std=$standard $strict -fsyntax-only "$source"; done
  done
done
for compiler in g++ clang++; do
  has $compiler || { skip "$compiler: not on this machine"; continue; }
  for standard in c++17 c++20; do
    $compiler -std=$standard $strict -fsyntax-only -x c++ bonsai-ffi/tests/c/layout.c
    for source in text_to_image wrapper_test; do $compiler -std=$standard $strict -fsyntax-only examples/cpp/$source.cpp; done
    $compiler -std=$standard $strict -fsyntax-only -fno-exceptions -DBONSAI_NO_EXCEPTIONS examples/cpp/without_exceptions.cpp
  done
done

if [ "${1:-}" = quick ]; then printf '%s checks skipped\n' "${#skipped[@]}"; exit 0; fi

echo "-- cargo cinstall installs the same"
# slow, as cargo-c compiles everything once more: its flags differ
if has cargo-cinstall && has pkg-config; then
  rm -rf "$work/cargo-c"
  CARGO_TARGET_DIR=$target/cargo-c cargo cinstall -q --locked --profile capi -p bonsai-ffi --prefix "$work/cargo-c" --libdir lib
  library=$work/cargo-c/lib/libbonsai.so.0
  for file in bonsai.h bonsai.hpp; do cmp "include/$file" "$work/cargo-c/include/$file"; done
  readelf -d "$library" | grep -q 'SONAME.*\[libbonsai.so.0\]' || { echo "soname of cargo cinstall"; exit 1; }
  [ "$exported" = "$(nm -D --defined-only "$library" | awk '{print $3}' | sort)" ] || { echo "cargo cinstall exports other names"; exit 1; }
  [ -f "$work/cargo-c/lib/libbonsai.a" ] && [ -f "$work/cargo-c/share/cmake/bonsai/bonsai-config.cmake" ] || { echo "files that cargo cinstall leaves out"; exit 1; }
  # shellcheck disable=SC2046
  gcc -std=c99 $strict examples/c/text_to_image.c -o "$work/text_to_image_cargo_c" $(PKG_CONFIG_PATH=$work/cargo-c/lib/pkgconfig pkg-config --cflags --libs bonsai) -Wl,-rpath,"$work/cargo-c/lib"
  "$work/text_to_image_cargo_c" "$model" "a tree" "$work/cargo_c.png" 7 2>/dev/null
  same "$work/cargo_c.png" "C, installed by cargo cinstall"
  if has cmake; then
    cmake -S examples/cpp -B "$work/cpp-cargo-c" -DCMAKE_PREFIX_PATH="$work/cargo-c" -DMODEL="$model" >/dev/null
    cmake --build "$work/cpp-cargo-c" --target text_to_image >/dev/null
    "$work/cpp-cargo-c/text_to_image" "$model" "a tree" "$work/cargo_c_cpp.png" 7 2>/dev/null >&2
    same "$work/cargo_c_cpp.png" "C++, installed by cargo cinstall"
  fi
else
  skip "cargo cinstall: cargo-c or pkg-config is not on this machine"
fi
began=$SECONDS

programs="table together stress host preview"
build() { # build FLAGS LIBRARY SUFFIX
  for program in $programs; do
    # shellcheck disable=SC2086
    gcc -std=c99 $strict $1 "bonsai-ffi/tests/c/$program.c" -o "$work/$program-$3" "$2" $system
  done
  for program in text_to_image cancel_from_thread; do
    # shellcheck disable=SC2086
    gcc -std=c99 $strict $1 "examples/c/$program.c" -o "$work/$program-$3" "$2" $system
  done
}
# shellcheck disable=SC2046
run_all() { # run_all SUFFIX CANCELS CYCLES [RUNNER...]
  local suffix=$1 cancels=$2 cycles=$3
  shift 3
  timeout 240 "$@" "$work/text_to_image-$suffix" "$model" "a tree" "$work/$suffix.png" 7 2>/dev/null
  same "$work/$suffix.png" "C, $suffix"
  timeout 240 "$@" "$work/cancel_from_thread-$suffix" "$model"
  timeout 240 "$@" "$work/table-$suffix" "$model"
  timeout 240 "$@" "$work/together-$suffix" "$model"
  timeout 240 "$@" "$work/stress-$suffix" "$model" "$cancels" "$cycles"
  timeout 240 "$@" "$work/preview-$suffix" "$model" bonsai-core/tests/fixtures/taef2_decoder.pth
  timeout 240 "$@" "$work/host-$suffix" "$model" "$work/small.png" $(cd "$model" && find . -type f | sed 's|^\./||')
}
"$target/release/bonsai" generate -q -m "$model" -s 7 --size 64x48 --steps 2 -o "$work/small.png" "a tree" >/dev/null

echo "-- C programs under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer"
build "-fsanitize=address,undefined -fno-sanitize-recover=all" "$prefix/lib/libbonsai.a" asan
ASAN_OPTIONS=detect_leaks=1 run_all asan 300 50

if has valgrind; then
  echo "-- and under valgrind (which has no AVX-512)"
  build "" "$prefix/lib/libbonsai.a" plain
  checked="timeout 300 valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite"
  # valgrind is 50 times slower
  $checked "$work/stress-plain" "$model" 5 3
  $checked "$work/table-plain" "$model"
else
  skip "valgrind: not on this machine"
fi

echo "-- ten thousand cancels at random times, a thousand pictures"
# shellcheck disable=SC2086
gcc -std=c99 $strict -O2 bonsai-ffi/tests/c/stress.c -o "$work/stress" "$prefix/lib/libbonsai.a" $system
timeout 500 "$work/stress" "$model" 10000 1000

echo "sanitizers, valgrind and stress took $((SECONDS - began)) s of at most 600"
printf '%s checks skipped\n' "${#skipped[@]}"
