//! Blocking, threads, edges and epilogue, written once for all kernels.

use std::ops::Range;
use std::time::Instant;

use bytemuck::Zeroable;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use super::epilogue::Epilogue;
use super::microkernel::{Element, Microkernel, Tile, TileRows};
use super::rows::RowForm;
use crate::Cpu;
use crate::aligned::AlignedBuf;
use crate::error::Result;
use crate::isa::{Isa, Token, dispatch};
use crate::prefetch::prefetch_all;
use crate::spare::SpareBuf;

/// Bytes of the output that may be fetched before they are written, and leave room in a first-level cache.
const NEAR: usize = 16 << 10;
/// Prepared rows are padded to a multiple of this, which every kernel's tile divides.
const ROW_MULTIPLE: usize = 96;

/// What a kernel's time depends on, for the choice of tasks.
pub(super) struct Blocking {
    /// The most rows and columns of a task.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Rows and columns of a tile.
    pub(super) tile: (usize, usize),
    /// Laying out weights takes as long as multiplying so many rows.
    pub(super) laying_out: usize,
    /// Preparing rows takes as long as multiplying so many columns.
    pub(super) building: usize,
}

impl Blocking {
    /// Rows and columns of a task, such that all threads are done the soonest.
    pub(super) fn task(self, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
        let (height, width) = self.tile;
        let fewest = columns.div_ceil(self.columns).max(1);
        let mut best = (usize::MAX, (rows, columns));
        for row_parts in rows.div_ceil(self.rows).max(1)..=rows.div_ceil(height).max(1) {
            let rows_of_task = rows.div_ceil(row_parts).next_multiple_of(height).max(height);
            // as many tasks as threads, or two, or three times as many
            for rounds in 1..=3 {
                let column_parts = fewest.max((rounds * threads).div_ceil(row_parts));
                let columns_of_task = columns.div_ceil(column_parts).next_multiple_of(width).max(width);
                let tasks = rows.div_ceil(rows_of_task) * columns.div_ceil(columns_of_task);
                let one = (rows_of_task + self.laying_out) * (columns_of_task + self.building);
                let time = tasks.div_ceil(threads) * one;
                if time < best.0 {
                    best = (time, (rows_of_task, columns_of_task));
                }
            }
        }
        best.1
    }
}

/// Activations in one form, prepared once and shared by all linears that read it.
pub(crate) struct PreparedRows<F: RowForm> {
    data: SpareBuf<F::Element>,
    scales: AlignedBuf<f32>,
    rows: usize,
    cols: usize,
}

impl<F: RowForm> PreparedRows<F> {
    pub(crate) fn new(cpu: &Cpu, x: ArrayView2<'_, f32>) -> Result<Self> {
        let (rows, cols) = x.dim();
        let padded = rows.next_multiple_of(ROW_MULTIPLE);
        let (row_len, scales_len) = (F::len(cols), F::scales(cols));
        let mut data = cpu.spare::<F::Element>(padded * row_len)?;
        let mut scales = cpu.buffer(padded * scales_len)?;
        let mut blocks = Vec::new();
        data[rows * row_len..].fill(F::Element::zeroed());
        let (mut data_left, mut scales_left) = (&mut *data, &mut *scales);
        for x in x.axis_chunks_iter(Axis(0), 32).take(if rows > 0 { usize::MAX } else { 0 }) {
            let (data, scales);
            (data, data_left) = data_left.split_at_mut(x.nrows() * row_len);
            (scales, scales_left) = scales_left.split_at_mut(x.nrows() * scales_len);
            blocks.push((x, data, scales));
        }
        cpu.for_each(
            blocks,
            || Ok(Vec::new()),
            |spare, (x, data, scales)| {
                for (i, x) in x.rows().into_iter().enumerate() {
                    let row = &mut data[i * row_len..][..row_len];
                    let scales = &mut scales[i * scales_len..][..scales_len];
                    row.fill(F::Element::zeroed());
                    F::prepare_for(cpu.precision(), cpu.isa(), contiguous(x.to_slice()), row, scales, spare);
                }
                Ok(())
            },
        )?;
        Ok(Self { data, scales, rows, cols })
    }

    fn tile(&self, first_row: usize) -> TileRows<'_, F::Element> {
        let (row_len, scales_len) = (F::len(self.cols), F::scales(self.cols));
        TileRows {
            rows: &self.data[first_row * row_len..],
            row_len,
            scales: &self.scales[first_row * scales_len..],
            scales_len,
        }
    }
}

fn contiguous<T>(row: Option<T>) -> T {
    row.expect("rows of a matrix must be contiguous")
}

