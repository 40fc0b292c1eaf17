//! 3x3 and 1x1 convolution of pictures `[height, width, channels]`, without an im2col buffer: each tap of the kernel
//! is a product of shifted pixels with a panel, over strips of rows that were padded and normalised on loading.

use ndarray::{Array2, ArrayView3, ArrayViewMut3, Axis};

use crate::activation::silu_all;
use crate::aligned::AlignedBuf;
use crate::error::Result;
use crate::isa::dispatch;
use crate::norm::ChannelAffine;
use crate::tile::{F32Tile, with_width};
use crate::weights::{DenseWeights, ExpandF32, FloatType, SizeError};
use crate::{Cpu, SharedBytes};

/// Weights of one convolution, reordered to `[out_channels, kernel * kernel, in_channels]`.
#[derive(Debug, Clone)]
pub struct ConvWeights {
    weights: DenseWeights,
    bias: Vec<f32>,
    kernel: usize,
    in_channels: usize,
    /// Input channels with those of zeros that make a row of weights whole words.
    padded_channels: usize,
}

impl ConvWeights {
    /// From a file's order `[out_channels, in_channels, kernel, kernel]`; `kernel` is 1 or 3.
    ///
    /// # Errors
    /// When `values` or `bias` have another length.
    pub fn new(
        out_channels: usize,
        in_channels: usize,
        kernel: usize,
        float_type: FloatType,
        values: &[u8],
        bias: Vec<f32>,
    ) -> std::result::Result<Self, SizeError> {
        assert!(matches!(kernel, 1 | 3), "a {kernel}x{kernel} convolution");
        assert_eq!(bias.len(), out_channels, "length of a convolution's bias");
        let (size, taps) = (float_type.size(), kernel * kernel);
        // proves the length
        DenseWeights::new(
            out_channels,
            in_channels * taps,
            float_type,
            SharedBytes::from_vec(values.to_vec()),
        )?;
        let padded_channels = in_channels.next_multiple_of(4);
        let mut reordered = vec![0u8; out_channels * taps * padded_channels * size];
        let rows = reordered.chunks_exact_mut(taps * padded_channels * size);
        for (row, from) in rows.zip(values.chunks_exact(in_channels * taps * size)) {
            for (tap, to) in row.chunks_exact_mut(padded_channels * size).enumerate() {
                for (to, from) in to.chunks_exact_mut(size).zip(from.chunks_exact(taps * size)) {
                    to.copy_from_slice(&from[tap * size..(tap + 1) * size]);
                }
            }
        }
        let bytes = SharedBytes::from_vec(reordered);
        let weights = DenseWeights::new(out_channels, taps * padded_channels, float_type, bytes)?;
        Ok(Self { weights, bias, kernel, in_channels, padded_channels })
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.weights.rows()
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// 1 or 3.
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    fn weight(&self, out: usize, input: usize, ky: usize, kx: usize) -> f32 {
        self.weights.value(out, (ky * self.kernel + kx) * self.padded_channels + input)
    }
}

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

/// Pixels of one strip.
const PIXELS_PER_STRIP: usize = 2048;
const MIN_ROWS_PER_STRIP: usize = 4;
/// With fewer strips than this, channels are split too, so that all threads have work.
const MIN_TASKS: usize = 16;
const COLUMNS_PER_TASK: usize = 128;
/// Input channels of one panel.
const DEPTH: usize = 128;
const PIXEL_PADDING: usize = 16;

impl Conv2d<'_> {
    /// `out = conv(x)`: `x` `[height, width, in_channels]`, contiguous; `out` of [`Sampling::output_size`] and
    /// `out_channels`.
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

