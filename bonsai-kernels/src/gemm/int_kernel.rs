use std::marker::PhantomData;
use std::ops::Range;

use super::codes::{Codes, Meaning, fetch_words};
use super::each_code_kind;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, Int8Rows, Int16Rows, RowForm, SUMMED};
use crate::int_tile::{Bytes, Digits, IntBlock, IntTile, LANES, MOST_ROWS, Pairs, Products};
use crate::isa::Work;
use crate::weights::Weights;

/// Integer activations times digits of weights, exactly: sums over a group are integers, then scaled and added in f32.
#[derive(Clone, Copy)]
pub(crate) struct IntKernel<T, F>(pub(crate) T, pub(crate) F);

/// Rows that the kernel multiplies.
pub(crate) trait IntRows: RowForm {
    /// How their elements meet digits.
    type Products: Products<Row = Self::Element>;
    const METHOD: &'static str;
    /// The scale of a block, where a finished product is not scaled as a whole.
    fn scale(scales: &[f32], first_input: usize) -> f32;
    /// The sums of codes over each [`SUMMED`] inputs, among what is kept beside a row.
    fn sums(scales: &[f32]) -> &[f32];
}

impl IntRows for Int16Rows {
    type Products = Pairs;
    const METHOD: &'static str = "int16-dot";
    fn scale(_: &[f32], _: usize) -> f32 {
        1.0
    }
    fn sums(scales: &[f32]) -> &[f32] {
        &scales[1..]
    }
}

impl<const WHOLE_ROW: bool> IntRows for Int8Rows<WHOLE_ROW> {
    type Products = Bytes;
    const METHOD: &'static str = if WHOLE_ROW { "int8-row-dot" } else { "int8-dot" };
    fn scale(scales: &[f32], first_input: usize) -> f32 {
        scales[first_input / BLOCK]
    }
    fn sums(scales: &[f32]) -> &[f32] {
        // a scale and some sums for each block
        &scales[scales.len() / (1 + BLOCK / SUMMED)..]
    }
}

/// Groups of one pass over the sums: their panel takes 32 KiB of a first-level cache.
const GROUPS: usize = 4;

/// Digits of one column's group, in words.
fn steps<F: IntRows>(depth: usize) -> usize {
    depth.div_ceil(F::Products::DEPTH)
}

impl<T: IntTile<F::Products>, F: IntRows> Microkernel<Weights> for IntKernel<T, F> {
    const NAME: &'static str = F::METHOD;
    const MR: usize = T::MR;
    const ROWS: usize = 768;
    const COLUMNS: usize = 1024;
    type Rows = F;
    /// The sum of each row over the inputs, which digits are counted from and biases are multiplied with.
    type Operand = i32;
    /// Digits of neighbouring inputs side by side, `Products::DEPTH` in a word; then scales, and biases where there are
    /// any, as bits.
    type Panel = u32;

    fn depth(self, weights: &Weights) -> usize {
        GROUPS * Meaning::of(weights).depth
    }

    fn width(self, columns: usize) -> usize {
        T::width_for(columns)
    }

    fn panel_len(self, weights: &Weights, width: usize, depth: usize) -> usize {
        let meaning = Meaning::of(weights);
        groups(0..depth, meaning).map(|group| group_len::<F>(width, group.len(), meaning)).sum()
    }

    fn operand_len(self, _: usize) -> usize {
        GROUPS * MOST_ROWS
    }

    fn prepare_weights(
        self,
        weights: &Weights,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        let meaning = Meaning::of(weights);
        let mut rest = panel;
        for inputs in groups(inputs, meaning) {
            let (panel, behind) = rest.split_at_mut(group_len::<F>(width, inputs.len(), meaning));
            each_code_kind!(weights, weights => {
                let rows = PhantomData::<F>;
                self.0.work(ExpandGroup { tile: self.0, rows, weights, first_column, width, inputs, panel });
            });
            rest = behind;
        }
    }

    fn prepare_tile(
        self,
        weights: &Weights,
        rows: TileRows<'_, F::Element>,
        inputs: Range<usize>,
        operand: &mut [i32],
    ) {
        let (operand, _) = operand.as_chunks_mut::<MOST_ROWS>();
        for (of_group, inputs) in operand.iter_mut().zip(groups(inputs, Meaning::of(weights))) {
            for (m, sum) in of_group[..T::MR].iter_mut().enumerate() {
                let beside = &rows.scales[m * rows.scales_len..][..rows.scales_len];
                let sums = &F::sums(beside)[inputs.start / SUMMED..inputs.end.div_ceil(SUMMED)];
                *sum = sums.iter().map(|&sum| sum as i32).sum();
            }
        }
    }

