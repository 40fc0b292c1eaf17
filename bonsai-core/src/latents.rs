//! Latents as tokens, and the ways between tokens, pictures of latents, and noise.

use bonsai_kernels::Cpu;
use ndarray::ArrayView2;

use crate::error::{Error, Result};
use crate::nn::PictureBuffer;
use crate::noise::{self, NoiseSource};
use crate::scheduler;

/// Pixels of a picture for each token, in one direction, with the VAE of FLUX.2; for any other see
/// [`VaeConfig::pixels_per_token`](crate::vae::VaeConfig::pixels_per_token).
pub const PIXELS_PER_TOKEN: usize = 16;

/// Latents of one picture as the transformer sees them: one row for each patch of 2x2 latent pixels, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Latents {
    tokens: Vec<f32>,
    height: usize,
    width: usize,
    channels: usize,
}

impl Latents {
    /// From `height * width` rows of `channels` values.
    ///
    /// # Errors
    /// When their number is another.
    pub fn new(height: usize, width: usize, channels: usize, tokens: Vec<f32>) -> Result<Self> {
        let expected = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        if expected == Some(tokens.len()) {
            return Ok(Self { tokens, height, width, channels });
        }
        Err(Error::invalid(format!(
            "latents: expected {height} x {width} x {channels} values, found {}",
            tokens.len()
        )))
    }

    /// From planes `[channels, height, width]`, the order in which noise is drawn.
    ///
    /// # Errors
    /// When the number of values is another.
    pub fn from_planes(height: usize, width: usize, channels: usize, planes: &[f32]) -> Result<Self> {
        let area = height.saturating_mul(width);
        let mut tokens = vec![0.0; planes.len()];
        if area > 0 && planes.len() == area.saturating_mul(channels) {
            for (channel, plane) in planes.chunks_exact(area).enumerate() {
                for (token, &value) in plane.iter().enumerate() {
                    tokens[token * channels + channel] = value;
                }
            }
        }
        Self::new(height, width, channels, tokens)
    }

    /// Standard normal noise for a grid of tokens, drawn as planes `[channels, height, width]`.
    ///
    /// # Errors
    /// When the grid is empty.
    pub fn noise(
        source: NoiseSource,
        seed: u64,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<Self> {
        let planes = noise::normal(source, seed, height * width * channels);
        Self::from_planes(height, width, channels, &planes)
    }

    /// Rows of the grid.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of the grid.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.height * self.width
    }

    /// Values of one token.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// All values, token by token.
    pub fn as_slice(&self) -> &[f32] {
        &self.tokens
    }

    /// All values, token by token.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.tokens
    }

    /// `[tokens, channels]`
    pub fn view(&self) -> ArrayView2<'_, f32> {
        let shape = (self.tokens(), self.channels);
        ArrayView2::from_shape(shape, &self.tokens).expect("length was checked on making")
    }

    /// One Euler step: `x += delta * velocity`, with `delta` the next sigma minus this one.
    ///
    /// # Errors
    /// When the velocity has another shape.
    pub fn advance(&mut self, velocity: &Latents, delta: f32) -> Result<()> {
        if velocity.view().dim() != self.view().dim() {
            let (found, expected) = (velocity.view().dim(), self.view().dim());
            return Err(Error::invalid(format!("velocity: expected shape {expected:?}, found {found:?}")));
        }
        scheduler::euler_step(&mut self.tokens, &velocity.tokens, delta);
        Ok(())
    }

    /// The latent picture `[2 height, 2 width, channels / 4]`: channel `4 c + 2 i + j` of a token is channel `c` of
    /// its pixel in row `i`, column `j`.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn unpatchify(&self, cpu: &Cpu) -> Result<PictureBuffer> {
        let channels = self.channels / 4;
        let mut picture = PictureBuffer::zeros(cpu, (2 * self.height, 2 * self.width, channels))?;
        let stride = 2 * self.width * channels;
        let pixels = picture.as_mut_slice();
        for (n, token) in self.tokens.chunks_exact(self.channels).enumerate() {
            let (y, x) = (n / self.width, n % self.width);
            for (k, &value) in token.iter().enumerate() {
                let (c, i, j) = (k / 4, k / 2 % 2, k % 2);
                pixels[(2 * y + i) * stride + (2 * x + j) * channels + c] = value;
            }
        }
        Ok(picture)
    }

    /// The inverse of [`Latents::unpatchify`].
    ///
    /// # Errors
    /// When a side of the picture is odd.
    pub fn patchify(picture: &PictureBuffer) -> Result<Self> {
        let (height, width, channels) = picture.dim();
        if height % 2 != 0 || width % 2 != 0 {
            return Err(Error::invalid(format!("a latent of {width}x{height}: expected even sides")));
        }
        let stride = width * channels;
        let pixels = picture.as_slice();
        let tokens = (0..height / 2 * (width / 2))
            .flat_map(|n| {
                let (y, x) = (n / (width / 2), n % (width / 2));
                (0..4 * channels).map(move |k| {
                    let (c, i, j) = (k / 4, k / 2 % 2, k % 2);
                    pixels[(2 * y + i) * stride + (2 * x + j) * channels + c]
                })
            })
            .collect();
        Self::new(height / 2, width / 2, 4 * channels, tokens)
    }
}
