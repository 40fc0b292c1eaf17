"""The text encoder and the transformer from the libraries' own classes, quantisation-aware linears, schedule and sampler."""

import copy
import math
import re

import diffusers.models.transformers.transformer_flux2 as flux2
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3Model

from settings import ROPE_THETA, TAPS, TEXT, TEXT_LENGTH, TRANSFORMER

GROUP = 128
TEXT_GROUP = 64
# Exactly the linears that 1-bit Bonsai binarises: attention and feed-forward of both kinds of block.
BLOCK_LINEAR = re.compile(r"^(single_)?transformer_blocks\.\d+\.(attn|ff|ff_context)\.")


def plain_attention(q, k, v, **_):
    """Attention [B, tokens, heads, channels] by two plain products: in bf16 on a CPU their backward pass takes half the fused form's time."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    return torch.matmul(torch.softmax(scores, -1).to(v.dtype), v).transpose(1, 2)


def train_fast():
    """Both models' attention in the form that trains faster; what it computes stays the same."""
    flux2.dispatch_attention_fn = plain_attention
    TEXT.update(attn_implementation="eager")


class TextEncoder(nn.Module):
    """Qwen3 up to the last tap. Rows: taps side by side, no final norm."""

    def __init__(self, vocabulary):
        super().__init__()
        config = Qwen3Config(vocab_size=vocabulary, rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA}, **TEXT)
        self.m = Qwen3Model(config)
        nn.init.normal_(self.m.embed_tokens.weight, std=0.5)
        self.m.layers = self.m.layers[: max(TAPS)]
        self.m.norm = nn.Identity()

    def forward(self, ids, mask):
        h = self.m(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        return torch.cat([h[k] for k in TAPS], dim=-1)


def transformer():
    m = Flux2Transformer2DModel(**TRANSFORMER)
    for name, p in m.named_parameters():  # every block starts as the identity
        if "modulation" in name or name.startswith(("proj_out", "norm_out.linear")):
            nn.init.zeros_(p)
    return m


def build(vocabulary):
    torch.manual_seed(1)
    return transformer(), TextEncoder(vocabulary)


def positions(h, w):
    """(image ids, text ids) in the order t, h, w, l."""
    one = torch.arange(1)
    image = torch.cartesian_prod(one, torch.arange(h), torch.arange(w), one)
    text = torch.cartesian_prod(one, one, one, torch.arange(TEXT_LENGTH))
    return image, text


def velocity(net, x, t, context, ids):
    return net(hidden_states=x, encoder_hidden_states=context, timestep=t, img_ids=ids[0], txt_ids=ids[1], guidance=None, return_dict=False)[0]


def half_scale(s):
    """The scale as it is stored: rounded to half precision."""
    return s.half().to(s.dtype)


def binarize(w):
    """sign(w) * mean|w| per 128 inputs; sign(0) = +1."""
    g = w.view(w.shape[0], -1, GROUP)
    s = half_scale(g.abs().mean(-1, keepdim=True))
    return torch.where(g >= 0, s, -s).view_as(w)


def ternarize(w):
    """{-s, 0, s} per 128 inputs: threshold 0.7 mean|w|, s = mean of what lies above it (Li and Liu, "Ternary weight networks", 2016)."""
    g = w.view(w.shape[0], -1, GROUP)
    keep = g.abs() > 0.7 * g.abs().mean(-1, keepdim=True)
    s = (g.abs() * keep).sum(-1, keepdim=True) / keep.sum(-1, keepdim=True).clamp(min=1)
    return (torch.sign(g) * keep * half_scale(s)).view_as(w)


class BinaryLinear(nn.Linear):
    """Forward with the quantised weight, gradient straight through to the latent one (Bengio et al., 2013)."""

    rule = staticmethod(binarize)

    def forward(self, x):
        w = self.weight
        return F.linear(x, w + (self.rule(w) - w).detach(), self.bias)


class TernaryLinear(BinaryLinear):
    rule = staticmethod(ternarize)


def four_bit_levels(w):
    """(codes, scales, biases) of MLX's affine form with 64 inputs a group: w is about scale * code + bias, codes 0 to 15.

    Scales and biases are rounded to half precision before the codes are chosen. w [N, K]; codes [N, K/64, 64], the others [N, K/64, 1].
    """
    g = w.view(w.shape[0], -1, TEXT_GROUP)
    low, high = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
    bias = low.half().to(w.dtype)
    scale = ((high - low) / 15).clamp(min=1e-4).half().to(w.dtype)
    return ((g - bias) / scale).round().clamp(0, 15), scale, bias


def four_bit(w):
    codes, scale, bias = four_bit_levels(w)
    return (codes * scale + bias).view_as(w)


class FourBitLinear(BinaryLinear):
    rule = staticmethod(four_bit)


class FourBitEmbedding(nn.Embedding):
    rule = staticmethod(four_bit)

    def forward(self, ids):
        w = self.weight
        return F.embedding(ids, w + (four_bit(w) - w).detach())


def text_matrices(text):
    """The matrices of the text encoder that ship in 4 bits."""
    return [(n, m) for n, m in text.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))]


