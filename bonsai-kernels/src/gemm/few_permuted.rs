//! Products of a few rows, quantised to 16-bit integers, with one-bit and ternary weights that are read where they stand, by tables
//! in registers.

use std::time::Instant;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::driver::split_columns;
use super::epilogue::Epilogue;
use super::few_rows::{MOST_ROWS, rows};
use super::permute_kernel::PermutedWeights;
use super::rows::{Int16Rows, RowForm};
use crate::Cpu;
use crate::error::Result;
use crate::isa::{Avx512Vnni, Token, Work};
use crate::weights::FloatType;
use crate::x86_64::columns::ColumnBytes;
use crate::x86_64::permute::{BLOCK, Coming, LANES, MOST_BLOCKS, Patterns, SCALE};

/// Vectors of columns of a pass, at most.
const VECTORS: usize = 4;
/// Bytes of codes of a pass of several vectors, at most, with one or two rows; with more, whose tables need room too, half of them.
/// Those of the next pass come meanwhile.
const PASS_BYTES: usize = 96 << 10;
/// Passes after which somebody who cancelled is heard.
const PASSES_UNASKED: usize = 16;

/// Whether [`multiply`] takes so many rows times such weights.
pub(super) fn takes<W: PermutedWeights>(rows: usize, weights: &W) -> bool {
    (1..=MOST_ROWS).contains(&rows)
        && weights.rows() >= LANES
        && weights.group_size() == BLOCK
        && weights.cols() > 0
        && weights.cols().is_multiple_of(BLOCK)
}

/// `out = epilogue(x * weights^T)`; the bits are those of tables for many rows.
///
/// # Errors
/// When the work was cancelled.
///
/// # Panics
/// When the shapes don't fit, or [`takes`] refuses.
pub(super) fn multiply<W: PermutedWeights>(
    cpu: &Cpu,
    t: Avx512Vnni,
    x: ArrayView2<'_, f32>,
    weights: &W,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    assert_eq!(out.dim(), (x.nrows(), weights.rows()), "shape of a GEMM's output");
    epilogue.check(weights.rows());
    let started = Instant::now();
    let mut quantised = Vec::new();
    for x in rows(x) {
        let (mut codes, mut scale) = (vec![0; Int16Rows::len(x.len())], [0.0; 1]);
        Int16Rows::prepare(cpu.isa(), x, &mut codes, &mut scale, &mut Vec::new());
        let mut tables = cpu.spare(Avx512Vnni::row_tables_len::<W::Patterns>(x.len()))?;
        t.build_row::<W::Patterns>(&codes[..x.len()], &mut tables);
        quantised.push((tables, scale[0]));
    }
    let (tables, row_scales): (Vec<_>, Vec<_>) =
        quantised.iter().map(|(tables, scale)| (&tables[..], *scale)).unzip();
    let vector_bytes = LANES * weights.cols() / BLOCK * 2 * <W::Patterns as Patterns>::WORDS;
    let pass_bytes = PASS_BYTES / quantised.len().div_ceil(2);
    let columns = LANES * (pass_bytes / vector_bytes).clamp(1, VECTORS);
    // one part for each thread: memory that is read in places far apart comes faster than in neighbouring ones
    let part = weights.rows().div_ceil(cpu.threads()).next_multiple_of(columns);
    let tasks = split_columns(out, part).into_iter().enumerate().collect();
    cpu.for_each(
        tasks,
        || Ok(()),
        |(), (i, mut out)| {
            for (j, mut out) in out.axis_chunks_iter_mut(Axis(1), columns).enumerate() {
                if j.is_multiple_of(PASSES_UNASKED) {
                    cpu.check()?;
                }
                let first = i * part + j * columns;
                let sums = t.work(Pass { t, tables: &tables, weights, columns, first, count: out.ncols() });
                for (m, (mut out, &row_scale)) in out.rows_mut().into_iter().zip(&row_scales).enumerate() {
                    let out = out.as_slice_mut().expect("rows of a matrix must be contiguous");
                    for (v, out) in out.chunks_mut(LANES).enumerate() {
                        let column = first + v * LANES;
                        let sums = &sums[v][m][column - vector_at(weights, column)..];
                        epilogue.store(sums, row_scale, column, out);
                    }
                }
            }
            Ok(())
        },
    )?;
    if let Some(meter) = cpu.meter() {
        meter.add((x.nrows() * weights.cols() * weights.rows()) as u64, started.elapsed());
    }
    Ok(())
}

