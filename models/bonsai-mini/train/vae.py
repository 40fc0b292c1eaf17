"""The autoencoder: build, train, and the latent normalisation.

    python vae.py train --steps N --decay M     RUN/vae.pt (resumes from itself)
    python vae.py measure                       PSNR on validation pictures
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2

import data
from optimizer import Muon
from parallel import average_gradients, launch, schedule
from settings import PIXELS_PER_TOKEN, RUN, VAE

KL, GRADIENT, SQUARE = 3e-4, 0.3, 1.0
CHECKPOINT = RUN / "vae.pt"
# Share of steps per picture size and side of crops; 0 means whole pictures.
PLAN = [((256, 256), 64, 0.8), ((256, 256), 0, 0.15), ((320, 224), 0, 0.02), ((224, 320), 0, 0.03)]


def build():
    torch.manual_seed(0)
    vae = AutoencoderKLFlux2(**VAE)
    with torch.no_grad():  # starts almost noiseless: a posterior deviation of 0.08, not 1
        vae.quant_conv.weight[32:].mul_(0.1)
        vae.quant_conv.bias[32:].fill_(-5.0)
    return vae


def of_weights(weights):
    """The autoencoder with these weights."""
    vae = build()
    vae.load_state_dict(weights)
    return vae.eval()


def load():
    """The trained autoencoder."""
    return of_weights(torch.load(CHECKPOINT)["vae"])


def patchify(z):
    """[B, 32, h, w] -> [B, 128, h/2, w/2], channel 4c + 2i + j."""
    b, c, h, w = z.shape
    return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)


def unpatchify(z):
    b, c, h, w = z.shape
    return z.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, h * 2, w * 2)


def to_tensor(a):
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1]."""
    x = torch.from_numpy(np.array(a)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return x.contiguous(memory_format=torch.channels_last)


def statistics(vae):
    """Mean and deviation of the normalised latents' channels, [1, 128, 1, 1] each."""
    s = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    return vae.bn.running_mean.view(1, -1, 1, 1), s.view(1, -1, 1, 1)


@torch.no_grad()
def encode(vae, x):
    """Pictures of full size -> normalised packed latents [B, h*w, 128]."""
    mean = vae.encode(x).latent_dist.mean.float()
    m, s = statistics(vae)
    return ((patchify(mean.contiguous()) - m) / s).flatten(2).transpose(1, 2).contiguous()


@torch.no_grad()
def decode(vae, tokens, h, w):
    """Normalised packed latents -> pictures in [-1, 1], [B, 3, 16h, 16w]."""
    return torch.cat([vae.decode(q).sample for q in spread(vae, tokens, h, w).split(16)]).clamp(-1, 1)


def spread(vae, tokens, h, w):
    """Normalised packed latents [B, h*w, 128] -> the decoder's latents [B, 32, 2h, 2w]."""
    m, s = statistics(vae)
    return unpatchify(tokens.float().transpose(1, 2).reshape(len(tokens), 128, h, w) * s + m)


def grid(size):
    """Rows and columns of tokens of a picture of this width and height."""
    return size[1] // PIXELS_PER_TOKEN, size[0] // PIXELS_PER_TOKEN


def _slopes(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def reconstruction_loss(x, y):
    l1, l2, slope = (x - y).abs().mean(), ((x - y) ** 2).mean(), 0.0
    for _ in range(3):
        slope = slope + sum((a - b).abs().mean() for a, b in zip(_slopes(x), _slopes(y)))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return l1 + SQUARE * l2 + GRADIENT * slope / 3, l1


def _batch(pictures, rng):
    (size, side, _), = [PLAN[rng.choice(len(PLAN), p=[p[2] for p in PLAN])]]
    a = pictures[size]
    if not side:
        return a[np.sort(rng.integers(0, len(a), 2))]
    out = []
    for i in np.sort(rng.integers(0, len(a), 8)):
        y, x = rng.integers(0, a.shape[1] - side + 1), rng.integers(0, a.shape[2] - side + 1)
        out.append(a[i, y : y + side, x : x + side])
    return np.stack(out)


@torch.no_grad()
def psnr(vae, a):
    """Mean over pictures, of pixels in [0, 1], decoded from the posterior mean."""
    out = []
    for i in range(0, len(a), 16):
        x = to_tensor(a[i : i + 16])
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        out.append(-10 * torch.log10(((x - y) ** 2).mean((1, 2, 3)) / 4))
    return torch.cat(out).mean().item()


def optimizers(vae, args):
    """Muon for the inner weights, AdamW for the rest; each group remembers its peak learning rate."""
    inner = [p for n, p in vae.named_parameters() if p.requires_grad and p.ndim >= 2 and min(p.shape[:2]) >= 16] if args.muon else []
    ids = {id(p) for p in inner}
    rest = [p for p in vae.parameters() if p.requires_grad and id(p) not in ids]
    opts = [torch.optim.AdamW([{"params": rest, "peak": args.lr}], lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)]
    if inner:
        opts.append(Muon([{"params": inner, "peak": args.muon}], lr=args.muon))
    return opts


def restore_optimizers(opts, saved):
    """Their state from a checkpoint; peak learning rates stay those of this call."""
    for o, s in zip(opts, saved):
        peaks = [g["peak"] for g in o.param_groups]
        o.load_state_dict(s)
        for g, peak in zip(o.param_groups, peaks):
            g["peak"] = peak


def _train(rank, args):
    pictures = {size: np.load(data.path(size), mmap_mode="r") for size in {p[0] for p in PLAN}}
    check = np.load(data.UNSEEN, mmap_mode="r")[:48]
    vae = build().train().to(memory_format=torch.channels_last)
    params = [p for p in vae.parameters() if p.requires_grad]
    opts = optimizers(vae, args)
    ema = [p.detach().clone() for p in params]
    first = 0
    if CHECKPOINT.exists():
        state = torch.load(CHECKPOINT)
        vae.load_state_dict(state.get("raw", state["vae"]))  # a restored one has neither raw weights nor optimizers
        restore_optimizers(opts, state.get("opt", []))
        named = dict(of_weights(state["vae"]).named_parameters())
        ema = [named[n].detach().clone() for n, p in vae.named_parameters() if p.requires_grad]
        first = state.get("step", 0)
    rank or print(f"{sum(p.numel() for p in params) / 1e6:.2f} M parameters, from step {first}", flush=True)

    def save(step):
        raw = vae.state_dict()
        raw = {k: v.clone() for k, v in raw.items()}
        for p, e in zip(params, ema):
            p.data, e.data = e.data, p.data
        if rank == 0:
            torch.save({"vae": {k: v.contiguous() for k, v in vae.state_dict().items()}, "raw": raw, "opt": [o.state_dict() for o in opts], "step": step}, CHECKPOINT.with_suffix(".part"))
            CHECKPOINT.with_suffix(".part").rename(CHECKPOINT)
            print(f"  step {step} validation PSNR {psnr(vae.eval(), check):.2f} dB", flush=True)
            vae.train()
        for p, e in zip(params, ema):
            p.data, e.data = e.data, p.data

    t0 = time.time()
    for step in range(first, args.steps):
        for o in opts:
            for g in o.param_groups:
                g["lr"] = schedule(step, args.steps, args.decay, 50, g["peak"])
        rng = np.random.default_rng((1, rank, step))
        torch.manual_seed(step * 2 + rank)
        x = to_tensor(_batch(pictures, rng))
        post = vae.encode(x).latent_dist
        mean, logvar = post.mean, post.logvar
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        loss, l1 = reconstruction_loss(x, vae.decode(z).sample)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        vae.zero_grad(set_to_none=True)
        (loss + KL * kl).backward()
        params_with = [p for p in params if p.grad is not None]
        average_gradients(params_with)
        torch.nn.utils.clip_grad_norm_(params_with, 1.0)
        for o in opts:
            o.step()
        torch._foreach_lerp_(ema, [p.detach() for p in params], 1 - min(0.98, (1 + step) / (10 + step)))
        done = step + 1
        if rank == 0 and (done % 100 == 0 or done == 20):
            print(f"step {done} l1 {l1.item():.4f} kl {kl.item():.3f} deviation {(0.5 * logvar).exp().mean().item():.3f} {(done - first) / (time.time() - t0):.2f} steps/s", flush=True)
        if done % args.every == 0 or done == args.steps:
            save(done)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["train", "measure"])
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--decay", type=int, default=3000)
    p.add_argument("--every", type=int, default=500)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--muon", type=float, default=0.0, help="learning rate of Muon; 0 for AdamW everywhere")
    p.add_argument("--port", type=int, default=29571)
    a = p.parse_args()
    if a.what == "train":
        launch(_train, (a,), port=a.port)
    else:
        print(f"PSNR {psnr(load(), np.load(data.UNSEEN, mmap_mode='r')[:500]):.2f} dB")
