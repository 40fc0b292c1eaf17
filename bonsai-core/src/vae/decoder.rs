use bonsai_kernels::conv2d::Sampling;

use super::attn_block::MidBlock;
use super::resnet_block::ResnetBlock;
use super::{GroupNorm, VaeConfig, convolve, plain_conv};
use crate::context::Context;
use crate::error::Result;
use crate::nn::{Conv, PictureBuffer};
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv,
    mid: MidBlock,
    /// Deepest first.
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    upsample: Option<Conv>,
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
            let upsample = (!last).then(|| Conv::load(&w, "upsamplers.0.conv", out, out, 3)).transpose()?;
            levels.push(Level { resnets, upsample });
        }
        Ok(Self {
            conv_in: Conv::load(w, "conv_in", deepest, c.latent_channels, 3)?,
            mid: MidBlock::load(&w.at("mid_block"), c, deepest)?,
            levels,
            norm_out: GroupNorm::load(w, "conv_norm_out", finest, c)?,
            conv_out: Conv::load(w, "conv_out", c.out_channels, finest, 3)?,
        })
    }

    /// The finest `strips` upsamplings are made in strips.
    pub(super) fn forward(
        &self,
        cx: &mut Context<'_>,
        latent: PictureBuffer,
        strips: usize,
    ) -> Result<PictureBuffer> {
        let parts = 2 + self.levels.iter().map(|l| l.resnets.len()).sum::<usize>();
        let x = plain_conv(cx, &self.conv_in, &latent)?;
        drop(latent);
        cx.tap_picture(format_args!("decoder.conv_in"), x.view());
        let mut x = self.mid.forward(cx, x, "decoder.mid_block")?;
        let mut done = 1;
        cx.part_done(done, parts)?;
        // the convolution between the level before and this one, where it is still to be done
        let mut pending: Option<&Conv> = None;
        for (i, level) in self.levels.iter().enumerate() {
            // panels of the wider layers before, for which there is less room from level to level
            cx.cpu.release_buffers();
            let mut spare = None;
            for (j, resnet) in level.resnets.iter().enumerate() {
                x = match pending.take() {
                    Some(upsample) => resnet.forward_upsampled(cx, x, upsample, &mut spare)?,
                    None => resnet.forward(cx, x, &mut spare)?,
                };
                cx.tap_picture(format_args!("decoder.up_blocks.{i}.resnets.{j}"), x.view());
                done += 1;
                cx.part_done(done, parts)?;
            }
            drop(spare);
            if let Some(upsample) = &level.upsample {
                // who looks inside wants to see it
                if i + 1 + strips >= self.levels.len() && cx.probe.is_none() {
                    pending = Some(upsample);
                    continue;
                }
                x = convolve(cx, upsample, Sampling::UpsampleNearest, None, &x, None)?;
                cx.tap_picture(format_args!("decoder.up_blocks.{i}.upsamplers.0"), x.view());
            }
            cx.tap_picture(format_args!("decoder.up_blocks.{i}"), x.view());
        }
        let norm = self.norm_out.of(cx, &x)?;
        let picture = convolve(cx, &self.conv_out, Sampling::Same, Some(&norm), &x, None)?;
        cx.tap_picture(format_args!("decoder.conv_out"), picture.view());
        cx.part_done(parts, parts)?;
        Ok(picture)
    }
}
