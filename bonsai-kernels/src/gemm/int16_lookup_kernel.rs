use std::marker::PhantomData;
use std::ops::Range;

use super::codes::fetch_words;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, RowForm, quantize_int16};
use super::sign_codes::SignCodes;
use crate::int_tile::LANES;
use crate::isa::{Isa, Token, Work, dispatch};
use crate::lookup::{Alphabet, Int16Alphabet, Int16LookupTile, STEP};

/// 16-bit activations times one-bit or ternary weights by table look-up, exactly: no sum over a block of 128 leaves
/// 16 bits (see [`Int16Rows`](super::rows::Int16Rows)), so tables and sums are 16-bit integers.
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
            for (s, step) in row.chunks_exact_mut(A::STEP).enumerate().take(A::steps(BLOCK)) {
                A::lay_out(&padded[s * A::INPUTS..][..A::INPUTS], step);
            }
        }
        scale
    }
}

/// Elements of a block's steps, whole vectors of 32.
fn block_len<A: Int16Alphabet>() -> usize {
    (A::steps(BLOCK) * A::STEP).next_multiple_of(32)
}

impl<T: Int16LookupTile, W: SignCodes> Microkernel<W> for Int16LookupKernel<T> {
    const NAME: &'static str = "int16-lookup";
    const MR: usize = T::MR;
    const COLUMNS: usize = 3072;
    type Rows = Int16Steps<W::Int16<T>>;
    type Operand = i16;
    /// For each block, the indices of a few columns in a word, then the scales of the columns.
    type Panel = u32;

    fn depth(self, _: &W) -> usize {
        BLOCKS * BLOCK
    }

    fn width(self, _: usize) -> usize {
        T::WIDTH
    }

    fn panel_len(self, _: &W, width: usize, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * block_panel_len::<T, W>(width)
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
        for (panel, start) in
            panel.chunks_exact_mut(block_panel_len::<T, W>(width)).zip(inputs.step_by(BLOCK))
        {
            let tile = self.0;
            tile.work(ExpandBlock { tile, weights, first_column, width, first_input: start, panel });
        }
    }

    fn prepare_tile(self, _: &W, rows: TileRows<'_, i16>, inputs: Range<usize>, operand: &mut [i16]) {
        let steps = W::Int16::<T>::steps(BLOCK);
        let blocks = operand.chunks_exact_mut(block_operand_len::<T, W>()).zip(inputs.step_by(BLOCK));
        for (operand, start) in blocks {
            let block = &rows.rows[start / BLOCK * block_len::<W::Int16<T>>()..];
            self.0.build::<W::Int16<T>>(steps, block, rows.row_len, operand);
        }
    }

    fn multiply(self, _: &W, tile: Tile<'_, Self, W>, inputs: Range<usize>, width: usize, acc: &mut [f32]) {
        let steps = W::Int16::<T>::steps(BLOCK);
        let panels = tile.panels.chunks_exact(inputs.len().div_ceil(BLOCK) * block_panel_len::<T, W>(width));
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(T::MR * width)) {
            let operands = tile.operand.chunks_exact(block_operand_len::<T, W>());
            for (panel, operand) in panel.chunks_exact(block_panel_len::<T, W>(width)).zip(operands) {
                let (indices, scales) = panel.split_at(indices_len::<T, W>(width));
                self.0.look_up(steps, operand, indices, bytemuck::must_cast_slice(scales), acc);
            }
        }
    }
}

/// Blocks of one pass over the sums: more would push the tables out of the first-level cache.
const BLOCKS: usize = 2;

fn block_panel_len<T: Int16LookupTile, W: SignCodes>(width: usize) -> usize {
    indices_len::<T, W>(width) + width
}

/// Words of the indices of one block.
fn indices_len<T: Int16LookupTile, W: SignCodes>(width: usize) -> usize {
    W::Int16::<T>::steps(BLOCK) * width / T::COLUMNS_PER_WORD
}

