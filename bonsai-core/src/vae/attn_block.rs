use bonsai_kernels::attention::{Heads, Mask, attention};
use bonsai_kernels::gemm::Activations;

use super::{GroupNorm, VaeConfig};
use crate::context::Context;
use crate::error::Result;
use crate::nn::{Linear, PictureBuffer, TokenBuffer};
use crate::weights::Weights;

/// Attention over all pixels with one head as wide as the picture has channels: `x + out(attention(norm(x)))`.
#[derive(Debug)]
pub(super) struct AttnBlock {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    channels: usize,
}

impl AttnBlock {
    pub(super) fn load(w: &Weights, c: &VaeConfig, channels: usize) -> Result<Self> {
        // files of older diffusers versions
        let old = w.has("query.weight");
        let names =
            if old { ["query", "key", "value", "proj_attn"] } else { ["to_q", "to_k", "to_v", "to_out.0"] };
        let linear = |name| Linear::load_with_bias(w, name, channels, channels);
        Ok(Self {
            norm: GroupNorm::load(w, "group_norm", channels, c)?,
            q: linear(names[0])?,
            k: linear(names[1])?,
            v: linear(names[2])?,
            out: linear(names[3])?,
            channels,
        })
    }

    pub(super) fn forward(&self, cx: &Context<'_>, mut x: PictureBuffer) -> Result<PictureBuffer> {
        let cpu = cx.cpu;
        let tokens = x.pixels().nrows();
        let zeros = || TokenBuffer::zeros(cpu, tokens, self.channels);
        let mut norm = zeros()?;
        self.norm.of(cx, &x)?.apply(cpu, x.pixels(), norm.view_mut())?;
        let h = Activations::new(cpu, norm.view());
        let (mut q, mut k, mut v) = (zeros()?, zeros()?, zeros()?);
        self.q.forward(cpu, &h, q.view_mut())?;
        self.k.forward(cpu, &h, k.view_mut())?;
        self.v.forward(cpu, &h, v.view_mut())?;
        drop(h);
        let heads = Heads { query: 1, key_value: 1, dim: self.channels };
        attention(cpu, q.view(), k.view(), v.view(), heads, Mask::None, norm.view_mut())?;
        self.out.add(cpu, norm.view(), x.pixels_mut())?;
        Ok(x)
    }
}

/// Resnet, attention where the config wants it, resnet.
#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: [super::resnet_block::ResnetBlock; 2],
    attention: Option<AttnBlock>,
}

impl MidBlock {
    pub(super) fn load(w: &Weights, c: &VaeConfig, channels: usize) -> Result<Self> {
        let resnet =
            |i| super::resnet_block::ResnetBlock::load(&w.at("resnets").at(i), c, channels, channels);
        let attention = c
            .mid_block_add_attention
            .then(|| AttnBlock::load(&w.at("attentions").at(0), c, channels))
            .transpose()?;
        Ok(Self { resnets: [resnet(0)?, resnet(1)?], attention })
    }

    pub(super) fn forward(
        &self,
        cx: &mut Context<'_>,
        x: PictureBuffer,
        name: &str,
    ) -> Result<PictureBuffer> {
        let mut x = self.resnets[0].forward(cx, x, &mut None)?;
        cx.tap_picture(format_args!("{name}.resnets.0"), x.view());
        if let Some(attention) = &self.attention {
            // the module adds its input itself, so that its output is the sum
            x = attention.forward(cx, x)?;
            // nothing else here multiplies matrices
            cx.cpu.release_buffers();
            cx.tap_picture(format_args!("{name}.attentions.0"), x.view());
        }
        let x = self.resnets[1].forward(cx, x, &mut None)?;
        cx.tap_picture(format_args!("{name}.resnets.1"), x.view());
        cx.tap_picture(format_args!("{name}"), x.view());
        Ok(x)
    }
}
