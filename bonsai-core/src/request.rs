use crate::error::{Error, Result};
use crate::latents::PIXELS_PER_TOKEN;
use crate::noise::NoiseSource;
use crate::scheduler::FlowMatchEuler;

/// The longest side of a picture, in pixels.
pub const MAX_SIDE: usize = 2048;

/// What to paint. Fields that are `None` take the model's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt; it may be empty.
    pub prompt: String,
    /// Width and height in pixels, multiples of 16, or of 32 where the VAE has a level more than FLUX.2's.
    pub size: Option<(usize, usize)>,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Seed of the noise.
    pub seed: u64,
    /// Which generator draws the noise.
    pub noise_source: NoiseSource,
    /// The noise levels, where they are not to follow from the steps.
    pub schedule: Schedule,
    /// Hidden states of the text encoder that make the prompt embeddings, ascending.
    pub text_encoder_out_layers: Option<Vec<usize>>,
    /// Tokens of the prompt, padding included.
    pub max_sequence_length: Option<usize>,
    /// Guidance value, for models that embed one.
    pub guidance: Option<f32>,
    /// Whether the picture is decoded in tiles: less memory, slightly another picture.
    pub vae_tiling: bool,
}

/// How the noise levels are chosen.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Schedule {
    /// Shifted by the empirical mu of steps and picture size, as FLUX.2 does.
    #[default]
    EmpiricalMu,
    /// Shifted by a fixed factor.
    FixedShift(f64),
    /// These sigmas, strictly descending; a last 0 is added where it is missing.
    Sigmas(Vec<f32>),
}

impl Request {
    /// A request with the model's defaults and seed 0.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            size: None,
            steps: None,
            seed: 0,
            noise_source: NoiseSource::default(),
            schedule: Schedule::default(),
            text_encoder_out_layers: None,
            max_sequence_length: None,
            guidance: None,
            vae_tiling: false,
        }
    }

    /// The same with this width and height in pixels.
    #[must_use]
    pub fn size(self, width: usize, height: usize) -> Self {
        Self { size: Some((width, height)), ..self }
    }

    /// The same with this many denoising steps.
    #[must_use]
    pub fn steps(self, steps: usize) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// The same with this seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Finds what is wrong whatever the model: the size and the number of steps, where they are given.
    ///
    /// # Errors
    /// When a side is no multiple of 16 or out of range, or so is the number of steps.
    pub fn check(&self) -> Result<()> {
        let tokens =
            self.size.map(|(width, height)| token_grid(width, height, PIXELS_PER_TOKEN)).transpose()?;
        let (rows, columns) = tokens.unwrap_or((1, 1));
        let steps = self.steps.unwrap_or(1);
        self.schedule.sigmas(steps, rows * columns).map(|_| ())
    }
}

/// Rows and columns of tokens, of `pixels` in each direction, of a picture.
pub(crate) fn token_grid(width: usize, height: usize, pixels: usize) -> Result<(usize, usize)> {
    for (name, side) in [("width", width), ("height", height)] {
        if side == 0 || side > MAX_SIDE {
            return Err(Error::invalid(format!(
                "{name} {side}: expected a multiple of {pixels} from {pixels} to {MAX_SIDE}"
            )));
        }
        if !side.is_multiple_of(pixels) {
            let below = side / pixels * pixels;
            let above = below + pixels;
            let nearest = if below == 0 { format!("{above}") } else { format!("{below} and {above}") };
            return Err(Error::invalid(format!(
                "{name} {side}: expected a multiple of {pixels}; the nearest are {nearest}"
            )));
        }
    }
    Ok((height / pixels, width / pixels))
}

impl Schedule {
    pub(crate) fn sigmas(&self, steps: usize, tokens: usize) -> Result<FlowMatchEuler> {
        Ok(match self {
            Self::EmpiricalMu => FlowMatchEuler::new(steps, tokens)?,
            Self::FixedShift(shift) => FlowMatchEuler::fixed_shift(steps, *shift)?,
            Self::Sigmas(sigmas) => FlowMatchEuler::from_sigmas(sigmas.clone())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_name_their_neighbours() {
        assert_eq!(token_grid(512, 256, 16).unwrap(), (16, 32));
        assert_eq!(token_grid(512, 256, 32).unwrap(), (8, 16));
        let message = token_grid(528, 512, 32).unwrap_err().to_string();
        assert!(message.contains("width 528") && message.contains("512 and 544"), "{message}");
        let message = token_grid(500, 512, 16).unwrap_err().to_string();
        assert!(message.contains("width 500") && message.contains("496 and 512"), "{message}");
        for side in [0, MAX_SIDE + 16, 100_000] {
            assert!(token_grid(512, side, 16).is_err());
        }
    }
}
