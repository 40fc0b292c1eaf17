//! The tensors of Qwen3, every matrix and the embedding in 4 bits.

use super::plan::{Codes, TensorFile};
use super::presets::TextEncoderShape;

/// Each layer adds this much of its output: 36 layers then leave the residual stream near its size.
const RESIDUAL_GAIN: f32 = 0.5;

pub(super) fn file(shape: &TextEncoderShape) -> TensorFile {
    let codes = Codes::Int4;
    let quantization = Some((codes.bits(), codes.group_size()));
    let mut f = TensorFile::new("text_encoder/model.safetensors", quantization);
    let h = shape.hidden;
    let q = shape.heads * shape.head_dim;
    let kv = shape.kv_heads * shape.head_dim;

    // An embedding is looked up, not summed over: this gain makes its rows of size one.
    f.quantized("model.embed_tokens", [shape.vocab, h], codes, (h as f32).sqrt());
    for l in 0..shape.layers {
        let layer = format!("model.layers.{l}");
        f.rms_norm(&format!("{layer}.input_layernorm"), h);
        f.rms_norm(&format!("{layer}.post_attention_layernorm"), h);
        f.quantized(&format!("{layer}.self_attn.q_proj"), [q, h], codes, 1.0);
        f.quantized(&format!("{layer}.self_attn.k_proj"), [kv, h], codes, 1.0);
        f.quantized(&format!("{layer}.self_attn.v_proj"), [kv, h], codes, 1.0);
        f.quantized(&format!("{layer}.self_attn.o_proj"), [h, q], codes, RESIDUAL_GAIN);
        f.rms_norm(&format!("{layer}.self_attn.q_norm"), shape.head_dim);
        f.rms_norm(&format!("{layer}.self_attn.k_norm"), shape.head_dim);
        f.quantized(&format!("{layer}.mlp.gate_proj"), [shape.intermediate, h], codes, 1.0);
        f.quantized(&format!("{layer}.mlp.up_proj"), [shape.intermediate, h], codes, 1.0);
        f.quantized(&format!("{layer}.mlp.down_proj"), [h, shape.intermediate], codes, RESIDUAL_GAIN);
    }
    f.rms_norm("model.norm", h);
    f
}
