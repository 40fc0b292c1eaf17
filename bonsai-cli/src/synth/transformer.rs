//! The tensors of the diffusion transformer, by their names in diffusers.

use super::plan::{Codes, TensorFile};
use super::presets::{TransformerShape, Weights};

const HEAD_DIM: u64 = 128;
const CHANNELS: u64 = 128;
const TIME_CHANNELS: u64 = 256;
pub(super) const MLP_RATIO: u64 = 3;

/// Shifts, scales and gates then have a standard deviation of about a third: silu of the time embedding, which
/// they are made from, has about a fifth.
const MODULATION_GAIN: f32 = 1.5;

pub(super) fn file(shape: &TransformerShape, outliers: u64) -> TensorFile {
    let codes = match shape.weights {
        Weights::Binary => Codes::Binary,
        Weights::Ternary => Codes::Ternary,
    };
    let quantization = Some((codes.bits(), codes.group_size()));
    let mut f = TensorFile::new("transformer/diffusion_pytorch_model.safetensors", quantization);
    let d = shape.heads * HEAD_DIM;
    let mlp = MLP_RATIO * d;

    f.dense("x_embedder", [d, CHANNELS], 1.0);
    f.dense("context_embedder", [d, shape.joint], 1.0);
    let time = "time_guidance_embed.timestep_embedder";
    f.dense(&format!("{time}.linear_1"), [d, TIME_CHANNELS], 1.0);
    f.dense(&format!("{time}.linear_2"), [d, d], 1.0);
    f.modulation("double_stream_modulation_img.linear", [6 * d, d], MODULATION_GAIN, outliers);
    f.modulation("double_stream_modulation_txt.linear", [6 * d, d], MODULATION_GAIN, outliers);
    f.modulation("single_stream_modulation.linear", [3 * d, d], MODULATION_GAIN, outliers);
    f.dense("norm_out.linear", [2 * d, d], MODULATION_GAIN);
    f.dense("proj_out", [CHANNELS, d], 1.0);

    for b in 0..shape.double_blocks {
        let block = format!("transformer_blocks.{b}");
        for name in
            ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
        {
            f.quantized(&format!("{block}.attn.{name}"), [d, d], codes, 1.0);
        }
        for name in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            f.rms_norm(&format!("{block}.attn.{name}"), HEAD_DIM);
        }
        for name in ["ff", "ff_context"] {
            f.quantized(&format!("{block}.{name}.linear_in"), [2 * mlp, d], codes, 1.0);
            f.quantized(&format!("{block}.{name}.linear_out"), [d, mlp], codes, 1.0);
        }
    }
    for b in 0..shape.single_blocks {
        let attn = format!("single_transformer_blocks.{b}.attn");
        f.quantized(&format!("{attn}.to_qkv_mlp_proj"), [3 * d + 2 * mlp, d], codes, 1.0);
        f.quantized(&format!("{attn}.to_out"), [d, d + mlp], codes, 1.0);
        f.rms_norm(&format!("{attn}.norm_q"), HEAD_DIM);
        f.rms_norm(&format!("{attn}.norm_k"), HEAD_DIM);
    }
    f
}
