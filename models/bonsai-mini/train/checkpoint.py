"""The checkpoint that is kept beside the scripts, so that training can go on elsewhere.

    python checkpoint.py save NAME      RUN/NAME.pt, the autoencoder and RUN/tokenizer.json -> ../checkpoint, without optimizer state
    python checkpoint.py restore NAME   and back

The transformer's and the text encoder's matrices are kept as 8-bit integers with a scale per row, all else in half precision:
no matter for weights that go on training.
A restored checkpoint serves `--from NAME`: the optimizer begins anew, so give it a few dozen steps of warm-up.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vae
from settings import RUN

HOME = Path(__file__).resolve().parent.parent / "checkpoint"
FLOW, VAE, TOKENIZER = HOME / "flow.safetensors", HOME / "vae.safetensors", HOME / "tokenizer.json"


def save(name):
    state, tensors = torch.load(RUN / f"{name}.pt"), {}
    for part in ("net", "text"):
        for n, w in state[part].items():
            if w.ndim == 2:
                scale = w.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
                tensors[f"{part}.{n}"] = (w / scale).round().to(torch.int8)
                tensors[f"{part}.{n}:scale"] = scale.contiguous()
            else:
                tensors[f"{part}.{n}"] = w.half().contiguous()
    HOME.mkdir(exist_ok=True)
    save_file(tensors, FLOW, {"kind": state["kind"], "step": str(state["step"])})
    weights = vae.load().state_dict()
    save_file({n: w.half().contiguous() if w.is_floating_point() else w for n, w in weights.items()}, VAE)
    shutil.copy(RUN / "tokenizer.json", TOKENIZER)
    for file in (FLOW, VAE):
        file.chmod(0o644)
        print(file, file.stat().st_size, "bytes")


def restore(name):
    RUN.mkdir(parents=True, exist_ok=True)
    with safe_open(FLOW, "pt") as f:
        meta = f.metadata()
    state, tensors = {"kind": meta["kind"], "step": int(meta["step"]), "net": {}, "text": {}}, load_file(FLOW)
    for key, w in tensors.items():
        part, _, n = key.partition(".")
        if not n.endswith(":scale"):
            state[part][n] = w.float() * tensors.get(f"{key}:scale", torch.ones(1))
    torch.save(state, RUN / f"{name}.pt")
    shutil.copy(TOKENIZER, RUN / "tokenizer.json")
    weights = {n: w.float() if w.is_floating_point() else w for n, w in load_file(VAE).items()}
    torch.save({"vae": vae.of_weights(weights).state_dict(), "statistics": True}, vae.CHECKPOINT)


if __name__ == "__main__":
    {"save": save, "restore": restore}[sys.argv[1]](sys.argv[2])