fn block_operand_len<T: Int16LookupTile, W: SignCodes>() -> usize {
    W::Int16::<T>::steps(BLOCK) * T::MR * W::Int16::<T>::ENTRIES
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
        let (indices, scales) = panel.split_at_mut(indices_len::<T, W>(width));
        scales.fill(0);
        let scales: &mut [f32] = bytemuck::must_cast_slice_mut(scales);
        weights.gather_scales(first_column, first_input / weights.group_size(), scales);
        for scale in scales {
            *scale *= T::SCALE;
        }
        for first_lane in (0..width).step_by(2 * LANES) {
            let mut halves = [[[0u32; LANES]; WORDS]; 2];
            for (half, of_half) in halves.iter_mut().enumerate() {
                let first_column = first_column + first_lane + half * LANES;
                let words = &mut of_half[..BLOCK * W::BITS / 32];
                fetch_words(weights, first_column, first_input * W::BITS / 32, words);
            }
            match T::COLUMNS_PER_WORD {
                2 => expand_pairs::<T, W>(&halves, first_lane, width, bytemuck::must_cast_slice_mut(indices)),
                _ => expand_fours::<T, W>(&halves, first_lane, width, indices),
            }
        }
    }
}

/// The one- or two-bit codes of a block, and a word of zeros behind them.
const WORDS: usize = BLOCK * 2 / 32 + 1;

/// Indices of 32 columns, two in a word.
#[inline(always)]
fn expand_pairs<T: Int16LookupTile, W: SignCodes>(
    halves: &[[[u32; LANES]; WORDS]; 2],
    first_lane: usize,
    width: usize,
    indices: &mut [u16],
) {
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
    let mask = W::Int16::<T>::ENTRIES as u16 - 1;
    for (step, indices) in indices.chunks_exact_mut(width).enumerate() {
        let bit = step * W::Int16::<T>::INPUTS * W::BITS;
        let (low, high, shift) = (&pieces[bit / 16], &pieces[bit / 16 + 1], (bit % 16) as u32);
        let indices = &mut indices[first_lane..first_lane + 2 * LANES];
        for lane in 0..2 * LANES {
            // a shift by 16 is two shifts
            let codes = low[lane] >> shift | high[lane] << 1 << (15 - shift);
            indices[lane] = T::index(W::Int16::<T>::entry(codes) & mask);
        }
    }
}

/// Indices of 32 columns, four in a word, where a step has codes of four bits.
#[inline(always)]
fn expand_fours<T: Int16LookupTile, W: SignCodes>(
    [low, high]: &[[[u32; LANES]; WORDS]; 2],
    first_lane: usize,
    width: usize,
    indices: &mut [u32],
) {
    const COLUMNS: usize = LANES / 2;
    const { assert!(T::COLUMNS_PER_WORD != 4 || W::Int16::<T>::INPUTS * W::BITS == 4) };
    // the even, then the odd 16-bit pieces of a word
    let pieces = |a: u32, b: u32| [a & 0xffff | b << 16, a >> 16 | b & 0xffff_0000];
    let bytes =
        |a: u32, b: u32| [a & 0x00ff_00ff | (b & 0x00ff_00ff) << 8, a >> 8 & 0x00ff_00ff | b & 0xff00_ff00];
    for ((low, high), indices) in low.iter().zip(high).zip(indices.chunks_mut(8 * width / 4)) {
        // the four columns of a lane side by side, byte for byte
        let mut bytes_of = [[0u32; COLUMNS]; 4];
        for lane in 0..COLUMNS {
            let [first, second] = bytes(low[lane], low[lane + COLUMNS]);
            let [third, fourth] = bytes(high[lane], high[lane + COLUMNS]);
            let ([zero, two], [one, three]) = (pieces(first, third), pieces(second, fourth));
            for (of_lane, word) in bytes_of.iter_mut().zip([zero, one, two, three]) {
                of_lane[lane] = word;
            }
        }
        for (step, indices) in indices.chunks_exact_mut(width / 4).enumerate() {
            let indices = &mut indices[first_lane / 4..][..COLUMNS];
            for (out, codes) in indices.iter_mut().zip(bytes_of[step / 2]) {
                *out = W::Int16::<T>::entries(codes >> (4 * (step % 2)) & 0x0f0f_0f0f);
            }
        }
    }
}
