use bonsai_kernels::conv2d::{Conv2d, ConvWeights, Sampling};

use super::attn_block::MidBlock;
use super::resnet_block::ResnetBlock;
use super::{GroupNorm, VaeConfig, convolve, plain_conv};
use crate::context::Context;
use crate::error::Result;
use crate::nn::PictureBuffer;
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: ConvWeights,
    mid: MidBlock,
    /// Deepest first.
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: ConvWeights,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    upsample: Option<ConvWeights>,
}

impl Decoder {
    pub(super) fn load(w: &Weights, c: &VaeConfig) -> Result<Self> {
        let channels: Vec<usize> = c.decoder_channels().iter().rev().copied().collect();
        let (deepest, finest) = (channels[0], channels[channels.len() - 1]);
        let mut levels = Vec::new();
        let mut width = deepest;
        for (i, &out) in channels.iter().enumerate() {
            let w = w.at("up_blocks").at(i);
            let mut resnets = Vec::new();
            for j in 0..=c.layers_per_block {
                resnets.push(ResnetBlock::load(&w.at("resnets").at(j), c, width, out)?);
                width = out;
            }
            let last = i + 1 == channels.len();
            let upsample = (!last).then(|| w.conv("upsamplers.0.conv", out, out, 3)).transpose()?;
            levels.push(Level { resnets, upsample });
        }
        Ok(Self {
            conv_in: w.conv("conv_in", deepest, c.latent_channels, 3)?,
            mid: MidBlock::load(&w.at("mid_block"), c, deepest)?,
            levels,
            norm_out: GroupNorm::load(w, "conv_norm_out", finest, c)?,
            conv_out: w.conv("conv_out", c.out_channels, finest, 3)?,
        })
    }

    pub(super) fn forward(&self, cx: &mut Context<'_>, latent: PictureBuffer) -> Result<PictureBuffer> {
        let parts = 2 + self.levels.iter().map(|l| l.resnets.len()).sum::<usize>();
        let x = plain_conv(cx, &self.conv_in, &latent)?;
        drop(latent);
        cx.tap_picture(format_args!("decoder.conv_in"), x.view());
        let mut x = self.mid.forward(cx, x, "decoder.mid_block")?;
        let mut done = 1;
        cx.part_done(done, parts)?;
        for (i, level) in self.levels.iter().enumerate() {
            for (j, resnet) in level.resnets.iter().enumerate() {
                x = resnet.forward(cx, x)?;
                cx.tap_picture(format_args!("decoder.up_blocks.{i}.resnets.{j}"), x.view());
                done += 1;
                cx.part_done(done, parts)?;
            }
            if let Some(weights) = &level.upsample {
                let sampling = Sampling::UpsampleNearest;
                x = convolve(cx, Conv2d { weights, sampling, norm_silu: None, add: false }, &x)?;
                cx.tap_picture(format_args!("decoder.up_blocks.{i}.upsamplers.0"), x.view());
            }
            cx.tap_picture(format_args!("decoder.up_blocks.{i}"), x.view());
        }
        let norm = self.norm_out.of(cx, &x)?;
        let conv_out =
            Conv2d { weights: &self.conv_out, sampling: Sampling::Same, norm_silu: Some(&norm), add: false };
        let picture = convolve(cx, conv_out, &x)?;
        cx.tap_picture(format_args!("decoder.conv_out"), picture.view());
        cx.part_done(parts, parts)?;
        Ok(picture)
    }
}
