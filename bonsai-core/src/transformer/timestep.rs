use bonsai_kernels::{Cpu, activation};

use super::Flux2Config;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::nn::Linear;
use crate::weights::Weights;

/// Sigma, and for some models the guidance, to the time embedding `temb`.
#[derive(Debug)]
pub(super) struct TimestepEmbedding {
    timestep: Embedder,
    guidance: Option<Embedder>,
    channels: usize,
}

#[derive(Debug)]
struct Embedder {
    linear_1: Linear,
    linear_2: Linear,
}

impl Embedder {
    fn load(w: &Weights, c: &Flux2Config) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(w, "linear_1", c.hidden_size(), c.timestep_guidance_channels)?,
            linear_2: Linear::load(w, "linear_2", c.hidden_size(), c.hidden_size())?,
        })
    }

    fn forward(&self, cpu: &Cpu, sinusoid: &[f32]) -> Result<Vec<f32>> {
        let mut hidden = self.linear_1.apply_row(cpu, sinusoid)?;
        activation::silu(cpu, &mut hidden);
        self.linear_2.apply_row(cpu, &hidden)
    }
}

impl TimestepEmbedding {
    pub(super) fn load(w: &Weights, c: &Flux2Config) -> Result<Self> {
        let w = w.at("time_guidance_embed");
        let guidance =
            c.guidance_embeds.then(|| Embedder::load(&w.at("guidance_embedder"), c)).transpose()?;
        let timestep = Embedder::load(&w.at("timestep_embedder"), c)?;
        Ok(Self { timestep, guidance, channels: c.timestep_guidance_channels })
    }

    /// `temb` `[hidden_size]`. `timestep` is a sigma in 0..=1.
    pub(super) fn forward(
        &self,
        cx: &mut Context<'_>,
        timestep: f32,
        guidance: Option<f32>,
    ) -> Result<Vec<f32>> {
        let sinusoid = sinusoid(1000.0 * timestep, self.channels);
        cx.tap_vector("time_guidance_embed.time_proj", &sinusoid);
        let mut temb = self.timestep.forward(cx.cpu, &sinusoid)?;
        if let Some(embedder) = &self.guidance {
            let guidance = guidance
                .ok_or_else(|| Error::invalid("this model embeds a guidance value; none was given"))?;
            let embedded = embedder.forward(cx.cpu, &self::sinusoid(1000.0 * guidance, self.channels))?;
            temb.iter_mut().zip(embedded).for_each(|(t, e)| *t += e);
        }
        cx.tap_vector("time_guidance_embed", &temb);
        Ok(temb)
    }
}

/// `[cos(t f_i) .., sin(t f_i) ..]` with `f_i = exp(-ln(10000) i / half)`. Frequency and phase are formed in f32, as
/// the reference does: at 1000 rad that is worth 1e-5 of the output.
fn sinusoid(t: f32, channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let phase = |i: usize| {
        let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
        f64::from(t * f64::from(exponent).exp() as f32)
    };
    (0..half).map(|i| phase(i).cos() as f32).chain((0..half).map(|i| phase(i).sin() as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sinusoid_at_1000() {
        let e = sinusoid(1000.0, 256);
        for (i, want) in [(0, 0.562_379), (128, 0.826_88), (64, -0.839_072), (192, -0.544_021)] {
            assert!((e[i] - want).abs() < 2e-4, "{i}: {}", e[i]);
        }
    }
}
