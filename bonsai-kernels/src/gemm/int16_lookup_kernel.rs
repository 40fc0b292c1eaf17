use std::marker::PhantomData;
use std::ops::Range;

use super::codes::fetch_words;
use super::lookup_kernel::SignCodes;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, RowForm, quantize_int16};
use crate::int_tile::LANES;
use crate::isa::{Isa, Token, Work, dispatch};
use crate::lookup::{Alphabet, ENTRIES, Int16Alphabet, Int16LookupTile, STEP};

/// 16-bit activations times one-bit or ternary weights by table look-up, exactly: no sum over a block of 128 leaves
/// 16 bits (see [`Int16Rows`](super::rows::Int16Rows)), so tables and sums are 16-bit integers, 32 columns a vector.
#[derive(Clone, Copy)]
pub(crate) struct Int16LookupKernel<T>(pub(crate) T);

/// Whether groups are made of whole blocks.
pub(crate) fn takes(group_size: usize) -> bool {
    group_size.is_multiple_of(BLOCK)
}

/// The rows of [`Int16Rows`](super::rows::Int16Rows), each step's inputs laid out as its table is built from them.
#[derive(Clone, Copy)]
pub(crate) struct Int16Steps<A>(PhantomData<A>);

impl<A: Int16Alphabet> RowForm for Int16Steps<A> {
    const NAME: &'static str = A::NAME;
    type Element = i16;
    const ROW_SCALE: bool = true;

    fn len(cols: usize) -> usize {
        cols.div_ceil(BLOCK) * block_len::<A>() + 32
    }

    fn scales(_: usize) -> usize {
        1
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i16], scales: &mut [f32], spare: &mut Vec<i16>) {
        // zeros behind the end, so that the last step is whole
        spare.clear();
        spare.resize(x.len().next_multiple_of(BLOCK), 0);
        scales[0] =
            dispatch!(isa, t => t.work(LayOutRow { alphabet: PhantomData::<A>, x, row, codes: spare }));
    }
}

/// Fills the steps of a row and returns its scale; `codes` ends in zeros behind the last block.
struct LayOutRow<'a, A> {
    alphabet: PhantomData<A>,
    x: &'a [f32],
    row: &'a mut [i16],
    codes: &'a mut [i16],
}

impl<A: Int16Alphabet> Work for LayOutRow<'_, A> {
    type Output = f32;

    #[inline(always)]
    fn work(self) -> f32 {
        let scale = quantize_int16(self.x, &mut self.codes[..self.x.len()]);
        let blocks = self.codes.chunks_exact(BLOCK).zip(self.row.chunks_exact_mut(block_len::<A>()));
        for (block, row) in blocks {
            // the last step may reach beyond the block, where what follows belongs to the next one
            let mut padded = [0i16; BLOCK + STEP];
            padded[..BLOCK].copy_from_slice(block);
            let (steps, _) = row.as_chunks_mut::<STEP>();
            for (s, step) in steps.iter_mut().enumerate().take(A::steps(BLOCK)) {
                A::lay_out(&padded[s * A::INPUTS..][..A::INPUTS], step);
            }
        }
        scale
    }
}

/// Elements of a block's steps, whole vectors of 32.
fn block_len<A: Int16Alphabet>() -> usize {
    (A::steps(BLOCK) * STEP).next_multiple_of(32)
}

impl<T: Int16LookupTile, W: SignCodes> Microkernel<W> for Int16LookupKernel<T> {
    const NAME: &'static str = "int16-lookup";
    const MR: usize = T::MR;
    const COLUMNS: usize = 3072;
    type Rows = Int16Steps<W::Alphabet>;
    type Operand = i16;
    /// For each block, the indices of two columns in a word, then the scales of the columns.
    type Panel = u32;

    fn depth(self, _: &W) -> usize {
        BLOCKS * BLOCK
    }

    fn width(self, _: usize) -> usize {
        T::WIDTH
    }

    fn panel_len(self, _: &W, width: usize, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * block_panel_len::<W>(width)
    }

