//! Blocking, threads, edges and epilogue, written once for all kernels.

use std::time::Instant;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::epilogue::Epilogue;
use super::microkernel::{Microkernel, TileRows};
use crate::Cpu;
use crate::aligned::AlignedBuf;
use crate::error::Result;

/// Rows of one task: many enough to pay for laying out the weights, few enough to stay in the second-level cache.
const ROWS_PER_TASK: usize = 192;
/// Columns of one task: a task is some milliseconds, which is how long a cancel waits.
const COLUMNS_PER_TASK: usize = 1024;
/// Prepared rows are padded to a multiple of this, which every kernel's tile divides.
pub(super) const ROW_MULTIPLE: usize = 12;
/// Prepared rows end in zeros, at least up to a multiple of the largest group that a kernel scales by.
const COLUMN_MULTIPLE: usize = 256;
/// Keeps rows whose length is a power of two out of the same cache sets.
const ROW_PADDING: usize = 16;

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
    assert!(ROW_MULTIPLE.is_multiple_of(K::MR), "a tile of {} rows", K::MR);
    let row_len = cols.next_multiple_of(COLUMN_MULTIPLE) + ROW_PADDING;
    let mut data = cpu.buffer(rows.next_multiple_of(ROW_MULTIPLE) * row_len)?;
    if rows > 0 {
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
    let row_block = ROWS_PER_TASK.next_multiple_of(ROW_MULTIPLE);
    let mut tasks = Vec::new();
    let mut out = out;
    for (i, out) in out.axis_chunks_iter_mut(Axis(0), row_block).enumerate() {
        for (j, out) in split_columns(out).into_iter().enumerate() {
            tasks.push((i * row_block, j * COLUMNS_PER_TASK, out));
        }
    }
    cpu.for_each(
        tasks,
        || {
            let rows = row_block.min(rows.rows.next_multiple_of(K::MR));
            Scratch::new(cpu, kernel, weights, rows, columns.min(COLUMNS_PER_TASK))
        },
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

struct Scratch<K: Microkernel<W>, W> {
    /// The panels of one pass, one behind the other.
    panels: AlignedBuf<K::Panel>,
    operand: AlignedBuf<K::Operand>,
    sums: AlignedBuf<K::Sum>,
    /// Results of one pass: for each tile of rows, for each panel, `[MR, width]`.
    acc: AlignedBuf<f32>,
}

impl<W, K: Microkernel<W>> Scratch<K, W> {
    fn new(cpu: &Cpu, kernel: K, weights: &W, rows: usize, columns: usize) -> Result<Self> {
        let (width, depth) = (kernel.width(columns), kernel.depth(weights));
        let panels = columns.min(K::COLUMNS).div_ceil(width);
        Ok(Self {
            panels: cpu.buffer(panels * kernel.panel_len(width, depth))?,
            operand: cpu.buffer(kernel.operand_len(depth))?,
            sums: cpu.buffer(K::MR * width)?,
            acc: cpu.buffer(rows * panels * width)?,
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
    scratch: &mut Scratch<K, W>,
) -> Result<()> {
    let tiles = out.nrows().div_ceil(K::MR);
    let depth = kernel.depth(weights);
    let mut column = 0;
    while column < out.ncols() {
        // a pass has panels of one width
        let left = out.ncols() - column;
        let width = kernel.width(left);
        let panels = left.div_ceil(width).min((K::COLUMNS / width).max(1));
        let used = (panels * width).min(left);
        let tile_len = K::MR * width;
        let acc = &mut scratch.acc[..tiles * panels * tile_len];
        acc.fill(0.0);
        let sums = &mut scratch.sums[..tile_len];
        for start in (0..rows.cols).step_by(depth) {
            cpu.check()?;
            let inputs = start..rows.cols.min(start + depth);
            let panel_len = kernel.panel_len(width, inputs.len());
            let all = &mut scratch.panels[..panels * panel_len];
            for (i, panel) in all.chunks_exact_mut(panel_len).enumerate() {
                let first = first_column + column + i * width;
                kernel.prepare_weights(weights, first, width, inputs.clone(), panel);
            }
            let operand = &mut scratch.operand[..kernel.operand_len(inputs.len())];
            for (tile, acc) in acc.chunks_exact_mut(panels * tile_len).enumerate() {
                let rows_of_tile = &rows.data[(first_row + tile * K::MR) * rows.row_len..];
                kernel.prepare_tile(rows_of_tile, rows.row_len, inputs.clone(), operand);
                let tile = TileRows { rows: rows_of_tile, row_len: rows.row_len, operand: &*operand };
                for (panel, acc) in all.chunks_exact(panel_len).zip(acc.chunks_exact_mut(tile_len)) {
                    kernel.accumulate(tile, inputs.clone(), panel, width, sums);
                    kernel.flush(sums, panel, width, acc);
                }
            }
        }
        for (row, mut out) in out.rows_mut().into_iter().enumerate() {
            let out = &mut contiguous(out.as_slice_mut())[column..column + used];
            let acc = &acc[row / K::MR * panels * tile_len + row % K::MR * width..];
            for (i, out) in out.chunks_mut(width).enumerate() {
                let product = &acc[i * tile_len..][..out.len()];
                epilogue.store(product, first_column + column + i * width, out);
            }
        }
        column += used;
    }
    Ok(())
}
