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
use crate::x86_64::permute::{BLOCK, ColumnBytes, LANES, Patterns, SCALE};

/// Blocks of columns after which somebody who cancelled is heard.
const BLOCKS_UNASKED: usize = 64;
/// Blocks whose scales are made floats at a time.
const AT_ONCE: usize = 8;

/// Whether [`multiply`] takes so many rows times such weights.
pub(super) fn takes<W: PermutedWeights>(rows: usize, weights: &W) -> bool {
    (1..=MOST_ROWS).contains(&rows) && weights.group_size() == BLOCK && weights.cols().is_multiple_of(BLOCK)
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
    let quantised = rows(x).into_iter().map(|x| {
        let (mut codes, mut scale) = (vec![0; Int16Rows::len(x.len())], [0.0; 1]);
        Int16Rows::prepare(cpu.isa(), x, &mut codes, &mut scale, &mut Vec::new());
        (t.tables_of_row::<W::Patterns>(&codes[..x.len()]), scale[0])
    });
    let (tables, row_scales): (Vec<_>, Vec<_>) = quantised.unzip();
    let tables: Vec<&[i16]> = tables.iter().map(|tables| &tables[..]).collect();
    // one part for each thread: memory that is read in places far apart comes faster than in neighbouring ones
    let part = weights.rows().div_ceil(cpu.threads()).next_multiple_of(LANES);
    let tasks = split_columns(out, part).into_iter().enumerate().collect();
    cpu.for_each(
        tasks,
        || Ok(()),
        |(), (i, mut out)| {
            for (j, mut out) in out.axis_chunks_iter_mut(Axis(1), LANES).enumerate() {
                if j.is_multiple_of(BLOCKS_UNASKED) {
                    cpu.check()?;
                }
                let first = i * part + j * LANES;
                let sums = t.work(Columns { t, tables: &tables, weights, first, count: out.ncols() });
                for ((mut out, sums), &row_scale) in out.rows_mut().into_iter().zip(&sums).zip(&row_scales) {
                    let out = out.as_slice_mut().expect("rows of a matrix must be contiguous");
                    epilogue.store(&sums[..out.len()], row_scale, first, out);
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

/// The sums of all rows with `count` columns from `first` on.
struct Columns<'a, W> {
    t: Avx512Vnni,
    tables: &'a [&'a [i16]],
    weights: &'a W,
    first: usize,
    count: usize,
}

impl<W: PermutedWeights> Work for Columns<'_, W> {
    type Output = [[f32; LANES]; MOST_ROWS];

    #[inline(always)]
    fn work(self) -> Self::Output {
        let Self { t, tables, weights, first, count } = self;
        let mut sums = [[0.0; LANES]; MOST_ROWS];
        let columns = (t, weights, first, count);
        match *tables {
            [a] => sums[..1].copy_from_slice(&products(columns, [a])),
            [a, b] => sums[..2].copy_from_slice(&products(columns, [a, b])),
            [a, b, c] => sums[..3].copy_from_slice(&products(columns, [a, b, c])),
            [a, b, c, d] => sums = products(columns, [a, b, c, d]),
            _ => unreachable!("{} rows are more than a few", tables.len()),
        }
        sums
    }
}

#[inline(always)]
fn products<W: PermutedWeights, const ROWS: usize>(
    (t, weights, first, count): (Avx512Vnni, &W, usize, usize),
    tables: [&[i16]; ROWS],
) -> [[f32; LANES]; ROWS] {
    let blocks = weights.cols() / BLOCK;
    let scales = weights.scales();
    let size = scales.float_type().size();
    let codes =
        ColumnBytes::new(weights.codes(), blocks * 2 * <W::Patterns as Patterns>::WORDS, first, count);
    let stored = ColumnBytes::new(scales.as_slice(), blocks * size, first, count);
    let bf16 = scales.float_type() == FloatType::Bf16;
    let mut of_blocks = [[0.0; LANES]; AT_ONCE];
    let mut sums = [[0.0; LANES]; ROWS];
    for block in (0..blocks).step_by(AT_ONCE) {
        let some = AT_ONCE.min(blocks - block);
        if size == 2 && some == AT_ONCE {
            t.turn_floats(&stored, block, bf16, scales.multiplier() * SCALE, &mut of_blocks);
        } else {
            for (i, of_block) in of_blocks[..some].iter_mut().enumerate() {
                for (lane, scale) in of_block.iter_mut().enumerate() {
                    *scale = scales.get((first + lane.min(count - 1)) * blocks + block + i) * SCALE;
                }
            }
        }
        t.add_products::<W::Patterns, ROWS>(tables, &codes, block, &of_blocks[..some], &mut sums);
    }
    sums
}
