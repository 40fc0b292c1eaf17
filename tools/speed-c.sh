#!/usr/bin/env bash
# What the profile `capi`, which makes the C library small, costs in speed: it and the profile `release` paint in turns, in
# one process. A measurement, so run it on a quiet machine. Below 1, the small library is the faster one.
# usage: tools/speed-c.sh [MODEL [WIDTH HEIGHT [STEPS [ROUNDS]]]]   bonsai-mini at 256 256, 4 steps and 9 rounds, when nothing is said
set -euo pipefail
model=$(realpath "${1:-$(dirname "$0")/../bonsai-mini/model}")
cd "$(dirname "$0")/.."
work=$PWD/target/check-c
tools/install-c.sh "$work/prefix" >/dev/null
cargo build --release -p bonsai-ffi --lib
gcc -std=c99 -O2 -Iinclude bonsai-ffi/tests/c/speed.c -o "$work/speed" -ldl
"$work/speed" "$work/prefix/lib/libbonsai.so.0" "${CARGO_TARGET_DIR:-target}/release/libbonsai.so" "$model" "${2:-256}" "${3:-256}" "${4:-4}" "${5:-9}"
