//! Blocking, threads, edges and epilogue, written once for all kernels.

use std::time::Instant;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::epilogue::Epilogue;
use super::microkernel::Microkernel;
use crate::Cpu;
use crate::aligned::AlignedBuf;
use crate::error::Result;

/// Rows of one task: many enough to pay for laying out the weights, few enough to stay in the second-level cache.
const ROWS_PER_TASK: usize = 192;
/// Columns of one task: a task is some milliseconds, which is how long a cancel waits.
const COLUMNS_PER_TASK: usize = 512;

/// Activations as one microkernel wants them, prepared once and shared by all linears that read the same rows.
pub(crate) struct PreparedRows<E: crate::Element> {
    data: AlignedBuf<E>,
    row_len: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

pub(crate) fn prepare<W, K: Microkernel<W>>(
    cpu: &Cpu,
    kernel: K,
    x: ArrayView2<'_, f32>,
) -> Result<PreparedRows<K::Row>> {
    let (rows, cols) = x.dim();
    let row_len = kernel.row_len(cols);
    let mut data = cpu.buffer(rows.next_multiple_of(K::MR) * row_len)?;
    if rows > 0 && row_len > 0 {
        let blocks = data.chunks_mut(32 * row_len).zip(x.axis_chunks_iter(Axis(0), 32)).collect();
        cpu.for_each(
            blocks,
            || Ok(()),
            |(), (out, x)| {
                for (row, x) in out.chunks_exact_mut(row_len).zip(x.rows()) {
                    kernel.prepare_row(contiguous(x.to_slice()), row);
                }
                Ok(())
            },
        )?;
    }
    Ok(PreparedRows { data, row_len, rows, cols })
}

fn contiguous<T>(row: Option<T>) -> T {
    row.expect("rows of a matrix must be contiguous")
}

/// `out = epilogue(rows * weights^T)`. `columns` is the number of weight rows.
pub(crate) fn drive<W: Sync, K: Microkernel<W>>(
    cpu: &Cpu,
    kernel: K,
    rows: &PreparedRows<K::Row>,
    weights: &W,
    columns: usize,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    assert_eq!(out.dim(), (rows.rows, columns), "shape of a GEMM's output");
    epilogue.check(columns);
    let started = Instant::now();
    let row_block = ROWS_PER_TASK.next_multiple_of(K::MR);
    let mut tasks = Vec::new();
    let mut out = out;
    for (i, out) in out.axis_chunks_iter_mut(Axis(0), row_block).enumerate() {
        for (j, out) in split_columns(out).into_iter().enumerate() {
            tasks.push((i * row_block, j * COLUMNS_PER_TASK, out));
        }
    }
    cpu.for_each(
        tasks,
        || Scratch::new(cpu, kernel, weights, row_block.min(rows.rows.next_multiple_of(K::MR)), columns),
        |scratch, (first_row, first_column, out)| {
            task(cpu, kernel, rows, weights, first_row, first_column, out, epilogue, scratch)
        },
    )?;
    if let Some(meter) = cpu.meter() {
        meter.add(rows.rows as u64 * rows.cols as u64 * columns as u64, started.elapsed());
    }
    Ok(())
}

fn split_columns(out: ArrayViewMut2<'_, f32>) -> Vec<ArrayViewMut2<'_, f32>> {
    let mut parts = Vec::new();
    let mut rest = out;
    while rest.ncols() > COLUMNS_PER_TASK {
        let (left, right) = rest.split_at(Axis(1), COLUMNS_PER_TASK);
        parts.push(left);
        rest = right;
    }
    parts.push(rest);
    parts
}

struct Scratch<S: crate::Element, P: crate::Element> {
    panel: AlignedBuf<P>,
    sums: AlignedBuf<S>,
    acc: AlignedBuf<f32>,
}

impl<S: crate::Element, P: crate::Element> Scratch<S, P> {
    fn new<W, K: Microkernel<W, Sum = S, Panel = P>>(
        cpu: &Cpu,
        kernel: K,
        weights: &W,
        rows: usize,
        columns: usize,
    ) -> Result<Self> {
        let width = kernel.width(columns);
        Ok(Self {
            panel: cpu.buffer(kernel.panel_len(width, kernel.depth(weights)))?,
            sums: cpu.buffer(K::MR * width)?,
            acc: cpu.buffer(rows * width)?,
        })
    }
}

#[expect(clippy::too_many_arguments, reason = "one task of the driver above, which owns all of these")]
fn task<W, K: Microkernel<W>>(
    cpu: &Cpu,
    kernel: K,
    rows: &PreparedRows<K::Row>,
    weights: &W,
    first_row: usize,
    first_column: usize,
    mut out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch<K::Sum, K::Panel>,
) -> Result<()> {
    let tiles = out.nrows().div_ceil(K::MR);
    let rows_of_tile = |tile: usize| &rows.data[(first_row + tile * K::MR) * rows.row_len..];
    let depth = kernel.depth(weights);
    let mut column = 0;
    while column < out.ncols() {
        cpu.check()?;
        let width = kernel.width(out.ncols() - column);
        let used = width.min(out.ncols() - column);
        let acc = &mut scratch.acc[..tiles * K::MR * width];
        acc.fill(0.0);
        let sums = &mut scratch.sums[..K::MR * width];
        for start in (0..rows.cols).step_by(depth) {
            let inputs = start..rows.cols.min(start + depth);
            let panel = &mut scratch.panel[..kernel.panel_len(width, inputs.len())];
            kernel.prepare_weights(weights, first_column + column, width, inputs.clone(), panel);
            for (tile, acc) in acc.chunks_exact_mut(K::MR * width).enumerate() {
                kernel.accumulate(rows_of_tile(tile), rows.row_len, inputs.clone(), panel, width, sums);
                kernel.flush(sums, panel, acc);
            }
        }
        for (acc, mut out) in acc.chunks_exact(width).zip(out.rows_mut()) {
            let out = contiguous(out.as_slice_mut());
            epilogue.store(&acc[..used], first_column + column, &mut out[column..column + used]);
        }
        column += used;
    }
    Ok(())
}
