"""AdamW, and Muon for matrices: momentum made orthogonal by a Newton-Schulz iteration.

Muon: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Convolutions count as
matrices [out, in * kh * kw]. Equal shapes go through the iteration as one batch, shared out over the processes.
"""

import torch
import torch.distributed as dist


def orthogonal(g, rounds=5, dtype=torch.float32):
    """Approximate U V^T of the singular value decomposition of each matrix of [B, m, n]; its products in `dtype`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if flip else g
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(rounds):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.transpose(1, 2) if flip else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, dtype=torch.float32):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("momentum", torch.zeros_like(p, memory_format=torch.contiguous_format))
                m.lerp_(p.grad, 1 - group["momentum"])
                u = p.grad.lerp(m, group["momentum"])
                shapes.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append((p, u))
            for (rows, cols), items in shapes.items():
                g = torch.stack([u.contiguous().view(rows, cols) for _, u in items])
                out = torch.zeros_like(g)
                mine = slice(rank, None, world)
                if len(items) > rank:
                    out[mine] = orthogonal(g[mine], dtype=self.dtype)
                if world > 1:
                    dist.all_reduce(out)
                scale = max(1.0, rows / cols) ** 0.5
                for (p, _), o in zip(items, out):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(o.view(p.shape), alpha=-group["lr"] * scale)
