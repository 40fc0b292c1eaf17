#!/usr/bin/env bash
# How long a cancel takes in each stage, from the request to the return: a measurement, so run it on a quiet machine. The aim
# is at most 250 ms everywhere.
# usage: tools/cancel-latency.sh MODEL [WIDTH HEIGHT [ROUNDS [TAEF2 [STAGE]]]]   512 512 and 8 rounds, when nothing is said;
#   TAEF2 "-" is none; STAGE measures only the lines whose names begin so: load, text, denoising, decoding, preview
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 MODEL [WIDTH HEIGHT [ROUNDS [TAEF2 [STAGE]]]]" >&2; exit 2; }
model=$(realpath "$1")
taef2=${5:--}
[ "$taef2" = - ] || taef2=$(realpath "$taef2")
cd "$(dirname "$0")/.."
work=$PWD/target/check-c
tools/install-c.sh "$work/prefix" >/dev/null
gcc -std=c99 -O2 -Iinclude bonsai-ffi/tests/c/latency.c -o "$work/latency" "$work/prefix/lib/libbonsai.a" -lgcc_s -lutil -lrt -lpthread -lm -ldl
"$work/latency" "$model" "${2:-512}" "${3:-512}" "${4:-8}" "$taef2" "${6:-}"
