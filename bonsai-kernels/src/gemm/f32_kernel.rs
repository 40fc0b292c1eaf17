use std::ops::Range;

use super::microkernel::Microkernel;
use crate::tile::{F32Tile, with_width};
use crate::weights::ExpandF32;

/// Full f32 activations: weights of any kind become f32 panels (scales included), tiles are f32 products.
#[derive(Clone, Copy)]
pub(crate) struct F32Kernel<T>(pub(crate) T);

/// One panel of the widest kind takes half of a 64 KiB first-level cache.
const DEPTH: usize = 128;
/// Keeps rows whose length is a power of two out of the same cache sets.
const ROW_PADDING: usize = 16;

impl<T: F32Tile, W: ExpandF32> Microkernel<W> for F32Kernel<T> {
    const NAME: &'static str = T::NAME;
    const MR: usize = T::MR;
    type Row = f32;
    type Panel = f32;
    type Sum = f32;

    fn depth(self, _: &W) -> usize {
        DEPTH
    }

    fn width(self, columns: usize) -> usize {
        T::width_for(columns)
    }

    fn row_len(self, cols: usize) -> usize {
        cols + ROW_PADDING
    }

    fn panel_len(self, width: usize, depth: usize) -> usize {
        width * depth
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

    fn accumulate(
        self,
        rows: &[f32],
        row_len: usize,
        inputs: Range<usize>,
        panel: &[f32],
        width: usize,
        sums: &mut [f32],
    ) {
        self.0.tile(width, inputs.len(), &rows[inputs.start..], row_len, panel, sums);
    }

    fn flush(self, sums: &mut [f32], _: &[f32], acc: &mut [f32]) {
        for (acc, sum) in acc.iter_mut().zip(sums) {
            *acc += std::mem::take(sum);
        }
    }
}
