//! Products of a few rows: memory is what bounds them, so weights are read once, where they stand, instead of being laid
//! out in panels for rows that are not there.

use std::time::Instant;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::epilogue::Epilogue;
use crate::Cpu;
use crate::error::Result;
use crate::isa::{Token, Work, dispatch};
use crate::prefetch::prefetch;
use crate::weights::{DenseWeights, FloatType, bf16_to_f32, f16_to_f32};

/// With more rows panels pay.
pub(super) const MOST_ROWS: usize = 4;
/// Columns of one task: enough of them to be worth a task, few enough that threads end together.
const COLUMNS_PER_TASK: usize = 64;
/// Sums of one product: two vectors on AVX-512, whose additions overlap.
const LANES: usize = 32;
/// Times as many weights are made floats before rows meet them.
const LINES: usize = 16;
/// Bytes from what is read to what is asked for.
const AHEAD: usize = 8 << 10;

/// `out = epilogue(x * weights^T)` for up to [`MOST_ROWS`] rows; products are summed in the same order on every
/// instruction set.
///
/// # Errors
/// When the work was cancelled.
///
/// # Panics
/// When the shapes don't fit.
pub(super) fn multiply_dense(
    cpu: &Cpu,
    x: ArrayView2<'_, f32>,
    weights: &DenseWeights,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    let rows = rows(x);
    by_columns(cpu, x.dim(), weights.rows(), out, epilogue, |first, products| {
        for i in 0..products[0].len() {
            let sums = dispatch!(cpu.isa(), t => t.work(Dots { x: &rows, weights, row: first + i }));
            for (products, sum) in products.iter_mut().zip(sums) {
                products[i] = sum;
            }
        }
    })
}

pub(super) fn rows<'a>(x: ArrayView2<'a, f32>) -> Vec<&'a [f32]> {
    let row = |i| x.index_axis_move(Axis(0), i).to_slice().expect("rows of a matrix must be contiguous");
    (0..x.nrows()).map(row).collect()
}

/// Calls `body` with a first column and products to be filled, one slice for each row.
pub(super) fn by_columns(
    cpu: &Cpu,
    (rows, inputs): (usize, usize),
    columns: usize,
    mut out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
    body: impl Fn(usize, &mut [&mut [f32]; MOST_ROWS]) + Sync,
) -> Result<()> {
    assert_eq!(out.dim(), (rows, columns), "shape of a GEMM's output");
    epilogue.check(columns);
    let started = Instant::now();
    let tasks = out.axis_chunks_iter_mut(Axis(1), COLUMNS_PER_TASK).enumerate().collect();
    cpu.for_each(
        tasks,
        || Ok([[0.0; COLUMNS_PER_TASK]; MOST_ROWS]),
        |products, (task, mut out)| {
            let first = task * COLUMNS_PER_TASK;
            body(first, &mut products.each_mut().map(|products| &mut products[..out.ncols()]));
            for (mut out, products) in out.axis_iter_mut(Axis(0)).zip(products) {
                let out = out.as_slice_mut().expect("rows of a matrix must be contiguous");
                epilogue.store(&products[..out.len()], 1.0, first, out);
            }
            Ok(())
        },
    )?;
    if let Some(meter) = cpu.meter() {
        meter.add((rows * inputs * columns) as u64, started.elapsed());
    }
    Ok(())
}

/// The bytes of one row of weights among those of all.
#[derive(Clone, Copy)]
struct Stored<'a> {
    all: &'a [u8],
    at: usize,
    len: usize,
}

/// The products of the rows with one row of weights.
struct Dots<'a> {
    x: &'a [&'a [f32]],
    weights: &'a DenseWeights,
    row: usize,
}

impl Work for Dots<'_> {
    type Output = [f32; MOST_ROWS];

    #[inline(always)]
    fn work(self) -> Self::Output {
        let Self { x, weights, row } = self;
        let len = weights.row_bytes(row).len();
        let bytes = Stored { all: weights.codes(), at: row * len, len };
        match weights.float_type() {
            FloatType::F16 => sums::<2>(x, bytes, |b| f16_to_f32(u16::from_le_bytes(b).into())),
            FloatType::Bf16 => sums::<2>(x, bytes, |b| bf16_to_f32(u16::from_le_bytes(b).into())),
            FloatType::F32 => sums::<4>(x, bytes, f32::from_le_bytes),
        }
    }
}

#[inline(always)]
fn sums<const SIZE: usize>(
    x: &[&[f32]],
    weights: Stored<'_>,
    value: impl Fn([u8; SIZE]) -> f32,
) -> [f32; MOST_ROWS] {
    let Stored { all, at, len } = weights;
    let (weights, _) = all[at..at + len].as_chunks::<SIZE>();
    let (whole, rest) = weights.as_chunks::<LANES>();
    let mut sums = [[0.0f32; LANES]; MOST_ROWS];
    let mut values = [[0.0; LANES]; LINES];
    // loops, since what closures of arrays do would be left out of this instruction set's code
    for (part, weights) in whole.chunks(LINES).enumerate() {
        for (line, (values, weights)) in values.iter_mut().zip(weights).enumerate() {
            prefetch(all, at + AHEAD + (part * LINES + line) * LANES * SIZE);
            for lane in 0..LANES {
                values[lane] = value(weights[lane]);
            }
        }
        for (sums, x) in sums.iter_mut().zip(x) {
            let mut of_row = *sums;
            let (x, _) = x[part * LINES * LANES..].as_chunks::<LANES>();
            for (x, values) in x.iter().zip(&values[..weights.len()]) {
                for lane in 0..LANES {
                    of_row[lane] += x[lane] * values[lane];
                }
            }
            *sums = of_row;
        }
    }
    let mut totals = [0.0; MOST_ROWS];
    for ((total, sums), x) in totals.iter_mut().zip(&mut sums).zip(x) {
        for ((sum, x), weight) in sums.iter_mut().zip(&x[whole.len() * LANES..]).zip(rest) {
            *sum += x * value(*weight);
        }
        *total = sums.iter().sum();
    }
    totals
}
