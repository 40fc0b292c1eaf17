//! Binary and ternary weights by tables in memory (see [`crate::table`]): blocking, threads, edges and epilogue.
//!
//! A tile of rows stays while all columns of a task pass by: its tables are built anew for each pass of 64 or 32 inputs (half
//! of that for ternary weights), which many columns pay for; the sums of those columns, of a few tiles, stay in the second-level cache.

mod codes;
mod rows;

use std::marker::PhantomData;
use std::ops::Range;
use std::time::Instant;

use ndarray::{ArrayViewMut2, Axis};
use wide::f32x4;

use super::driver::{Blocking, split_columns};
use super::epilogue::Epilogue;
use super::rows::BLOCK;
use crate::Cpu;
use crate::aligned::AlignedBuf;
use crate::error::Result;
use crate::isa::{Isa, Token, Vectors, Work};
use crate::table::{Alphabet, Columns, TableTile, Totals, entries, pass_inputs};
use codes::LayOut;
pub(super) use codes::TableWeights;
use rows::padded;
pub(super) use rows::{TableNumber, TableRows};

/// The most columns of one task: more of them pay for the tables of a tile, and their sums take 128 or 256 KiB for each thousand.
const COLUMNS_PER_TASK: usize = 2048;
/// Parts of an output start where lines of the cache do.
const COLUMN_STEP: usize = 16;
/// The most rows of one task: enough of them to pay for laying out the weights.
const ROWS_PER_TASK: usize = 384;
/// Bytes of words that may well stay in the second-level cache while one tile after the other reads them.
const WORDS_KEPT: usize = 1 << 20;
/// Where they may not: rows whose sums grow side by side, so that words come to the second-level cache once for all of them.
const ROWS_AT_ONCE: usize = 96;
/// Laying out weights takes as long as multiplying so many rows, and the tables of a tile as long as so many columns.
const LAYING_OUT: usize = 16;
const BUILDING: usize = 48;

/// Whether groups are whole passes, and blocks whole groups or groups whole blocks.
pub(super) fn takes(group_size: usize) -> bool {
    group_size == 64 || group_size.is_multiple_of(BLOCK)
}

/// `out = epilogue(rows * weights^T)`.
pub(super) fn multiply<N: TableNumber, T: TableTile<N>, W: TableWeights>(
    cpu: &Cpu,
    tile: T,
    rows: &TableRows<N>,
    weights: &W,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    let columns = weights.rows();
    assert_eq!(out.dim(), (rows.rows, columns), "shape of a GEMM's output");
    epilogue.check(columns);
    let started = Instant::now();
    let (row_block, column_block) = task(T::ROWS, rows.rows, columns, cpu.threads());
    let mut tasks = Vec::new();
    let mut out = out;
    for (i, out) in out.axis_chunks_iter_mut(Axis(0), row_block).enumerate() {
        for (j, out) in split_columns(out, column_block).into_iter().enumerate() {
            tasks.push((i * row_block / T::ROWS, j * column_block, out));
        }
    }
    cpu.for_each(
        tasks,
        || Scratch::new::<T, W>(cpu, weights, columns.min(column_block)),
        |scratch, (first_tile, first_column, mut out)| {
            scratch.columns = out.ncols();
            tile.work(LayOut::<T, _, _> { tile: PhantomData, weights, first_column, scratch });
            let mut tile_at = first_tile;
            for mut out in out.axis_chunks_iter_mut(Axis(0), scratch.tiles * T::ROWS) {
                let tiles = tile_at..tile_at + out.nrows().div_ceil(T::ROWS);
                sums_of_tiles(cpu, tile, rows, weights, tiles.clone(), scratch)?;
                let sums = scratch.sums.chunks_exact(out.ncols() * T::ROWS);
                for ((at, out), sums) in
                    tiles.clone().zip(out.axis_chunks_iter_mut(Axis(0), T::ROWS)).zip(sums)
                {
                    let row_scales = rows.row_scales::<T>(at);
                    let stored = Stored { sums, rows: T::ROWS, row_scales, first_column, epilogue, out };
                    stored.store(cpu.isa());
                }
                tile_at = tiles.end;
            }
            Ok(())
        },
    )?;
    if let Some(meter) = cpu.meter() {
        meter.add(rows.rows as u64 * rows.cols as u64 * columns as u64, started.elapsed());
    }
    Ok(())
}

