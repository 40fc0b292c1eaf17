"""Trains the text encoder and the transformer on the encoded pictures.

    python flow.py half    --steps N --decay M            RUN/half.pt: rectified flow, all weights in full precision
    python flow.py binary  --steps N --decay M --from half    RUN/binary.pt: the same with 1-bit block linears
    python flow.py ternary --steps N --decay M --from half    RUN/ternary.pt
    ... --distil --from X --to Y --teacher half               step and guidance distillation onto the four sampler sigmas

Each run resumes from its own checkpoint; options count from the step where it goes on.

`--guide W` is model guidance (Tang et al., "Diffusion models without classifier-free guidance", 2025): the target is the data's
velocity plus W times what the caption changes in the model's own velocity, so that the plain model comes to draw what guidance
of scale 1/(1-W) would. `--adversary` adds the critic of critic.py at the last sampler sigma.

The distillation is that of Salimans and Ho, "Progressive distillation" (2022), in the form with a guided teacher of Meng et al.,
"On distillation of guided diffusion models" (2023): the student learns the mean velocity of the guided teacher's finer Euler path
across each of its four segments.
"""

import argparse
import copy
import random
import time

import torch

import captions
import critic
import data
import model
import tokenizer
import vae
from optimizer import Muon
from parallel import average_gradients, launch, schedule
from settings import RUN, SCENE_SEED

EMPTY, NONSENSE = 0.08, 0.03
FOCUS = (0.1, 0.2, 0.3, 0.4)  # how often each sampler sigma is drawn by --focus, from the noisiest on
HELD_BACK = 256  # pictures of the first size, kept for the validation loss
GUIDANCE = 1.8
SUBSTEPS = (2, 2, 3, 6)  # teacher steps per student segment


class Pictures:
    """Latents by size with their scenes; `often` holds the sizes (in tokens) of a quarter of all batches or more."""

    def __init__(self, spec):
        self.parts = []
        for item in spec.split(","):
            name, weight = item.split(":")
            size = tuple(map(int, name.split("x")))
            z = torch.load(RUN / "latents" / f"{name}.pt", mmap=True)
            scenes = [data.scene(SCENE_SEED[data.source(size)[0]] + i) for i in range(len(z))]
            self.parts.append((size, float(weight), z, scenes))

        total = sum(p[1] for p in self.parts)
        self.often = {vae.grid(s) for s, p, _, _ in self.parts if p >= 0.25 * total}

    def batch(self, shared, rng, count, full=0.0):
        """(latents, captions, (h, w)). `shared` draws the size, alike in both processes, so that neither waits for a larger one;
        `full` is the share of captions that leave nothing out."""
        k = shared.choices(range(len(self.parts)), [p[1] for p in self.parts])[0]
        size, _, z, scenes = self.parts[k]
        last = len(z) - (HELD_BACK if k == 0 else 0)
        at = [rng.randrange(last) for _ in range(count)]
        words = ["" if rng.random() < EMPTY else captions.caption(rng, scenes[i], rng.random() < full, NONSENSE)[0] for i in at]
        return z[at].float(), words, vae.grid(size)

    def validation(self):
        size, _, z, scenes = self.parts[0]
        rng = random.Random(5)
        words = [captions.caption(rng, s, full=True)[0] for s in scenes[-HELD_BACK:]]
        return z[-HELD_BACK:].float(), words, vae.grid(size)


def bf16(args):
    """Mixed precision where it is asked for: bf16 products, f32 weights, norms and sums."""
    return torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)


def channel_weights():
    """[128], mean 1: how much each channel of the packed latents counts. The autoencoder leaves some latent channels unused;
    normalisation makes their traces as large as all else, but nothing of the picture depends on them."""
    variance = vae.load().bn.running_var
    w = (variance / (variance + 0.1)).clamp(min=0.05)
    return w / w.mean()