def quantize_aware_text(text, kind):
    """4-bit matrices beside a binary or ternary transformer, plain ones beside a half-precision one."""
    for _, m in text_matrices(text):
        if isinstance(m, nn.Linear):
            m.__class__ = nn.Linear if kind == "half" else FourBitLinear
        else:
            m.__class__ = nn.Embedding if kind == "half" else FourBitEmbedding
    return text


def block_linears(net):
    return [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear) and BLOCK_LINEAR.match(n + ".")]


def quantize_aware(net, kind):
    """Turns the block linears into their binary or ternary form; "half" leaves them alone."""
    for _, m in block_linears(net):
        m.__class__ = {"binary": BinaryLinear, "ternary": TernaryLinear, "half": nn.Linear}[kind]
    return net


class Working:
    """A plain copy of `module` to run and differentiate, its quantised weights written by `refresh` and its gradients handed
    back by `return_gradients`: straight through as in BinaryLinear, but quantised once a step, not in every pass."""

    def __init__(self, module):
        rules = {id(m.weight): m.rule for m in module.modules() if isinstance(m, (BinaryLinear, FourBitEmbedding))}
        self.module = copy.deepcopy(module)
        for m in self.module.modules():
            if isinstance(m, (BinaryLinear, FourBitEmbedding)):
                m.__class__ = nn.Linear if isinstance(m, nn.Linear) else nn.Embedding
        self.pairs = list(zip(module.parameters(), self.module.parameters()))
        self.quantized = [(p, q, rules[id(p)]) for p, q in self.pairs if id(p) in rules]
        for p, q in self.pairs:
            if id(p) not in rules:
                q.data = p.data

    @torch.no_grad()
    def refresh(self):
        for p, q, rule in self.quantized:
            q.copy_(rule(p))
        for _, q in self.pairs:
            q.grad = None

    def return_gradients(self):
        for p, q in self.pairs:
            p.grad = q.grad


@torch.no_grad()
def freeze_weights(net):
    """Writes the quantised values into the weights and goes back to plain linears."""
    for m in net.modules():
        if isinstance(m, (BinaryLinear, FourBitEmbedding)):
            m.weight.copy_(m.rule(m.weight))
            m.__class__ = nn.Linear if isinstance(m, nn.Linear) else nn.Embedding
    return net


def sigmas(tokens, steps=4):
    """The Klein pipeline's schedule (empirical mu of the number of latent tokens), steps + 1 values down to 0."""
    m200, m10 = 0.00016927 * tokens + 0.45666666, 8.73809524e-05 * tokens + 1.89833333
    a = (m200 - m10) / 190.0
    mu = a * steps + m200 - 200.0 * a
    base = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return torch.cat([math.exp(mu) / (math.exp(mu) + 1 / base - 1), torch.zeros(1, dtype=torch.float64)]).tolist()


@torch.no_grad()
def sample(net, context, noise, h, w, steps=4):
    """Euler from noise [B, h*w, 128] to normalised latents, no guidance."""
    x, ids, s = noise.clone(), positions(h, w), sigmas(h * w, steps)
    for a, b in zip(s, s[1:]):
        x = x + (b - a) * velocity(net, x, torch.full((len(x),), a), context, ids)
    return x
