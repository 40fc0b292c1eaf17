//! Layer norm with modulation, RMS norm, group norm statistics. Statistics are summed in f64.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, Axis};

use crate::Cpu;
use crate::error::Result;
use crate::isa::{Token, dispatch};
use crate::rows::{for_each_row_block, row_of, row_of_mut};

/// `out = (x - mean) / sqrt(var + eps) * (1 + scale) + shift` for each row; population variance over the row.
///
/// `x`, `out`: `[tokens, channels]`; `shift`, `scale`: `[channels]`.
///
/// # Errors
/// When the work was cancelled.
pub fn layer_norm_modulate(
    cpu: &Cpu,
    x: ArrayView2<'_, f32>,
    eps: f32,
    shift: &[f32],
    scale: &[f32],
    out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    assert_eq!(x.dim(), out.dim(), "shapes of a layer norm");
    assert!(shift.len() == x.ncols() && scale.len() == x.ncols(), "length of a modulation");
    for_each_row_block(cpu, out, |first, mut rows| {
        for i in 0..rows.nrows() {
            let (x, out) = (row_of(&x, first + i), row_of_mut(&mut rows, i));
            dispatch!(cpu.isa(), t => t.run(|| layer_norm_row(x, eps, shift, scale, out)));
        }
    })
}

#[inline(always)]
fn layer_norm_row(x: &[f32], eps: f32, shift: &[f32], scale: &[f32], out: &mut [f32]) {
    let n = x.len() as f64;
    let mean = sum_f64(x, |v| v) / n;
    let variance = sum_f64(x, |v| (v - mean) * (v - mean)) / n;
    let (mean, rstd) = (mean as f32, (1.0 / (variance + f64::from(eps)).sqrt()) as f32);
    for i in 0..out.len() {
        out[i] = (x[i] - mean) * rstd * (1.0 + scale[i]) + shift[i];
    }
}

