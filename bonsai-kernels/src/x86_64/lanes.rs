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
        let low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
        let high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x))));
        squares[0] = _mm512_add_pd(squares[0], _mm512_mul_pd(low, low));
        squares[1] = _mm512_add_pd(squares[1], _mm512_mul_pd(high, high));
    }
    (_mm512_reduce_max_epu32(largest), _mm512_reduce_add_pd(_mm512_add_pd(squares[0], squares[1])))
}