    fn multiply(
        self,
        weights: &Weights,
        tile: Tile<'_, Self, Weights>,
        inputs: Range<usize>,
        width: usize,
        acc: &mut [f32],
    ) {
        let meaning = Meaning::of(weights);
        let panel_len = self.panel_len(weights, width, inputs.len());
        self.0.work(MultiplyTile { kernel: self, meaning, panel_len, tile, inputs, width, acc });
    }
}

/// The groups of a pass.
fn groups(inputs: Range<usize>, meaning: Meaning) -> impl Iterator<Item = Range<usize>> {
    let depth = meaning.depth;
    inputs.clone().step_by(depth).map(move |start| start..inputs.end.min(start + depth))
}

/// Words of one group of a panel.
fn group_len<F: IntRows>(width: usize, depth: usize, meaning: Meaning) -> usize {
    (steps::<F>(depth) + 1 + usize::from(meaning.biased)) * width
}

/// One tile of rows with all panels of a pass, group by group while a panel's sums are near.
struct MultiplyTile<'a, T, F: IntRows>
where
    T: IntTile<F::Products>,
{
    kernel: IntKernel<T, F>,
    meaning: Meaning,
    panel_len: usize,
    tile: Tile<'a, IntKernel<T, F>, Weights>,
    inputs: Range<usize>,
    width: usize,
    acc: &'a mut [f32],
}

impl<T: IntTile<F::Products>, F: IntRows> Work for MultiplyTile<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { kernel, meaning, panel_len, tile, inputs, width, acc } = self;
        let TileRows { rows, row_len, scales, scales_len } = tile.rows;
        let (row_sums, _) = tile.operand.as_chunks::<MOST_ROWS>();
        // signed digits already count from their zero
        let zero = if F::Products::SIGNED { 0 } else { meaning.zero };
        let (mut starts, mut row_scales) = ([[0; MOST_ROWS]; GROUPS], [[0.0; MOST_ROWS]; GROUPS]);
        for (g, inputs) in groups(inputs.clone(), meaning).enumerate() {
            for m in 0..T::MR {
                starts[g][m] = -zero * row_sums[g][m];
                row_scales[g][m] = F::scale(&scales[m * scales_len..], inputs.start);
            }
        }
        for (panel, acc) in tile.panels.chunks_exact(panel_len).zip(acc.chunks_exact_mut(T::MR * width)) {
            let mut rest = panel;
            for (g, inputs) in groups(inputs.clone(), meaning).enumerate() {
                let (panels, behind) = rest.split_at(group_len::<F>(width, inputs.len(), meaning));
                rest = behind;
                let block = IntBlock {
                    width,
                    steps: steps::<F>(inputs.len()),
                    rows: &rows[inputs.start..],
                    row_stride: row_len,
                    panels,
                    biased: meaning.biased,
                    largest: ((1 << meaning.bits) - 1) * meaning.step as i32,
                    starts: &starts[g],
                    row_sums: &row_sums[g],
                    row_scales: &row_scales[g],
                };
                kernel.0.multiply(block, acc);
            }
        }
    }
}

/// Digits, scales and biases of one group.
struct ExpandGroup<'a, T, F, W> {
    tile: T,
    rows: PhantomData<F>,
    weights: &'a W,
    first_column: usize,
    width: usize,
    inputs: Range<usize>,
    panel: &'a mut [u32],
}

impl<T: IntTile<F::Products>, F: IntRows, W: Codes> Work for ExpandGroup<'_, T, F, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { tile, rows: _, weights, first_column, width, inputs, panel } = self;
        let (digits, floats) = panel.split_at_mut(steps::<F>(inputs.len()) * width);
        let group = inputs.start / weights.group_size();
        floats.fill(0);
        let (scales, biases) = bytemuck::must_cast_slice_mut(floats).split_at_mut(width);
        weights.gather_scales(tile, first_column, group, scales);
        weights.gather_biases(tile, first_column, group, biases);
        // the words of a group, of at most 8 bits a code
        let mut words = [[0; LANES]; BLOCK * 8 / 32];
        let words = &mut words[..(inputs.len() * W::BITS).div_ceil(32)];
        let zero = if F::Products::SIGNED { W::ZERO } else { 0 };
        let how = Digits { bits: W::BITS, step: W::STEP, zero };
        for lane in (0..width).step_by(LANES) {
            fetch_words(tile, weights, first_column + lane, inputs.start * W::BITS / 32, words);
            tile.spread(how, words, &mut digits[lane..], width);
        }
    }
}
