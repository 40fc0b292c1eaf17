//! The f32 tile on AVX2 (6 rows by 2 vectors) and AVX-512 (6 rows by 4): as many sums in registers as there are
//! registers to spare.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::isa::{Avx2, Avx512};
use crate::tile::{F32Tile, check_tile};

const MR: usize = 6;

/// The same tile for vectors of `$lanes` floats, with panels of 1, 2, .. vectors.
macro_rules! f32_tile {
    (
        $token:ty, $tile:ident, $features:literal, $vector:ty, $lanes:literal, [$($vectors:literal),+],
        $zero:ident, $load:ident, $store:ident, $splat:ident, $add:ident, $fma:ident
    ) => {
        impl F32Tile for $token {
            const MR: usize = MR;
            const WIDTHS: &'static [usize] = &[$($vectors * $lanes),+];

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
                match width / $lanes {
                    $($vectors if width == $vectors * $lanes => {
                        // SAFETY: the token proves the instructions; `check_tile` proved the lengths.
                        unsafe { $tile::<$vectors>(depth, rows.as_ptr(), row_stride, panel.as_ptr(), acc.as_mut_ptr()) }
                    })+
                    _ => unreachable!("no panel of {width} columns on this instruction set"),
                }
            }
        }

        /// # Safety
        /// `rows` holds `(MR - 1) * row_stride + depth` floats, `panel` `depth * lanes * NV`, `acc` `MR * lanes * NV`.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const NV: usize>(
            depth: usize,
            rows: *const f32,
            row_stride: usize,
            panel: *const f32,
            acc: *mut f32,
        ) {
            let mut sums = [[$zero(); NV]; MR];
            for k in 0..depth {
                // SAFETY: `k < depth`, `m < MR` and `n < NV` stay inside the lengths that the caller promised.
                unsafe {
                    let weights: [$vector; NV] = std::array::from_fn(|n| $load(panel.add((k * NV + n) * $lanes)));
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let x = $splat(*rows.add(m * row_stride + k));
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = $fma(x, weights, *sum);
                        }
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let at = acc.add((m * NV + n) * $lanes);
                        $store(at, $add($load(at), sum));
                    }
                }
            }
        }
    };
}

f32_tile!(
    Avx2,
    tile_avx2,
    "avx2,fma",
    __m256,
    8,
    [1, 2],
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps
);
f32_tile!(
    Avx512,
    tile_avx512,
    "avx512f",
    __m512,
    16,
    [1, 2, 4],
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps
);
