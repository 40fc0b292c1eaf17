//! Row-wise operations share this split: blocks of rows, each worked on by one thread.

use ndarray::{ArrayViewMut2, Axis};

use crate::Cpu;
use crate::error::Result;

/// Floats of one task: enough to pay for handing it out.
const TASK_FLOATS: usize = 1 << 15;

/// Calls `body(first_row, rows)` for blocks of rows. What a block holds does not depend on the threads.
pub(crate) fn for_each_row_block(
    cpu: &Cpu,
    x: ArrayViewMut2<'_, f32>,
    body: impl Fn(usize, ArrayViewMut2<'_, f32>) + Sync,
) -> Result<()> {
    let block = (TASK_FLOATS / x.ncols().max(1)).max(1);
    let mut x = x;
    let blocks = x.axis_chunks_iter_mut(Axis(0), block).enumerate().collect();
    cpu.for_each(
        blocks,
        || Ok(()),
        |(), (index, rows)| {
            body(index * block, rows);
            Ok(())
        },
    )
}

/// The elements of a row, which must be contiguous.
#[inline(always)]
pub(crate) fn row_of<'a>(x: &'a ndarray::ArrayView2<'_, f32>, row: usize) -> &'a [f32] {
    x.row(row).to_slice().expect("rows of a matrix must be contiguous")
}

/// The elements of a row, to be written.
#[inline(always)]
pub(crate) fn row_of_mut<'a>(x: &'a mut ArrayViewMut2<'_, f32>, row: usize) -> &'a mut [f32] {
    x.row_mut(row).into_slice().expect("rows of a matrix must be contiguous")
}
