use std::ops::Range;

use super::codes::{Codes, fetch_words};
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, Int8Rows, Int16Rows, RowForm};
use crate::int_tile::{Bytes, Digits, IntBlock, IntTile, LANES, MOST_ROWS, Pairs, Products};

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
}

impl IntRows for Int16Rows {
    type Products = Pairs;
    const METHOD: &'static str = "int16-dot";
    fn scale(_: &[f32], _: usize) -> f32 {
        1.0
    }
}

impl<const WHOLE_ROW: bool> IntRows for Int8Rows<WHOLE_ROW> {
    type Products = Bytes;
    const METHOD: &'static str = if WHOLE_ROW { "int8-row-dot" } else { "int8-dot" };
    fn scale(scales: &[f32], first_input: usize) -> f32 {
        scales[first_input / BLOCK]
    }
}

/// Digits of one column's group, in words.
fn steps<F: IntRows>(depth: usize) -> usize {
    depth.div_ceil(F::Products::DEPTH)
}

impl<T: IntTile<F::Products>, F: IntRows, W: Codes> Microkernel<W> for IntKernel<T, F> {
    const NAME: &'static str = F::METHOD;
    const MR: usize = T::MR;
    const COLUMNS: usize = 512;
    type Rows = F;
    /// The sum of each row over the inputs, which digits are counted from and biases are multiplied with.
    type Operand = i32;
    /// Digits of neighbouring inputs side by side, `Products::DEPTH` in a word; then scales, and biases where there are
    /// any, as bits.
    type Panel = u32;

    fn depth(self, weights: &W) -> usize {
        weights.depth()
    }

    fn width(self, columns: usize) -> usize {
        T::width_for(columns)
    }

    fn panel_len(self, width: usize, depth: usize) -> usize {
        (steps::<F>(depth) + 1 + usize::from(W::BIASED)) * width
    }

    fn operand_len(self, _: usize) -> usize {
        MOST_ROWS
    }

    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        let (digits, floats) = panel.split_at_mut(steps::<F>(inputs.len()) * width);
        let group = inputs.start / weights.group_size();
        floats.fill(0);
        let (scales, biases) = bytemuck::must_cast_slice_mut(floats).split_at_mut(width);
        // the words of a group, of at most 8 bits a code
        let mut words = [[0; LANES]; BLOCK * 8 / 32];
        let words = &mut words[..(inputs.len() * W::BITS).div_ceil(32)];
        self.0.run(|| {
            weights.gather_scales(first_column, group, scales);
            weights.gather_biases(first_column, group, biases);
            for lane in (0..width).step_by(LANES) {
                fetch_words(weights, first_column + lane, inputs.start * W::BITS / 32, words);
                let zero = if F::Products::SIGNED { W::ZERO } else { 0 };
                let how = Digits { bits: W::BITS, step: W::STEP, zero };
                self.0.spread(how, words, &mut digits[lane..], width);
            }
        });
    }

    fn prepare_tile(self, rows: TileRows<'_, F::Element>, inputs: Range<usize>, operand: &mut [i32]) {
        if F::Products::SIGNED && !W::BIASED {
            return;
        }
        self.0.run(|| {
            for (m, sum) in operand[..T::MR].iter_mut().enumerate() {
                *sum = F::Products::sum(&rows.rows[m * rows.row_len..][inputs.clone()]);
            }
        });
    }

    fn multiply(self, tile: Tile<'_, Self, W>, inputs: Range<usize>, width: usize, acc: &mut [f32]) {
        let TileRows { rows, row_len, scales, scales_len } = tile.rows;
        // signed digits already count from their zero
        let zero = if F::Products::SIGNED { 0 } else { W::ZERO };
        let row_sums: &[i32; MOST_ROWS] = tile.operand.first_chunk().expect("a sum for each row of a tile");
        let (mut starts, mut row_scales) = ([0; MOST_ROWS], [0.0; MOST_ROWS]);
        for m in 0..T::MR {
            starts[m] = -zero * row_sums[m];
            row_scales[m] = F::scale(&scales[m * scales_len..], inputs.start);
        }
        let block = IntBlock {
            width,
            steps: steps::<F>(inputs.len()),
            rows: &rows[inputs.start..],
            row_stride: row_len,
            panels: tile.panels,
            biased: W::BIASED,
            starts: &starts,
            row_sums,
            row_scales: &row_scales,
        };
        self.0.multiply(block, acc);
    }
}
