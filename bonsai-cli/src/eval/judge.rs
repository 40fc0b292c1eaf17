//! The judge: a small classifier that reads the attributes of a bonsai scene from a picture, on the engine's own layers.

use std::path::Path;

use bonsai_core::kernels::Cpu;
use bonsai_core::kernels::activation::silu;
use bonsai_core::kernels::conv2d::{Conv2d, ConvWeights, Sampling};
use bonsai_core::kernels::norm::{ChannelAffine, group_norm};
use bonsai_core::nn::{Linear, PictureBuffer};
use bonsai_core::weights::{Component, Weights};
use bonsai_core::{Error, ErrorKind, Image, Result};

/// Side of the picture that it looks at.
const SIDE: usize = 128;
const GROUPS: usize = 8;
const EPS: f32 = 1e-6;

/// `silu(group_norm(downsample_conv(x)))`, several times over; then one linear over what is left, flattened channel
/// by channel, with the classes of all heads side by side.
pub struct Judge {
    convs: Vec<ConvWeights>,
    norms: Vec<Norm>,
    head: Linear,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Judge {
    /// Reads a safetensors file; the heads have `classes` classes in all.
    ///
    /// # Errors
    /// When the file can't be read, or its tensors are not those of a judge with so many classes.
    pub fn open(path: &Path, classes: usize) -> Result<Self> {
        Self::load(&Weights::open(&[path.to_owned()], Component::Vae)?, classes)
            .map_err(|e| e.context(path.display()))
    }

    fn load(w: &Weights, classes: usize) -> Result<Self> {
        let (mut convs, mut norms) = (Vec::new(), Vec::new());
        let (mut channels, mut side) = (3, SIDE);
        for layer in 0..w.count("conv") {
            let name = format!("conv.{layer}");
            let out = w.shape(&format!("{name}.weight")).and_then(|s| s.first()).copied().unwrap_or(0);
            if out == 0 || out % GROUPS != 0 || side < 2 {
                let what = format!("{name}: expected a positive multiple of {GROUPS} channels, found {out}");
                return Err(Error::new(ErrorKind::ModelMismatch, what));
            }
            convs.push(w.conv(&name, out, channels, 3)?.prepare()?);
            let norm = w.at("norm").at(layer);
            norms.push(Norm { weight: norm.values("weight", &[out])?, bias: norm.values("bias", &[out])? });
            (channels, side) = (out, side / 2);
        }
        let head = Linear::load_with_bias(w, "head", classes, channels * side * side)?;
        w.finish()?;
        Ok(Self { convs, norms, head })
    }

    /// The scores of all classes.
    ///
    /// # Errors
    /// When memory is short or the work was cancelled.
    pub fn scores(&self, cpu: &Cpu, image: &Image) -> Result<Vec<f32>> {
        let pixels = image.to_signed_unit();
        let mut x = PictureBuffer::zeros(cpu, (SIDE, SIDE, 3))?;
        average_areas(&pixels, (image.height(), image.width()), x.as_mut_slice());
        let mut norm: Option<ChannelAffine> = None;
        for (conv, next) in self.convs.iter().zip(&self.norms) {
            let (height, width, _) = x.dim();
            let (height, width) = Sampling::Downsample.output_size(height, width);
            let mut out = PictureBuffer::zeros(cpu, (height, width, conv.out_channels()))?;
            let conv = Conv2d {
                weights: conv,
                sampling: Sampling::Downsample,
                norm_silu: norm.as_ref(),
                add: false,
            };
            conv.run(cpu, x.view(), out.view_mut())?;
            norm = Some(group_norm(cpu, out.view(), GROUPS, EPS, &next.weight, &next.bias)?);
            x = out;
        }
        let (height, width, channels) = x.dim();
        let mut features = PictureBuffer::zeros(cpu, (height, width, channels))?;
        match &norm {
            Some(norm) => norm.apply(cpu, x.pixels(), features.pixels_mut())?,
            None => features.as_mut_slice().copy_from_slice(x.as_slice()),
        }
        silu(cpu, features.as_mut_slice());
        let values = features.as_slice();
        let by_channel: Vec<f32> =
            (0..channels).flat_map(|c| values.iter().skip(c).step_by(channels).copied()).collect();
        self.head.apply_row(cpu, &by_channel)
    }
}

/// Brings `[height, width, 3]` to `[SIDE, SIDE, 3]`: each pixel is the mean of those that it covers in whole or part.
fn average_areas(pixels: &[f32], (height, width): (usize, usize), out: &mut [f32]) {
    let span = |i: usize, from: usize| (i * from / SIDE, ((i + 1) * from).div_ceil(SIDE));
    for (i, pixel) in out.chunks_exact_mut(3).enumerate() {
        let ((top, bottom), (left, right)) = (span(i / SIDE, height), span(i % SIDE, width));
        let mut sum = [0.0f64; 3];
        for row in pixels.chunks_exact(3 * width).take(bottom).skip(top) {
            for from in row.chunks_exact(3).take(right).skip(left) {
                sum.iter_mut().zip(from).for_each(|(s, v)| *s += f64::from(*v));
            }
        }
        let count = ((bottom - top) * (right - left)) as f64;
        pixel.iter_mut().zip(sum).for_each(|(p, s)| *p = (s / count) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_averaged() {
        let (height, width) = (256, 384);
        let pixels: Vec<f32> =
            (0..height * width * 3).map(|i| (i / 3 / width) as f32 + 1000.0 * (i % 3) as f32).collect();
        let mut out = vec![0.0; SIDE * SIDE * 3];
        average_areas(&pixels, (height, width), &mut out);
        for (i, pixel) in out.chunks_exact(3).enumerate() {
            let expected = 2.0 * (i / SIDE) as f32 + 0.5;
            assert_eq!(pixel, [expected, expected + 1000.0, expected + 2000.0]);
        }
    }

    #[test]
    fn small_pictures_are_enlarged_and_equal_ones_kept() {
        let flat = vec![0.25; 48 * 80 * 3];
        let mut out = vec![0.0; SIDE * SIDE * 3];
        average_areas(&flat, (48, 80), &mut out);
        assert!(out.iter().all(|&v| v == 0.25));
        let same: Vec<f32> = (0..out.len()).map(|i| i as f32).collect();
        average_areas(&same, (SIDE, SIDE), &mut out);
        assert_eq!(out, same);
    }

    #[test]
    fn scores_are_those_of_pytorch() {
        #[derive(serde::Deserialize)]
        struct Row {
            file: String,
            scores: Vec<f32>,
        }
        let home = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bonsai-mini"));
        let rows = std::fs::read(home.join("judge_check/scores.json")).unwrap();
        let rows: Vec<Row> = serde_json::from_slice(&rows).unwrap();
        let judge = Judge::open(&home.join("judge.safetensors"), rows[0].scores.len()).unwrap();
        let cpu = Cpu::new(bonsai_core::Isa::best());
        for row in &rows {
            let image = Image::load(home.join("judge_check").join(&row.file)).unwrap();
            let ours = judge.scores(&cpu, &image).unwrap();
            let largest = row.scores.iter().fold(1.0f32, |m, s| m.max(s.abs()));
            assert_eq!(ours.len(), row.scores.len());
            for (a, b) in ours.iter().zip(&row.scores) {
                assert!((a - b).abs() <= 1e-4 * largest, "{}: {a} and {b}", row.file);
            }
        }
        let error = Judge::open(&home.join("judge.safetensors"), 3).err().unwrap().to_string();
        assert!(error.contains("judge.safetensors") && error.contains("head"), "{error}");
    }
}