/// The sum of `f` over `x`, in f64 and in eight lanes so that it becomes vector code.
#[inline(always)]
fn sum_f64(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let (blocks, tail) = x.as_chunks::<8>();
    let mut lanes = [0.0f64; 8];
    for block in blocks {
        for i in 0..8 {
            lanes[i] += f(f64::from(block[i]));
        }
    }
    lanes.iter().sum::<f64>() + tail.iter().map(|&v| f(f64::from(v))).sum::<f64>()
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row.
///
/// `x`, `out`: `[tokens, channels]`; `weight`: `[channels]`.
///
/// # Errors
/// When the work was cancelled.
pub fn rms_norm(
    cpu: &Cpu,
    x: ArrayView2<'_, f32>,
    eps: f32,
    weight: &[f32],
    out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    assert_eq!(x.dim(), out.dim(), "shapes of an RMS norm");
    assert_eq!(weight.len(), x.ncols(), "length of an RMS norm's weight");
    for_each_row_block(cpu, out, |first, mut rows| {
        for i in 0..rows.nrows() {
            let out = row_of_mut(&mut rows, i);
            out.copy_from_slice(row_of(&x, first + i));
            dispatch!(cpu.isa(), t => t.run(|| rms_norm_row(out, eps, weight)));
        }
    })
}

/// RMS norm of each head of each row, in place: `x` `[tokens, heads * head_dim]`, `weight` `[head_dim]`.
///
/// # Errors
/// When the work was cancelled.
pub fn rms_norm_heads(cpu: &Cpu, x: ArrayViewMut2<'_, f32>, eps: f32, weight: &[f32]) -> Result<()> {
    assert!(x.ncols().is_multiple_of(weight.len()), "{} channels in heads of {}", x.ncols(), weight.len());
    for_each_row_block(cpu, x, |_, mut rows| {
        for i in 0..rows.nrows() {
            for head in row_of_mut(&mut rows, i).chunks_exact_mut(weight.len()) {
                dispatch!(cpu.isa(), t => t.run(|| rms_norm_row(head, eps, weight)));
            }
        }
    })
}

#[inline(always)]
pub(crate) fn rms_norm_row(x: &mut [f32], eps: f32, weight: &[f32]) {
    let mean_square = sum_f64(x, |v| v * v) / x.len() as f64;
    let rstd = (1.0 / (mean_square + f64::from(eps)).sqrt()) as f32;
    for (v, w) in x.iter_mut().zip(weight) {
        *v = *v * rstd * w;
    }
}

/// Group norm as one affine map for each channel: `(x - mean[c]) * scale[c] + bias[c]`.
#[derive(Debug, Clone)]
pub struct ChannelAffine {
    /// Mean of the channel's group.
    pub mean: Vec<f32>,
    /// Weight of the channel over the standard deviation of its group.
    pub scale: Vec<f32>,
    /// Bias of the channel.
    pub bias: Vec<f32>,
}

/// Sums over a picture for a group norm, gathered from strips of its rows from top to bottom. What comes out does not
/// depend on how the picture was cut.
#[derive(Debug)]
pub struct ChannelSums {
    channels: usize,
    pixels: usize,
    /// For each block of rows, for each channel: the sum and the sum of squares.
    blocks: Vec<[f64; 2]>,
}

/// Values of one block of sums.
const BLOCK: usize = 1 << 16;

impl ChannelSums {
    /// Sums of nothing.
    pub fn new(channels: usize) -> Self {
        Self { channels, pixels: 0, blocks: Vec::new() }
    }

    /// Rows that are summed as one: strips of pictures of this shape must have a multiple of it, but for the last.
    pub fn rows_per_block(width: usize, channels: usize) -> usize {
        (BLOCK / (width * channels).max(1)).max(1)
    }

    /// Adds rows `[rows, width, channels]`.
    ///
    /// # Errors
    /// When the work was cancelled.
    ///
    /// # Panics
    /// When the channels are others.
    pub fn add(&mut self, cpu: &Cpu, x: ArrayView3<'_, f32>) -> Result<()> {
        let (height, width, channels) = x.dim();
        assert_eq!(channels, self.channels, "channels of a group norm");
        if x.is_empty() {
            return Ok(());
        }
        let x = x.to_slice().expect("pictures are contiguous");
        let block = Self::rows_per_block(width, channels) * width * channels;
        let start = self.blocks.len();
        self.blocks.resize(start + x.len().div_ceil(block) * channels, [0.0; 2]);
        let items = x.chunks(block).zip(self.blocks[start..].chunks_mut(channels)).collect();
        cpu.for_each(
            items,
            || Ok(()),
            |(), (x, sums)| {
                dispatch!(cpu.isa(), t => t.run(|| channel_sums(x, sums)));
                Ok(())
            },
        )?;
        self.pixels += height * width;
        Ok(())
    }

    /// The norm of `groups` groups of neighbouring channels, joined with its `weight` and `bias` `[channels]`.
    ///
    /// # Panics
    /// When the channels are not a multiple of `groups`.
    pub fn finish(&self, groups: usize, eps: f32, weight: &[f32], bias: &[f32]) -> ChannelAffine {
        let channels = self.channels;
        assert!(groups > 0 && channels.is_multiple_of(groups), "{channels} channels in {groups} groups");
        assert!(weight.len() == channels && bias.len() == channels, "length of a group norm's weight");
        let per_group = channels / groups;
        let count = (self.pixels * per_group) as f64;
        let mut affine = ChannelAffine { mean: vec![], scale: vec![], bias: bias.to_vec() };
        for group in 0..groups {
            let of_group = group * per_group..(group + 1) * per_group;
            let (mut sum, mut squares) = (0.0, 0.0);
            for sums in self.blocks.chunks(channels) {
                for [s, q] in &sums[of_group.clone()] {
                    sum += s;
                    squares += q;
                }
            }
            let mean = sum / count;
            let variance = (squares / count - mean * mean).max(0.0);
            let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
            for channel in of_group {
                affine.mean.push(mean as f32);
                affine.scale.push((rstd * f64::from(weight[channel])) as f32);
            }
        }
        affine
    }
}

/// Statistics of `groups` groups of neighbouring channels over a whole picture `x` `[height, width, channels]`,
/// joined with the norm's `weight` and `bias` `[channels]`.
///
/// # Errors
/// When the work was cancelled.
///
/// # Panics
/// When the channels are not a multiple of `groups`.
pub fn group_norm(
    cpu: &Cpu,
    x: ArrayView3<'_, f32>,
    groups: usize,
    eps: f32,
    weight: &[f32],
    bias: &[f32],
) -> Result<ChannelAffine> {
    let mut sums = ChannelSums::new(x.dim().2);
    sums.add(cpu, x)?;
    Ok(sums.finish(groups, eps, weight, bias))
}

#[inline(always)]
fn channel_sums(x: &[f32], sums: &mut [[f64; 2]]) {
    for pixel in x.chunks_exact(sums.len()) {
        for (sums, &v) in sums.iter_mut().zip(pixel) {
            let v = f64::from(v);
            sums[0] += v;
            sums[1] += v * v;
        }
    }
}

impl ChannelAffine {
    /// Applies the map to every pixel: `x`, `out` `[pixels, channels]`.
    ///
    /// # Errors
    /// When the work was cancelled.
    pub fn apply(&self, cpu: &Cpu, x: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) -> Result<()> {
        assert_eq!(x.dim(), out.dim(), "shapes of a group norm");
        assert_eq!(x.len_of(Axis(1)), self.mean.len(), "channels of a group norm");
        for_each_row_block(cpu, out, |first, mut rows| {
            for i in 0..rows.nrows() {
                let (x, out) = (row_of(&x, first + i), row_of_mut(&mut rows, i));
                dispatch!(cpu.isa(), t => t.run(|| self.apply_pixel(t, x, out)));
            }
        })
    }

    #[inline(always)]
    pub(crate) fn apply_pixel<T: Token>(&self, _: T, x: &[f32], out: &mut [f32]) {
        let n = out.len();
        let (x, mean, scale, bias) = (&x[..n], &self.mean[..n], &self.scale[..n], &self.bias[..n]);
        for i in 0..n {
            out[i] = (x[i] - mean[i]) * scale[i] + bias[i];
        }
    }
}
