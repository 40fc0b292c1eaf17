//! Products of a few rows, quantised to 16-bit integers, with one-bit weights that are read where they stand.

use ndarray::{ArrayView2, ArrayViewMut2};
use wide::f32x4;

use super::epilogue::Epilogue;
use super::few_rows::{MOST_ROWS, by_columns, rows};
use super::rows::{Int16Rows, RowForm};
use crate::Cpu;
use crate::error::Result;
use crate::isa::{Avx2, Avx512, Isa, Token, Vectors, Work};
use crate::prefetch::prefetch;
use crate::weights::BinaryWeights;
use crate::x86_64::nibble;
use crate::x86_64::sign_dot::{GROUP, lay_out};

/// On AVX-512, where each row reads the weights anew, more rows than these go by tables.
const MOST_ROWS_ALONE: usize = 2;
/// Scales of one row of weights that are made floats at a time.
const SCALES: usize = 32;

/// Whether [`multiply`] takes so many rows times such weights on this instruction set.
pub(super) fn takes(isa: Isa, rows: usize, weights: &BinaryWeights) -> bool {
    let most = match isa.vectors() {
        Vectors::Avx512(_) => MOST_ROWS_ALONE,
        Vectors::Avx2(_) => MOST_ROWS,
        Vectors::Portable(_) => 0,
    };
    (1..=most).contains(&rows) && weights.group_size() == GROUP && weights.cols().is_multiple_of(GROUP)
}

/// `out = epilogue(x * weights^T)`. On AVX2 the bits are those of tables for many rows.
///
/// # Errors
/// When the work was cancelled.
///
/// # Panics
/// When the shapes don't fit, or [`takes`] refuses.
pub(super) fn multiply(
    cpu: &Cpu,
    x: ArrayView2<'_, f32>,
    weights: &BinaryWeights,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    let quantised = rows(x).into_iter().map(|x| {
        let (mut codes, mut scale) = (vec![0; Int16Rows::len(x.len())], [0.0; 1]);
        Int16Rows::prepare(cpu.isa(), x, &mut codes, &mut scale, &mut Vec::new());
        codes.truncate(x.len());
        (codes, scale[0])
    });
    match cpu.isa().vectors() {
        Vectors::Avx512(t) => {
            let prepared: Vec<_> = quantised.map(|(codes, scale)| (lay_out(&codes), scale)).collect();
            by_columns(cpu, x.dim(), weights.rows(), out, epilogue, |first, products| {
                for i in 0..products[0].len() {
                    for (products, (row, row_scale)) in products.iter_mut().zip(&prepared) {
                        products[i] = t.run(|| sign_product(t, row, weights, first + i)) * row_scale;
                    }
                }
            })
        }
        Vectors::Avx2(t) => {
            let prepared: Vec<_> = quantised.map(|(codes, scale)| (nibble::tables(&codes), scale)).collect();
            by_columns(cpu, x.dim(), weights.rows(), out, epilogue, |first, products| {
                let columns = products[0].len();
                for start in (0..columns).step_by(nibble::COLUMNS) {
                    let count = nibble::COLUMNS.min(columns - start);
                    let work = NibbleSums { token: t, rows: &prepared, weights, first: first + start, count };
                    let sums = t.work(work);
                    for (products, (sums, (_, row_scale))) in
                        products.iter_mut().zip(sums.iter().zip(&prepared))
                    {
                        for (product, sum) in products[start..][..count].iter_mut().zip(sums) {
                            *product = sum * row_scale;
                        }
                    }
                }
            })
        }
        Vectors::Portable(_) => unreachable!("signs are taken where there are kernels for them"),
    }
}

/// Sums of the rows that these tables are of, each with `count` rows of weights from `first` on.
struct NibbleSums<'a> {
    token: Avx2,
    rows: &'a [(Vec<u8>, f32)],
    weights: &'a BinaryWeights,
    first: usize,
    count: usize,
}

impl Work for NibbleSums<'_> {
    type Output = [[f32; nibble::COLUMNS]; MOST_ROWS];

    #[inline(always)]
    fn work(self) -> Self::Output {
        const QUAD: usize = 4;
        let Self { token, rows, weights, first, count } = self;
        let column = |i: usize| first + i.min(count - 1);
        let mut bits: [&[u8]; nibble::COLUMNS] = [&[]; nibble::COLUMNS];
        for (i, bits) in bits.iter_mut().enumerate() {
            *bits = weights.row_codes(column(i));
        }
        let mut sums = [[0.0; nibble::COLUMNS]; MOST_ROWS];
        let mut turned = [[0; nibble::COLUMNS]; GROUP / 8];
        // scales come column by column and are used group by group
        let mut of_columns = [[0.0; SCALES]; nibble::COLUMNS];
        let mut scales = [[0.0; nibble::COLUMNS]; SCALES];
        for start in (0..weights.groups()).step_by(SCALES) {
            let groups = SCALES.min(weights.groups() - start);
            for (i, of_column) in of_columns.iter_mut().enumerate() {
                weights.copy_scales(column(i), start, &mut of_column[..groups]);
            }
            for group in (0..groups).step_by(QUAD) {
                for first in (0..nibble::COLUMNS).step_by(QUAD) {
                    let mut square = [f32x4::ZERO; QUAD];
                    for (row, of_column) in square.iter_mut().zip(&of_columns[first..]) {
                        let of_groups: &[f32; QUAD] = of_column[group..].first_chunk().expect("whole quads");
                        *row = f32x4::from(*of_groups);
                    }
                    for (scales, row) in scales[group..].iter_mut().zip(f32x4::transpose(square)) {
                        *scales[first..].first_chunk_mut().expect("whole quads") = row.to_array();
                    }
                }
            }
            for (group, scales) in (start..).zip(&scales[..groups]) {
                // a cache line holds four groups of a row, and so many streams at once are more than the CPU foresees
                if group % 4 == 0 {
                    bits.iter().for_each(|bits| prefetch(bits, (group + 8) * GROUP / 8));
                }
                token.turn_bits(&bits, group, &mut turned);
                for ((tables, _), sums) in rows.iter().zip(&mut sums) {
                    token.add_signed_sums(tables, group, &turned, scales, sums);
                }
            }
        }
        sums
    }
}

/// One laid-out row times one row of weights.
#[inline(always)]
fn sign_product(t: Avx512, row: &[i16], weights: &BinaryWeights, column: usize) -> f32 {
    let bits = weights.row_codes(column);
    let mut scales = [0.0; SCALES];
    let mut product = 0.0;
    for first in (0..weights.groups()).step_by(SCALES) {
        let scales = &mut scales[..SCALES.min(weights.groups() - first)];
        weights.copy_scales(column, first, scales);
        product += t.sign_dot(row, first, bits, scales);
    }
    product
}
