use ndarray::{ArrayView3, ArrayViewMut3, Axis};

use super::Conv2d;
use super::panels::{ColumnPanels, Panels};
use super::plan::{Phase, Plan};
use super::weights::ConvWeights;
use crate::Cpu;
use crate::activation::silu_all;
use crate::aligned::AlignedBuf;
use crate::dot::{DEPTH, Dot, DotTile, Extent, MAX_MR, Number, pack_row};
use crate::error::Result;
use crate::isa::Work;
use crate::norm::ChannelAffine;
use crate::prefetch::prefetch_all;

/// Pixels that are asked for before they are read.
const PIXELS_AHEAD: usize = 4;

/// The input of one task: a padded rectangle of pixels, in blocks of channels `[channel block][pixels][words]`, so that
/// neighbouring pixels of a block are neighbours in memory.
#[derive(Debug)]
pub(super) struct BlockShape {
    /// Pixels that are computed, in each direction, and how many at most.
    rows: usize,
    columns: usize,
    /// Pixels of the padded input, in each direction.
    height: usize,
    width: usize,
    stride: usize,
    before: usize,
    /// For each block of channels: its first word (of one pixel), its words, its first channel and its channels.
    pub(super) channel_blocks: Vec<ChannelBlock>,
    /// Words of one pixel.
    pub(super) words: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelBlock {
    first_word: usize,
    pub(super) words: usize,
    pub(super) first: usize,
    pub(super) channels: usize,
}

impl BlockShape {
    pub(super) fn new<N: Number>(weights: &ConvWeights, plan: &Plan, rows: usize, columns: usize) -> Self {
        let size = DEPTH * N::PER_WORD;
        let channels = weights.in_channels();
        let channel_blocks: Vec<_> = (0..channels)
            .step_by(size)
            .map(|first| {
                let channels = size.min(channels - first);
                let words = N::words(channels);
                ChannelBlock { first_word: first / N::PER_WORD, words, first, channels }
            })
            .collect();
        Self {
            rows,
            columns,
            height: plan.reached(rows),
            width: plan.reached(columns),
            stride: plan.stride,
            before: plan.before,
            words: channel_blocks.iter().map(|b| b.words).sum(),
            channel_blocks,
        }
    }

    fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// What one thread needs for its tasks.
pub(super) struct Scratch<N: Number> {
    input: AlignedBuf<N::Word>,
    /// For each pixel of the input, the inverse of what its values were multiplied with.
    units: Vec<f32>,
    /// `[pixels][panel width]`
    sums: AlignedBuf<f32>,
    pixel: Vec<f32>,
    /// First pixel of the block that `input` holds.
    loaded: Option<(usize, usize)>,
}

impl<N: Number> Scratch<N> {
    /// For panels of this width and tiles of so many rows.
    pub(super) fn new(
        cpu: &Cpu,
        weights: &ConvWeights,
        shape: &BlockShape,
        width: usize,
        tile_rows: usize,
    ) -> Result<Self> {
        Ok(Self {
            input: cpu.buffer(shape.pixels() * shape.words)?,
            units: vec![1.0; shape.pixels()],
            sums: cpu.buffer((shape.rows * shape.columns).next_multiple_of(tile_rows) * width)?,
            pixel: vec![0.0; weights.in_channels()],
            loaded: None,
        })
    }

    /// Brings in the pixels around those from `origin` on, unless they are there.
    pub(super) fn load<T: DotTile<N>>(
        &mut self,
        conv: &Conv2d<'_>,
        t: T,
        shape: &BlockShape,
        x: ArrayView3<'_, f32>,
        origin: (usize, usize),
    ) {
        if self.loaded == Some(origin) {
            return;
        }
        self.loaded = Some(origin);
        let (height, width, channels) = x.dim();
        let x = x.as_slice().expect("pictures are contiguous");
        for r in 0..shape.height {
            let y = (origin.0 * shape.stride + r).checked_sub(shape.before).filter(|&y| y < height);
            for c in 0..shape.width {
                let column = (origin.1 * shape.stride + c).checked_sub(shape.before).filter(|&x| x < width);
                let at = y.zip(column).map(|(y, x)| (y * width + x) * channels);
                let from = at.map(|at| &x[at..][..channels]);
                if let Some(at) = at {
                    let next = (at + PIXELS_AHEAD * channels).min(x.len());
                    prefetch_all(&x[next..x.len().min(next + channels)]);
                }
                let pixel = r * shape.width + c;
                let input = &mut self.input[..];
                let (norm, normed) = (conv.norm_silu, &mut self.pixel[..]);
                let load = LoadPixel::<N, T> { token: t, from, norm, normed, shape, pixel, input };
                self.units[pixel] = t.work(load);
            }
        }
    }