@torch.no_grad()
def validation_loss(net, text, tok, pictures, weights):
    """Weighted velocity error with t uniform: over all, and over the low, middle and high third of noise."""
    z, words, (h, w) = pictures.validation()
    g, total = torch.Generator().manual_seed(5), []
    for i in range(0, 128, 64):
        x0 = z[i : i + 64]
        noise, t = torch.randn(x0.shape, generator=g), (torch.arange(64) + 0.5) / 64
        c = text(*tokenizer.encode(tok, words[i : i + 64]))
        v = model.velocity(net, torch.lerp(x0, noise, t[:, None, None]), t, c, model.positions(h, w))
        total.append((weights * (v - (noise - x0)) ** 2).mean((1, 2)))
    e = torch.stack(total).mean(0)
    return [round(q.mean().item(), 4) for q in (e, e[:21], e[21:43], e[43:])]


def load(name, vocabulary):
    """(transformer, text encoder) of a checkpoint's averaged weights, quantisation-aware as it was trained."""
    state = torch.load(RUN / f"{name}.pt")
    net, text = model.build(vocabulary)
    net.load_state_dict(state["net"])
    text.load_state_dict(state["text"])
    return model.quantize_aware(net, state["kind"]).eval(), model.quantize_aware_text(text, state["kind"]).eval()


def guided(net, x, t, context, ids):
    """Velocity with classifier-free guidance; `context` holds the conditional rows, then the unconditional ones."""
    c, u = model.velocity(net, torch.cat([x, x]), torch.cat([t, t]), context, ids).chunk(2)
    return u + GUIDANCE * (c - u)


def times(g, count, tokens, focus):
    """Noise levels [count]: with chance `focus` near one of the four sampler sigmas, else spread over all (logit-normal)."""
    spread = torch.sigmoid(0.6 + 1.2 * torch.randn(count, generator=g))
    s = torch.tensor(model.sigmas(tokens)[:4], dtype=torch.float32)
    near = s[torch.multinomial(torch.tensor(FOCUS), count, replacement=True, generator=g)]
    near = (near + 0.01 * torch.randn(count, generator=g)).clamp(max=1)
    return torch.where(torch.rand(count, generator=g) < focus, near, spread)


def with_adversary(gradient, v, x, x0, t, opponent, share, h, w):
    """The regression's gradient by v [B, tokens, 128], plus on rows near the last sampler sigma the critic's, `share` times as
    long; and those rows' clean latents as (real, generated), or None where there are no such rows."""
    rows = (t - model.sigmas(h * w)[3]).abs() < 0.04
    if not rows.any():
        return gradient, None
    at = v.detach()[rows].requires_grad_()
    fake = x[rows] - t[rows, None, None] * at
    (push,) = torch.autograd.grad(-opponent(fake, h, w).mean(), at)
    gradient = gradient.clone()
    gradient[rows] += share * push * (gradient[rows].norm() / (push.norm() + 1e-12))
    return gradient, (x0[rows], fake.detach())


def optimizers(net, text, args):
    """Muon for the block linears and the text encoder's layers, AdamW for the rest; each group remembers its peak learning rate."""
    inner = [m.weight for _, m in model.block_linears(net)]
    inner += [p for n, p in text.named_parameters() if "layers" in n and p.ndim == 2]
    inner = [p for p in inner if p.requires_grad] if args.muon else []
    ids = {id(p) for p in inner}
    rest = [p for m in (net, text) for p in m.parameters() if p.requires_grad and id(p) not in ids]
    opts = [torch.optim.AdamW([{"params": rest, "peak": args.lr}], lr=args.lr, betas=(0.9, 0.97), weight_decay=0.01)]
    if inner:
        opts.append(Muon([{"params": inner, "peak": args.muon}], lr=args.muon, weight_decay=0.01, dtype=torch.bfloat16 if args.bf16 else torch.float32))
    return opts


