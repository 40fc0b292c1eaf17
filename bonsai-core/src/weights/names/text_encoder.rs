//! Qwen3: the naming of transformers, and that of llama.cpp's GGUF files.

use super::strip_prefix;

const PREFIXES: [&str; 6] = [
    "text_encoders.llm.",
    "language_model.model.",
    "text_encoder.model.",
    "text_encoder.",
    "model.language_model.",
    "model.",
];

pub(super) fn canonical(stored: &str) -> String {
    // some prefixes end in another one's beginning: `text_encoders.llm.model.layers`
    let bare = strip_prefix(stored, &PREFIXES);
    let bare = bare.strip_prefix("model.").unwrap_or(bare);
    from_gguf(bare).unwrap_or_else(|| bare.to_owned())
}

/// Layers outside of the blocks: llama.cpp's name, transformers' name.
const OUTSIDE: [(&str, &str); 3] =
    [("token_embd", "embed_tokens"), ("output_norm", "norm"), ("output", "lm_head")];

/// Layers of a block.
const LAYERS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// `None` for any other name.
fn from_gguf(name: &str) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.')?;
    if let Some((_, flat)) = OUTSIDE.iter().find(|(llama, _)| *llama == stem) {
        return Some(format!("{flat}.{suffix}"));
    }
    let (index, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    index.parse::<usize>().ok()?;
    let (_, part) = LAYERS.iter().find(|(llama, _)| *llama == part)?;
    Some(format!("layers.{index}.{part}.{suffix}"))
}

/// llama.cpp's name of a tensor that transformers calls `name`; `None` for any other name.
pub(super) fn to_gguf(name: &str) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.')?;
    if let Some((llama, _)) = OUTSIDE.iter().find(|(_, flat)| *flat == stem) {
        return Some(format!("{llama}.{suffix}"));
    }
    let (index, part) = stem.strip_prefix("layers.")?.split_once('.')?;
    index.parse::<usize>().ok()?;
    let (llama, _) = LAYERS.iter().find(|(_, layer)| *layer == part)?;
    Some(format!("blk.{index}.{llama}.{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namings_meet() {
        for stored in [
            "model.layers.3.self_attn.o_proj.weight",
            "layers.3.self_attn.o_proj.weight",
            "text_encoders.llm.model.layers.3.self_attn.o_proj.weight",
            "language_model.model.layers.3.self_attn.o_proj.weight",
            "blk.3.attn_output.weight",
            "text_encoders.llm.blk.3.attn_output.weight",
        ] {
            assert_eq!(canonical(stored), "layers.3.self_attn.o_proj.weight", "{stored}");
        }
        assert_eq!(canonical("token_embd.weight"), "embed_tokens.weight");
        assert_eq!(canonical("output.weight"), "lm_head.weight");
        assert_eq!(canonical("blk.0.ffn_norm.weight"), "layers.0.post_attention_layernorm.weight");
        assert_eq!(canonical("blk.0.unknown.weight"), "blk.0.unknown.weight");
        for (llama, layer) in LAYERS {
            let (name, llama) = (format!("layers.7.{layer}.weight"), format!("blk.7.{llama}.weight"));
            assert_eq!((to_gguf(&name), canonical(&llama)), (Some(llama.clone()), name));
        }
        // a key of GGUF is no tensor
        assert_eq!(canonical("qwen3.rope.freq_base"), "qwen3.rope.freq_base");
    }
}
