//! Entries of tables on AVX2 and AVX-512.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::asm;
use std::arch::x86_64::*;

use crate::isa::{Avx2, Avx512};
use crate::table::{Lanes, Pair, TableTile};

/// One entry in a register. `$accumulate` is what [`Lanes::accumulate`] does; `$more` are items that differ from the trait's own.
macro_rules! register_lanes {
    (
        $(#[$doc:meta])*
        $lanes:ident($register:ty), $count:literal of $number:ty, $scale:expr, $shift:literal,
        $load:ident, $store:ident, $add:ident, $sub:ident, $zero:ident,
        |$sum:ident, $of_column:ident, $row_scales:ident, $sums:ident| $accumulate:block
        $($more:item)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $lanes($register);

        impl Lanes for $lanes {
            type Number = $number;
            const LANES: usize = $count;
            const SCALE: f32 = $scale;
            const ENTRY_SHIFT: u32 = $shift;

            #[inline(always)]
            unsafe fn load(at: *const $number) -> Self {
                // SAFETY: as the caller promised.
                unsafe { Self($load(at.cast())) }
            }
            #[inline(always)]
            unsafe fn store(self, at: *mut $number) {
                // SAFETY: as the caller promised.
                unsafe { $store(at.cast(), self.0) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as the caller promised.
                unsafe { Self($add(self.0, other.0)) }
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                // SAFETY: as the caller promised.
                unsafe { Self($sub(self.0, other.0)) }
            }
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: as the caller promised.
                unsafe { Self($zero()) }
            }
            #[inline(always)]
            unsafe fn accumulate(self, $of_column: f32, $row_scales: Option<*const f32>, $sums: *mut f32) {
                let $sum = self.0;
                // SAFETY: as the caller promised; each half of the lanes with its half of scales and sums.
                unsafe { $accumulate }
            }
            $($more)*
        }
    };
}

register_lanes!(
    /// Sixteen rows of 16-bit integers.
    I16x16(__m256i), 16 of i16, 1.0, 5,
    _mm256_load_si256, _mm256_store_si256, _mm256_add_epi16, _mm256_sub_epi16, _mm256_setzero_si256,
    |sum, scale, row_scales, sums| {
        let halves = [_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum)];
        for (half, lanes) in halves.into_iter().enumerate() {
            let mut scale = _mm256_set1_ps(scale);
            if let Some(row_scales) = row_scales {
                scale = _mm256_mul_ps(scale, _mm256_loadu_ps(row_scales.add(8 * half)));
            }
            let sum = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(lanes));
            let at = sums.add(8 * half);
            _mm256_store_ps(at, _mm256_fmadd_ps(sum, scale, _mm256_load_ps(at)));
        }
    }
);

register_lanes!(
    /// Eight rows of floats.
    F32x8(__m256), 8 of f32, 1.0, 5,
    _mm256_load_ps, _mm256_store_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_setzero_ps,
    |sum, scale, _row_scales, sums| {
        _mm256_store_ps(sums, _mm256_fmadd_ps(sum, _mm256_set1_ps(scale), _mm256_load_ps(sums)));
    }
);

// a sum becomes a float in the high half of a word, hence the scale
register_lanes!(
    /// Thirty-two rows of 16-bit integers. Even lanes are the first sixteen rows, odd lanes the others, so that a shift,
    /// or a mask, makes floats of either half.
    I16x32(__m512i), 32 of i16, 1.0 / 65536.0, 6,
    _mm512_load_si512, _mm512_store_si512, _mm512_add_epi16, _mm512_sub_epi16, _mm512_setzero_si512,
    |sum, scale, row_scales, sums| {
        let high_half = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
        let halves = [_mm512_slli_epi32::<16>(sum), _mm512_and_si512(sum, high_half)];
        for (half, lanes) in halves.into_iter().enumerate() {
            let mut scale = _mm512_set1_ps(scale);
            if let Some(row_scales) = row_scales {
                scale = _mm512_mul_ps(scale, _mm512_loadu_ps(row_scales.add(16 * half)));
            }
            let at = sums.add(16 * half);
            _mm512_store_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes), scale, _mm512_load_ps(at)));
        }
    }
    fn row(lane: usize) -> usize {
        lane / 2 + 16 * (lane % 2)
    }
    #[inline(always)]
    unsafe fn field<const INDEX: usize>(word: u64) -> usize {
        // SAFETY: as the caller promised.
        unsafe { extract::<INDEX>(word) }
    }
);

register_lanes!(
    /// Sixteen rows of floats.
    F32x16(__m512), 16 of f32, 1.0, 6,
    _mm512_load_ps, _mm512_store_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_setzero_ps,
    |sum, scale, _row_scales, sums| {
        _mm512_store_ps(sums, _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), _mm512_load_ps(sums)));
    }
    #[inline(always)]
    unsafe fn field<const INDEX: usize>(word: u64) -> usize {
        // SAFETY: as the caller promised.
        unsafe { extract::<INDEX>(word) }
    }
);

impl TableTile<i16> for Avx2 {
    type Lanes = Pair<I16x16>;
}

impl TableTile<f32> for Avx2 {
    type Lanes = Pair<F32x8>;
}

impl TableTile<i16> for Avx512 {
    type Lanes = I16x32;
}

impl TableTile<f32> for Avx512 {
    type Lanes = F32x16;
}

/// A field of 16 bits. By `pext`, which runs on a port that 512-bit vectors leave free, where that is no more than two thirds
/// of the fields: there is one such port. The address multiplies it by 8.
///
/// # Safety
/// The CPU has BMI2.
#[inline(always)]
unsafe fn extract<const INDEX: usize>(word: u64) -> usize {
    if INDEX == 0 || INDEX == 3 {
        return usize::from((word >> (16 * INDEX)) as u16);
    }
    let field: usize;
    // SAFETY: reads and writes what it names. The intrinsic would become a shift and a mask, on ports that are busy.
    unsafe {
        asm!(
            "pext {}, {}, {}",
            lateout(reg) field,
            in(reg) word,
            in(reg) 0xfff8_u64 << (16 * INDEX),
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    field * 8
}
