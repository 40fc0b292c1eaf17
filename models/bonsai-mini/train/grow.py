"""Grows the small autoencoder by a level: the same latents, pictures of twice the side.

    python grow.py pairs FLOW                    RUN/pairs/WxH.pt: what the model FLOW makes of each training picture's latents
                                                 with the last noise level's noise
    python grow.py train --steps N --decay M     RUN/vae.pt (resumes from itself)

The encoder learns the small encoder's latents of the picture at half its side, which RUN/latents holds. The decoder learns the
picture from those and, as often, from the model's own: what a last step leaves undecided it then sees in training too, and
draws as a picture has it, where a decoder of clean latents shows grain and soft edges. On the model's latents a critic of
patches of pixels has a say as well (`--adversary`).
"""

import argparse
import copy
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import captions
import critic
import data
import flow
import model
import tokenizer
import vae
from parallel import average_gradients, launch, schedule
from settings import BUCKETS, LEVELS, RUN, SCENE_SEED

PAIRS = RUN / "pairs"
SHARES = {(256, 256): 0.84, (320, 224): 0.08, (224, 320): 0.08}
CROP = 128  # side of what the critic sees of a picture


@torch.no_grad()
def _pairs(rank, name):
    tok = tokenizer.load()
    net, text = (model.freeze_weights(m) for m in flow.load(name, tok.get_vocab_size()))
    for size in BUCKETS:
        z, ids, out = torch.load(RUN / "latents" / "{}x{}.pt".format(*size), mmap=True), model.positions(*vae.grid(size)), []
        half = len(z) // 2
        sigma = model.sigmas(z.shape[1])[3]
        for i in range(rank * half, (rank + 1) * half, 50):
            at = range(i, min(i + 50, (rank + 1) * half))
            words = [captions.caption(random.Random(k), data.scene(SCENE_SEED[size] + k), True)[0] for k in at]
            x0 = z[at.start : at.stop].float()
            x = torch.lerp(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(i)), sigma)
            v = model.velocity(net, x, torch.full((len(x),), sigma), text(*tokenizer.encode(tok, words)), ids)
            out.append((x - sigma * v).to(torch.bfloat16))
        torch.save(torch.cat(out), PAIRS / f"part{rank}.pt")
        torch.distributed.barrier()
        if rank == 0:
            torch.save(torch.cat([torch.load(PAIRS / f"part{r}.pt") for r in range(2)]), PAIRS / "{}x{}.pt".format(*size))
            print(size, flush=True)
        torch.distributed.barrier()


def grown(small):
    """The small autoencoder with a level more outside: encoder levels move up by one, decoder levels stay, and the new decoder
    level repeats pixels at first."""
    big, state = vae.build(), small.state_dict()
    to = big.state_dict()
    for name, w in state.items():
        if name.startswith("encoder.conv_in."):
            continue
        if name.startswith("encoder.down_blocks."):
            level, rest = name.removeprefix("encoder.down_blocks.").split(".", 1)
            name = f"encoder.down_blocks.{int(level) + 1}.{rest}"
        to[name].copy_(w)
    fresh = f"decoder.up_blocks.{LEVELS - 2}.upsamplers.0.conv"
    torch.nn.init.dirac_(to[f"{fresh}.weight"])
    to[f"{fresh}.bias"].zero_()
    for name in to:
        if name.startswith((f"decoder.up_blocks.{LEVELS - 1}.", "encoder.down_blocks.0.resnets")) and ".conv2." in name:
            to[name].zero_()
    big.load_state_dict(to)
    return big


