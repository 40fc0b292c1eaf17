//! One number from many; left to itself the compiler takes the last steps through memory or through short vectors.
#![expect(unsafe_code, reason = "calls code that is compiled for detected instructions")]

use std::arch::x86_64::*;

use crate::isa::Avx512;

impl Avx512 {
    /// As [`Token::sum`](crate::isa::Token::sum).
    #[inline(always)]
    pub(crate) fn sum_lanes(self, lanes: [f32; 16]) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { sum(lanes) }
    }

    /// As [`Token::largest`](crate::isa::Token::largest).
    #[inline(always)]
    pub(crate) fn largest_lane(self, lanes: [f32; 16]) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { largest(lanes) }
    }

    /// As [`Token::extent`](crate::isa::Token::extent).
    #[inline(always)]
    pub(crate) fn extent_of(self, blocks: &[[f32; 16]]) -> (u32, f64) {
        // SAFETY: the token proves the instructions.
        unsafe { extent(blocks) }
    }

    /// As [`Token::magnitudes`](crate::isa::Token::magnitudes).
    #[inline(always)]
    pub(crate) fn magnitudes_of(self, blocks: &[[f32; 16]]) -> [f64; 16] {
        // SAFETY: the token proves the instructions.
        unsafe { magnitudes(blocks) }
    }

    /// As [`Token::sign_bits`](crate::isa::Token::sign_bits).
    #[inline(always)]
    pub(crate) fn sign_bits_of(self, x: &[f32; 32]) -> u32 {
        // SAFETY: the token proves the instructions.
        unsafe { sign_bits(x) }
    }

    /// As [`Token::turn`](crate::isa::Token::turn).
    #[inline(always)]
    pub(crate) fn turned(self, rows: &[&[u8; 16]; 16]) -> [[u32; 16]; 4] {
        // SAFETY: the token proves the instructions.
        unsafe { turn(rows) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn turn(rows: &[&[u8; 16]; 16]) -> [[u32; 16]; 4] {
    let mut parts = [_mm512_setzero_si512(); 4];
    for (first, part) in parts.iter_mut().enumerate() {
        // SAFETY: as many bytes as a short vector has.
        let load = |row: usize| unsafe { _mm_loadu_si128(rows[row].as_ptr().cast()) };
        // rows `first`, `first + 4`, `first + 8`, `first + 12`
        let x = _mm512_castsi128_si512(load(first));
        let x = _mm512_inserti32x4::<1>(x, load(first + 4));
        let x = _mm512_inserti32x4::<2>(x, load(first + 8));
        *part = _mm512_inserti32x4::<3>(x, load(first + 12));
    }
    let [a, b, c, d] = parts;
    let (ab, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let turned = [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ];
    let mut columns = [[0; 16]; 4];
    for (column, turned) in columns.iter_mut().zip(turned) {
        // SAFETY: as many words as a vector has.
        unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), turned) };
    }
    columns
}

/// The two halves, in double precision.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: __m512) -> [__m512d; 2] {
    let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x));
    [_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm256_castpd_ps(high))]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn magnitudes(blocks: &[[f32; 16]]) -> [f64; 16] {
    let mut sums = [_mm512_setzero_pd(); 2];
    for block in blocks {
        // SAFETY: as many floats as a vector has.
        let [low, high] = halves(_mm512_abs_ps(unsafe { _mm512_loadu_ps(block.as_ptr()) }));
        sums = [_mm512_add_pd(sums[0], low), _mm512_add_pd(sums[1], high)];
    }
    let mut lanes = [0.0; 16];
    for (lanes, sums) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
        // SAFETY: as many floats as a vector has.
        unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), sums) };
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sign_bits(x: &[f32; 32]) -> u32 {
    let bits = |x: __m512| u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_setzero_ps()));
    // SAFETY: as many floats as two vectors have.
    unsafe { bits(_mm512_loadu_ps(x.as_ptr())) | bits(_mm512_loadu_ps(x.as_ptr().add(16))) << 16 }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum(lanes: [f32; 16]) -> f32 {
    // SAFETY: as many floats as a vector has.
    _mm512_reduce_add_ps(unsafe { _mm512_loadu_ps(lanes.as_ptr()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn largest(lanes: [f32; 16]) -> f32 {
    // SAFETY: as many floats as a vector has.
    _mm512_reduce_max_ps(unsafe { _mm512_loadu_ps(lanes.as_ptr()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn extent(blocks: &[[f32; 16]]) -> (u32, f64) {
    let mut largest = _mm512_setzero_si512();
    let mut squares = [_mm512_setzero_pd(); 2];
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    for block in blocks {
        // SAFETY: as many floats as a vector has.
        let x = unsafe { _mm512_loadu_ps(block.as_ptr()) };
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
        let [low, high] = halves(x);
        squares[0] = _mm512_add_pd(squares[0], _mm512_mul_pd(low, low));
        squares[1] = _mm512_add_pd(squares[1], _mm512_mul_pd(high, high));
    }
    (_mm512_reduce_max_epu32(largest), _mm512_reduce_add_pd(_mm512_add_pd(squares[0], squares[1])))
}
