"""For generated pictures, the nearest training rendering: is any of them a copy?

    python nearest.py DIR [--sheet FILE.png]     DIR holds square PNG files of one size, such as `bonsai eval --save` writes

Distance: root mean square over all samples, in levels of 255, to every training picture of that size. For scale, the same distance
from unseen renderings, which are certainly no copies, is printed beside it.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import data

THUMB = 32


def thumbs(a):
    """[N, S, S, 3] -> f32 [N, THUMB * THUMB * 3], area means."""
    n, block = len(a), a.shape[1] // THUMB
    a = a.reshape(n, THUMB, block, THUMB, block, 3).astype(np.float32).mean((2, 4))
    return a.reshape(n, -1)


def nearest(x, train, keep):
    """(index, RMS in full size) of the nearest training picture: `keep` candidates by thumbnail, then all pixels."""
    small = np.concatenate([thumbs(train[i : i + 1000]) for i in range(0, len(train), 1000)])
    norm, out = (small**2).sum(1), []
    for a, t in zip(x, thumbs(x)):
        best = np.argsort(norm - 2 * small @ t)[:keep]
        rms = [np.sqrt(np.mean((a.astype(np.float32) - train[i].astype(np.float32)) ** 2)) for i in best]
        out.append((int(best[int(np.argmin(rms))]), float(min(rms))))
    return out


def main(args):
    files = sorted(Path(args.dir).glob("*.png"))[: args.count]
    x = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
    side = x.shape[1]
    train = np.load(data.path((side, side)), mmap_mode="r")[: args.train]
    unseen = np.load(data.UNSEEN, mmap_mode="r")[: len(x)]
    found = nearest(x, train, 20)
    for name, rms in (("generated", [r for _, r in found]), ("unseen renderings", [r for _, r in nearest(np.asarray(unseen), train, 20)])):
        q = np.percentile(rms, [0, 5, 50, 95])
        print(f"{name}: {len(rms)} pictures, nearest of {len(train)}: least {q[0]:.1f}, 5 % {q[1]:.1f}, median {q[2]:.1f}, 95 % {q[3]:.1f} levels RMS")
    if args.sheet:
        order = np.argsort([r for _, r in found])[:8]
        sheet = Image.new("RGB", (8 * side, 2 * side))
        for k, i in enumerate(order):
            sheet.paste(Image.fromarray(x[i]), (k * side, 0))
            sheet.paste(Image.fromarray(train[found[i][0]]), (k * side, side))
        sheet.save(args.sheet)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("dir")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--train", type=int, default=20000, help="how many of the renderings the latents were made from")
    p.add_argument("--sheet")
    main(p.parse_args())
