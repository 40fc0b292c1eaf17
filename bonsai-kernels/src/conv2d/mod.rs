//! 3x3 and 1x1 convolution of pictures `[height, width, channels]`, without an im2col buffer: each tap of the kernel
//! is a product of shifted pixels with a panel, over blocks of pixels that were padded and normalised on loading.

mod block;
mod panels;
mod plan;
mod weights;

use ndarray::{Array2, ArrayView3, ArrayViewMut3, Axis};

pub use weights::ConvWeights;

use crate::Cpu;
use crate::dot::{DotPrecision, DotTile, MAX_MR, MAX_WIDTH, Number, fastest, with_dots};
use crate::error::Result;
use crate::norm::ChannelAffine;
use block::{BlockShape, Scratch};
use panels::Panels;
use plan::Plan;

/// Where the pixels of a convolution come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// One pixel out for each pixel in; zeros all around (`kernel / 2` wide).
    Same,
    /// The input is first doubled in both directions, each pixel repeated.
    UpsampleNearest,
    /// Every second pixel; one row of zeros below and one column of zeros to the right.
    Downsample,
}

impl Sampling {
    /// Height and width that this makes of a picture's.
    pub fn output_size(self, height: usize, width: usize) -> (usize, usize) {
        match self {
            Self::Same => (height, width),
            Self::UpsampleNearest => (2 * height, 2 * width),
            Self::Downsample => (height / 2, width / 2),
        }
    }
}

/// A convolution with what happens to its input on loading.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d<'a> {
    /// Kernel and bias.
    pub weights: &'a ConvWeights,
    /// Which pixels are read.
    pub sampling: Sampling,
    /// A group norm followed by SiLU, applied to each pixel that is read.
    pub norm_silu: Option<&'a ChannelAffine>,
    /// Whether the result is added to `out` instead of stored.
    pub add: bool,
}

/// Pixels that one task computes, in each direction. Their input and sums stay in a second-level cache of 1 MiB.
const BLOCK_ROWS: usize = 16;
const BLOCK_COLUMNS: usize = 64;
/// Columns of the narrowest panel of the widest vectors.
const NARROWEST: usize = 16;
/// Bringing in a pixel, through norm and SiLU, takes as long as so many of its products with one channel of the output, and
/// panels that come anew as long as so many pixels.
const LOADING: usize = 115;
const PANELS: usize = 6;

/// Rows, columns and channels of the output of one task, where each computed pixel makes one, such that all threads are done the
/// soonest with `output` `[height, width, channels]`.
fn task(plan: &Plan, output: (usize, usize, usize), threads: usize) -> (usize, usize, usize) {
    let (height, width, channels) = output;
    let taps: usize = plan.phases.iter().map(|phase| phase.taps.len()).sum();
    let parts = |len: usize, most: usize| len.div_ceil(len.div_ceil(most).max(1)).max(1);
    let mut best = (usize::MAX, (1, 1, channels));
    for rows in [BLOCK_ROWS, BLOCK_ROWS / 2, BLOCK_ROWS / 4, BLOCK_ROWS / 8].map(|most| parts(height, most)) {
        for columns in [BLOCK_COLUMNS, BLOCK_COLUMNS / 2].map(|most| parts(width, most / plan.stride)) {
            for part in 1..=channels.div_ceil(weights::BLOCK).max(1) {
                // panels begin where tasks do
                let channels_of_task = channels.div_ceil(part).next_multiple_of(weights::BLOCK);
                let tasks =
                    height.div_ceil(rows) * width.div_ceil(columns) * channels.div_ceil(channels_of_task);
                let loading = LOADING * plan.reached(rows) * plan.reached(columns);
                let one = (rows * columns + PANELS) * taps * channels_of_task + loading;
                // the last threads end an eighth of a task after the others, say
                let time = (8 * tasks.div_ceil(threads) + 1) * one;
                if time < best.0 {
                    best = (time, (rows, columns, channels_of_task));
                }
            }
        }
    }
    best.1
}