    /// [`Conv2d::run`] for the output rows from `first_row` on, as many as `out` has.
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
        let (height, width, channels) = x.dim();
        let (out_height, out_width) = self.sampling.output_size(height, width);
        let (rows, columns, out_channels) = out.dim();
        assert_eq!(channels, self.weights.in_channels, "input channels of a convolution");
        assert_eq!(
            (columns, out_channels),
            (out_width, self.weights.out_channels()),
            "shape of a convolution"
        );
        assert!(first_row <= out_height && rows <= out_height - first_row, "rows of a convolution");
        if let Some(norm) = self.norm_silu {
            assert_eq!(norm.mean.len(), channels, "channels of a convolution's norm");
        }
        assert!(self.sampling == Sampling::Same || self.weights.kernel == 3, "resampling takes a 3x3 kernel");
        dispatch!(cpu.isa(), t => self.run_on(cpu, t, x, first_row, out))
    }

    fn run_on<T: F32Tile>(
        &self,
        cpu: &Cpu,
        t: T,
        x: ArrayView3<'_, f32>,
        first_row: usize,
        mut out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        let (out_height, out_width, out_channels) = out.dim();
        if out.is_empty() {
            return Ok(());
        }
        let rows = (PIXELS_PER_STRIP / out_width).max(MIN_ROWS_PER_STRIP).min(out_height);
        let few = out_height.div_ceil(rows) < MIN_TASKS;
        let columns = if few { COLUMNS_PER_TASK } else { out_channels };
        let mut tasks = Vec::new();
        for (i, strip) in out.axis_chunks_iter_mut(Axis(0), rows).enumerate() {
            let (mut rest, mut column) = (strip, 0);
            while rest.len_of(Axis(2)) > 0 {
                let width = columns.min(rest.len_of(Axis(2)));
                let (part, left) = rest.split_at(Axis(2), width);
                tasks.push((first_row + i * rows, column, part));
                (rest, column) = (left, column + columns);
            }
        }
        let shape = StripShape::new::<T>(self, rows, out_width);
        let width = T::width_for(columns.min(out_channels));
        cpu.for_each(
            tasks,
            || {
                Ok(Scratch {
                    strip: cpu.buffer(shape.len())?,
                    panel: cpu.buffer(DEPTH * width)?,
                    acc: cpu.buffer(rows * shape.tiles * T::MR * width)?,
                    loaded: None,
                })
            },
            |scratch, (first_row, first_column, out)| {
                if scratch.loaded != Some(first_row) {
                    shape.load(self, t, x, first_row, &mut scratch.strip);
                    scratch.loaded = Some(first_row);
                }
                self.strip(cpu, t, &shape, first_column, scratch, out)
            },
        )
    }

    fn strip<T: F32Tile>(
        &self,
        cpu: &Cpu,
        t: T,
        shape: &StripShape,
        first_column: usize,
        scratch: &mut Scratch,
        mut out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        let (rows, out_width, columns) = out.dim();
        let taps = self.weights.kernel * self.weights.kernel;
        let channels = self.weights.padded_channels;
        let mut column = 0;
        while column < columns {
            let width = T::width_for(columns - column);
            let acc = &mut scratch.acc[..rows * shape.tiles * T::MR * width];
            acc.fill(0.0);
            for tap in 0..taps {
                cpu.check()?;
                let (ky, kx) = (tap / self.weights.kernel, tap % self.weights.kernel);
                for first in (0..channels).step_by(DEPTH) {
                    let depth = DEPTH.min(channels - first);
                    let inputs = tap * channels + first..tap * channels + first + depth;
                    let panel = &mut scratch.panel[..depth * width];
                    with_width!(width, LANES => {
                        t.run(|| self.weights.weights.expand::<LANES>(first_column + column, inputs, panel))
                    });
                    for (i, acc) in acc.chunks_exact_mut(T::MR * width).enumerate() {
                        let (y, x) = (i / shape.tiles, i % shape.tiles * T::MR);
                        let pixel = (y * shape.stride + ky) * shape.width + x * shape.stride + kx;
                        let pixels = &scratch.strip[pixel * shape.pixel + first..];
                        t.tile(width, depth, pixels, shape.stride * shape.pixel, panel, acc);
                    }
                }
            }
            let used = width.min(columns - column);
            let bias = &self.weights.bias[first_column + column..][..used];
            for y in 0..rows {
                for x in 0..out_width {
                    let at = (y * shape.tiles * T::MR + x) * width;
                    let mut pixel = out.slice_mut(ndarray::s![y, x, column..column + used]);
                    let pixel = pixel.as_slice_mut().expect("pictures are contiguous");
                    for ((o, a), b) in pixel.iter_mut().zip(&acc[at..]).zip(bias) {
                        *o = if self.add { *o + a + b } else { a + b };
                    }
                }
            }
            column += used;
        }
        Ok(())
    }
}

