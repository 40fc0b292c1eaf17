//! Previews: a linear map from the channels of a latent to RGB, fitted by least squares to what a decoder makes of them.

use bonsai_kernels::Cpu;
use ndarray::{ArrayView2, ArrayView3};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::latents::Latents;
use crate::noise::NoiseSource;
use crate::vae::Vae;

/// Added to the diagonal of the normal equations, relative to their mean: keeps channels that never vary at weight 0.
const RIDGE: f64 = 1e-6;

/// `rgb = bias + sum over channels of weights[channel] * latent[channel]`, about -1 to 1, of a denormalised latent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatentRgb {
    /// Red, green and blue of each latent channel.
    weights: Vec<[f32; 3]>,
    /// The colour of a latent of zeros.
    bias: [f32; 3],
}

impl LatentRgb {
    /// Name of the file beside a VAE's weights that holds its map as JSON: `{"weights": [[r, g, b], ..], "bias": [r, g, b]}`.
    pub const FILE: &str = "latent_rgb.json";
    /// Tokens a side of the random picture that [`LatentRgb::fit_decoder`] needs for a fair map.
    pub const DEFAULT_FIT: usize = 16;

    /// A map with these weights.
    ///
    /// # Errors
    /// When there are none or one is not finite.
    pub fn new(weights: Vec<[f32; 3]>, bias: [f32; 3]) -> Result<Self> {
        let map = Self { weights, bias };
        map.validate(map.weights.len())?;
        Ok(map)
    }

    /// Red, green and blue of each latent channel.
    pub fn weights(&self) -> &[[f32; 3]] {
        &self.weights
    }

    /// The colour of a latent of zeros.
    pub fn bias(&self) -> [f32; 3] {
        self.bias
    }

    pub(crate) fn validate(&self, channels: usize) -> Result<()> {
        if channels == 0 || self.weights.len() != channels {
            let found = self.weights.len();
            return Err(Error::mismatch(format!(
                "weights: expected one of each of {channels} channels, found {found}"
            )));
        }
        if self.weights.iter().flatten().chain(&self.bias).all(|v| v.is_finite()) {
            Ok(())
        } else {
            Err(Error::mismatch("weights: expected finite numbers"))
        }
    }

    /// The map that comes closest, in the sum of squares, to turning each row of `latents` `[n, channels]` into the
    /// same row of `rgb` `[n, 3]`. Found by the normal equations in f64.
    ///
    /// # Errors
    /// When shapes do not fit, there are fewer rows than unknowns, or a value is not finite.
    pub fn fit(latents: ArrayView2<'_, f32>, rgb: ArrayView2<'_, f32>) -> Result<Self> {
        let (rows, channels) = latents.dim();
        if rgb.dim() != (rows, 3) || rows <= channels {
            let (found, colours) = (latents.dim(), rgb.dim());
            return Err(Error::invalid(format!(
                "colours {colours:?} of latents {found:?}: expected [n, 3] and [n, channels] with n above the channels"
            )));
        }
        // the last unknown is the bias
        let n = channels + 1;
        let (mut gram, mut moments) = (vec![0.0; n * n], vec![[0.0; 3]; n]);
        let mut x = vec![1.0; n];
        for (latent, colour) in latents.rows().into_iter().zip(rgb.rows()) {
            x.iter_mut().zip(latent).for_each(|(x, &v)| *x = f64::from(v));
            for i in 0..n {
                (0..=i).for_each(|j| gram[i * n + j] += x[i] * x[j]);
                (0..3).for_each(|c| moments[i][c] += x[i] * f64::from(colour[c]));
            }
        }
        let ridge = RIDGE * (0..n).map(|i| gram[i * n + i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| gram[i * n + i] += ridge);
        let solution = solve(gram, moments).ok_or_else(|| {
            Error::new(ErrorKind::Numerical, "a map from latents to colours: no finite solution")
        })?;
        let narrow = |v: &[f64; 3]| v.map(|v| v as f32);
        Self::new(solution[..channels].iter().map(narrow).collect(), narrow(&solution[channels]))
    }

    /// Fits a map to a decoder: it decodes `side * side` random tokens of the spread that the model's own latents have,
    /// and compares each latent pixel with the mean colour of its pixels. The same for the same VAE.
    ///
    /// # Errors
    /// When the picture has too few latent pixels, the work was cancelled, or memory lacks.
    pub fn fit_decoder(cpu: &Cpu, vae: &Vae, side: usize) -> Result<Self> {
        let mut latents =
            Latents::noise(NoiseSource::TorchCpu, 0, side, side, vae.config().token_channels())?;
        vae.latent_norm().denormalise(latents.as_mut_slice());
        let latent = latents.unpatchify(cpu)?;
        let picture = vae.decode(&mut Context::new(cpu), latent.view())?;
        let means = mean_colours(picture.view(), vae.scale_factor());
        let rgb = ArrayView2::from_shape((means.len() / 3, 3), &means)
            .map_err(|e| Error::new(ErrorKind::Internal, "colours of a decoded picture").with_source(e))?;
        Self::fit(latent.pixels(), rgb)
    }

    /// The picture of a denormalised latent `[height, width, channels]`, one pixel for each of its pixels.
    ///
    /// # Errors
    /// When the latent has other channels or no pixels.
    pub fn image(&self, latent: ArrayView3<'_, f32>) -> Result<Image> {
        let (height, width, channels) = latent.dim();
        if channels != self.weights.len() || height == 0 || width == 0 {
            let expected = self.weights.len();
            return Err(Error::invalid(format!(
                "latent of {:?}: expected {expected} channels",
                latent.dim()
            )));
        }
        let colour = |pixel: ndarray::ArrayView1<'_, f32>| {
            let add = |sum: [f32; 3], (v, w): (&f32, &[f32; 3])| [0, 1, 2].map(|c| sum[c] + v * w[c]);
            pixel.iter().zip(&self.weights).fold(self.bias, add)
        };
        let rgb: Vec<f32> = latent.rows().into_iter().flat_map(colour).collect();
        Ok(Image::from_decoded(width, height, &rgb))
    }
}

