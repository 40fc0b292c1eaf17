use std::ops::Range;

use super::bit_rows::{BitRows, ROW_PADDING, plane_stride, position};
use super::codes::{Codes, fetch_words};
use super::driver::Blocking;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::BLOCK;
use crate::bit_tile::{BitBlock, BitTile, group_len};
use crate::int_tile::LANES;
use crate::isa::{Token, Work};
use crate::weights::{BinaryWeights, TernaryWeights};

/// Activations that are signs, or signs and zeros, times weights of the same kind: 512 multiply-accumulates are an exclusive
/// or, a popcount and an addition. Sums over a group are exact.
#[derive(Clone, Copy)]
pub(crate) struct BitKernel<T, F>(pub(crate) T, pub(crate) F);

/// Inputs of one K block, over which sums stay in registers: whole groups, which are of 32, 64 or 128 inputs here.
const DEPTH: usize = 3072;
/// Weights whose codes are signs, or signs and zeros, as planes of bits.
pub(crate) trait BitCodes: Codes {
    /// In which order the bits of a word stand; see [`position`].
    const PAIRED: bool;
    /// Whether weights can be zero.
    const ZEROS: bool;
    /// Makes words of codes words of signs and, if `ZEROS`, words of what is not zero.
    fn planes(codes: &[[u32; LANES]], signs: &mut [[u32; LANES]], counts: &mut [[u32; LANES]]);
}

impl BitCodes for BinaryWeights {
    const PAIRED: bool = false;
    const ZEROS: bool = false;

    #[inline(always)]
    fn planes(codes: &[[u32; LANES]], signs: &mut [[u32; LANES]], _: &mut [[u32; LANES]]) {
        signs.copy_from_slice(codes);
    }
}

impl BitCodes for TernaryWeights {
    const PAIRED: bool = true;
    const ZEROS: bool = true;

    /// The higher bit of a code says that it is `+`, the lower that it is zero: those of inputs 0 to 15 go to the even
    /// bits, those of inputs 16 to 31 to the odd ones.
    #[inline(always)]
    fn planes(codes: &[[u32; LANES]], signs: &mut [[u32; LANES]], counts: &mut [[u32; LANES]]) {
        const EVEN: u32 = 0x5555_5555;
        for (([a, b], signs), counts) in codes.as_chunks::<2>().0.iter().zip(signs).zip(counts) {
            for lane in 0..LANES {
                signs[lane] = a[lane] >> 1 & EVEN | b[lane] & !EVEN;
                counts[lane] = !(a[lane] & EVEN | b[lane] << 1 & !EVEN);
            }
        }
    }
}

/// The bits of word `word` that belong to a group's first `inputs` inputs.
fn valid(paired: bool, inputs: usize, word: usize) -> u32 {
    let inputs = inputs.saturating_sub(32 * word).min(32);
    if inputs == 32 { u32::MAX } else { (0..inputs).fold(0, |bits, i| bits | 1 << position(paired, i)) }
}

impl<T: BitTile, F: BitRows, W: BitCodes> Microkernel<W> for BitKernel<T, F> {
    const NAME: &'static str = F::METHOD;
    const MR: usize = T::MR;
    const ROWS: usize = 1536;
    const BEGINS: bool = true;
    const COLUMNS: usize = 512;
    type Rows = F;
    type Operand = u32;
    /// See [`BitBlock::panels`].
    type Panel = u32;

    fn task(self, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
        let (rows_at_most, columns_at_most) =
            (<Self as Microkernel<W>>::ROWS, 6 * <Self as Microkernel<W>>::COLUMNS);
        let tile = (T::MR, T::WIDTH);
        let blocking =
            Blocking { rows: rows_at_most, columns: columns_at_most, tile, laying_out: 160, building: 8 };
        blocking.task(rows, columns, threads)
    }

    fn depth(self, _: &W) -> usize {
        DEPTH
    }

    fn width(self, _: usize) -> usize {
        T::WIDTH
    }

    fn panel_len(self, weights: &W, width: usize, depth: usize) -> usize {
        depth.div_ceil(weights.depth()) * group_len(W::ZEROS, weights.depth() / 32, width) + width
    }

    fn operand_len(self, depth: usize) -> usize {
        if T::CARRIES && !F::ZEROS && !W::ZEROS { T::MR * carried_len(depth) } else { 0 }
    }

    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        const { assert!(F::PAIRED == W::PAIRED) };
        let carried = self.carried(weights);
        self.0.work(LayOut {
            t: self.0,
            weights,
            carried,
            row_zeros: F::ZEROS,
            first_column,
            width,
            inputs,
            panel,
        });
    }

    fn prepare_tile(self, weights: &W, rows: TileRows<'_, u32>, inputs: Range<usize>, operand: &mut [u32]) {
        if !self.carried(weights) {
            return;
        }
        let words = inputs.len().div_ceil(BLOCK) * BLOCK / 32;
        for (m, to) in operand.chunks_exact_mut(carried_len(inputs.len())).take(T::MR).enumerate() {
            let from = &rows.rows[m * rows.row_len + inputs.start / 32..][..words];
            self.0.work(Carry { from, to });
        }
    }

    fn multiply(
        self,
        weights: &W,
        tile: Tile<'_, Self, W>,
        inputs: Range<usize>,
        width: usize,
        acc: &mut [f32],
    ) {
        let TileRows { rows, row_len, scales, scales_len } = tile.rows;
        let carried = self.carried(weights);
        let (rows, row_len) = if carried {
            (tile.operand, carried_len(inputs.len()))
        } else {
            (&rows[inputs.start / 32..], row_len)
        };
        let block = BitBlock {
            groups: inputs.len().div_ceil(weights.depth()),
            words: weights.depth() / 32,
            rows,
            row_stride: row_len,
            plane_stride: if F::ZEROS { plane_stride(row_len) } else { 0 },
            carried,
            scales: &scales[if F::ZEROS { inputs.start / BLOCK } else { 0 }..],
            scale_stride: scales_len,
            panels: tile.panels,
            begins: tile.begins,
        };
        debug_assert_eq!(width, T::WIDTH);
        match (F::ZEROS, W::ZEROS) {
            (false, false) => self.0.multiply::<false, false>(block, acc),
            (false, true) => self.0.multiply::<false, true>(block, acc),
            (true, false) => self.0.multiply::<true, false>(block, acc),
            (true, true) => self.0.multiply::<true, true>(block, acc),
        }
    }
}

