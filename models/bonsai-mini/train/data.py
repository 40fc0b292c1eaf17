"""Draws the training pictures of every size, RUN/data/WxH.npy, and unseen ones, RUN/data/validation.npy: uint8 [N, H, W, 3]."""

import multiprocessing as mp
import random
import time

import numpy as np

import scenes
import world
from settings import BUCKETS, RUN, SCENE_SEED, SIZE, VALIDATION, VALIDATION_SEED


def scene(seed, held=False):
    """The scene of a picture's seed."""
    return world.sample(random.Random(seed * 2 + 1), held)


def _draw(job):
    seed, w, h = job
    return scenes.render(scene(seed), seed, w, h)


def source(size):
    """(size, factor) of the drawn pictures that pictures of this size are: themselves, or those of twice the side, averaged."""
    return (size, 1) if size in BUCKETS else ((2 * size[0], 2 * size[1]), 2)


def path(size):
    return RUN / "data" / f"{size[0]}x{size[1]}.npy"


UNSEEN = RUN / "data" / "validation.npy"


def main():
    (RUN / "data").mkdir(parents=True, exist_ok=True)
    jobs = [(UNSEEN, SIZE, VALIDATION_SEED, VALIDATION)]
    jobs += [(path(size), size, SCENE_SEED[size], n) for size, n in BUCKETS.items()]
    for to, (w, h), first, n in jobs:
        if to.exists():
            continue
        t = time.time()
        part = to.with_suffix(".part.npy")
        out = np.lib.format.open_memmap(part, "w+", np.uint8, (n, h, w, 3))
        with mp.Pool(2) as pool:
            for i, a in enumerate(pool.imap(_draw, ((first + i, w, h) for i in range(n)), chunksize=64)):
                out[i] = a
        out.flush()
        part.rename(to)
        print(f"{to.name}: {n} pictures in {time.time() - t:.0f} s", flush=True)


if __name__ == "__main__":
    main()
