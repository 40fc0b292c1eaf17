//! Blocking, threads, edges and epilogue, written once for all kernels.

use std::ops::Range;
use std::time::Instant;

use bytemuck::Zeroable;
use ndarray::{ArrayViewMut2, Axis};

use super::epilogue::Epilogue;
use super::microkernel::{Element, Microkernel, Tile, TileRows};
use super::rows::{RowForm, TOGETHER};
use super::source::Source;
use crate::Cpu;
use crate::aligned::AlignedBuf;
use crate::error::Result;
use crate::isa::{Isa, Token, Work, dispatch};
use crate::prefetch::prefetch_all;
use crate::spare::SpareBuf;

/// Columns of a tile that are finished and stored before the next are begun, so that what was fetched of the output, and the
/// sums, are still in the first-level cache.
const NEAR_COLUMNS: usize = 128;
/// Prepared rows are padded to a multiple of this, which every kernel's tile and [`TOGETHER`] divide.
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
            // as many tasks as threads, or two, or three times as many; and where columns are too many for that, whole rounds
            for rounds in 1..=3 {
                let enough = fewest.max((rounds * threads).div_ceil(row_parts));
                for column_parts in [enough, enough.next_multiple_of(threads)] {
                    let columns_of_task = columns.div_ceil(column_parts).next_multiple_of(width).max(width);
                    let tasks = rows.div_ceil(rows_of_task) * columns.div_ceil(columns_of_task);
                    let one = (rows_of_task + self.laying_out) * (columns_of_task + self.building);
                    let time = tasks.div_ceil(threads) * one;
                    if time < best.0 {
                        best = (time, (rows_of_task, columns_of_task));
                    }
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
    pub(crate) fn new(cpu: &Cpu, source: Source<'_>) -> Result<Self> {
        let (rows, cols) = (source.nrows(), source.ncols());
        let padded = rows.next_multiple_of(ROW_MULTIPLE);
        // where rows need not be arranged, fewer keep more threads busy
        let together = if F::MIXED { TOGETHER } else { TOGETHER / 4 };
        let (row_len, scales_len) = (F::len(cols), F::scales(cols));
        let mut data = cpu.spare::<F::Element>(padded * row_len)?;
        let mut scales = cpu.buffer(padded * scales_len)?;
        let mut blocks = Vec::new();
        data[rows * row_len..].fill(F::Element::zeroed());
        let (mut data_left, mut scales_left) = (&mut *data, &mut *scales);
        for first in (0..rows).step_by(together) {
            let (data, scales);
            (data, data_left) = data_left.split_at_mut(together * row_len);
            (scales, scales_left) = scales_left.split_at_mut(together * scales_len);
            blocks.push((first..rows.min(first + together), data, scales));
        }
        cpu.for_each(
            blocks,
            || Ok((Vec::new(), Vec::new(), Vec::new())),
            |(made, spare, unmixed), (of_task, data, scales)| {
                if F::MIXED {
                    unmixed.resize(data.len(), F::Element::zeroed());
                }
                for (i, row) in of_task.clone().enumerate() {
                    let x = source.row(cpu.isa(), row, made);
                    let rows = if F::MIXED { &mut **unmixed } else { &mut *data };
                    let row = &mut rows[i * row_len..][..row_len];
                    let scales = &mut scales[i * scales_len..][..scales_len];
                    row.fill(F::Element::zeroed());
                    F::prepare_for(cpu.precision(), cpu.isa(), x, row, scales, spare);
                }
                if F::MIXED {
                    unmixed[of_task.len() * row_len..].fill(F::Element::zeroed());
                    F::arrange(cpu.isa(), unmixed, data, scales);
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
    /// What one tile of rows became, or some.
    operand: AlignedBuf<K::Operand>,
    /// Results of one pass: for each tile of rows, for each panel, `[MR, width]`.
    acc: SpareBuf<f32>,
}

impl<W, K: Microkernel<W>> Scratch<K, W> {
    fn new(cpu: &Cpu, kernel: K, weights: &W, rows: usize, columns: usize) -> Result<Self> {
        let (width, depth) = (kernel.width(columns), kernel.depth(weights));
        let panels = columns.min(K::COLUMNS).div_ceil(width);
        let operands = K::TILES_BY_PANELS.unwrap_or(1);
        Ok(Self {
            panels: cpu.buffer(panels * kernel.panel_len(weights, width, depth))?,
            operand: cpu.buffer(operands * kernel.operand_len(depth))?,
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
    let all_columns = out.ncols();
    let mut out = slices(&mut out);
    let mut column = 0;
    while column < all_columns {
        // a pass has panels of one width
        let left = all_columns - column;
        let width = kernel.width(left);
        let panels = left.div_ceil(width).min((K::COLUMNS / width).max(1));
        let used = (panels * width).min(left);
        let tile_len = K::MR * width;
        let acc = &mut scratch.acc[..tiles * panels * tile_len];
        let columns = column..column + used;
        let pass = Pass { tile_rows: K::MR, panels, width, columns, before: first_column };
        column += used;
        if rows.cols == 0 {
            acc.fill(0.0);
            pass.store(cpu.isa(), epilogue, acc, None, &mut out);
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
            let begins = start == 0;
            let tiles_at_once = K::TILES_BY_PANELS.unwrap_or(1);
            let near = (NEAR_COLUMNS / width).clamp(1, panels);
            let panels_at_once = if last || K::TILES_BY_PANELS.is_some() { near } else { panels };
            // where nothing is added to sums later, a few places serve them all
            let once = begins && last;
            for first_tile in (0..tiles).step_by(tiles_at_once) {
                // known beforehand for most kernels, whose copies of this have no loops over tiles
                let count = match K::TILES_BY_PANELS {
                    Some(most) => most.min(tiles - first_tile),
                    None => 1,
                };
                let operand = &mut scratch.operand[..count * operand_len];
                for i in 0..count {
                    let rows = rows.tile(first_row + (first_tile + i) * K::MR);
                    let operand = &mut operand[i * operand_len..][..operand_len];
                    kernel.prepare_tile(weights, rows, inputs.clone(), operand);
                }
                for (i, of_part) in all.chunks(panels_at_once * panel_len).enumerate() {
                    let part = pass.part(i * panels_at_once, of_part.len() / panel_len);
                    let acc_stride = if once { panels_at_once * tile_len } else { panels * tile_len };
                    let at = if once { 0 } else { first_tile * acc_stride + i * panels_at_once * tile_len };
                    let acc = &mut acc[at..][..(count - 1) * acc_stride + part.panels * tile_len];
                    if begins && !K::BEGINS {
                        acc.fill(0.0);
                    }
                    let tile = |i: usize| (first_tile + i) * K::MR;
                    if last && K::TILES_BY_PANELS.is_none() {
                        part.fetch(&out, tile(0));
                    }
                    let rows_of = |i: usize| rows.tile(first_row + tile(i));
                    let multiply = |panels, acc: &mut [f32]| {
                        let rows = rows_of(0);
                        let tile =
                            Tile { rows, operand: &*operand, panels, tiles: count, acc_stride, begins };
                        kernel.multiply(weights, tile, inputs.clone(), width, acc);
                    };
                    if K::TILES_BY_PANELS.is_some() {
                        // what several tiles go to would come too late all at once
                        let mut fetched = 0;
                        for (j, panel) in of_part.chunks(panel_len).enumerate() {
                            if last {
                                let until = ((j + 1) * count).div_ceil(part.panels);
                                (fetched..until).for_each(|i| part.fetch(&out, tile(i)));
                                fetched = until;
                            }
                            multiply(panel, &mut acc[j * tile_len..]);
                        }
                    } else {
                        multiply(of_part, &mut *acc);
                    }
                    if last {
                        for i in 0..count {
                            let acc = &acc[i * acc_stride..][..part.panels * tile_len];
                            let scales = row_scales::<K, W>(rows_of(i));
                            part.store(cpu.isa(), epilogue, acc, scales, &mut out[tile(i)..]);
                        }
                    }
                }
            }
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
    /// `panels` panels from the `first` on.
    fn part(&self, first: usize, panels: usize) -> Self {
        let at = |panel: usize| (self.columns.start + panel * self.width).min(self.columns.end);
        Self { panels, columns: at(first)..at(first + panels), ..*self }
    }

    /// Has the output of the tile of this first row fetched, which comes while its sums are finished.
    #[inline(never)]
    fn fetch(&self, out: &[&mut [f32]], first: usize) {
        for row in &out[first..(first + self.tile_rows).min(out.len())] {
            prefetch_all(&row[self.columns.clone()]);
        }
    }

    /// Whole tiles of sums into rows of the output, with what [`row_scales`] returns.
    #[inline(never)]
    fn store(
        &self,
        isa: Isa,
        epilogue: Epilogue<'_>,
        acc: &[f32],
        scales: Option<(&[f32], usize)>,
        out: &mut [&mut [f32]],
    ) {
        dispatch!(isa, t => t.work(Store { pass: self, epilogue, acc, scales, out }));
    }
}

/// What [`Pass::store`] does.
struct Store<'a, 'o> {
    pass: &'a Pass,
    epilogue: Epilogue<'a>,
    acc: &'a [f32],
    scales: Option<(&'a [f32], usize)>,
    out: &'a mut [&'o mut [f32]],
}

impl Work for Store<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { pass, epilogue, acc, scales, out } = self;
        let &Pass { tile_rows, panels, width, ref columns, before } = pass;
        let tile_len = tile_rows * width;
        for (tile, (acc, out)) in
            acc.chunks_exact(panels * tile_len).zip(out.chunks_mut(tile_rows)).enumerate()
        {
            for (m, out) in out.iter_mut().enumerate() {
                let scale = scales.map_or(1.0, |(scales, apart)| scales[(tile * tile_rows + m) * apart]);
                let column = before + columns.start;
                for (i, out) in out[columns.clone()].chunks_mut(width).enumerate() {
                    epilogue.store(&acc[i * tile_len + m * width..][..width], scale, column + i * width, out);
                }
            }
        }
    }
}

/// The rows of an output.
fn slices<'a>(out: &'a mut ArrayViewMut2<'_, f32>) -> Vec<&'a mut [f32]> {
    out.outer_iter_mut().map(|row| contiguous(row.into_slice())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thread_waits_for_a_last_task() {
        let blocking = |threads| {
            let kernel = Blocking { rows: 1536, columns: 3072, tile: (6, 32), laying_out: 160, building: 8 };
            let (rows, columns) = kernel.task(1536, 27648, threads);
            (rows, 27648_usize.div_ceil(columns))
        };
        // one task's columns go into these nine times
        assert_eq!(blocking(1), (1536, 9));
        assert_eq!(blocking(2), (1536, 10));
        assert_eq!(blocking(8), (1536, 16));
    }
}
