//! AVX2 tile: 6 rows by up to 2 vectors, 12 sums in registers.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::isa::Avx2;
use crate::tile::{F32Tile, check_tile};

const MR: usize = 6;
const LANES: usize = 8;

impl F32Tile for Avx2 {
    const MR: usize = MR;
    const WIDTHS: &'static [usize] = &[LANES, 2 * LANES];

    #[inline]
    fn tile(
        self,
        width: usize,
        depth: usize,
        rows: &[f32],
        row_stride: usize,
        panel: &[f32],
        acc: &mut [f32],
    ) {
        check_tile(MR, width, depth, rows, row_stride, panel, acc);
        // SAFETY: the token proves AVX2; `check_tile` proved the lengths that `tile` reads and writes.
        unsafe {
            match width {
                8 => tile::<1>(depth, rows.as_ptr(), row_stride, panel.as_ptr(), acc.as_mut_ptr()),
                16 => tile::<2>(depth, rows.as_ptr(), row_stride, panel.as_ptr(), acc.as_mut_ptr()),
                other => unreachable!("no AVX2 panel of {other} columns"),
            }
        }
    }
}

/// # Safety
/// `rows` holds `(MR - 1) * row_stride + depth` floats, `panel` `depth * 8 * NV`, `acc` `MR * 8 * NV`.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const NV: usize>(
    depth: usize,
    rows: *const f32,
    row_stride: usize,
    panel: *const f32,
    acc: *mut f32,
) {
    let mut sums = [[_mm256_setzero_ps(); NV]; MR];
    for k in 0..depth {
        // SAFETY: `k < depth`, `m < MR` and `n < NV` stay inside the lengths that the caller promised.
        unsafe {
            let weights: [__m256; NV] =
                std::array::from_fn(|n| _mm256_loadu_ps(panel.add((k * NV + n) * LANES)));
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*rows.add(m * row_stride + k));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_fmadd_ps(x, weights, *sum);
                }
            }
        }
    }
    for (m, sums) in sums.into_iter().enumerate() {
        for (n, sum) in sums.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let at = acc.add((m * NV + n) * LANES);
                _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), sum));
            }
        }
    }
}
