use bonsai_kernels::conv2d::{Conv2d, ConvWeights, Sampling};

use super::{GroupNorm, VaeConfig, convolve};
use crate::context::Context;
use crate::error::Result;
use crate::nn::PictureBuffer;
use crate::weights::Weights;

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`, `x` through a 1x1 convolution where the channels change.
#[derive(Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: ConvWeights,
    norm2: GroupNorm,
    conv2: ConvWeights,
    shortcut: Option<ConvWeights>,
}

impl ResnetBlock {
    pub(super) fn load(w: &Weights, c: &VaeConfig, in_channels: usize, out_channels: usize) -> Result<Self> {
        let shortcut = (in_channels != out_channels)
            .then(|| w.conv("conv_shortcut", out_channels, in_channels, 1))
            .transpose()?;
        Ok(Self {
            norm1: GroupNorm::load(w, "norm1", in_channels, c)?,
            conv1: w.conv("conv1", out_channels, in_channels, 3)?,
            norm2: GroupNorm::load(w, "norm2", out_channels, c)?,
            conv2: w.conv("conv2", out_channels, out_channels, 3)?,
            shortcut,
        })
    }

    pub(super) fn forward(&self, cx: &Context<'_>, x: PictureBuffer) -> Result<PictureBuffer> {
        let same = |weights| Conv2d { weights, sampling: Sampling::Same, norm_silu: None, add: false };
        let norm = self.norm1.of(cx, &x)?;
        let hidden = convolve(cx, Conv2d { norm_silu: Some(&norm), ..same(&self.conv1) }, &x)?;
        let mut out = match &self.shortcut {
            Some(shortcut) => convolve(cx, same(shortcut), &x)?,
            None => x,
        };
        let norm = self.norm2.of(cx, &hidden)?;
        let conv2 = Conv2d { norm_silu: Some(&norm), add: true, ..same(&self.conv2) };
        conv2.run(cx.cpu, hidden.view(), out.view_mut())?;
        Ok(out)
    }
}
