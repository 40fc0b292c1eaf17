use super::VaeConfig;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// Mean and standard deviation of each channel of a latent token: the transformer works on `(x - mean) / std`.
#[derive(Debug, Clone)]
pub struct LatentNorm {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl LatentNorm {
    /// From a batch norm's running statistics.
    pub(super) fn load(w: &Weights, c: &VaeConfig) -> Result<Self> {
        let channels = [c.token_channels()];
        let mean = w.values("running_mean", &channels)?;
        let variance = w.values("running_var", &channels)?;
        w.skip("num_batches_tracked");
        let std: Vec<f32> = variance.iter().map(|v| (v + c.batch_norm_eps).sqrt()).collect();
        if std.iter().all(|&s| s > 0.0) {
            Ok(Self { mean, std })
        } else {
            Err(Error::format("tensor bn.running_var: expected variances of at least 0"))
        }
    }

    /// No change: for latents that are decoded as the transformer leaves them.
    pub(super) fn identity(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// `x * std + mean` of tokens in place, `[tokens, channels]` row by row.
    pub fn denormalise(&self, tokens: &mut [f32]) {
        for token in tokens.chunks_exact_mut(self.mean.len()) {
            for ((x, m), s) in token.iter_mut().zip(&self.mean).zip(&self.std) {
                *x = *x * s + m;
            }
        }
    }

    /// `(x - mean) / std` of tokens in place.
    pub fn normalise(&self, tokens: &mut [f32]) {
        for token in tokens.chunks_exact_mut(self.mean.len()) {
            for ((x, m), s) in token.iter_mut().zip(&self.mean).zip(&self.std) {
                *x = (*x - m) / s;
            }
        }
    }
}