impl Conv2d<'_> {
    /// `out = conv(x)`: `x` `[height, width, in_channels]`, contiguous; `out` of [`Sampling::output_size`] and
    /// `out_channels`. Factors are held as [`DotPrecision::chosen`] says.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled.
    ///
    /// # Panics
    /// When the shapes don't fit.
    pub fn run(&self, cpu: &Cpu, x: ArrayView3<'_, f32>, out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let (height, width, _) = x.dim();
        assert_eq!(out.dim().0, self.sampling.output_size(height, width).0, "rows of a convolution");
        self.run_rows(cpu, x, 0, out)
    }

    /// [`Conv2d::run`] for the output rows from `first_row` on, as many as `out` has; pairs of rows where the input is
    /// doubled.
    ///
    /// # Errors
    /// As [`Conv2d::run`].
    ///
    /// # Panics
    /// When the shapes don't fit or the rows don't lie inside.
    pub fn run_rows(
        &self,
        cpu: &Cpu,
        x: ArrayView3<'_, f32>,
        first_row: usize,
        out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        self.run_rows_in(cpu, DotPrecision::chosen(cpu), x, first_row, out)
    }

    /// [`Conv2d::run_rows`] in this precision, or in f32 where the instruction set has no such dot products.
    ///
    /// # Errors
    /// As [`Conv2d::run`].
    ///
    /// # Panics
    /// As [`Conv2d::run_rows`].
    pub fn run_rows_in(
        &self,
        cpu: &Cpu,
        precision: DotPrecision,
        x: ArrayView3<'_, f32>,
        first_row: usize,
        out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        let (height, width, channels) = x.dim();
        let (out_height, out_width) = self.sampling.output_size(height, width);
        let (rows, columns, out_channels) = out.dim();
        assert_eq!(channels, self.weights.in_channels(), "input channels of a convolution");
        assert_eq!(
            (columns, out_channels),
            (out_width, self.weights.out_channels()),
            "shape of a convolution"
        );
        assert!(first_row <= out_height && rows <= out_height - first_row, "rows of a convolution");
        if let Some(norm) = self.norm_silu {
            assert_eq!(norm.mean.len(), channels, "channels of a convolution's norm");
        }
        if self.sampling != Sampling::Same {
            assert_eq!(self.weights.kernel(), 3, "resampling takes a 3x3 kernel");
        }
        if self.sampling == Sampling::UpsampleNearest {
            assert!(first_row.is_multiple_of(2) && rows.is_multiple_of(2), "pairs of rows of a convolution");
        }
        let taps = self.weights.kernel() * self.weights.kernel();
        let isa = fastest(cpu, precision, out.len() * channels * taps);
        with_dots!(isa, precision, |t, N| self.run_on::<N, _>(cpu, t, x, first_row, out))
    }

    fn run_on<N: Number, T: DotTile<N>>(
        &self,
        cpu: &Cpu,
        t: T,
        x: ArrayView3<'_, f32>,
        first_row: usize,
        mut out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let plan = Plan::new::<N, T>(cpu, t, self.weights, self.sampling)?;
        let computed = (out.dim().0 / plan.step, out.dim().1 / plan.step, out.dim().2);
        let (rows, columns, channels) = task(&plan, computed, cpu.threads());
        let first_row = first_row / plan.step;
        let mut tasks = Vec::new();
        for (i, band) in out.axis_chunks_iter_mut(Axis(0), rows * plan.step).enumerate() {
            for (j, block) in split(band, Axis(1), columns * plan.step).into_iter().enumerate() {
                for (k, part) in split(block, Axis(2), channels).into_iter().enumerate() {
                    tasks.push(((first_row + i * rows, j * columns), k * channels, part));
                }
            }
        }
        let shape = BlockShape::new::<N>(self.weights, &plan, rows, columns);
        let panels = Panels::new(cpu, t, self.weights, &plan, &shape)?;
        cpu.for_each(
            tasks,
            || Scratch::new(cpu, self.weights, &shape, T::width_for(self.weights.out_channels()), T::MR),
            |scratch, (origin, first_channel, out)| {
                scratch.load(self, t, &shape, x, origin);
                scratch.compute(self, cpu, t, &plan, &shape, &panels, first_channel, out)
            },
        )
    }
}

/// Bytes that each thread takes to convolve to `[height, width]` pixels without leaving pixels out, at most.
pub fn scratch_bytes(precision: DotPrecision, in_channels: usize, height: usize, width: usize) -> usize {
    let (rows, columns) = (BLOCK_ROWS.min(height), BLOCK_COLUMNS.min(width));
    let pixel = in_channels.next_multiple_of(2) * precision.bytes() + 4;
    (rows + 2) * (columns + 2) * pixel + 4 * (rows * columns + MAX_MR) * MAX_WIDTH
}

/// Bytes of panels that all threads share while they convolve with so many taps, those of a folded kernel each for itself.
pub fn panel_bytes(precision: DotPrecision, in_channels: usize, out_channels: usize, taps: usize) -> usize {
    taps * in_channels.next_multiple_of(2) * out_channels.next_multiple_of(NARROWEST) * precision.bytes()
}