/// Rows and columns of a task, for tiles of so many rows.
pub(super) fn task(tile_rows: usize, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
    let (rows_at_most, columns_at_most) = (ROWS_PER_TASK.next_multiple_of(tile_rows), COLUMNS_PER_TASK);
    let tile = (tile_rows, COLUMN_STEP);
    let tables = Blocking {
        rows: rows_at_most,
        columns: columns_at_most,
        tile,
        laying_out: LAYING_OUT,
        building: BUILDING,
    };
    tables.task(rows, columns, threads)
}

/// What one thread works in.
struct Scratch<N: TableNumber> {
    /// Columns of the task at hand.
    columns: usize,
    /// Tiles whose sums grow side by side.
    tiles: usize,
    /// `[passes][columns]`
    words: AlignedBuf<u64>,
    /// `[groups][columns]`
    scales: AlignedBuf<f32>,
    /// The scales of a few columns, as they stand with the weights.
    row_scales: AlignedBuf<f32>,
    tables: AlignedBuf<N>,
    /// Sums of a block that is not done, `[columns][rows]`.
    partial: AlignedBuf<N>,
    /// `[tiles][columns][rows]`
    sums: AlignedBuf<f32>,
}

impl<N: TableNumber> Scratch<N> {
    fn new<T: TableTile<N>, W: TableWeights>(cpu: &Cpu, weights: &W, columns: usize) -> Result<Self> {
        let words = padded(weights.cols()) / W::Alphabet::INPUTS * columns;
        let tiles = if words * size_of::<u64>() > WORDS_KEPT { ROWS_AT_ONCE / T::ROWS } else { 1 };
        Ok(Self {
            columns: 0,
            tiles,
            words: cpu.buffer(words)?,
            scales: cpu.buffer(weights.cols().div_ceil(weights.group_size()) * columns)?,
            row_scales: cpu.buffer(16 * weights.cols().div_ceil(weights.group_size()))?,
            tables: cpu.buffer(entries::<W::Alphabet, T::Lanes>() * T::ROWS)?,
            partial: cpu.buffer(columns * T::ROWS)?,
            sums: cpu.buffer(tiles * columns * T::ROWS)?,
        })
    }
}

/// Fills `scratch.sums` with those of a few tiles of rows, `[tiles][columns][rows]`, for all columns of a task.
fn sums_of_tiles<N: TableNumber, T: TableTile<N>, W: TableWeights>(
    cpu: &Cpu,
    tile: T,
    rows: &TableRows<N>,
    weights: &W,
    tiles: Range<usize>,
    scratch: &mut Scratch<N>,
) -> Result<()> {
    let columns = scratch.columns;
    let (word_inputs, pass_inputs) = (W::Alphabet::INPUTS, pass_inputs::<W::Alphabet, T::Lanes>());
    // inputs whose sums are scaled together
    let depth = if N::EXACT { weights.group_size().min(BLOCK) } else { word_inputs };
    let len = columns * T::ROWS;
    scratch.sums[..tiles.len() * len].fill(0.0);
    for start in (0..rows.cols).step_by(depth) {
        cpu.check()?;
        let scales = &scratch.scales[start / weights.group_size() * columns..][..columns];
        let end = rows.cols.min(start + depth);
        for (at, sums) in tiles.clone().zip(scratch.sums.chunks_exact_mut(len)) {
            for pass in (start..end).step_by(pass_inputs) {
                tile.build::<W::Alphabet>(rows.inputs::<T>(at, pass), &mut scratch.tables);
                let row_scales = rows.block_scales::<T>(at, start / BLOCK);
                let last = pass + pass_inputs >= end;
                let totals = last.then_some(Totals { scales, row_scales, sums: &mut *sums });
                tile.look_up::<W::Alphabet>(
                    &scratch.tables,
                    Columns {
                        words: &scratch.words[pass / word_inputs * columns..][..columns],
                        half: pass % word_inputs / pass_inputs,
                        partial: &mut scratch.partial,
                        first: pass == start,
                        last: totals,
                    },
                );
            }
        }
    }
    Ok(())
}

