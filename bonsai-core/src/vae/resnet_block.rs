use bonsai_kernels::conv2d::{Conv2d, Sampling};

use super::{GroupNorm, VaeConfig, convolve, plain_conv};
use crate::context::Context;
use crate::error::Result;
use crate::nn::{Conv, PictureBuffer};
use crate::weights::Weights;

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`, `x` through a 1x1 convolution where the channels change.
#[derive(Debug)]
pub(super) struct ResnetBlock {
    pub(super) norm1: GroupNorm,
    pub(super) conv1: Conv,
    norm2: GroupNorm,
    conv2: Conv,
    pub(super) shortcut: Option<Conv>,
}

impl ResnetBlock {
    pub(super) fn load(w: &Weights, c: &VaeConfig, in_channels: usize, out_channels: usize) -> Result<Self> {
        let shortcut = (in_channels != out_channels)
            .then(|| Conv::load(w, "conv_shortcut", out_channels, in_channels, 1))
            .transpose()?;
        Ok(Self {
            norm1: GroupNorm::load(w, "norm1", in_channels, c)?,
            conv1: Conv::load(w, "conv1", out_channels, in_channels, 3)?,
            norm2: GroupNorm::load(w, "norm2", out_channels, c)?,
            conv2: Conv::load(w, "conv2", out_channels, out_channels, 3)?,
            shortcut,
        })
    }

    /// `spare` may hold a picture that nobody needs; afterwards it does.
    pub(super) fn forward(
        &self,
        cx: &Context<'_>,
        x: PictureBuffer,
        spare: &mut Option<PictureBuffer>,
    ) -> Result<PictureBuffer> {
        let norm = self.norm1.of(cx, &x)?;
        let hidden = convolve(cx, &self.conv1, Sampling::Same, Some(&norm), &x, spare.take())?;
        let out = match &self.shortcut {
            Some(shortcut) => plain_conv(cx, shortcut, &x)?,
            None => x,
        };
        self.finish(cx, hidden, out, spare)
    }

    /// `out + conv2(silu(norm2(hidden)))`; `hidden` is spare then.
    pub(super) fn finish(
        &self,
        cx: &Context<'_>,
        hidden: PictureBuffer,
        mut out: PictureBuffer,
        spare: &mut Option<PictureBuffer>,
    ) -> Result<PictureBuffer> {
        let norm = self.norm2.of(cx, &hidden)?;
        let weights = self.conv2.prepare()?;
        let conv2 = Conv2d { weights: &weights, sampling: Sampling::Same, norm_silu: Some(&norm), add: true };
        conv2.run(cx.cpu, hidden.view(), out.view_mut())?;
        *spare = Some(hidden);
        Ok(out)
    }
}
