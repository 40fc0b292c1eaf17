"""Unpacks a shipped directory into one that diffusers' Flux2KleinPipeline loads, value for value.

    python unpack.py FROM TO

Every triplet (words, scales, biases) becomes scale * code + bias in f32, which no rounding touches for 1 and 2 bits and where 4-bit
values would not fit half precision; half-precision tensors are widened to f32.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import export


def unpack(tensors, group):
    """`group` inputs share a scale; the words per scale then tell the bits of a code."""
    out = {}
    for name, w in tensors.items():
        base = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" not in tensors or name == base:
            out[name] = w.float() if w.is_floating_point() else w
            continue
        scales, biases = (tensors[f"{base}.{k}"].float() for k in ("scales", "biases"))
        bits = w.shape[1] * 32 // (scales.shape[1] * group)
        shifts = torch.arange(32 // bits) * bits
        codes = ((w.view(torch.int32).long() & 0xFFFFFFFF)[..., None] >> shifts) & ((1 << bits) - 1)
        codes = codes.view(w.shape[0], -1, group).float()
        out[name] = (scales[..., None] * codes + biases[..., None]).view(w.shape[0], -1)
    return out


def main(source, to):
    source, to = Path(source), Path(to)
    for f in source.rglob("*"):
        target = to / f.relative_to(source)
        if f.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if f.suffix != ".safetensors":
            shutil.copy(f, target)
            continue
        tensors = unpack(load_file(f), export.model.TEXT_GROUP if f.parent.name == "text_encoder" else export.model.GROUP)
        if f.parent.name == "text_encoder":
            export.add_unused(tensors)
        save_file(tensors, target, {"format": "pt"})
    config = to / "text_encoder/config.json"
    body = json.loads(config.read_text())
    body["torch_dtype"] = "float32"
    config.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
