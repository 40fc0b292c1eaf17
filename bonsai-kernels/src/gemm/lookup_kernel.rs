use std::ops::Range;

use super::microkernel::{Microkernel, TileRows};
use crate::lookup::{ENTRIES, INPUTS, LookupTile, steps};
use crate::weights::BinaryWeights;

/// Full f32 activations times one-bit weights by table look-up: all signed sums of five inputs are formed once, and five
/// weight bits pick one. Two instructions then do 80 multiply-accumulates, and a sum has fewer roundings than products
/// added one by one.
#[derive(Clone, Copy)]
pub(crate) struct LookupKernel<T>(pub(crate) T);

impl<T> LookupKernel<T> {
    /// Groups are whole words, and prepared rows end in zeros up to the end of the last group.
    pub(crate) fn takes(weights: &BinaryWeights) -> bool {
        matches!(weights.group_size(), 32 | 64 | 128 | 256)
    }
}

impl<T: LookupTile> Microkernel<BinaryWeights> for LookupKernel<T> {
    const NAME: &'static str = "f32-lookup";
    const MR: usize = T::MR;
    // tables of a tile of rows serve so many columns; their panels take 100 KiB
    const COLUMNS: usize = 1024;
    type Row = f32;
    type Operand = f32;
    /// Indices, then the scales of the columns as bits.
    type Panel = u32;
    type Sum = f32;

    fn depth(self, weights: &BinaryWeights) -> usize {
        weights.group_size()
    }

    fn width(self, _: usize) -> usize {
        T::WIDTH
    }

    fn panel_len(self, width: usize, depth: usize) -> usize {
        (steps(depth) + 1) * width
    }

    fn operand_len(self, depth: usize) -> usize {
        steps(depth) * T::MR * ENTRIES
    }

    fn prepare_row(self, x: &[f32], row: &mut [f32]) {
        row[..x.len()].copy_from_slice(x);
    }

    fn prepare_weights(
        self,
        weights: &BinaryWeights,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        let (indices, scales) = panel.split_at_mut(steps(inputs.len()) * width);
        let group = inputs.start / weights.group_size();
        for (lane, scale) in scales.iter_mut().enumerate() {
            let row = first_column + lane;
            let value = if row < weights.rows() { weights.scale(row, group) } else { 0.0 };
            *scale = value.to_bits();
        }
        self.0.run(|| expand_indices(weights, first_column, width, inputs, indices));
    }

    fn prepare_tile(self, rows: &[f32], row_len: usize, inputs: Range<usize>, operand: &mut [f32]) {
        self.0.build(inputs.len(), &rows[inputs.start..], row_len, operand);
    }

    fn accumulate(
        self,
        tile: TileRows<'_, f32, f32>,
        inputs: Range<usize>,
        panel: &[u32],
        _: usize,
        sums: &mut [f32],
    ) {
        self.0.look_up(steps(inputs.len()), tile.operand, panel, sums);
    }

    fn flush(self, sums: &mut [f32], panel: &[u32], width: usize, acc: &mut [f32]) {
        let scales = &panel[panel.len() - width..];
        self.0.run(|| scale_and_add(sums, scales, acc));
    }
}

#[inline(always)]
fn scale_and_add(sums: &mut [f32], scales: &[u32], acc: &mut [f32]) {
    let width = scales.len();
    for (sums, acc) in sums.chunks_exact_mut(width).zip(acc.chunks_exact_mut(width)) {
        for ((sum, acc), &scale) in sums.iter_mut().zip(acc).zip(scales) {
            *acc += std::mem::take(sum) * f32::from_bits(scale);
        }
    }
}

/// `indices[step][lane]`: the bits of row `first_row + lane` from input `inputs.start + 5 step` on, in the low bits of a
/// word. Bits above the fifth are left as they come.
#[inline(always)]
fn expand_indices(
    weights: &BinaryWeights,
    first_row: usize,
    width: usize,
    inputs: Range<usize>,
    indices: &mut [u32],
) {
    const LANES: usize = 16;
    /// Words of the largest group, and one of zeros behind them.
    const WORDS: usize = 256 / 32 + 1;
    let words = inputs.len().div_ceil(32);
    for first_lane in (0..width).step_by(LANES) {
        let mut of_lane = [[0u32; LANES]; WORDS];
        for lane in 0..LANES {
            let row = weights.row_codes(first_row + first_lane + lane);
            for (word, of_lane) in of_lane.iter_mut().enumerate().take(words) {
                of_lane[lane] = crate::weights::word(row, inputs.start / 32 + word);
            }
        }
        for (step, indices) in indices.chunks_exact_mut(width).enumerate() {
            let (word, shift) = (step * INPUTS / 32, (step * INPUTS % 32) as u32);
            let (low, high) = (of_lane[word], of_lane[word + 1]);
            let indices = &mut indices[first_lane..first_lane + LANES];
            for lane in 0..LANES {
                // a shift by 32 is two shifts
                indices[lane] = low[lane] >> shift | high[lane] << 1 << (31 - shift);
            }
        }
    }
}