    /// Computes the outputs of the loaded block in channels from `first_channel` on.
    #[expect(clippy::too_many_arguments, reason = "the arguments of `Conv2d::run` and where to work")]
    pub(super) fn compute<T: DotTile<N>>(
        &mut self,
        conv: &Conv2d<'_>,
        cpu: &Cpu,
        t: T,
        plan: &Plan,
        shape: &BlockShape,
        panels: &Panels<N>,
        first_channel: usize,
        mut out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        let (height, width, channels) = out.dim();
        let columns = width / plan.step;
        let mut pixels: Vec<usize> = (0..height / plan.step * columns)
            .map(|i| (i / columns * shape.width + i % columns) * plan.stride)
            .collect();
        let computed = pixels.len();
        // the last tile repeats a pixel
        pixels.resize(pixels.len().next_multiple_of(T::MR), 0);
        let mut lines = lines(&mut out);
        let mut done = 0;
        while done < channels {
            let of_columns = panels.of(first_channel + done);
            let (panel_width, used) = (of_columns.width, of_columns.columns.len());
            let bias = &conv.weights.bias()[of_columns.columns.clone()];
            let mut words = panels.words(of_columns);
            for phase in &plan.phases {
                // the outputs of computed pixels
                let output = |i: usize| {
                    let (y, x) = (i / columns * plan.step + phase.y, i % columns * plan.step + phase.x);
                    y * width + x
                };
                let mut finish = |first: usize, sums: Option<&[f32]>| {
                    let count = T::MR.min(computed - first);
                    let mut at = [0; MAX_MR];
                    for (i, at) in at[..count].iter_mut().enumerate() {
                        *at = output(first + i);
                    }
                    let (at, lines) = (&at[..count], &mut lines[..]);
                    match sums {
                        None => at.iter().for_each(|&at| prefetch_all(&lines[at][done..done + used])),
                        Some(sums) => {
                            let (width, add) = (panel_width, conv.add);
                            t.work(Finish { sums, width, bias, add, at, first: done, lines });
                        }
                    }
                };
                words = self.sum(cpu, t, plan, shape, phase, &pixels, of_columns, words, &mut finish)?;
            }
            done += used;
        }
        Ok(())
    }
}

/// The pixels of a picture, in order.
// one copy is enough for all formats
#[inline(never)]
fn lines<'a>(out: &'a mut ArrayViewMut3<'_, f32>) -> Vec<&'a mut [f32]> {
    let (height, width, _) = out.dim();
    let mut lines = Vec::with_capacity(height * width);
    for line in out.axis_iter_mut(Axis(0)) {
        let mut rest = line;
        while rest.nrows() > 0 {
            let (pixel, behind) = rest.split_at(Axis(0), 1);
            lines.push(pixel.into_slice().expect("pictures are contiguous"));
            rest = behind;
        }
    }
    lines
}

/// The finished sums of a tile on their way into the output.
struct Finish<'a, 'o> {
    /// `[at][width]`
    sums: &'a [f32],
    width: usize,
    bias: &'a [f32],
    add: bool,
    /// Which outputs they are of.
    at: &'a [usize],
    /// Their first channel.
    first: usize,
    lines: &'a mut [&'o mut [f32]],
}

impl Work for Finish<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { sums, width, bias, add, at, first, lines } = self;
        for (sums, &at) in sums.chunks_exact(width).zip(at) {
            let out = &mut lines[at][first..first + bias.len()];
            if add {
                out.iter_mut().zip(sums).zip(bias).for_each(|((o, a), b)| *o = *o + a + b);
            } else {
                out.iter_mut().zip(sums).zip(bias).for_each(|((o, a), b)| *o = a + b);
            }
        }
    }
}

