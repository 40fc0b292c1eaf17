#!/usr/bin/env bash
# Builds the C library and installs it where C and C++ projects look: header, shared and static library, pkg-config file and
# CMake package. `cargo cinstall --profile capi -p bonsai-ffi` of cargo-c does the same without the version file for CMake and
# without stripping.
# usage: tools/install-c.sh PREFIX
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 PREFIX" >&2; exit 2; }
cd "$(dirname "$0")/.."
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
target=${CARGO_TARGET_DIR:-target}
# without the rlib that Rust code links, for which Cargo would leave out the optimisation of the whole
cargo rustc --profile capi -p bonsai-ffi --lib --crate-type cdylib --crate-type staticlib -- --print native-static-libs
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
fill() { sed -e "s|@PREFIX@|$prefix|g; s|@VERSION@|$version|g; s|@MAJOR_MINOR@|${version%.*}|g" "$1"; }

install -d "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/bonsai"
install -m 644 include/bonsai.h include/bonsai.hpp "$prefix/include/"
install -m 644 cmake/bonsai-config.cmake "$prefix/lib/cmake/bonsai/"
fill cmake/bonsai-config-version.cmake.in >"$prefix/lib/cmake/bonsai/bonsai-config-version.cmake"
fill cmake/bonsai.pc.in >"$prefix/lib/pkgconfig/bonsai.pc"
install -m 644 "$target/capi/libbonsai.a" "$prefix/lib/"
strip --strip-debug "$prefix/lib/libbonsai.a"
if [ -f "$target/capi/libbonsai.dylib" ]; then
  install -m 755 "$target/capi/libbonsai.dylib" "$prefix/lib/libbonsai.0.dylib"
  strip -x "$prefix/lib/libbonsai.0.dylib"
  ln -sf libbonsai.0.dylib "$prefix/lib/libbonsai.dylib"
else
  # the name in the library; the link is for the linker
  install -m 755 "$target/capi/libbonsai.so" "$prefix/lib/libbonsai.so.0"
  strip --strip-all "$prefix/lib/libbonsai.so.0"
  ln -sf libbonsai.so.0 "$prefix/lib/libbonsai.so"
fi
echo "installed $version in $prefix"
