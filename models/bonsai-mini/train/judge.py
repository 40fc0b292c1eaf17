"""The judge: one small classifier with a head per attribute, trained on renderings alone.

    python judge.py train --steps N     RUN/judge.pt
    python judge.py measure             accuracy per attribute on unseen renderings
    python judge.py restore             ../judge.safetensors -> RUN/judge.pt
    python judge.py export              ../judge.safetensors, in half precision, and ../judge_check: renderings with the scores that it gives them

The autoencoder's own downsampling convolutions, group norms and SiLU, then one linear over an 8 x 8 map: an engine that runs the
autoencoder can run it. The input is brought to 128 x 128 by averaging areas.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from PIL import Image

import data
import scenes
import world
from settings import RUN, SCENE_SEED, SIZE, VALIDATION_SEED

HOME = Path(__file__).resolve().parent.parent
SIDE = 128
CLASSES = [len(v) for v in world.HEADS.values()]
WIDTHS = [3, 24, 48, 64, 64]


def shrink(x):
    """The judge's own size, by averaging areas."""
    return x if x.shape[-2:] == (SIDE, SIDE) else F.interpolate(x, size=(SIDE, SIDE), mode="area")


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 0) for a, b in zip(WIDTHS, WIDTHS[1:]))
        self.norm = nn.ModuleList(nn.GroupNorm(8, b, eps=1e-6) for b in WIDTHS[1:])
        self.head = nn.Linear(WIDTHS[-1] * 64, sum(CLASSES))

    def features(self, x):
        """[B, 3, H, W] in [-1, 1] -> [B, 64, 8, 8]."""
        x = shrink(x)
        for conv, norm in zip(self.conv, self.norm):
            x = F.silu(norm(conv(F.pad(x, (0, 1, 0, 1)))))
        return x

    def forward(self, x):
        return self.head(self.features(x).flatten(1)).split(CLASSES, 1)


def load():
    m = Judge()
    m.load_state_dict(torch.load(RUN / "judge.pt"))
    return m.eval()


def tensor(a):
    return torch.from_numpy(np.array(a)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@torch.no_grad()
def right(m, x, labels):
    """[B, heads] bool: which answers are right."""
    return torch.cat([torch.stack([p.argmax(1) == y[:, k] for k, p in enumerate(m(q))], 1) for q, y in zip(x.split(64), labels.split(64))])


def unseen():
    a = tensor(np.load(data.UNSEEN, mmap_mode="r"))
    return a, torch.tensor([world.labels(data.scene(VALIDATION_SEED + i)) for i in range(len(a))])


def report(m):
    ok = right(m, *unseen()).float()
    for name, v in zip(world.HEADS, ok.mean(0).tolist()):
        print(f"  {name:14} {v:.4f}")
    print(f"  mean {ok.mean():.4f}, all at once {ok.prod(1).mean():.4f}", flush=True)


def train(args):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    a = np.load(data.path(SIZE), mmap_mode="r")
    labels = torch.tensor([world.labels(data.scene(SCENE_SEED[SIZE] + i)) for i in range(len(a))])
    m = Judge()
    opt = torch.optim.AdamW(m.parameters(), 2e-3, weight_decay=0.02)
    t = time.time()
    for step in range(args.steps):
        for g in opt.param_groups:
            g["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1.01 - step / args.steps)
        rng = np.random.default_rng((7, step))
        i = np.sort(rng.integers(0, len(a), 64))
        x = shrink(tensor(a[i]))
        # What a decoder does to a picture should not change the verdict: noise, softness, gain.
        x = x + torch.from_numpy(rng.normal(0, 0.05 * rng.random(), x.shape).astype(np.float32))
        if rng.random() < 0.4:
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        x = x * rng.uniform(0.93, 1.05) + rng.uniform(-0.04, 0.04)
        with torch.autocast("cpu", torch.bfloat16):
            out = m(x.contiguous(memory_format=torch.channels_last))
        loss = sum(F.cross_entropy(p.float(), labels[i][:, k]) for k, p in enumerate(out))
        opt.zero_grad()
        loss.backward()
        opt.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} {64 * (step + 1) / (time.time() - t):.0f} pictures/s", flush=True)
            torch.save(m.state_dict(), RUN / "judge.pt")
    torch.save(m.state_dict(), RUN / "judge.pt")
    report(m.eval())


def restore():
    torch.save({n: w.float() for n, w in load_file(HOME / "judge.safetensors").items()}, RUN / "judge.pt")


@torch.no_grad()
def export():
    m = load()
    half = {n: w.half().contiguous() for n, w in m.state_dict().items()}
    save_file(half, HOME / "judge.safetensors")
    m.load_state_dict({n: w.float() for n, w in half.items()})
    to = HOME / "judge_check"
    to.mkdir(exist_ok=True)
    rows = []
    for i, (w, h) in enumerate([(128, 128), (128, 128), (256, 256), (160, 112)]):
        seed = VALIDATION_SEED + 5000 + i
        a = scenes.render(data.scene(seed), seed, w, h)
        Image.fromarray(a).save(to / f"{i}.png")
        rows.append(dict(file=f"{i}.png", scores=torch.cat(m(tensor(a[None])), 1)[0].tolist()))
    (to / "scores.json").write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["train", "measure", "restore", "export"])
    p.add_argument("--steps", type=int, default=2500)
    a = p.parse_args()
    if a.what == "train":
        train(a)
    elif a.what == "measure":
        report(load())
    else:
        {"restore": restore, "export": export}[a.what]()