/// Parts of `view` of up to `len` along `axis`.
fn split(view: ArrayViewMut3<'_, f32>, axis: Axis, len: usize) -> Vec<ArrayViewMut3<'_, f32>> {
    let (mut rest, mut parts) = (view, Vec::new());
    while rest.len_of(axis) > len {
        let (part, left) = rest.split_at(axis, len);
        parts.push(part);
        rest = left;
    }
    parts.push(rest);
    parts
}

/// The plain twin: the definition in f64, and `sum |x w| + |bias|` for each output. `x` is the input after norm, SiLU
/// and upsampling.
pub fn reference(conv: &Conv2d<'_>, x: ArrayView3<'_, f32>) -> (Array2<f64>, Array2<f64>) {
    let (height, width, channels) = x.dim();
    let kernel = conv.weights.kernel();
    let (stride, before) = if conv.sampling == Sampling::Downsample { (2, 0) } else { (1, kernel / 2) };
    let (out_height, out_width) = (height / stride, width / stride);
    let shape = (out_height * out_width, conv.weights.out_channels());
    let (mut y, mut magnitude) = (Array2::zeros(shape), Array2::zeros(shape));
    for pixel in 0..shape.0 {
        for out in 0..shape.1 {
            let bias = f64::from(conv.weights.bias()[out]);
            let (mut sum, mut sum_abs) = (bias, bias.abs());
            for tap in 0..kernel * kernel {
                let row =
                    (pixel / out_width * stride + tap / kernel).checked_sub(before).filter(|&r| r < height);
                let column =
                    (pixel % out_width * stride + tap % kernel).checked_sub(before).filter(|&c| c < width);
                if let (Some(row), Some(column)) = (row, column) {
                    for input in 0..channels {
                        let weight = conv.weights.weight(out, input, tap / kernel, tap % kernel);
                        let product = f64::from(x[[row, column, input]]) * f64::from(weight);
                        sum += product;
                        sum_abs += product.abs();
                    }
                }
            }
            y[[pixel, out]] = sum;
            magnitude[[pixel, out]] = sum_abs;
        }
    }
    (y, magnitude)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::ceiling::test_activations;
    use crate::dot::{Int16, Int16Bytes};
    use crate::isa::Isa;
    use crate::weights::FloatType;

    /// Whatever `fastest` says: which of both it is does not show.
    #[test]
    fn tiles_make_the_bits_of_16_bit_dot_products() {
        let Some(Isa::Amx(t)) = Isa::available().pop() else { return };
        let cpu = Cpu::new(Isa::Amx(t));
        let cases = [
            (5, 7, 3, 9, 1, Sampling::Same),
            (11, 70, 130, 66, 3, Sampling::Same),
            (4, 5, 300, 17, 3, Sampling::UpsampleNearest),
            (8, 14, 40, 9, 3, Sampling::Downsample),
        ];
        for (height, width, channels, out_channels, kernel, sampling) in cases {
            let weights: Vec<u8> = test_activations(out_channels, channels * kernel * kernel)
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect();
            let bias = vec![0.5; out_channels];
            let weights =
                ConvWeights::new(out_channels, channels, kernel, FloatType::F32, &weights, bias).unwrap();
            let conv = Conv2d { weights: &weights, sampling, norm_silu: None, add: false };
            let x = test_activations(height * width, channels);
            let x = x.into_shape_with_order((height, width, channels)).unwrap();
            let (out_height, out_width) = sampling.output_size(height, width);
            let shape = (out_height, out_width, out_channels);
            let [mut tiles, mut vectors] = [(); 2].map(|()| ndarray::Array3::zeros(shape));
            conv.run_on::<Int16Bytes, _>(&cpu, t, x.view(), 0, tiles.view_mut()).unwrap();
            conv.run_on::<Int16, _>(&cpu, t.lower().lower(), x.view(), 0, vectors.view_mut()).unwrap();
            assert_eq!(tiles, vectors, "{height}x{width}, {channels} to {out_channels} channels");
        }
    }
}

#[cfg(test)]
mod task_tests {
    use super::plan::{Phase, Plan, Tap};
    use super::task;
    use crate::busy::{USUAL_THREADS, busy, lengths};

    /// The decoder's convolutions from 256x256 pixels on, of nine taps, or of four times four where they double the picture.
    #[test]
    fn up_to_64_threads_stay_busy() {
        for count in [9, 16] {
            let taps = (0..count).map(|i| Tap { y: i / 3, x: i % 3, sources: vec![i] }).collect();
            let phases = vec![Phase { y: 0, x: 0, taps }];
            let plan =
                Plan { step: 1, stride: 1, before: 1, reach: 3, phases, scales: vec![], units: vec![] };
            for (size, channels) in [(32, 512), (64, 512), (128, 512), (128, 256), (256, 256), (512, 128)] {
                for threads in USUAL_THREADS {
                    let (rows, columns, of_task) = task(&plan, (size, size, channels), threads);
                    let tasks = lengths(size, rows).flat_map(|rows| {
                        lengths(size, columns).flat_map(move |columns| {
                            lengths(channels, of_task).map(move |channels| rows * columns * channels)
                        })
                    });
                    let busy = busy(tasks, threads);
                    assert!(
                        busy > 0.75,
                        "{threads} threads are busy for {busy:.2} with {size}x{size}x{channels}"
                    );
                }
            }
        }
    }
}
