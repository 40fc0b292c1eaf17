use bonsai_kernels::SharedBytes;
use bonsai_kernels::conv2d::ConvWeights;
use bonsai_kernels::weights::FloatType;

use crate::error::{Error, Result};
use crate::weights::Weights;

/// Weights of a convolution where they lie. They are reordered for the kernel when their turn comes and dropped after
/// it: a decoder's convolutions together take as much memory as they do in the file.
#[derive(Debug, Clone)]
pub struct Conv {
    pub(crate) values: SharedBytes,
    pub(crate) float_type: FloatType,
    pub(crate) bias: Vec<f32>,
    pub(crate) in_channels: usize,
    pub(crate) kernel: usize,
}

impl Conv {
    /// Reads `name.weight` `[out_channels, in_channels, kernel, kernel]` and `name.bias`; `kernel` is 1 or 3.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load(
        w: &Weights,
        name: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: usize,
    ) -> Result<Self> {
        w.conv(name, out_channels, in_channels, kernel)
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.bias.len()
    }

    /// The weights as the kernel wants them.
    ///
    /// # Errors
    /// When the bytes do not fit the shape, which loading has made sure of.
    pub fn prepare(&self) -> Result<ConvWeights> {
        let (bytes, bias) = (self.values.as_slice(), self.bias.clone());
        ConvWeights::new(self.out_channels(), self.in_channels, self.kernel, self.float_type, bytes, bias)
            .map_err(|e| Error::mismatch("weights of a convolution").with_source(e))
    }
}
