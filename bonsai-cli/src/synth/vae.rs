//! The tensors of the autoencoder, by their names in diffusers.

use super::plan::{Dtype, TensorFile};
use super::presets::VaeShape;
use super::random::Fill;

const LATENT: u64 = 32;
/// 2×2 patches of latents, which the batch norm is over.
const PATCHED: u64 = 4 * LATENT;
/// Standard deviation of the published latents, before they are normalised.
const LATENT_STD: f32 = 1.75;
/// Pictures then lie in about −1..1.
const PICTURE_GAIN: f32 = 0.6;
/// What silu leaves of a Gaussian of size one.
const SILU_RMS: f32 = 0.6;

pub(super) fn file(shape: &VaeShape) -> TensorFile {
    let mut f = TensorFile::new("vae/diffusion_pytorch_model.safetensors", None);
    let [c0, .., c3] = shape.channels;

    f.conv("encoder.conv_in", 3, c0, 3, 1.0);
    let mut channels = c0;
    for (i, &out) in shape.channels.iter().enumerate() {
        let block = format!("encoder.down_blocks.{i}");
        for j in 0..2 {
            f.resnet(&format!("{block}.resnets.{j}"), channels, out);
            channels = out;
        }
        if i < 3 {
            f.conv(&format!("{block}.downsamplers.0.conv"), out, out, 3, 1.0);
        }
    }
    f.mid_block("encoder.mid_block", c3);
    f.group_norm("encoder.conv_norm_out", c3);
    f.conv("encoder.conv_out", c3, 2 * LATENT, 3, LATENT_STD / SILU_RMS);
    f.conv("quant_conv", 2 * LATENT, 2 * LATENT, 1, 1.0);

    f.conv("post_quant_conv", LATENT, LATENT, 1, 1.0);
    f.conv("decoder.conv_in", LATENT, c3, 3, 1.0);
    f.mid_block("decoder.mid_block", c3);
    let mut channels = c3;
    for (i, &out) in shape.channels.iter().rev().enumerate() {
        let block = format!("decoder.up_blocks.{i}");
        for j in 0..3 {
            f.resnet(&format!("{block}.resnets.{j}"), channels, out);
            channels = out;
        }
        if i < 3 {
            f.conv(&format!("{block}.upsamplers.0.conv"), out, out, 3, 1.0);
        }
    }
    f.group_norm("decoder.conv_norm_out", c0);
    f.conv("decoder.conv_out", c0, 3, 3, PICTURE_GAIN);

    let variance = LATENT_STD * LATENT_STD;
    f.normal("bn.running_mean".into(), &[PATCHED], 0.0, 0.03);
    f.normal("bn.running_var".into(), &[PATCHED], variance, 0.03 * variance);
    f.add("bn.num_batches_tracked".into(), Dtype::I64, &[], Fill::Zero);
    f
}

impl TensorFile {
    fn bias(&mut self, base: &str, width: u64) {
        self.normal(format!("{base}.bias"), &[width], 0.0, 0.02);
    }

    fn conv(&mut self, base: &str, inputs: u64, outputs: u64, kernel: u64, gain: f32) {
        let fan_in = (inputs * kernel * kernel) as f32;
        let shape = [outputs, inputs, kernel, kernel];
        self.normal(format!("{base}.weight"), &shape, 0.0, gain / fan_in.sqrt());
        self.bias(base, outputs);
    }

    fn group_norm(&mut self, base: &str, width: u64) {
        self.normal(format!("{base}.weight"), &[width], 1.0, 0.05);
        self.bias(base, width);
    }

    fn resnet(&mut self, base: &str, inputs: u64, outputs: u64) {
        self.group_norm(&format!("{base}.norm1"), inputs);
        self.conv(&format!("{base}.conv1"), inputs, outputs, 3, 1.0);
        self.group_norm(&format!("{base}.norm2"), outputs);
        self.conv(&format!("{base}.conv2"), outputs, outputs, 3, 1.0);
        if inputs != outputs {
            self.conv(&format!("{base}.conv_shortcut"), inputs, outputs, 1, 1.0);
        }
    }

    fn mid_block(&mut self, base: &str, width: u64) {
        for j in 0..2 {
            self.resnet(&format!("{base}.resnets.{j}"), width, width);
        }
        let attention = format!("{base}.attentions.0");
        self.group_norm(&format!("{attention}.group_norm"), width);
        for name in ["to_q", "to_k", "to_v", "to_out.0"] {
            let projection = format!("{attention}.{name}");
            self.dense(&projection, [width, width], 1.0);
            self.bias(&projection, width);
        }
    }
}
