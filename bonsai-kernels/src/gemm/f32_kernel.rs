use std::ops::Range;

use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::F32Rows;
use crate::tile::{F32Tile, with_width};
use crate::weights::{ExpandF32, Weights, each_kind};

/// Activations in f32, full or rounded: weights of any kind become f32 panels (scales included), tiles are f32 products.
#[derive(Clone, Copy)]
pub(crate) struct F32Kernel<T, F>(pub(crate) T, pub(crate) F);

/// One panel of the widest kind takes half of a 64 KiB first-level cache.
const DEPTH: usize = 128;

impl<T: F32Tile, F: F32Rows> Microkernel<Weights> for F32Kernel<T, F> {
    const NAME: &'static str = F::FMA;
    const MR: usize = T::MR;
    // one panel, which stays in the first-level cache while the rows pass
    const COLUMNS: usize = 64;
    type Rows = F;
    type Operand = f32;
    type Panel = f32;

    fn depth(self, _: &Weights) -> usize {
        DEPTH
    }

    fn width(self, columns: usize) -> usize {
        T::width_for(columns)
    }

    fn panel_len(self, _: &Weights, width: usize, depth: usize) -> usize {
        width * depth
    }

    fn operand_len(self, _: usize) -> usize {
        0
    }

    fn prepare_weights(
        self,
        weights: &Weights,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [f32],
    ) {
        with_width!(width, LANES => each_kind!(weights, w => {
            self.0.run(|| w.expand::<LANES>(first_column, inputs, panel));
        }));
    }

    fn prepare_tile(self, _: &Weights, _: TileRows<'_, f32>, _: Range<usize>, _: &mut [f32]) {}

    fn multiply(
        self,
        _: &Weights,
        tile: Tile<'_, Self, Weights>,
        inputs: Range<usize>,
        width: usize,
        acc: &mut [f32],
    ) {
        let TileRows { rows, row_len, .. } = tile.rows;
        let panels = tile.panels.chunks_exact(inputs.len() * width);
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(T::MR * width)) {
            self.0.tile(width, inputs.len(), &rows[inputs.start..], row_len, panel, acc);
        }
    }
}
