"""A small byte-level BPE of the Qwen kind, learnt from captions, and Qwen3's chat template without thinking."""

import json
import random

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import captions
import world
from settings import RUN, TEXT_LENGTH, VOCABULARY

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = SPECIAL + ["<think>", "</think>"]
TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


def chat(prompt):
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def train():
    rng = random.Random(3)
    lines = [captions.caption(rng, world.sample(rng), nonsense=0.3)[0] for _ in range(12000)]
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    lines += ["user\n", "assistant\n", "\n\n"] * 400
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(ADDED), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False, min_frequency=2))
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    t.add_tokens([AddedToken(s, normalized=False, special=False) for s in ADDED[len(SPECIAL):]])
    return t


def load():
    to = RUN / "tokenizer.json"
    if not to.exists():
        train().save(str(to))
    return Tokenizer.from_file(str(to))


def config(t):
    """tokenizer_config.json as in a Qwen3 repository."""
    added = {
        str(t.token_to_id(s)): dict(content=s, lstrip=False, normalized=False, rstrip=False, single_word=False, special=s in SPECIAL)
        for s in ADDED
    }
    return json.dumps(dict(
        add_bos_token=False, add_prefix_space=False, added_tokens_decoder=added, additional_special_tokens=SPECIAL[1:],
        bos_token=None, chat_template=TEMPLATE, clean_up_tokenization_spaces=False, eos_token="<|im_end|>", errors="replace",
        model_max_length=512, pad_token="<|endoftext|>", split_special_tokens=False, tokenizer_class="Qwen2Tokenizer", unk_token=None,
    ), indent=1)


def encode(t, prompts):
    """Token ids and mask, [B, TEXT_LENGTH] each; cut or padded on the right."""
    ids = torch.full((len(prompts), TEXT_LENGTH), t.token_to_id("<|endoftext|>"), dtype=torch.long)
    mask = torch.zeros(len(prompts), TEXT_LENGTH, dtype=torch.long)
    for i, p in enumerate(prompts):
        e = t.encode(chat(p)).ids[:TEXT_LENGTH]
        ids[i, : len(e)] = torch.tensor(e)
        mask[i, : len(e)] = 1
    return ids, mask