/// Brings one pixel in, through norm and SiLU where there is one; zeros where there is no pixel. The output is the
/// inverse of the pixel's scale.
struct LoadPixel<'a, N: Number, T> {
    token: T,
    from: Option<&'a [f32]>,
    norm: Option<&'a ChannelAffine>,
    /// Room for the values after the norm.
    normed: &'a mut [f32],
    shape: &'a BlockShape,
    pixel: usize,
    input: &'a mut [N::Word],
}

impl<N: Number, T: DotTile<N>> Work for LoadPixel<'_, N, T> {
    type Output = f32;

    #[inline(always)]
    fn work(self) -> f32 {
        let Self { token, from, norm, normed, shape, pixel, input } = self;
        let values = match (from, norm) {
            (None, _) => &[][..],
            (Some(from), None) => from,
            (Some(from), Some(norm)) => {
                norm.apply_pixel(token, from, normed);
                silu_all(token, normed);
                &normed[..]
            }
        };
        let of_block = |block: &ChannelBlock| {
            let end = values.len().min(block.first + block.channels);
            &values[block.first.min(end)..end]
        };
        let (mut scale, mut unit) = (1.0, 1.0);
        if N::SCALED {
            let mut extent = Extent::default();
            for block in &shape.channel_blocks {
                extent = extent.join(Extent::of(token, of_block(block)));
            }
            (scale, unit) = extent.scale();
        }
        for block in &shape.channel_blocks {
            let at = shape.pixels() * block.first_word + pixel * block.words;
            let words = &mut input[at..at + block.words];
            pack_row::<N>(of_block(block), scale, words);
            token.arrange(words, 1);
        }
        unit
    }
}

impl<N: Number> Scratch<N> {
    /// The sums of one phase for some columns at all `pixels`, which `finish` takes tile by tile, from a pixel on; before, it hears
    /// which come next. Of the panels it returns those of the next phases.
    #[expect(clippy::too_many_arguments, reason = "one step of `compute`")]
    fn sum<'p, T: DotTile<N>>(
        &mut self,
        cpu: &Cpu,
        t: T,
        plan: &Plan,
        shape: &BlockShape,
        phase: &Phase,
        pixels: &[usize],
        of_columns: &ColumnPanels,
        mut panels: &'p [N::Word],
        finish: &mut impl FnMut(usize, Option<&[f32]>),
    ) -> Result<&'p [N::Word]> {
        let Self { input, units, sums, .. } = self;
        let width = of_columns.width;
        let column = &plan.units[of_columns.columns.start..][..width];
        let (mut at, mut row, mut keep) = ([0; MAX_MR], [1.0; MAX_MR], [0.0; MAX_MR]);
        let mut left = shape.channel_blocks.len() * phase.taps.len();
        for block in &shape.channel_blocks {
            let rows = &input[shape.pixels() * block.first_word..][..shape.pixels() * block.words];
            for tap in &phase.taps {
                cpu.check()?;
                let panel;
                (panel, panels) = panels.split_at(block.words * width);
                let offset = tap.y * shape.width + tap.x;
                let last = left == 1;
                left -= 1;
                let tiles = pixels.chunks_exact(T::MR).zip(sums.chunks_exact_mut(T::MR * width));
                for (tile, (pixels, sums)) in tiles.enumerate() {
                    for (m, pixel) in pixels.iter().enumerate() {
                        at[m] = (pixel + offset) * block.words;
                        row[m] = units[pixel + offset];
                    }
                    let (at, row, keep) = (&at[..T::MR], &row[..T::MR], &keep[..T::MR]);
                    let depth = block.words;
                    if last {
                        finish(tile * T::MR, None);
                    }
                    t.dot(Dot { width, depth, rows, at, panel, keep, row, column }, sums, width);
                    if last {
                        // while they are near
                        finish(tile * T::MR, Some(sums));
                    }
                }
                keep = [1.0; MAX_MR];
            }
        }
        Ok(panels)
    }
}