/// Where a vector of columns begins that holds this one: earlier, where too few are left.
fn vector_at<W: PermutedWeights>(weights: &W, column: usize) -> usize {
    column.min(weights.rows() - LANES)
}

/// The sums of all rows with `count` columns from `first` on.
struct Pass<'a, W> {
    t: Avx512Vnni,
    tables: &'a [&'a [i16]],
    weights: &'a W,
    /// Of each pass but the last.
    columns: usize,
    first: usize,
    count: usize,
}

impl<W: PermutedWeights> Work for Pass<'_, W> {
    type Output = [[[f32; LANES]; MOST_ROWS]; VECTORS];

    #[inline(always)]
    fn work(self) -> Self::Output {
        let mut sums = [[[0.0; LANES]; MOST_ROWS]; VECTORS];
        match *self.tables {
            [a] => self.add([a], &mut sums),
            [a, b] => self.add([a, b], &mut sums),
            [a, b, c] => self.add([a, b, c], &mut sums),
            [a, b, c, d] => self.add([a, b, c, d], &mut sums),
            _ => unreachable!("{} rows are more than a few", self.tables.len()),
        }
        sums
    }
}

impl<W: PermutedWeights> Pass<'_, W> {
    #[inline(always)]
    fn add<const ROWS: usize>(
        &self,
        tables: [&[i16]; ROWS],
        sums: &mut [[[f32; LANES]; MOST_ROWS]; VECTORS],
    ) {
        let &Self { t, weights, columns, first, count, .. } = self;
        let blocks = weights.cols() / BLOCK;
        let block_bytes = 2 * <W::Patterns as Patterns>::WORDS;
        let scales = weights.scales();
        let scale_bytes = scales.float_type().size();
        let vectors = count.div_ceil(LANES);
        let mut of_blocks = [[0.0; LANES]; MOST_BLOCKS];
        // all vectors meet some blocks before the next: their tables stay in the first-level cache
        for block in (0..blocks).step_by(MOST_BLOCKS) {
            let some = MOST_BLOCKS.min(blocks - block);
            for (v, sums) in sums[..vectors].iter_mut().enumerate() {
                let column = vector_at(weights, first + v * LANES);
                // in blocks of codes from the first of the vector's columns on, or before it: of the columns of the next pass, those
                // that stand where as many blocks of this one are done
                let to_pass = (columns - v * LANES) * blocks;
                let far = (to_pass + LANES * (vectors * block + v * some)) as isize;
                let near = if v + 1 < vectors {
                    (LANES * blocks + block) as isize
                } else {
                    (block + MOST_BLOCKS) as isize - (v * LANES * blocks) as isize
                };
                if scale_bytes == 2 && some == MOST_BLOCKS {
                    let stored = ColumnBytes::new(scales.as_slice(), scale_bytes * blocks, column, LANES);
                    let bf16 = scales.float_type() == FloatType::Bf16;
                    let times = scales.multiplier() * SCALE;
                    t.turn_floats(&stored, block, bf16, times, far * scale_bytes as isize, &mut of_blocks);
                } else {
                    for (i, of_block) in of_blocks[..some].iter_mut().enumerate() {
                        for (lane, scale) in of_block.iter_mut().enumerate() {
                            *scale = scales.get((column + lane) * blocks + block + i) * SCALE;
                        }
                    }
                }
                let codes = ColumnBytes::new(weights.codes(), block_bytes * blocks, column, LANES);
                let sums = sums.first_chunk_mut().expect("a few rows");
                let coming = Coming { far: far * block_bytes as isize, near: near * block_bytes as isize };
                t.add_products::<W::Patterns, ROWS>(tables, &codes, block, &of_blocks[..some], coming, sums);
            }
        }
    }
}