/// `out = epilogue(rows * weights^T)`. `columns` is the number of weight rows.
pub(crate) fn drive<W: Sync, K: Microkernel<W>>(
    cpu: &Cpu,
    kernel: K,
    rows: &PreparedRows<K::Rows>,
    weights: &W,
    columns: usize,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    assert_eq!(out.dim(), (rows.rows, columns), "shape of a GEMM's output");
    epilogue.check(columns);
    let started = Instant::now();
    assert!(ROW_MULTIPLE.is_multiple_of(K::MR), "a tile of {} rows", K::MR);
    let (row_block, column_block) = kernel.task(rows.rows, columns, cpu.threads());
    let row_block = row_block.next_multiple_of(K::MR).max(K::MR);
    cpu.for_each(
        tasks(out, row_block, column_block),
        || {
            let rows = row_block.min(rows.rows.next_multiple_of(K::MR));
            Scratch::new(cpu, kernel, weights, rows, columns.min(column_block))
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

/// First row and column of each task, and its part of the output.
// what is the same for all kernels, here and below, is not in the copy that each has of the rest
#[inline(never)]
fn tasks(
    mut out: ArrayViewMut2<'_, f32>,
    rows: usize,
    columns: usize,
) -> Vec<(usize, usize, ArrayViewMut2<'_, f32>)> {
    let (mut tasks, mut first_row) = (Vec::new(), 0);
    while out.nrows() > 0 {
        let height = rows.min(out.nrows());
        let (part, rest) = out.split_at(Axis(0), height);
        for (j, part) in split_columns(part, columns).into_iter().enumerate() {
            tasks.push((first_row, j * columns, part));
        }
        out = rest;
        first_row += height;
    }
    tasks
}

#[inline(never)]
pub(super) fn split_columns(out: ArrayViewMut2<'_, f32>, columns: usize) -> Vec<ArrayViewMut2<'_, f32>> {
    let mut parts = Vec::new();
    let mut rest = out;
    while rest.ncols() > columns {
        let (left, right) = rest.split_at(Axis(1), columns);
        parts.push(left);
        rest = right;
    }
    parts.push(rest);
    parts
}

struct Scratch<K: Microkernel<W>, W> {
    /// The panels of one pass, one behind the other.
    panels: AlignedBuf<K::Panel>,
    /// What one tile of rows became, or each.
    operand: AlignedBuf<K::Operand>,
    /// Results of one pass: for each tile of rows, for each panel, `[MR, width]`.
    acc: SpareBuf<f32>,
}

impl<W, K: Microkernel<W>> Scratch<K, W> {
    fn new(cpu: &Cpu, kernel: K, weights: &W, rows: usize, columns: usize) -> Result<Self> {
        let (width, depth) = (kernel.width(columns), kernel.depth(weights));
        let panels = columns.min(K::COLUMNS).div_ceil(width);
        let operands_kept = if K::TILES_BY_PANELS.is_some() { rows.div_ceil(K::MR) } else { 1 };
        Ok(Self {
            panels: cpu.buffer(panels * kernel.panel_len(weights, width, depth))?,
            operand: cpu.buffer(operands_kept * kernel.operand_len(depth))?,
            acc: cpu.spare(rows * panels * width)?,
        })
    }
}

#[expect(clippy::too_many_arguments, reason = "one task of the driver above, which owns all of these")]
fn task<W, K: Microkernel<W>>(
    cpu: &Cpu,
    kernel: K,
    rows: &PreparedRows<K::Rows>,
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
        let columns = column..column + used;
        let pass = Pass { tile_rows: K::MR, panels, width, columns, before: first_column };
        column += used;
        let by_tiles = K::TILES_BY_PANELS.is_none() && rows.cols > 0;
        if !by_tiles {
            acc.fill(0.0);
        }
        for start in (0..rows.cols).step_by(depth) {
            cpu.check()?;
            let inputs = start..rows.cols.min(start + depth);
            let last = inputs.end == rows.cols;
            let panel_len = kernel.panel_len(weights, width, inputs.len());
            let all = &mut scratch.panels[..panels * panel_len];
            for (i, panel) in all.chunks_exact_mut(panel_len).enumerate() {
                let first = first_column + pass.columns.start + i * width;
                kernel.prepare_weights(weights, first, width, inputs.clone(), panel);
            }
            let operand_len = kernel.operand_len(inputs.len());
            if let Some(at_once) = K::TILES_BY_PANELS {
                for tile in 0..tiles {
                    let operand = &mut scratch.operand[tile * operand_len..][..operand_len];
                    kernel.prepare_tile(
                        weights,
                        rows.tile(first_row + tile * K::MR),
                        inputs.clone(),
                        operand,
                    );
                }
                for first in (0..tiles).step_by(at_once) {
                    let count = at_once.min(tiles - first);
                    for (i, panel) in all.chunks_exact(panel_len).enumerate() {
                        let tile = Tile {
                            rows: rows.tile(first_row + first * K::MR),
                            operand: &scratch.operand[first * operand_len..][..count * operand_len],
                            panels: panel,
                            tiles: count,
                            acc_stride: panels * tile_len,
                        };
                        let acc = &mut acc[(first * panels + i) * tile_len..];
                        kernel.multiply(weights, tile, inputs.clone(), width, acc);
                    }
                }
                continue;
            }
            let operand = &mut scratch.operand[..operand_len];
            for (tile, acc) in acc.chunks_exact_mut(panels * tile_len).enumerate() {
                if start == 0 {
                    acc.fill(0.0);
                }
                let first = tile * K::MR;
                let rows: TileRows<'_, Element<K, W>> = rows.tile(first_row + first);
                kernel.prepare_tile(weights, rows, inputs.clone(), operand);
                let tile = Tile { rows, operand: &*operand, panels: &*all, tiles: 1, acc_stride: 0 };
                if last {
                    pass.fetch(first, &out);
                }
                kernel.multiply(weights, tile, inputs.clone(), width, acc);
                if last {
                    // while the sums are near
                    pass.store(cpu.isa(), epilogue, acc, row_scales::<K, W>(rows), first, &mut out);
                }
            }
        }
        if !by_tiles {
            let scales = row_scales::<K, W>(rows.tile(first_row));
            pass.store(cpu.isa(), epilogue, acc, scales, 0, &mut out);
        }
    }
    Ok(())
}

/// Where rows have one scale each: all of them, and how far they stand apart.
fn row_scales<K: Microkernel<W>, W>(rows: TileRows<'_, Element<K, W>>) -> Option<(&[f32], usize)> {
    K::Rows::ROW_SCALE.then_some((rows.scales, rows.scales_len))
}

/// How the sums of one pass stand, on their way into the output. The same code for all kernels.
struct Pass {
    tile_rows: usize,
    panels: usize,
    width: usize,
    /// Columns of the task's output, and of the whole before it.
    columns: Range<usize>,
    before: usize,
}

impl Pass {
    /// Has the output of the tile of this first row fetched, which comes while its sums are finished.
    #[inline(never)]
    fn fetch(&self, first: usize, out: &ArrayViewMut2<'_, f32>) {
        if self.tile_rows * self.columns.len() * size_of::<f32>() > NEAR {
            return;
        }
        let out = out.slice(s![.., self.columns.clone()]);
        for row in out.outer_iter().skip(first).take(self.tile_rows) {
            prefetch_all(contiguous(row.to_slice()));
        }
    }

    /// Whole tiles of sums from row `first` on, and what [`row_scales`] returns.
    #[inline(never)]
    fn store(
        &self,
        isa: Isa,
        epilogue: Epilogue<'_>,
        acc: &[f32],
        scales: Option<(&[f32], usize)>,
        first: usize,
        out: &mut ArrayViewMut2<'_, f32>,
    ) {
        let &Self { tile_rows, panels, width, .. } = self;
        let tile_len = tile_rows * width;
        let first_column = self.before + self.columns.start;
        let mut out = out.slice_mut(s![first.., self.columns.clone()]);
        let rows = acc.len() / (panels * tile_len) * tile_rows;
        for (row, out) in out.outer_iter_mut().take(rows).enumerate() {
            let out = contiguous(out.into_slice());
            let acc = &acc[row / tile_rows * panels * tile_len + row % tile_rows * width..];
            let scale = scales.map_or(1.0, |(scales, apart)| scales[row * apart]);
            dispatch!(isa, t => {
                t.run(|| store_row(epilogue, acc, tile_len, width, scale, first_column, out))
            });
        }
    }
}

/// One row of a pass: `width` columns of each panel, whose sums stand `tile_len` apart.
#[inline(always)]
fn store_row(
    epilogue: Epilogue<'_>,
    acc: &[f32],
    tile_len: usize,
    width: usize,
    scale: f32,
    first_column: usize,
    out: &mut [f32],
) {
    for (i, out) in out.chunks_mut(width).enumerate() {
        epilogue.store(&acc[i * tile_len..], scale, first_column + i * width, out);
    }
}
