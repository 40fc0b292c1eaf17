#!/usr/bin/env bash
# Builds the extension into a copy of this project and runs it without a window.
# usage: build.sh GODOT PREFIX MODEL FOLDER [EXPECTED.png]    the engine's command, an installed Bonsai, a model, where to work
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: $0 GODOT PREFIX MODEL FOLDER [EXPECTED.png]" >&2; exit 2; }
godot=$1 prefix=$2 model=$3 folder=$4
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder/home" "$folder/project/.godot"
cd "$folder"
# the engine keeps settings there
export HOME=$folder/home
# shellcheck disable=SC2086
$godot --headless --dump-gdextension-interface >/dev/null
# the engine hands its functions out under one type
gcc -std=c11 -O2 -Wall -Wextra -Wno-cast-function-type -Werror -shared -fPIC -I. -I"$prefix/include" "$here/painter.c" "$prefix/lib/libbonsai.a" \
  -lgcc_s -lutil -lrt -lpthread -lm -ldl -Wl,--exclude-libs,ALL -o project/libbonsai_painter.so
cp "$here/main.gd" "$here/project.godot" "$here/bonsai.gdextension" project/
# so that no editor has to import the project first
echo res://bonsai.gdextension >project/.godot/extension_list.cfg
# shellcheck disable=SC2086
$godot --headless --path project --script main.gd -- "$model" "$folder/godot.png" ${5:+"$5"}