impl<T: BitTile, F: BitRows> BitKernel<T, F> {
    /// Whether [`BitTile::CARRIES`] applies to groups of 128 inputs.
    fn carried<W: BitCodes>(self, weights: &W) -> bool {
        T::CARRIES && !F::ZEROS && !W::ZEROS && weights.depth() == BLOCK
    }
}

/// Makes words of signs [carried](BitBlock::carried) ones.
struct Carry<'a> {
    from: &'a [u32],
    to: &'a mut [u32],
}

impl Work for Carry<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { from, to } = self;
        for (from, to) in from.as_chunks::<4>().0.iter().zip(to.as_chunks_mut::<4>().0) {
            let [a, b, c, d] = *from;
            *to = [a, b, a ^ b ^ c, d];
        }
    }
}

/// Words from one row that is carried to the next.
fn carried_len(depth: usize) -> usize {
    depth.next_multiple_of(BLOCK) / 32 + ROW_PADDING
}

/// Fills a panel; see [`BitBlock::panels`].
struct LayOut<'a, T, W> {
    t: T,
    weights: &'a W,
    carried: bool,
    /// Whether activations can be zero.
    row_zeros: bool,
    first_column: usize,
    width: usize,
    inputs: Range<usize>,
    panel: &'a mut [u32],
}

impl<T: Token, W: BitCodes> Work for LayOut<'_, T, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { t, weights, carried, row_zeros, first_column, width, inputs, panel } = self;
        let words = weights.depth() / 32;
        // the words of a group, of at most 2 bits a code
        let mut codes = [[0; LANES]; BLOCK * 2 / 32];
        let codes = &mut codes[..words * W::BITS];
        let (mut signs, mut counts) = ([[0; LANES]; BLOCK / 32], [[0; LANES]; BLOCK / 32]);
        let (groups, starts) = panel.split_at_mut(panel.len() - width);
        starts.fill(0);
        let starts: &mut [f32] = bytemuck::must_cast_slice_mut(starts);
        for (g, lines) in groups.chunks_exact_mut(group_len(W::ZEROS, words, width)).enumerate() {
            let first_input = inputs.start + g * 32 * words;
            let valid_inputs = (inputs.end - first_input).min(32 * words);
            let (planes, scales) = lines.split_at_mut(lines.len() - width);
            scales.fill(0);
            let scales: &mut [f32] = bytemuck::must_cast_slice_mut(scales);
            weights.gather_scales(t, first_column, first_input / weights.group_size(), scales);
            for first_lane in (0..width).step_by(LANES) {
                fetch_words(t, weights, first_column + first_lane, first_input * W::BITS / 32, codes);
                W::planes(codes, &mut signs[..words], &mut counts[..words]);
                // bits beyond the end stand where activations have zeros
                if valid_inputs < 32 * words {
                    for w in 0..words {
                        let valid = valid(W::PAIRED, valid_inputs, w);
                        for (sign, count) in signs[w].iter_mut().zip(&mut counts[w]) {
                            *sign &= valid;
                            *count &= valid;
                        }
                    }
                }
                // what counts on this side alone
                let mut totals = [if W::ZEROS { 0 } else { valid_inputs as u32 }; LANES];
                if W::ZEROS {
                    for counts in &counts[..words] {
                        for lane in 0..LANES {
                            totals[lane] += counts[lane].count_ones();
                        }
                    }
                }
                if carried {
                    let [a, b, sum, _] = &mut signs;
                    for lane in 0..LANES {
                        sum[lane] ^= a[lane] ^ b[lane];
                    }
                }
                let (lines, lane) = (planes.as_chunks_mut::<LANES>().0, first_lane / LANES);
                let apart = width / LANES;
                for w in 0..words {
                    lines[w * apart + lane] = signs[w];
                    if W::ZEROS {
                        lines[(words + w) * apart + lane] = counts[w];
                    }
                }
                if !row_zeros {
                    let scales = &mut scales.as_chunks_mut::<LANES>().0[lane];
                    let starts = &mut starts.as_chunks_mut::<LANES>().0[lane];
                    for lane in 0..LANES {
                        starts[lane] += scales[lane] * totals[lane] as f32;
                        scales[lane] *= -2.0;
                    }
                }
            }
        }
    }
}
