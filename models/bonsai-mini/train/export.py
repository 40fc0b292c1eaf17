"""Writes a trained model as the directory that ships.

    python export.py binary TO     MLX layout: 1-bit block linears, 4-bit text encoder, half precision for the rest
    python export.py ternary TO    the same with 2-bit codes
    python export.py half TO       everything in half precision, the form that diffusers' pipeline loads as it stands
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import data
import flow
import model
import tokenizer
import vae
from settings import PIXELS_PER_TOKEN, ROPE_THETA, SIZE, TAPS, TEXT, TEXT_LENGTH, TRANSFORMER, VAE


def words(codes, bits):
    """Integer codes [N, K] -> little-endian 32-bit words [N, K * bits / 32], first code in the lowest bits."""
    per = 32 // bits
    c = codes.numpy().astype(np.uint64).reshape(codes.shape[0], -1, per)
    shifts = np.arange(per, dtype=np.uint64) * bits
    return torch.from_numpy((c << shifts).sum(-1).astype(np.uint32).view(np.int32)).view(torch.uint32)


def triplet(name, codes, scale, bias, bits, to):
    to[f"{name}.weight"] = words(codes.reshape(codes.shape[0], -1), bits)
    to[f"{name}.scales"] = scale.squeeze(-1).half().contiguous()
    to[f"{name}.biases"] = bias.squeeze(-1).half().contiguous()


def pack_block(name, w, kind, to):
    """One block linear: w = scale * code + bias with (2s, -s) for {-s, s} and (s, -s) for {-s, 0, s}."""
    q = (model.binarize if kind == "binary" else model.ternarize)(w)
    g = q.view(q.shape[0], -1, model.GROUP)
    s = g.abs().amax(-1, keepdim=True)
    if kind == "binary":
        triplet(name, (g >= 0).int(), 2 * s, -s, 1, to)
    else:
        triplet(name, torch.sign(g).int() + 1, s, -s, 2, to)


def transformer_tensors(net, kind):
    to, packed = {}, {n for n, _ in model.block_linears(net)} if kind != "half" else set()
    for name, w in net.state_dict().items():
        base = name.removesuffix(".weight")
        if base in packed:
            pack_block(base, w, kind, to)
        else:
            to[name] = w.half().contiguous()
    return to


def text_tensors(text, kind):
    """Layers up to the last tap. The half-precision form also gets the unused last layer and norm, which the library's class expects."""
    to, packed = {}, {n for n, _ in model.text_matrices(text.m)} if kind != "half" else set()
    for name, w in text.m.state_dict().items():
        base = name.removesuffix(".weight")
        if base in packed:
            triplet("model." + base, *model.four_bit_levels(w), 4, to)
        else:
            to["model." + name] = w.half().contiguous()
    if kind == "half":
        add_unused(to)
    return to


def add_unused(to):
    """A last layer that adds nothing and a plain final norm: never run for the prompt embeddings."""
    last = TEXT["num_hidden_layers"] - 1
    for name, w in list(to.items()):
        if f"layers.{last - 1}." in name:
            keep = torch.ones_like(w) if "norm" in name else torch.zeros_like(w)
            to[name.replace(f"layers.{last - 1}.", f"layers.{last}.")] = keep
    to["model.norm.weight"] = torch.ones(TEXT["hidden_size"], dtype=next(iter(to.values())).dtype)


def configs(vocabulary, tok):
    whole = {k: v for k, v in vae.build().config.items() if not k.startswith("_name")}
    return {
        "model_index.json": {
            "_class_name": "Flux2KleinPipeline", "is_distilled": True, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3ForCausalLM"], "tokenizer": ["transformers", "Qwen2TokenizerFast"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"], "vae": ["diffusers", "AutoencoderKLFlux2"],
        },
        "bonsai.json": {"text_encoder_out_layers": list(TAPS), "max_sequence_length": TEXT_LENGTH, "default_size": list(SIZE), "steps": 4},
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler", "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096,
            "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 3.0, "time_shift_type": "exponential", "use_dynamic_shifting": True,
        },
        "transformer/config.json": {"_class_name": "Flux2Transformer2DModel", **TRANSFORMER},
        "vae/config.json": {"_class_name": "AutoencoderKLFlux2", **{**VAE, **whole}},
        "text_encoder/config.json": {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "rope_theta": ROPE_THETA, "vocab_size": vocabulary,
            "torch_dtype": "float16", "attention_dropout": 0.0, "use_cache": True, "use_sliding_window": False, "sliding_window": None, **TEXT,
        },
    }


@torch.no_grad()
def latent_rgb(trained, count=64):
    """The linear map from a latent's 32 channels to the mean colour of its 8x8 pixels, by least squares over unseen renderings."""
    x = vae.to_tensor(np.load(data.UNSEEN, mmap_mode="r")[:count])
    z = trained.encode(x).latent_dist.mean.permute(0, 2, 3, 1).reshape(-1, 32).double()
    rgb = torch.nn.functional.avg_pool2d(x, PIXELS_PER_TOKEN // 2).permute(0, 2, 3, 1).reshape(-1, 3).double()
    solution = torch.linalg.lstsq(torch.cat([z, torch.ones(len(z), 1, dtype=torch.float64)], 1), rgb).solution.tolist()
    narrow = [[float(np.float32(v)) for v in row] for row in solution]
    return {"weights": narrow[:-1], "bias": narrow[-1]}


def main(kind, to, name=None):
    to, tok = Path(to), tokenizer.load()
    net, text = flow.load(name or kind, tok.get_vocab_size())
    for role in ("transformer", "text_encoder", "vae", "tokenizer", "scheduler"):
        (to / role).mkdir(parents=True, exist_ok=True)
    for path, body in configs(tok.get_vocab_size(), tok).items():
        (to / path).write_text(json.dumps(body, indent=1, default=list) + "\n")
    (to / "tokenizer/tokenizer.json").write_text(tok.to_str(pretty=False))
    (to / "tokenizer/tokenizer_config.json").write_text(tokenizer.config(tok) + "\n")
    meta = {"format": "pt"}
    save_file(transformer_tensors(net, kind), to / "transformer/diffusion_pytorch_model.safetensors", meta)
    save_file(text_tensors(text, kind), to / "text_encoder/model.safetensors", meta)
    trained = vae.load()
    (to / "vae/latent_rgb.json").write_text(json.dumps(latent_rgb(trained)) + "\n")
    dense = {n: w.half().contiguous() if w.is_floating_point() else w for n, w in trained.state_dict().items()}
    for n in ("bn.running_mean", "bn.running_var"):
        dense[n] = dense[n].float()
    save_file(dense, to / "vae/diffusion_pytorch_model.safetensors", meta)
    print(kind, "->", to, sum(f.stat().st_size for f in to.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
