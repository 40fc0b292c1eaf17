#!/bin/sh
# What `bonsai estimate` foretells beside what a process of its own then takes at most (VmHWM), for some models and
# sizes: a table in Markdown.
#
#   tools/memory-table.sh [-b BONSAI] [-s "SIZES"] [-t THREADS] MODEL...
#
# The table of docs/memory.md is that of
#
#   bonsai synth --preset bonsai-4b-binary --out M/binary
#   bonsai synth --preset bonsai-4b-ternary --out M/ternary
#   bonsai convert M/binary M/binary.safetensors
#   tools/memory-table.sh M/binary M/ternary M/binary.safetensors
#
# One step is painted: another one adds its modulations to the denoising stage, 17 rows as wide as the model (0.2 MB of
# the 4B model), and nothing to the others.
set -eu

bonsai=bonsai
sizes="256x256 512x512 768x768 1024x1024 1344x768"
threads=2
while getopts b:s:t: option; do
    case $option in
        b) bonsai=$OPTARG ;;
        s) sizes=$OPTARG ;;
        t) threads=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { echo "usage: $0 [-b BONSAI] [-s SIZES] [-t THREADS] MODEL..." >&2; exit 2; }

echo "| model | picture | strips | foretold (MB) | measured (MB) | off |"
echo "|---|---|---|---|---|---|"
for model in "$@"; do
    for size in $sizes; do
        set_of="-m $model --size $size --steps 1 -t $threads --json"
        # shellcheck disable=SC2086 # options, one word each
        told=$("$bonsai" estimate $set_of)
        # shellcheck disable=SC2086
        took=$("$bonsai" bench -q $set_of)
        strips=$(printf %s "$told" | sed 's/.*"strips":\([0-9]*\).*/\1/')
        foretold=$(printf %s "$told" | sed 's/.*\],"peak_bytes":\([0-9]*\).*/\1/')
        measured=$(printf %s "$took" | sed 's/.*"peak_rss_bytes":\([0-9]*\).*/\1/')
        awk -v m="${model##*/}" -v p="$size" -v s="$strips" -v f="$foretold" -v r="$measured" \
            'BEGIN { printf "| %s | %s | %d | %.1f | %.1f | %+.1f %% |\n", m, p, s, f / 1e6, r / 1e6, 100 * (f / r - 1) }'
    done
done