def _train(rank, args):
    tok = tokenizer.load()
    model.train_fast()
    pictures = Pictures(args.sizes)
    weights = channel_weights()
    name = args.to or args.kind
    out = RUN / f"{name}.pt"
    net, text = model.build(tok.get_vocab_size())
    source = out if out.exists() else RUN / f"{args.start}.pt" if args.start else None
    state = torch.load(source) if source else None
    first = state["step"] if source == out else 0
    if state:
        raw = source == out
        net.load_state_dict(state["raw_net" if raw else "net"])
        text.load_state_dict(state["raw_text" if raw else "text"])
        if state["kind"] != args.kind:  # starts as the other kind's model itself, not as its latent weights
            model.freeze_weights(model.quantize_aware(net, state["kind"]))
            model.freeze_weights(model.quantize_aware_text(text, state["kind"]))
    model.quantize_aware(net, args.kind)
    model.quantize_aware_text(text, args.kind)
    if args.distil:
        text.requires_grad_(False)
        teacher, teacher_text = load(args.teacher, tok.get_vocab_size())
    empty = tokenizer.encode(tok, [""])
    params = [p for m in (net, text) for p in m.parameters() if p.requires_grad]
    opts = optimizers(net, text, args)
    mean_net, mean_text = copy.deepcopy(net), copy.deepcopy(text)
    if source == out:
        for o, saved in zip(opts, state["opt"]):
            peaks = [g["peak"] for g in o.param_groups]
            o.load_state_dict(saved)
            for g, peak in zip(o.param_groups, peaks):
                g["peak"] = peak  # of this call, not of the checkpoint
        mean_net.load_state_dict(state["net"])
        mean_text.load_state_dict(state["text"])
    means = [p.requires_grad_(False) for m in (mean_net, mean_text) for p in m.parameters()]
    live = [p for m in (net, text) for p in m.parameters()]
    known = {k: state[k] for k in ("critic", "critic_opt") if k in state} if state else {}
    del state
    if rank == 0:
        sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (net, text)]
        binary = sum(m.weight.numel() for _, m in model.block_linears(net)) / 1e6
        print(f"{name}: transformer {sizes[0]:.2f} M ({binary:.2f} M in block linears), text encoder {sizes[1]:.2f} M, from step {first}", flush=True)

    def save(step):
        if rank:
            return
        part = out.with_suffix(".part")
        critic_state = {"critic": opponent.state_dict(), "critic_opt": opponent_opt.state_dict()} if args.adversary else known
        torch.save({"kind": args.kind, "step": step, "net": mean_net.state_dict(), "text": mean_text.state_dict(), **critic_state,
                    "raw_net": net.state_dict(), "raw_text": text.state_dict(), "opt": [o.state_dict() for o in opts]}, part)
        part.rename(out)
        with bf16(args):
            losses = validation_loss(mean_net, mean_text, tok, pictures, weights)
        print(f"  step {step} validation, all/low/middle/high noise: {losses}", flush=True)

    if args.adversary:
        opponent, verdicts = critic.build(), 2.0
        opponent_opt = torch.optim.AdamW(opponent.parameters(), critic.LR, betas=critic.BETAS, weight_decay=0.01)
        for p in opponent.parameters():
            p.grad = torch.zeros_like(p)
        if "critic" in known:
            opponent.load_state_dict(known["critic"])
            opponent_opt.load_state_dict(known["critic_opt"])
    works = [model.Working(m) for m in (net, text)]
    plain = [w.module for w in works]
    compiled = [torch.compile(m, dynamic=False) for m in plain] if args.compile else plain
    began, running = time.time(), None
    for step in range(first, args.steps):
        for o in opts:
            for group in o.param_groups:
                group["lr"] = schedule(step, args.steps, args.decay, args.warmup, group["peak"])
        rng = random.Random(f"{name} {step} {rank}")
        g = torch.Generator().manual_seed(step * 2 + rank + 10_000_000 * len(name))
        x0, words, (h, w) = pictures.batch(random.Random(step), rng, args.batch, args.full)
        ids = model.positions(h, w)
        noise = torch.randn(x0.shape, generator=g)
        tokens = tokenizer.encode(tok, words)
        if args.distil:
            s = torch.tensor(model.sigmas(h * w), dtype=torch.float32)
            k = step % 4
            a, b = s[k].expand(args.batch), s[k + 1].expand(args.batch)
            x = torch.lerp(x0, noise, a[:, None, None])
            with torch.no_grad():
                both = torch.cat([teacher_text(*tokens), teacher_text(*empty).expand(args.batch, -1, -1)])
                y, n = x, SUBSTEPS[k]
                for j in range(n):
                    y = y + ((b - a) / n)[:, None, None] * guided(teacher, y, a + (b - a) * j / n, both, ids)
            t, target = a, (y - x) / (b - a)[:, None, None]
        else:
            t = times(g, args.batch, h * w, args.focus)
            x, target = torch.lerp(x0, noise, t[:, None, None]), noise - x0
        for work in works:
            work.refresh()
        fast, fast_text = compiled if (h, w) in pictures.often else plain
        with bf16(args):
            v = model.velocity(fast, x, t, fast_text(*tokens), ids).float()
        if args.guide:
            with torch.no_grad(), bf16(args):
                free = model.velocity(fast, x, t, plain[1](*empty).expand(args.batch, -1, -1), ids).float()
            target = target + args.guide * (v.detach() - free)
        loss = (weights * (v - target) ** 2).mean()
        if args.adversary:
            (gradient,) = torch.autograd.grad(loss, v)
            gradient, pair = with_adversary(gradient, v, x, x0, t, opponent, args.adversary, h, w)
            v.backward(gradient)
            opponent_opt.zero_grad(set_to_none=False)
            if pair:
                verdict = critic.hinge(opponent, *pair, h, w)
                verdict.backward()
                verdicts = 0.95 * verdicts + 0.05 * verdict.item()
            average_gradients(list(opponent.parameters()))
            opponent_opt.step()
        else:
            loss.backward()
        for work in works:
            work.return_gradients()
        average_gradients(params)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for o in opts:
            o.step()
        done = step + 1
        if rank == 0:
            torch._foreach_lerp_(means, [p.detach() for p in live], 1 - min(args.average, (1 + step) / (10 + step)))
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        if rank == 0 and (done % 25 == 0 or done == 10):
            print(f"step {done} loss {running:.4f} {torch.distributed.get_world_size() * args.batch * (done - first) / (time.time() - began):.1f} pictures/s"
                  + (f", critic {verdicts:.3f}" if args.adversary else ""), flush=True)
        if done % args.every == 0 or done == args.steps:
            save(done)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("kind", choices=["half", "binary", "ternary"])
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--decay", type=int, required=True)
    p.add_argument("--warmup", type=int, default=60)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--muon", type=float, default=0.01, help="learning rate of Muon; 0 for AdamW everywhere")
    p.add_argument("--batch", type=int, default=16, help="per process")
    p.add_argument("--every", type=int, default=200)
    p.add_argument("--average", type=float, default=0.995, help="decay of the running mean of the weights")
    p.add_argument("--sizes", default="256x256:0.8,320x224:0.1,224x320:0.1")
    p.add_argument("--guide", type=float, default=0.0, help="model guidance w: serves without guidance what scale 1/(1-w) would")
    p.add_argument("--focus", type=float, default=0.0, help="share of noise levels near the sampler's")
    p.add_argument("--full", type=float, default=0.0, help="share of captions that leave nothing out")
    p.add_argument("--adversary", type=float, default=0.0, help="length of the critic's gradient as a share of the regression's")
    p.add_argument("--compile", action="store_true", help="torch.compile for the sizes drawn often; takes a minute or two each")
    p.add_argument("--bf16", action="store_true", help="products in bf16: worth it where the CPU has bf16 matrix units")
    p.add_argument("--from", dest="start", help="checkpoint whose averaged weights to start from")
    p.add_argument("--to", help="name of the checkpoint, if not the kind")
    p.add_argument("--distil", action="store_true")
    p.add_argument("--teacher", default="half")
    p.add_argument("--port", type=int, default=29571)
    a = p.parse_args()
    launch(_train, (a,), port=a.port)