class Batches:
    """Pictures with their latents, clean or the model's, of one size a step."""

    def __init__(self):
        name = "{}x{}.pt".format
        self.parts = [(np.load(data.path(s), mmap_mode="r"), torch.load(RUN / "latents" / name(*s), mmap=True), torch.load(PAIRS / name(*s), mmap=True), vae.grid(s)) for s in BUCKETS]
        self.shares = [SHARES[s] for s in BUCKETS]

    def draw(self, step, rank, count):
        """(pictures, clean latents, latents to decode, grid): the second half of the latents to decode is the model's."""
        pictures, clean, made, grid = self.parts[np.random.default_rng((1, step)).choice(len(self.parts), p=self.shares)]
        at = np.random.default_rng((2, rank, step)).integers(0, len(pictures), count)
        tokens = torch.stack([(clean if k < count // 2 else made)[i] for k, i in enumerate(at)]).float()
        return vae.to_tensor(pictures[at]).contiguous(), clean[at].float(), tokens, grid


def _train(rank, args):
    start = vae.load()
    spread = lambda tokens, grid: vae.spread(start, tokens, *grid)
    batches, check = Batches(), np.load(data.UNSEEN, mmap_mode="r")[:48]
    mean, first = grown(start) if len(start.config.block_out_channels) < LEVELS else copy.deepcopy(start), 0
    big = copy.deepcopy(mean).train()
    opts = vae.optimizers(big, args)
    opponent = critic.Patches()
    opponent_opt = torch.optim.AdamW(opponent.parameters(), critic.LR, betas=critic.BETAS, weight_decay=0.01)
    state = torch.load(vae.GROWN) if vae.GROWN.exists() else {}
    if "raw" in state:  # else it was restored, or there is none
        big.load_state_dict(state["raw"])
        vae.restore_optimizers(opts, state["opt"])
        opponent.load_state_dict(state["critic"])
        opponent_opt.load_state_dict(state["critic_opt"])
        first = state["step"]
    params, verdicts = list(big.parameters()), 2.0
    means = [p.requires_grad_(False) for p in mean.parameters()]

    def save(step):
        if rank == 0:
            part = vae.GROWN.with_suffix(".part")
            torch.save({"vae": {k: v.contiguous() for k, v in mean.state_dict().items()}, "raw": big.state_dict(), "step": step,
                        "opt": [o.state_dict() for o in opts], "critic": opponent.state_dict(), "critic_opt": opponent_opt.state_dict()}, part)
            part.rename(vae.GROWN)
            print(f"  step {step} validation PSNR {vae.psnr(mean.eval(), check):.2f} dB", flush=True)

    began = time.time()
    for step in range(first, args.steps):
        for o in opts:
            for g in o.param_groups:
                g["lr"] = schedule(step, args.steps, args.decay, 50, g["peak"])
        x, clean, tokens, grid = batches.draw(step, rank, args.batch)
        # The encoder: one picture a step is enough for what it has to learn.
        aim = spread(clean[:1], grid)
        moments = big.encode(x[:1]).latent_dist
        away = F.mse_loss(moments.mean, aim)
        y = big.decode(spread(tokens, grid)).sample
        loss, l1 = vae.reconstruction_loss(x, y)
        (gradient,) = torch.autograd.grad(loss, y, retain_graph=True)
        if step >= args.critic_from:
            top, left = (np.random.default_rng((3, rank, step)).integers(0, s - CROP + 1) for s in x.shape[2:])
            window = (slice(args.batch // 2, None), slice(None), slice(top, top + CROP), slice(left, left + CROP))
            fake, real = y.detach()[window].clone().requires_grad_(), x[window]
            if step >= args.critic_from + 100:  # until then it only learns
                (push,) = torch.autograd.grad(-opponent(fake).mean(), fake)
                gradient[window] += args.adversary * push * (gradient[window].norm() / (push.norm() + 1e-12))
            opponent_opt.zero_grad()
            verdict = critic.hinge(opponent, real, fake.detach())
            verdict.backward()
            average_gradients(list(opponent.parameters()))
            opponent_opt.step()
            verdicts = 0.95 * verdicts + 0.05 * verdict.item()
        big.zero_grad(set_to_none=True)
        torch.autograd.backward([y, away], [gradient, torch.tensor(args.encoder)])
        with_gradient = [p for p in params if p.grad is not None]
        average_gradients(with_gradient)
        torch.nn.utils.clip_grad_norm_(with_gradient, 1.0)
        for o in opts:
            o.step()
        torch._foreach_lerp_(means, [p.detach() for p in params], 1 - min(0.99, (1 + step) / (10 + step)))
        done = step + 1
        if rank == 0 and (done % 50 == 0 or done == 10):
            print(f"step {done} l1 {l1.item():.4f} encoder {away.item():.4f} critic {verdicts:.3f} {(done - first) / (time.time() - began):.2f} steps/s", flush=True)
        if done % args.every == 0 or done == args.steps:
            save(done)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["pairs", "train"])
    p.add_argument("flow", nargs="?", default="last")
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--decay", type=int, default=2000)
    p.add_argument("--every", type=int, default=200)
    p.add_argument("--batch", type=int, default=4, help="per process")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--muon", type=float, default=0.01)
    p.add_argument("--encoder", type=float, default=1.0, help="weight of the encoder's loss")
    p.add_argument("--adversary", type=float, default=0.4, help="length of the critic's gradient as a share of the regression's")
    p.add_argument("--critic-from", type=int, default=1000)
    p.add_argument("--port", type=int, default=29573)
    a = p.parse_args()
    if a.what == "pairs":
        PAIRS.mkdir(exist_ok=True)
        launch(_pairs, (a.flow,), port=a.port)
    else:
        launch(_train, (a,), port=a.port)
