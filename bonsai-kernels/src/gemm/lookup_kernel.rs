use std::ops::Range;

use super::microkernel::{Microkernel, TileRows};
use crate::lookup::{Alphabet, ENTRIES, LookupTile, Signs, Trits};
use crate::weights::{BinaryWeights, TernaryWeights, word};

/// Full f32 activations times one-bit or ternary weights by table look-up: all signed sums of a few inputs are formed
/// once, and the bits of their weights pick one. For one-bit weights two instructions then do 80 multiply-accumulates,
/// and a sum has fewer roundings than products added one by one.
#[derive(Clone, Copy)]
pub(crate) struct LookupKernel<T>(pub(crate) T);

/// The longest group that tables and panels are made for.
const LONGEST_GROUP: usize = 256;

/// Whether groups are whole words, and prepared rows end in zeros up to the end of the last group.
pub(crate) fn takes(group_size: usize) -> bool {
    matches!(group_size, 32 | 64 | 128 | LONGEST_GROUP)
}

/// Weights whose codes are signs.
pub(crate) trait SignCodes: Sync {
    type Alphabet: Alphabet;
    /// Bits of one code.
    const BITS: usize;
    fn rows(&self) -> usize;
    fn group_size(&self) -> usize;
    fn scale(&self, row: usize, group: usize) -> f32;
    fn row_codes(&self, row: usize) -> &[u8];
    /// The table entry of the codes in the low bits; bits above them are left as they come.
    fn entry(codes: u32) -> u32;
}

macro_rules! sign_codes {
    ($weights:ty, $alphabet:ty, $bits:literal, |$codes:ident| $entry:expr) => {
        impl SignCodes for $weights {
            type Alphabet = $alphabet;
            const BITS: usize = $bits;
            fn rows(&self) -> usize {
                self.rows()
            }
            fn group_size(&self) -> usize {
                self.group_size()
            }
            fn scale(&self, row: usize, group: usize) -> f32 {
                self.scale(row, group)
            }
            fn row_codes(&self, row: usize) -> &[u8] {
                self.row_codes(row)
            }
            #[inline(always)]
            fn entry($codes: u32) -> u32 {
                $entry
            }
        }
    };
}

sign_codes!(BinaryWeights, Signs, 1, |codes| codes);
sign_codes!(TernaryWeights, Trits, 2, |codes| (codes & 3) + (codes >> 2 & 3) * 3 + (codes >> 4 & 3) * 9);

/// Steps that cover `depth` inputs of these weights.
fn steps<W: SignCodes>(depth: usize) -> usize {
    W::Alphabet::steps(depth)
}

impl<T: LookupTile, W: SignCodes> Microkernel<W> for LookupKernel<T> {
    const NAME: &'static str = "f32-lookup";
    const MR: usize = T::MR;
    // tables of a tile of rows serve so many columns; their panels take 100 to 200 KiB
    const COLUMNS: usize = 1024;
    type Row = f32;
    type Operand = f32;
    /// Indices, then the scales of the columns as bits.
    type Panel = u32;
    type Sum = f32;

    fn depth(self, weights: &W) -> usize {
        weights.group_size()
    }

    fn width(self, _: usize) -> usize {
        T::WIDTH
    }

    fn panel_len(self, width: usize, depth: usize) -> usize {
        (steps::<W>(depth) + 1) * width
    }

    fn operand_len(self, depth: usize) -> usize {
        steps::<W>(depth) * T::MR * ENTRIES
    }

    fn prepare_row(self, x: &[f32], row: &mut [f32]) {
        row[..x.len()].copy_from_slice(x);
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
        let group = inputs.start / weights.group_size();
        for (lane, scale) in scales.iter_mut().enumerate() {
            let row = first_column + lane;
            let value = if row < weights.rows() { weights.scale(row, group) } else { 0.0 };
            *scale = value.to_bits();
        }
        self.0.run(|| expand_indices(weights, first_column, width, inputs, indices));
    }

    fn prepare_tile(self, rows: &[f32], row_len: usize, inputs: Range<usize>, operand: &mut [f32]) {
        self.0.build::<W::Alphabet>(inputs.len(), &rows[inputs.start..], row_len, operand);
    }

    fn accumulate(
        self,
        tile: TileRows<'_, f32, f32>,
        inputs: Range<usize>,
        panel: &[u32],
        _: usize,
        sums: &mut [f32],
    ) {
        self.0.look_up(steps::<W>(inputs.len()), tile.operand, panel, sums);
    }

    fn flush(self, sums: &[f32], panel: &[u32], width: usize, acc: &mut [f32]) {
        let scales = &panel[panel.len() - width..];
        self.0.run(|| scale_and_add(sums, scales, acc));
    }
}

#[inline(always)]
fn scale_and_add(sums: &[f32], scales: &[u32], acc: &mut [f32]) {
    let width = scales.len();
    for (sums, acc) in sums.chunks_exact(width).zip(acc.chunks_exact_mut(width)) {
        for ((sum, acc), &scale) in sums.iter().zip(acc).zip(scales) {
            *acc += sum * f32::from_bits(scale);
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
    const LANES: usize = 16;
    // the two-bit codes of the longest group, and a word of zeros behind them
    const WORDS: usize = LONGEST_GROUP * 2 / 32 + 1;
    let first_word = inputs.start * W::BITS / 32;
    let words = (inputs.len() * W::BITS).div_ceil(32);
    for first_lane in (0..width).step_by(LANES) {
        let mut of_lane = [[0u32; LANES]; WORDS];
        for lane in 0..LANES {
            let row = weights.row_codes(first_row + first_lane + lane);
            for (i, of_lane) in of_lane.iter_mut().enumerate().take(words) {
                of_lane[lane] = word(row, first_word + i);
            }
        }
        for (step, indices) in indices.chunks_exact_mut(width).enumerate() {
            let bit = step * W::Alphabet::INPUTS * W::BITS;
            let (low, high, shift) = (of_lane[bit / 32], of_lane[bit / 32 + 1], (bit % 32) as u32);
            let indices = &mut indices[first_lane..first_lane + LANES];
            for lane in 0..LANES {
                // a shift by 32 is two shifts
                indices[lane] = W::entry(low[lane] >> shift | high[lane] << 1 << (31 - shift));
            }
        }
    }
}
