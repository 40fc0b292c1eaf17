use std::ops::Range;

use super::driver::Blocking;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::permute_kernel::{Columns, PermutedWeights};
use super::rows::F32Rows;
use crate::isa::{Avx512Vnni, Token, Work};
use crate::x86_64::permute::{BLOCK, LANES};
use crate::x86_64::permute_f32::{ROWS, WIDTH};

/// Activations in f32, full or rounded, times one-bit or ternary weights by tables in registers.
#[derive(Clone, Copy)]
pub(crate) struct PermuteF32Kernel<F>(pub(crate) Avx512Vnni, pub(crate) F);

/// Blocks of one pass over the sums, if the first-level cache holds their tables.
const BLOCKS: usize = 2;

impl<W: PermutedWeights, F: F32Rows> Microkernel<W> for PermuteF32Kernel<F> {
    const NAME: &'static str = F::PERMUTED;
    const MR: usize = ROWS;
    const COLUMNS: usize = 1536;
    type Rows = F;
    type Operand = f32;
    /// For each block the indices of columns, then their scales as bits.
    type Panel = u32;

    fn task(self, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
        let kernel = Blocking {
            rows: <Self as Microkernel<W>>::ROWS,
            columns: 2 * <Self as Microkernel<W>>::COLUMNS,
            tile: (ROWS, WIDTH),
            laying_out: 16,
            building: 64,
        };
        kernel.task(rows, columns, threads)
    }

    fn depth(self, _: &W) -> usize {
        if self.0.lower().holds_tables() { BLOCKS * BLOCK } else { BLOCK }
    }

    fn width(self, _: usize) -> usize {
        WIDTH
    }

    fn panel_len(self, _: &W, _: usize, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * block_len::<W>()
    }

    fn operand_len(self, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * Avx512Vnni::f32_tables_len::<W::Patterns>()
    }

    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        _: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        self.0.work(LayOut { t: self.0, weights, first_column, inputs, panel });
    }

    fn prepare_tile(self, _: &W, rows: TileRows<'_, f32>, inputs: Range<usize>, operand: &mut [f32]) {
        let blocks = operand.chunks_exact_mut(Avx512Vnni::f32_tables_len::<W::Patterns>());
        for (tables, start) in blocks.zip(inputs.step_by(BLOCK)) {
            self.0.build_f32_tables::<W::Patterns>(&rows.rows[start..], rows.row_len, tables);
        }
    }

    fn multiply(self, _: &W, tile: Tile<'_, Self, W>, inputs: Range<usize>, _: usize, acc: &mut [f32]) {
        let blocks = inputs.len().div_ceil(BLOCK);
        let panels = tile.panels.chunks_exact(blocks * block_len::<W>());
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(ROWS * WIDTH)) {
            let tables = tile.operand.chunks_exact(Avx512Vnni::f32_tables_len::<W::Patterns>());
            for (panel, tables) in panel.chunks_exact(block_len::<W>()).zip(tables) {
                let (indices, scales) = panel.split_at(block_len::<W>() - WIDTH);
                let scales = bytemuck::must_cast_slice(scales);
                self.0.add_f32_permuted::<W::Patterns>(tables, indices, scales, acc);
            }
        }
    }
}

/// Words of one block of a panel.
fn block_len<W: PermutedWeights>() -> usize {
    Avx512Vnni::f32_indices_len::<W::Patterns>() + WIDTH
}

/// Lays out a panel.
struct LayOut<'a, W> {
    t: Avx512Vnni,
    weights: &'a W,
    first_column: usize,
    inputs: Range<usize>,
    panel: &'a mut [u32],
}

impl<W: PermutedWeights> Work for LayOut<'_, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { t, weights, first_column, inputs, panel } = self;
        for first in (0..WIDTH).step_by(LANES) {
            let columns = Columns::new(weights, first_column + first, inputs.start);
            for (panel, start) in panel.chunks_exact_mut(block_len::<W>()).zip(inputs.clone().step_by(BLOCK))
            {
                let (indices, scales) = panel.split_at_mut(block_len::<W>() - WIDTH);
                columns.codes(start / BLOCK, |codes, block| {
                    t.lay_out_f32_indices::<W::Patterns>(codes, block, first / LANES, indices);
                });
                columns.scales(t, start, &mut bytemuck::must_cast_slice_mut(scales)[first..first + LANES]);
            }
        }
    }
}
