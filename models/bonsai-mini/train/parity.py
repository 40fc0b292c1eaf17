"""Pictures by diffusers' own Flux2KleinPipeline from an unpacked directory, in f32.

    python parity.py UNPACKED TO.png SEED WIDTH HEIGHT PROMPT
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline


def main(source, to, seed, width, height, prompt):
    side = json.loads((Path(source) / "bonsai.json").read_text())
    pipe = Flux2KleinPipeline.from_pretrained(source, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        prompt=prompt, width=int(width), height=int(height), num_inference_steps=side["steps"],
        generator=torch.Generator().manual_seed(int(seed)), text_encoder_out_layers=tuple(side["text_encoder_out_layers"]),
        max_sequence_length=side["max_sequence_length"],
    ).images[0]
    picture.save(to)


if __name__ == "__main__":
    main(*sys.argv[1:])