/// Floats that each thread takes to convolve to `[height, width]` pixels, about.
pub fn scratch_floats(in_channels: usize, height: usize, width: usize) -> usize {
    let rows = (PIXELS_PER_STRIP / width.max(1)).max(MIN_ROWS_PER_STRIP).min(height);
    (rows + 2) * (width + 14) * (in_channels + PIXEL_PADDING) + rows * (width + 12) * 48
}

struct Scratch {
    strip: AlignedBuf<f32>,
    panel: AlignedBuf<f32>,
    acc: AlignedBuf<f32>,
    /// First output row of the strip that `strip` holds.
    loaded: Option<usize>,
}

/// The padded input of a strip of output rows: `[height][width][pixel]` floats.
struct StripShape {
    height: usize,
    width: usize,
    /// Floats from one pixel to the next.
    pixel: usize,
    /// Tiles in one output row.
    tiles: usize,
    /// Input pixels from one output pixel to the next.
    stride: usize,
    /// Rows and columns of zeros before the first pixel.
    before: usize,
}

impl StripShape {
    fn new<T: F32Tile>(conv: &Conv2d<'_>, rows: usize, out_width: usize) -> Self {
        let kernel = conv.weights.kernel;
        let (stride, before) = match conv.sampling {
            Sampling::Downsample => (2, 0),
            Sampling::Same | Sampling::UpsampleNearest => (1, kernel / 2),
        };
        let tiles = out_width.div_ceil(T::MR);
        Self {
            height: (rows - 1) * stride + kernel,
            width: (tiles * T::MR - 1) * stride + kernel,
            pixel: conv.weights.padded_channels + PIXEL_PADDING,
            tiles,
            stride,
            before,
        }
    }

    fn len(&self) -> usize {
        self.height * self.width * self.pixel
    }

    fn load<T: F32Tile>(
        &self,
        conv: &Conv2d<'_>,
        t: T,
        x: ArrayView3<'_, f32>,
        first_row: usize,
        strip: &mut [f32],
    ) {
        let shift = usize::from(conv.sampling == Sampling::UpsampleNearest);
        let (height, width, channels) = x.dim();
        let x = x.as_slice().expect("pictures are contiguous");
        for (r, row) in strip.chunks_exact_mut(self.width * self.pixel).enumerate() {
            let y = (first_row * self.stride + r).checked_sub(self.before).filter(|y| y >> shift < height);
            for (c, pixel) in row.chunks_exact_mut(self.pixel).enumerate() {
                let inside = c.checked_sub(self.before).filter(|x| x >> shift < width);
                let (Some(y), Some(column)) = (y, inside) else {
                    pixel.fill(0.0);
                    continue;
                };
                let from = &x[((y >> shift) * width + (column >> shift)) * channels..][..channels];
                let pixel = &mut pixel[..channels];
                match conv.norm_silu {
                    None => pixel.copy_from_slice(from),
                    Some(norm) => t.run(|| {
                        norm.apply_pixel(t, from, pixel);
                        silu_all(t, pixel);
                    }),
                }
            }
        }
    }
}

/// The plain twin: the definition in f64, and `sum |x w| + |bias|` for each output. `x` is the input after norm, SiLU
/// and upsampling.
pub fn reference(conv: &Conv2d<'_>, x: ArrayView3<'_, f32>) -> (Array2<f64>, Array2<f64>) {
    let (height, width, channels) = x.dim();
    let kernel = conv.weights.kernel;
    let (stride, before) = if conv.sampling == Sampling::Downsample { (2, 0) } else { (1, kernel / 2) };
    let (out_height, out_width) = (height / stride, width / stride);
    let shape = (out_height * out_width, conv.weights.out_channels());
    let (mut y, mut magnitude) = (Array2::zeros(shape), Array2::zeros(shape));
    for pixel in 0..shape.0 {
        for out in 0..shape.1 {
            let bias = f64::from(conv.weights.bias[out]);
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
