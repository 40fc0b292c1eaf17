use std::ops::Range;

use super::codes::fetch_words;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::F32Rows;
use super::sign_codes::SignCodes;
use crate::int_tile::LANES;
use crate::lookup::{Alphabet, ENTRIES, LookupTile};

/// Activations in f32, full or rounded, times one-bit or ternary weights by table look-up: all signed sums of a few inputs are formed
/// once, and the bits of their weights pick one. For one-bit weights two instructions then do 80 multiply-accumulates,
/// and a sum has fewer roundings than products added one by one.
#[derive(Clone, Copy)]
pub(crate) struct LookupKernel<T, F>(pub(crate) T, pub(crate) F);

/// The longest group that tables and panels are made for.
const LONGEST_GROUP: usize = 256;

/// Whether groups are whole words, and prepared rows end in zeros up to the end of the last group.
pub(crate) fn takes(group_size: usize) -> bool {
    matches!(group_size, 32 | 64 | 128 | LONGEST_GROUP)
}

/// Steps that cover `depth` inputs of these weights.
fn steps<W: SignCodes>(depth: usize) -> usize {
    W::Alphabet::steps(depth)
}

impl<T: LookupTile, F: F32Rows, W: SignCodes> Microkernel<W> for LookupKernel<T, F> {
    const NAME: &'static str = F::LOOKUP;
    const MR: usize = T::MR;
    // tables of a tile of rows serve so many columns; their panels take 100 to 200 KiB
    const COLUMNS: usize = 1024;
    type Rows = F;
    type Operand = f32;
    /// Indices, then the scales of the columns as bits.
    type Panel = u32;

    fn depth(self, weights: &W) -> usize {
        weights.group_size()
    }

    fn width(self, _: usize) -> usize {
        T::WIDTH
    }

    fn panel_len(self, _: &W, width: usize, depth: usize) -> usize {
        (steps::<W>(depth) + 1) * width
    }

    fn operand_len(self, depth: usize) -> usize {
        steps::<W>(depth) * T::MR * ENTRIES
    }

    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        let (indices, scales) = panel.split_at_mut(steps::<W>(inputs.len()) * width);
        scales.fill(0);
        let scales = bytemuck::must_cast_slice_mut(scales);
        let group = inputs.start / weights.group_size();
        self.0.run(|| weights.gather_scales(first_column, group, scales));
        self.0.run(|| expand_indices(weights, first_column, width, inputs, indices));
    }

    fn prepare_tile(self, _: &W, rows: TileRows<'_, f32>, inputs: Range<usize>, operand: &mut [f32]) {
        self.0.build::<W::Alphabet>(inputs.len(), &rows.rows[inputs.start..], rows.row_len, operand);
    }

    fn multiply(self, _: &W, tile: Tile<'_, Self, W>, inputs: Range<usize>, width: usize, acc: &mut [f32]) {
        let steps = steps::<W>(inputs.len());
        let panels = tile.panels.chunks_exact((steps + 1) * width);
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(T::MR * width)) {
            let (indices, scales) = panel.split_at(steps * width);
            self.0.look_up(steps, tile.operand, indices, bytemuck::must_cast_slice(scales), acc);
        }
    }
}

/// `indices[step][lane]`: the table entry of row `first_row + lane` for the step's inputs, in the low five bits.
#[inline(always)]
fn expand_indices<W: SignCodes>(
    weights: &W,
    first_row: usize,
    width: usize,
    inputs: Range<usize>,
    indices: &mut [u32],
) {
    // the two-bit codes of the longest group, and a word of zeros behind them
    const WORDS: usize = LONGEST_GROUP * 2 / 32 + 1;
    let words = (inputs.len() * W::BITS).div_ceil(32);
    for first_lane in (0..width).step_by(LANES) {
        let mut of_lane = [[0u32; LANES]; WORDS];
        let first_word = inputs.start * W::BITS / 32;
        fetch_words(weights, first_row + first_lane, first_word, &mut of_lane[..words]);
        for (step, indices) in indices.chunks_exact_mut(width).enumerate() {
            let bit = step * W::Alphabet::INPUTS * W::BITS;
            let (low, high, shift) = (&of_lane[bit / 32], &of_lane[bit / 32 + 1], (bit % 32) as u32);
            let indices = &mut indices[first_lane..first_lane + LANES];
            for lane in 0..LANES {
                // a shift by 32 is two shifts
                let codes = low[lane] >> shift | high[lane] << 1 << (31 - shift);
                indices[lane] = W::entry(codes);
            }
        }
    }
}