    fn operand_len(self, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * block_operand_len::<T, W>()
    }

    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        for (panel, start) in panel.chunks_exact_mut(block_panel_len::<W>(width)).zip(inputs.step_by(BLOCK)) {
            let tile = self.0;
            tile.work(ExpandBlock { tile, weights, first_column, width, first_input: start, panel });
        }
    }

    fn prepare_tile(self, _: &W, rows: TileRows<'_, i16>, inputs: Range<usize>, operand: &mut [i16]) {
        let steps = W::Alphabet::steps(BLOCK);
        let blocks = operand.chunks_exact_mut(block_operand_len::<T, W>()).zip(inputs.step_by(BLOCK));
        for (operand, start) in blocks {
            let block = &rows.rows[start / BLOCK * block_len::<W::Alphabet>()..];
            self.0.build::<W::Alphabet>(steps, block, rows.row_len, operand);
        }
    }

    fn multiply(self, _: &W, tile: Tile<'_, Self, W>, inputs: Range<usize>, width: usize, acc: &mut [f32]) {
        let steps = W::Alphabet::steps(BLOCK);
        let panels = tile.panels.chunks_exact(inputs.len().div_ceil(BLOCK) * block_panel_len::<W>(width));
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(T::MR * width)) {
            let operands = tile.operand.chunks_exact(block_operand_len::<T, W>());
            for (panel, operand) in panel.chunks_exact(block_panel_len::<W>(width)).zip(operands) {
                let (indices, scales) = panel.split_at(steps * width / 2);
                self.0.look_up(steps, operand, indices, bytemuck::must_cast_slice(scales), acc);
            }
        }
    }
}

/// Blocks of one pass over the sums: more would push the tables out of the first-level cache.
const BLOCKS: usize = 2;

fn block_panel_len<W: SignCodes>(width: usize) -> usize {
    W::Alphabet::steps(BLOCK) * width / 2 + width
}

fn block_operand_len<T: Int16LookupTile, W: SignCodes>() -> usize {
    W::Alphabet::steps(BLOCK) * T::MR * ENTRIES
}

/// Lays out indices and scales of one block.
struct ExpandBlock<'a, T, W> {
    #[expect(dead_code, reason = "names the type")]
    tile: T,
    weights: &'a W,
    first_column: usize,
    width: usize,
    first_input: usize,
    panel: &'a mut [u32],
}

impl<T: Int16LookupTile, W: SignCodes> Work for ExpandBlock<'_, T, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { weights, first_column, width, first_input, panel, .. } = self;
        let (indices, scales) = panel.split_at_mut(W::Alphabet::steps(BLOCK) * width / 2);
        scales.fill(0);
        let scales: &mut [f32] = bytemuck::must_cast_slice_mut(scales);
        weights.gather_scales(first_column, first_input / weights.group_size(), scales);
        for scale in scales {
            *scale *= T::SCALE;
        }
        expand_indices::<T, W>(
            weights,
            first_column,
            width,
            first_input,
            bytemuck::must_cast_slice_mut(indices),
        );
    }
}

/// `indices[step][column]`, the columns of each 32 in the order 0, 16, 1, 17, ..
#[inline(always)]
fn expand_indices<T: Int16LookupTile, W: SignCodes>(
    weights: &W,
    first_row: usize,
    width: usize,
    first_input: usize,
    indices: &mut [u16],
) {
    // the one- or two-bit codes of a block, and a word of zeros behind them
    const WORDS: usize = BLOCK * 2 / 32 + 1;
    let words = BLOCK * W::BITS / 32;
    for first_lane in (0..width).step_by(2 * LANES) {
        let mut halves = [[[0u32; LANES]; WORDS]; 2];
        for (half, of_half) in halves.iter_mut().enumerate() {
            let first_row = first_row + first_lane + half * LANES;
            fetch_words(weights, first_row, first_input * W::BITS / 32, &mut of_half[..words]);
        }
        // 16-bit pieces, the two halves of the lanes alternating
        let mut pieces = [[0u32; LANES]; 2 * WORDS];
        let (pairs, _) = pieces.as_chunks_mut::<2>();
        for (([low, high], a), b) in pairs.iter_mut().zip(&halves[0]).zip(&halves[1]) {
            for lane in 0..LANES {
                low[lane] = a[lane] & 0xffff | b[lane] << 16;
                high[lane] = a[lane] >> 16 | b[lane] & 0xffff_0000;
            }
        }
        let pieces: &[[u16; 2 * LANES]; 2 * WORDS] = bytemuck::must_cast_ref(&pieces);
        for (step, indices) in indices.chunks_exact_mut(width).enumerate() {
            let bit = step * W::Alphabet::INPUTS * W::BITS;
            let (low, high, shift) = (&pieces[bit / 16], &pieces[bit / 16 + 1], (bit % 16) as u32);
            let indices = &mut indices[first_lane..first_lane + 2 * LANES];
            for lane in 0..2 * LANES {
                // a shift by 16 is two shifts
                let codes = low[lane] >> shift | high[lane] << 1 << (15 - shift);
                indices[lane] = T::index(W::entry16(codes) & 31);
            }
        }
    }
}
