use bonsai_kernels::activation::silu;
use bonsai_kernels::conv2d::Sampling;

use super::attn_block::MidBlock;
use super::resnet_block::ResnetBlock;
use super::{GroupNorm, VaeConfig, convolve, plain_conv};
use crate::context::Context;
use crate::error::Result;
use crate::nn::{Conv, PictureBuffer};
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv,
    /// Finest first.
    levels: Vec<Level>,
    mid: MidBlock,
    norm_out: GroupNorm,
    conv_out: Conv,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    downsample: Option<Conv>,
}

impl Encoder {
    pub(super) fn load(w: &Weights, c: &VaeConfig) -> Result<Self> {
        let channels = &c.block_out_channels;
        let deepest = channels[channels.len() - 1];
        let mut width = channels[0];
        let mut levels = Vec::new();
        for (i, &out) in channels.iter().enumerate() {
            let w = w.at("down_blocks").at(i);
            let mut resnets = Vec::new();
            for j in 0..c.layers_per_block {
                resnets.push(ResnetBlock::load(&w.at("resnets").at(j), c, width, out)?);
                width = out;
            }
            let last = i + 1 == channels.len();
            let downsample =
                (!last).then(|| Conv::load(&w, "downsamplers.0.conv", out, out, 3)).transpose()?;
            levels.push(Level { resnets, downsample });
        }
        Ok(Self {
            conv_in: Conv::load(w, "conv_in", channels[0], c.in_channels, 3)?,
            levels,
            mid: MidBlock::load(&w.at("mid_block"), c, deepest)?,
            norm_out: GroupNorm::load(w, "conv_norm_out", deepest, c)?,
            conv_out: Conv::load(w, "conv_out", 2 * c.latent_channels, deepest, 3)?,
        })
    }

    pub(super) fn forward(&self, cx: &mut Context<'_>, picture: PictureBuffer) -> Result<PictureBuffer> {
        let parts = 2 + self.levels.iter().map(|l| l.resnets.len()).sum::<usize>();
        let mut done = 0;
        let mut x = plain_conv(cx, &self.conv_in, &picture)?;
        drop(picture);
        cx.tap_picture(format_args!("encoder.conv_in"), x.view());
        for (i, level) in self.levels.iter().enumerate() {
            let mut spare = None;
            for (j, resnet) in level.resnets.iter().enumerate() {
                x = resnet.forward(cx, x, &mut spare)?;
                cx.tap_picture(format_args!("encoder.down_blocks.{i}.resnets.{j}"), x.view());
                done += 1;
                cx.part_done(done, parts)?;
            }
            drop(spare);
            if let Some(downsample) = &level.downsample {
                x = convolve(cx, downsample, Sampling::Downsample, None, &x, None)?;
                cx.tap_picture(format_args!("encoder.down_blocks.{i}.downsamplers.0"), x.view());
            }
            cx.tap_picture(format_args!("encoder.down_blocks.{i}"), x.view());
        }
        let mut x = self.mid.forward(cx, x, "encoder.mid_block")?;
        cx.part_done(done + 1, parts)?;
        // small here, so that norm and SiLU need not hide in the convolution
        let normed = PictureBuffer::copy_of(cx.cpu, x.view())?;
        self.norm_out.of(cx, &x)?.apply(cx.cpu, normed.pixels(), x.pixels_mut())?;
        cx.tap_picture(format_args!("encoder.conv_norm_out"), x.view());
        silu(cx.cpu, x.as_mut_slice());
        let moments = plain_conv(cx, &self.conv_out, &x)?;
        cx.tap_picture(format_args!("encoder.conv_out"), moments.view());
        cx.part_done(parts, parts)?;
        Ok(moments)
    }
}
