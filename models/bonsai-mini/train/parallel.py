"""One-thread processes that average their gradients: on a few cores faster than one process of several threads for models this small."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _start(rank, world, port, fn, args):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    fn(rank, *args)
    dist.destroy_process_group()


def launch(fn, args, world=2, port=29571):
    """Runs `fn(rank, *args)` in `world` processes; where RANK is set, as torchrun does, as that process alone."""
    if "RANK" in os.environ:
        _start(int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", world)), port, fn, args)
    else:
        mp.spawn(_start, (world, port, fn, args), nprocs=world)


def average_gradients(params):
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for p in params:
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()


def schedule(step, steps, decay, warmup, lr):
    """Linear warm-up, flat, and a linear fall to 2 % over the last `decay` steps."""
    return lr * min(1.0, (step + 1) / warmup) * min(1.0, max(0.02, (steps - step) / max(decay, 1)))