/// Sums of a tile on their way into the output.
struct Stored<'a> {
    /// `[columns][rows]`
    sums: &'a [f32],
    rows: usize,
    row_scales: Option<&'a [f32]>,
    first_column: usize,
    epilogue: Epilogue<'a>,
    out: ArrayViewMut2<'a, f32>,
}

impl Stored<'_> {
    // one copy is enough for all kernels
    #[inline(never)]
    fn store(self, isa: Isa) {
        match isa.vectors() {
            Vectors::Portable(t) => t.work(self),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2(t) => t.work(self),
            // where there are scatters, the compiler turns numbers over one by one
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512(t) => t.lower().work(self),
        }
    }
}

impl Work for Stored<'_> {
    type Output = ();

    #[inline(always)]
    fn work(mut self) {
        // whole cache lines of the output, several of each row, since they come from memory
        const COLUMNS: usize = 64;
        let columns = self.out.ncols();
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let sums = &self.sums[first * self.rows..][..count * self.rows];
            for (quad, mut out) in self.out.axis_chunks_iter_mut(Axis(0), QUAD).enumerate() {
                let mut lines = [[0.0; COLUMNS]; QUAD];
                turn_over(sums, self.rows, quad * QUAD, &mut lines);
                for (i, (mut out, line)) in out.rows_mut().into_iter().zip(&lines).enumerate() {
                    let out = out.as_slice_mut().expect("rows of a matrix must be contiguous");
                    let scale = self.row_scales.map_or(1.0, |scales| scales[quad * QUAD + i]);
                    let column = self.first_column + first;
                    self.epilogue.store(line, scale, column, &mut out[first..first + count]);
                }
            }
        }
    }
}

/// Rows, or columns, that are turned over at once.
const QUAD: usize = 4;

/// `lines[i][column] = sums[column][first_row + i]`
#[inline(always)]
fn turn_over<const COLUMNS: usize>(
    sums: &[f32],
    rows: usize,
    first_row: usize,
    lines: &mut [[f32; COLUMNS]; QUAD],
) {
    let quads = sums.chunks_exact(QUAD * rows);
    let rest = quads.remainder();
    let mut column = 0;
    for sums in quads {
        let columns = std::array::from_fn(|i| {
            let values: &[f32; QUAD] =
                sums[i * rows + first_row..].first_chunk().expect("tiles are whole quads");
            f32x4::from(*values)
        });
        for (line, values) in lines.iter_mut().zip(f32x4::transpose(columns)) {
            *line[column..].first_chunk_mut().expect("lines hold all columns") = values.to_array();
        }
        column += QUAD;
    }
    for sums in rest.chunks_exact(rows) {
        for (line, sum) in lines.iter_mut().zip(&sums[first_row..]) {
            line[column] = *sum;
        }
        column += 1;
    }
}

/// The same of four rows by four, for numbers of any type.
#[inline(always)]
fn transpose<N: Copy>([a, b, c, d]: [[N; QUAD]; QUAD]) -> [[N; QUAD]; QUAD] {
    [[a[0], b[0], c[0], d[0]], [a[1], b[1], c[1], d[1]], [a[2], b[2], c[2], d[2]], [a[3], b[3], c[3], d[3]]]
}
