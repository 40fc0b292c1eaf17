//! Tiles of dot products on AVX2 (6 rows by 2 vectors) and AVX-512 (6 rows by 4), for each number format.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::dot::{Bf16, Dot, DotTile, F32, Int16};
use crate::isa::{Avx2, Avx512, Avx512Bf16, Avx512Vnni, AvxVnni};

const MR: usize = 6;
/// What becomes of earlier sums: nothing is kept, a part of some, or all.
const NONE: u8 = 0;
const SOME: u8 = 1;
const ALL: u8 = 2;

/// The same tile for vectors of `$lanes` words. `$multiply` adds the products of a broadcast word and a vector of
/// words to a vector of sums, `$to_f32` makes floats of those sums.
macro_rules! dot_tile {
    (
        $token:ty, $number:ty, $tile:ident, $features:literal, $word:ty, $lanes:literal, [$($vectors:literal),+],
        $load:expr, $splat:expr, $zero:expr, $sum:ty, $multiply:expr, $to_f32:expr,
        [$splat_f32:ident, $load_f32:ident, $store_f32:ident, $mul:ident, $fma:ident]
    ) => {
        impl DotTile<$number> for $token {
            const MR: usize = MR;
            const WIDTHS: &'static [usize] = &[$($vectors * $lanes),+];

            #[inline]
            fn dot(self, dot: Dot<'_, $word>, sums: &mut [f32], stride: usize) {
                dot.check(MR, sums, stride);
                let (all, sums) = (|keep| dot.keep.iter().all(|&k| k == keep), sums.as_mut_ptr());
                match dot.width / $lanes {
                    // SAFETY: the token proves the instructions; `check` proved the lengths.
                    $($vectors if dot.width == $vectors * $lanes => unsafe {
                        if all(0.0) {
                            $tile::<$vectors, NONE>(&dot, sums, stride)
                        } else if all(1.0) {
                            $tile::<$vectors, ALL>(&dot, sums, stride)
                        } else {
                            $tile::<$vectors, SOME>(&dot, sums, stride)
                        }
                    })+
                    _ => unreachable!("no panel of {} columns on this instruction set", dot.width),
                }
            }
        }

        /// # Safety
        /// All slices are as long as `Dot::check` demands for `MR` rows and `lanes * NV` columns.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const NV: usize, const KEEP: u8>(dot: &Dot<'_, $word>, sums: *mut f32, stride: usize) {
            let panel = dot.panel.as_ptr();
            let rows: [*const $word; MR] = std::array::from_fn(|m| {
                // SAFETY: the caller promised that rows begin inside the slice.
                unsafe { dot.rows.as_ptr().add(dot.at[m]) }
            });
            let mut acc = [[$zero(); NV]; MR];
            for k in 0..dot.depth {
                // SAFETY: `k < depth`, `m < MR` and `n < NV` stay inside the lengths that the caller promised.
                unsafe {
                    let weights: [_; NV] = std::array::from_fn(|n| $load(panel.add((k * NV + n) * $lanes)));
                    for (acc, row) in acc.iter_mut().zip(rows) {
                        let x = $splat(*row.add(k));
                        for (acc, weights) in acc.iter_mut().zip(weights) {
                            *acc = $multiply(*acc, x, weights);
                        }
                    }
                }
            }
            for (m, acc) in acc.iter().enumerate() {
                let (keep, row) = (dot.keep[m], $splat_f32(dot.row[m]));
                for (n, &acc) in acc.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let at = sums.add(m * stride + n * $lanes);
                        let scale = $mul(row, $load_f32(dot.column.as_ptr().add(n * $lanes)));
                        let sum = match KEEP {
                            NONE => $mul($to_f32(acc), scale),
                            ALL => $fma($to_f32(acc), scale, $load_f32(at)),
                            // as above, whatever rows share the tile
                            _ if keep == 0.0 => $mul($to_f32(acc), scale),
                            _ if keep == 1.0 => $fma($to_f32(acc), scale, $load_f32(at)),
                            _ => $fma($splat_f32(keep), $load_f32(at), $mul($to_f32(acc), scale)),
                        };
                        $store_f32(at, sum);
                    }
                }
            }
        }
    };
}

dot_tile!(
    Avx2,
    F32,
    f32_avx2,
    "avx2,fma",
    f32,
    8,
    [1, 2],
    |p| _mm256_loadu_ps(p),
    |x| _mm256_set1_ps(x),
    _mm256_setzero_ps,
    __m256,
    |acc, x, w| _mm256_fmadd_ps(x, w, acc),
    |acc| acc,
    [_mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_mul_ps, _mm256_fmadd_ps]
);
dot_tile!(
    Avx512,
    F32,
    f32_avx512,
    "avx512f",
    f32,
    16,
    [1, 2, 4],
    |p| _mm512_loadu_ps(p),
    |x| _mm512_set1_ps(x),
    _mm512_setzero_ps,
    __m512,
    |acc, x, w| _mm512_fmadd_ps(x, w, acc),
    |acc| acc,
    [_mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_mul_ps, _mm512_fmadd_ps]
);
dot_tile!(
    Avx2,
    Int16,
    int16_avx2,
    "avx2,fma",
    u32,
    8,
    [1, 2],
    |p: *const u32| _mm256_loadu_si256(p.cast()),
    |x: u32| _mm256_set1_epi32(x as i32),
    _mm256_setzero_si256,
    __m256i,
    |acc, x, w| _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)),
    |acc| _mm256_cvtepi32_ps(acc),
    [_mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_mul_ps, _mm256_fmadd_ps]
);
dot_tile!(
    AvxVnni,
    Int16,
    int16_avxvnni,
    "avx2,fma,avxvnni",
    u32,
    8,
    [1, 2],
    |p: *const u32| _mm256_loadu_si256(p.cast()),
    |x: u32| _mm256_set1_epi32(x as i32),
    _mm256_setzero_si256,
    __m256i,
    |acc, x, w| _mm256_dpwssd_avx_epi32(acc, x, w),
    |acc| _mm256_cvtepi32_ps(acc),
    [_mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_mul_ps, _mm256_fmadd_ps]
);
dot_tile!(
    Avx512Vnni,
    Int16,
    int16_avx512,
    "avx512f,avx512vnni",
    u32,
    16,
    [1, 2, 4],
    |p: *const u32| _mm512_loadu_si512(p.cast()),
    |x: u32| _mm512_set1_epi32(x as i32),
    _mm512_setzero_si512,
    __m512i,
    |acc, x, w| _mm512_dpwssd_epi32(acc, x, w),
    |acc| _mm512_cvtepi32_ps(acc),
    [_mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_mul_ps, _mm512_fmadd_ps]
);
dot_tile!(
    Avx512Bf16,
    Bf16,
    bf16_avx512,
    "avx512f,avx512bf16",
    u32,
    16,
    [1, 2, 4],
    |p: *const u32| pairs(_mm512_loadu_si512(p.cast())),
    |x: u32| pairs(_mm512_set1_epi32(x as i32)),
    _mm512_setzero_ps,
    __m512,
    |acc, x, w| _mm512_dpbf16_ps(acc, x, w),
    |acc| acc,
    [_mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_mul_ps, _mm512_fmadd_ps]
);

/// The same bits as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute(words) }
}
