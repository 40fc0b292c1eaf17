"""Encodes the training pictures: RUN/latents/WxH.pt (bf16 [N, tokens, 128]) and the batch-norm statistics, which go into the
autoencoder's checkpoint.

    python latents.py [--bf16] WxH[:COUNT] ..

Sizes that are half of drawn ones are those pictures, averaged: a quarter of the tokens, for the first part of the training.
A restored autoencoder has its statistics already, and the transformer needs them as they are.
"""

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
import vae as autoencoder
from parallel import launch
from settings import RUN, SIZE


def _encode(rank, size, count, bf16):
    v = autoencoder.load().to(memory_format=torch.channels_last)
    drawn, factor = data.source(size)
    a = np.load(data.path(drawn), mmap_mode="r")
    world = torch.distributed.get_world_size()
    count = min(count or len(a), len(a)) // world
    t, out = time.time(), []
    for i in range(rank * count, (rank + 1) * count, 32):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            x = autoencoder.to_tensor(a[i : min(i + 32, (rank + 1) * count)])
            out.append(autoencoder.encode(v, F.avg_pool2d(x, factor)))
    part = RUN / "latents" / f"part{rank}.pt"
    torch.save(torch.cat(out), part)
    torch.distributed.barrier()
    if rank:
        return
    z = torch.cat([torch.load(RUN / "latents" / f"part{r}.pt") for r in range(world)])
    if size == SIZE and not _known():  # encoded with the identity in place: these are the statistics
        m, s = z.mean((0, 1)), z.var((0, 1))
        _note(m, s, statistics=True)
        z = (z - m) / (s + v.config.batch_norm_eps).sqrt()
        q = s.sqrt()
        print(f"deviation of the latents' channels: least {q.min():.2f}, median {q.median():.2f}, greatest {q.max():.2f}")
    torch.save(z.to(torch.bfloat16), RUN / "latents" / f"{size[0]}x{size[1]}.pt")
    print(f"{size[0]}x{size[1]}: {len(z)} in {time.time() - t:.0f} s", flush=True)


def _known():
    return torch.load(autoencoder.CHECKPOINT).get("statistics", False)


def _note(mean, variance, **more):
    state = torch.load(autoencoder.CHECKPOINT)
    state["vae"]["bn.running_mean"], state["vae"]["bn.running_var"] = mean, variance
    torch.save({**state, **more}, autoencoder.CHECKPOINT.with_suffix(".part"))
    autoencoder.CHECKPOINT.with_suffix(".part").rename(autoencoder.CHECKPOINT)


def _all(rank, sizes, bf16):
    for name, count in (spec.split(":") if ":" in spec else (spec, 0) for spec in sizes):
        size = tuple(map(int, name.split("x")))
        if size == SIZE and rank == 0 and not _known():
            _note(torch.zeros(128), torch.ones(128) - autoencoder.build().config.batch_norm_eps)
        torch.distributed.barrier()
        _encode(rank, size, int(count), bf16)
        torch.distributed.barrier()


if __name__ == "__main__":
    (RUN / "latents").mkdir(exist_ok=True)
    sizes = [a for a in sys.argv[1:] if a != "--bf16"]
    launch(_all, (sizes, len(sizes) < len(sys.argv) - 1))
