"""A discriminator of latents, patch by patch, for the last stage of the flow's training.

What a flow model answers at the last sampler sigma is the mean of all pictures that the noise still allows, which is soft; the
critic asks for latents that could be a picture's. Hinge loss and spectral norms after Miyato et al., "Spectral normalization for
generative adversarial networks" (2018); beside the regression as in Sauer et al., "Adversarial diffusion distillation" (2023).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm

import vae

WIDTHS = (32, 64, 96, 128)
LR, BETAS = 1e-3, (0.5, 0.95)


class Critic(nn.Module):
    """Packed normalised latents [B, h*w, 128] -> a verdict for each of the h*w patches with its surroundings, [B, h*w]."""

    def __init__(self, deviation):
        super().__init__()
        torch.manual_seed(2)
        # Channels count as much as the autoencoder uses them.
        self.register_buffer("deviation", deviation.view(1, -1, 1, 1), persistent=False)
        self.conv = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 3, s, 1)) for a, b, s in zip(WIDTHS, WIDTHS[1:], (1, 2, 1)))
        self.out = spectral_norm(nn.Conv2d(WIDTHS[-1], 1, 1))

    def forward(self, z, h, w):
        x = vae.unpatchify(z.transpose(1, 2).reshape(len(z), 128, h, w) * self.deviation)
        for conv in self.conv:
            x = F.leaky_relu(conv(x), 0.2) * 1.4
        return self.out(x).flatten(1)


def build():
    return Critic((vae.load().bn.running_var).sqrt())


def hinge(critic, real, fake, *grid):
    """The critic's own loss."""
    a, b = critic(torch.cat([real, fake]), *grid).chunk(2)
    return F.relu(1 - a).mean() + F.relu(1 + b).mean()
