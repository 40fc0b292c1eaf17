"""Judges generated pictures of the benchmark prompts, 4 steps, no guidance.

    python evaluate.py binary half ternary [--bf16] [--count N] [--sheet FILE.png]     prints and appends to RUN/scores.json
"""

import argparse
import json

import numpy as np
import torch
from PIL import Image

import benchmark
import data
import flow
import judge
import model
import tokenizer
import vae
import world
from settings import RUN, SIZE


def noise(seed, h, w):
    """As diffusers draws it on a CPU: [1, 128, h, w], packed to [h*w, 128]."""
    z = torch.randn(1, 128, h, w, generator=torch.Generator().manual_seed(seed))
    return z.flatten(2).transpose(1, 2)[0]


@torch.no_grad()
def paint(net, text, tok, autoencoder, rows, steps=4, bf16=False):
    """Pictures of benchmark rows, [B, 3, H, W] in [-1, 1], rounded to 8 bits."""
    h, w = vae.grid(SIZE)
    out = []
    for i in range(0, len(rows), 32):
        part = rows[i : i + 32]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            c = text(*tokenizer.encode(tok, [r["prompt"] for r in part]))
            z = model.sample(net, c, torch.stack([noise(r["seed"], h, w) for r in part]), h, w, steps)
            out.append(vae.decode(autoencoder, z, h, w).float())
    x = torch.cat(out)
    return ((x * 0.5 + 0.5).clamp(0, 1) * 255).round() / 127.5 - 1


def score(right, rows):
    """Table rows: passed share per task, their mean, the share of single attributes, the share of wholly right pictures."""
    names = list(world.HEADS)
    table = {}
    for task in benchmark.TASKS:
        done = [all(right[i, names.index(h)] for h in r["tasks"][task]) for i, r in enumerate(rows) if task in r["tasks"]]
        table[task] = float(np.mean(done)) if done else float("nan")
    table["overall"] = float(np.mean([table[t] for t in benchmark.TASKS]))
    single = [[bool(right[i, names.index(h)]) for h in r["expect"]] for i, r in enumerate(rows)]
    table["attributes"] = float(np.mean(sum(single, [])))
    table["all at once"] = float(np.mean([all(s) for s in single]))
    return table


def per_head(right, rows):
    names = list(world.HEADS)
    return {h: float(np.mean([bool(right[i, k]) for i, r in enumerate(rows) if h in r["expect"]])) for k, h in enumerate(names)}


def gradient(x):
    """Mean magnitude of the differences between neighbouring pixels of [-1, 1] pictures."""
    return ((x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()).item()


def sheet(x, columns):
    a = ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    h, w = a.shape[1:3]
    im = Image.new("RGB", (columns * w, -(-len(a) // columns) * h))
    for i, p in enumerate(a):
        im.paste(Image.fromarray(p), (i % columns * w, i // columns * h))
    return im


def main(args):
    torch.set_num_threads(2)
    tok, autoencoder, critic = tokenizer.load(), vae.load(), judge.load()
    rows = benchmark.load()["prompts"][: args.count]
    labels = torch.zeros(len(rows), len(world.HEADS), dtype=torch.long)
    for i, r in enumerate(rows):
        for k, h in enumerate(world.HEADS):
            labels[i, k] = r["expect"].get(h, 0)
    real = gradient(judge.tensor(np.load(data.UNSEEN, mmap_mode="r")[:500]))
    to = RUN / "scores.json"
    scores = json.loads(to.read_text()) if to.exists() else {}
    for name in args.names:
        net, text = flow.load(name, tok.get_vocab_size())
        model.freeze_weights(net)
        model.freeze_weights(text)
        autoencoder.to(memory_format=torch.channels_last)
        x = paint(net, text, tok, autoencoder, rows, args.steps, args.bf16)
        right = judge.right(critic, x, labels)
        scores[name] = {"gradient of renderings'": gradient(x) / real, "prompts": len(rows), "steps": args.steps}
        for kind, held in (("held-in", False), ("held-out", True)):
            at = [i for i, r in enumerate(rows) if r["held_out"] == held]
            scores[name][kind] = score(right[at], [rows[i] for i in at])
            print(name, kind, {k: round(v, 3) for k, v in scores[name][kind].items()}, flush=True)
        print(name, "heads", {k: round(v, 3) for k, v in per_head(right, rows).items()}, "gradient", round(scores[name]["gradient of renderings'"], 3), flush=True)
        if args.sheet:
            sheet(x[:48], 8).save(args.sheet.replace("NAME", name))
    to.write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("names", nargs="+")
    p.add_argument("--count", type=int, default=1024)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--bf16", action="store_true", help="products in bf16")
    p.add_argument("--sheet")
    main(p.parse_args())
