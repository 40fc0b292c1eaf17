//! Dot products of 16-bit integers on tiles (AMX), whose factors are bytes: four products of high and of low bytes in three tiles of
//! sums, which make the same 32 bits as `vpdpwssd` does.
#![expect(unsafe_code, reason = "tiles, loads and stores of vectors")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::amx::{LINE, Sums, TILE, TILE_WORDS, configure, load_columns, release, zero_sums};
use super::amx_dot::evenly;
use crate::dot::{DEPTH, Dot, DotTile, Int16Bytes};
use crate::isa::Amx;

/// Rows that are multiplied in one call.
const ROWS: usize = 2 * TILE;
/// Words of a row, or lines of a panel, for one step: 64 low bytes and as many high ones.
pub(crate) const STEP: usize = 2 * LINE / 4;

impl DotTile<Int16Bytes> for Amx {
    const MR: usize = ROWS;
    const WIDTHS: &'static [usize] = &[TILE, 2 * TILE, 4 * TILE];

    #[inline]
    fn dot(self, dot: Dot<'_, u32>, sums: &mut [f32], stride: usize) {
        dot.check(ROWS, sums, stride);
        assert!(
            <Self as DotTile<Int16Bytes>>::WIDTHS.contains(&dot.width),
            "a panel of this instruction set"
        );
        assert!(dot.depth <= DEPTH && dot.depth.is_multiple_of(STEP), "words of whole steps");
        // SAFETY: the token proves the instructions; `check` proved the lengths.
        unsafe { multiply(&dot, sums.as_mut_ptr(), stride) }
    }

    #[inline(always)]
    fn arrange(self, words: &mut [u32], width: usize) {
        assert!(words.len().is_multiple_of(STEP * width), "words of whole steps");
        // SAFETY: the token proves the instructions.
        unsafe { split(words, width) }
    }
}

/// The low bytes of pairs of lines go into the first half of their step, the high ones into the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(words: &mut [u32], width: usize) {
    let even = _mm512_set1_epi16(0xff);
    for step in words.chunks_exact_mut(STEP * width) {
        let (first, second) = step.split_at_mut(STEP / 2 * width);
        let lines = first.as_chunks_mut::<TILE>().0.iter_mut().zip(second.as_chunks_mut::<TILE>().0);
        for (low, high) in lines {
            // SAFETY: vectors of as many words.
            unsafe {
                let [a, b] =
                    [_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())];
                let lows = _mm512_or_si512(_mm512_and_si512(a, even), _mm512_slli_epi16::<8>(b));
                let highs = _mm512_or_si512(_mm512_srli_epi16::<8>(a), _mm512_andnot_si512(even, b));
                _mm512_storeu_si512(low.as_mut_ptr().cast(), lows);
                _mm512_storeu_si512(high.as_mut_ptr().cast(), highs);
            }
        }
    }
}

/// # Safety
/// All slices are as long as `Dot::check` demands for [`ROWS`] rows and `dot.width` columns, which are whole tiles, with words of whole
/// steps.
#[target_feature(enable = "avx512f")]
unsafe fn multiply(dot: &Dot<'_, u32>, sums: *mut f32, stride: usize) {
    let &Dot { width, depth, .. } = dot;
    let mut gathered = MaybeUninit::<[[u32; DEPTH]; TILE]>::uninit();
    // of the block that is multiplied, and of the one before
    let mut products = [const { MaybeUninit::<Sums>::uninit() }; 2];
    let products = products.each_mut().map(|products| products.as_mut_ptr().cast::<u32>());
    let mut before = None;
    // SAFETY: rows begin inside the slice and have `depth` words, of which `gathered` holds all; so do columns inside the panel.
    // Tiles are configured before they are used and given back after, and nothing in between leaves this function.
    unsafe {
        configure();
        for (first_row, at) in (0..ROWS).step_by(TILE).zip(dot.at.chunks_exact(TILE)) {
            let apart = evenly(at);
            let (mut rows, mut row_stride) = (dot.rows.as_ptr().add(at[0]), 4 * apart.unwrap_or(0));
            if apart.is_none() {
                let gathered = gathered.as_mut_ptr().cast::<[u32; DEPTH]>();
                for (m, &at) in at.iter().enumerate() {
                    gathered.add(m).cast::<u32>().copy_from_nonoverlapping(dot.rows.as_ptr().add(at), depth);
                }
                (rows, row_stride) = (gathered.cast(), 4 * DEPTH);
            }
            for column in (0..width).step_by(TILE) {
                let products = products[column / TILE % 2];
                zero_sums();
                for step in (0..depth).step_by(STEP) {
                    let columns = dot.panel.as_ptr().add(step * width + column);
                    load_columns(columns, 4 * STEP / 2 * width, 4 * width);
                    // what goes into the middle stands apart, for a product waits for the one before it
                    asm!(
                        "tileloadd tmm4, [{rows} + 1*{stride}]",
                        "tileloadd tmm5, [{rows} + 1*{stride} + 64]",
                        "tdpbuud tmm0, tmm4, tmm6",
                        "tdpbusd tmm1, tmm4, tmm7",
                        "tdpbssd tmm2, tmm5, tmm7",
                        "tdpbsud tmm1, tmm5, tmm6",
                        rows = in(reg) rows.add(step),
                        stride = in(reg) row_stride,
                        options(nostack, readonly, preserves_flags)
                    );
                }
                if let Some((products, row, column)) = before {
                    finish(dot, products, row, column, sums, stride);
                }
                asm!(
                    "tilestored [{products} + 1*{stride}], tmm0",
                    "tilestored [{products} + 1*{stride} + 1024], tmm1",
                    "tilestored [{products} + 1*{stride} + 2048], tmm2",
                    products = in(reg) products,
                    stride = in(reg) LINE,
                    options(nostack, preserves_flags)
                );
                before = Some((products.cast_const(), first_row, column));
            }
        }
        release();
        if let Some((products, row, column)) = before {
            finish(dot, products, row, column, sums, stride);
        }
    }
}

/// Joins the products of one block of 16 rows and columns, and adds them to their sums as [`Dot`] says.
///
/// # Safety
/// As for [`multiply`]; `products` has tiles of low, middle and high sums, `row` and `column` are the block's first.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn finish(
    dot: &Dot<'_, u32>,
    products: *const u32,
    row: usize,
    column: usize,
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: as the caller promised.
    unsafe {
        let columns = _mm512_loadu_ps(dot.column.as_ptr().add(column));
        for m in 0..TILE {
            let of = |tile: usize| _mm512_load_si512(products.add(tile * TILE_WORDS + m * TILE).cast());
            let high = _mm512_add_epi32(_mm512_slli_epi32::<8>(of(2)), of(1));
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), of(0)));
            let (keep, at) = (*dot.keep.as_ptr().add(row + m), sums.add((row + m) * stride + column));
            let scale = _mm512_mul_ps(_mm512_set1_ps(*dot.row.as_ptr().add(row + m)), columns);
            let sum = if keep == 0.0 {
                _mm512_mul_ps(sum, scale)
            } else if keep == 1.0 {
                _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(at))
            } else {
                _mm512_fmadd_ps(_mm512_set1_ps(keep), _mm512_loadu_ps(at), _mm512_mul_ps(sum, scale))
            };
            _mm512_storeu_ps(at, sum);
        }
    }
}