/// Means over squares of `side` pixels of a picture `[height, width, 3]`, row by row.
fn mean_colours(picture: ArrayView3<'_, f32>, side: usize) -> Vec<f32> {
    let area = (side * side) as f32;
    let squares = picture.exact_chunks((side, side, 3));
    squares
        .into_iter()
        .flat_map(|square| [0, 1, 2].map(|c| square.slice(ndarray::s![.., .., c]).sum() / area))
        .collect()
}

/// Solves `a x = b` for a symmetric positive definite `a` `[n, n]`, of which the lower half is given, by Cholesky.
fn solve(mut a: Vec<f64>, mut b: Vec<[f64; 3]>) -> Option<Vec<[f64; 3]>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            a[i * n + j] = if i == j { rest.sqrt() } else { rest / a[j * n + j] };
        }
        if !(a[i * n + i] > 0.0 && a[i * n + i].is_finite()) {
            return None;
        }
    }
    let minus = |x: [f64; 3], factor: f64, y: [f64; 3]| [0, 1, 2].map(|c| x[c] - factor * y[c]);
    for i in 0..n {
        let rest = (0..i).fold(b[i], |rest, k| minus(rest, a[i * n + k], b[k]));
        b[i] = rest.map(|v| v / a[i * n + i]);
    }
    for i in (0..n).rev() {
        let rest = (i + 1..n).fold(b[i], |rest, k| minus(rest, a[k * n + i], b[k]));
        b[i] = rest.map(|v| v / a[i * n + i]);
    }
    b.iter().flatten().all(|v| v.is_finite()).then_some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    use ndarray::Array2;

    #[test]
    fn a_linear_map_is_found_again() {
        let channels = 32;
        let values = crate::noise::normal(NoiseSource::TorchCpu, 3, 256 * channels);
        let latents = Array2::from_shape_vec((256, channels), values).unwrap();
        let weights: Vec<[f32; 3]> =
            (0..channels).map(|k| [0, 1, 2].map(|c| ((7 * k + 3 * c) % 11) as f32 / 50.0 - 0.1)).collect();
        let want = LatentRgb::new(weights, [0.25, -0.5, 0.0]).unwrap();
        let rgb = Array2::from_shape_fn((256, 3), |(n, c)| {
            let dot: f64 =
                (0..channels).map(|k| f64::from(latents[[n, k]]) * f64::from(want.weights()[k][c])).sum();
            (dot + f64::from(want.bias()[c])) as f32
        });
        let found = LatentRgb::fit(latents.view(), rgb.view()).unwrap();
        let pairs = found.weights.iter().flatten().chain(&found.bias);
        let wanted = want.weights.iter().flatten().chain(&want.bias);
        // the ridge pulls each weight towards 0 by about itself times RIDGE * mean / smallest eigenvalue of the Gram matrix
        assert!(pairs.zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
    }

    #[test]
    fn dead_channels_get_no_weight() {
        let latents =
            Array2::from_shape_fn((40, 3), |(n, k)| if k == 1 { 0.0 } else { ((n * (k + 2)) % 7) as f32 });
        let rgb = Array2::from_shape_fn((40, 3), |(n, _)| latents[[n, 0]] * 0.1);
        let found = LatentRgb::fit(latents.view(), rgb.view()).unwrap();
        assert_eq!(found.weights[1], [0.0; 3]);
        assert!((found.weights[0][0] - 0.1).abs() < 1e-4);
    }

    #[test]
    fn bad_shapes_and_values_are_errors() {
        let latents = Array2::<f32>::zeros((10, 4));
        assert!(LatentRgb::fit(latents.view(), Array2::zeros((9, 3)).view()).is_err());
        assert!(LatentRgb::fit(Array2::zeros((4, 4)).view(), Array2::zeros((4, 3)).view()).is_err());
        let nan = Array2::from_elem((10, 4), f32::NAN);
        assert_eq!(
            LatentRgb::fit(nan.view(), Array2::zeros((10, 3)).view()).unwrap_err().kind(),
            ErrorKind::Numerical
        );
        assert!(LatentRgb::new(vec![[f32::INFINITY; 3]], [0.0; 3]).is_err());
        assert!(LatentRgb::new(vec![], [0.0; 3]).is_err());
    }
}
