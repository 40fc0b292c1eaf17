use std::ops::Range;

use super::microkernel::{Microkernel, TileRows};
use crate::tile::{F32Tile, with_width};
use crate::weights::ExpandF32;

/// Full f32 activations: weights of any kind become f32 panels (scales included), tiles are f32 products.
#[derive(Clone, Copy)]
pub(crate) struct F32Kernel<T>(pub(crate) T);

/// One panel of the widest kind takes half of a 64 KiB first-level cache.
const DEPTH: usize = 128;

impl<T: F32Tile, W: ExpandF32> Microkernel<W> for F32Kernel<T> {
    const NAME: &'static str = "f32-fma";
    const MR: usize = T::MR;
    // one panel, which stays in the first-level cache while the rows pass
    const COLUMNS: usize = 64;
    type Row = f32;
    type Operand = f32;
    type Panel = f32;
    type Sum = f32;

    fn depth(self, _: &W) -> usize {
        DEPTH
    }

    fn width(self, columns: usize) -> usize {
        T::width_for(columns)
    }

    fn panel_len(self, width: usize, depth: usize) -> usize {
        width * depth
    }

    fn operand_len(self, _: usize) -> usize {
        0
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
        panel: &mut [f32],
    ) {
        with_width!(width, LANES => self.0.run(|| weights.expand::<LANES>(first_column, inputs, panel)));
    }

    fn prepare_tile(self, _: &[f32], _: usize, _: Range<usize>, _: &mut [f32]) {}

    fn accumulate(
        self,
        tile: TileRows<'_, f32, f32>,
        inputs: Range<usize>,
        panel: &[f32],
        width: usize,
        sums: &mut [f32],
    ) {
        sums.fill(0.0);
        self.0.tile(width, inputs.len(), &tile.rows[inputs.start..], tile.row_len, panel, sums);
    }

    fn flush(self, sums: &[f32], _: &[f32], _: usize, acc: &mut [f32]) {
        for (acc, sum) in acc.iter_mut().zip(sums) {
            *acc += sum;
        }
    }
}
