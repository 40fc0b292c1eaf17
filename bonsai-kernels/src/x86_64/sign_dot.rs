//! One row of 16-bit integers times one row of signs, bits taken as they are stored: a bit is the mask of an addition.
#![expect(unsafe_code, reason = "loads of vectors")]

use std::arch::x86_64::*;

use crate::isa::Avx512;

/// Inputs of a group.
pub(crate) const GROUP: usize = 128;
/// Integers of a vector.
const LANES: usize = 32;
/// Integers of a laid-out group: what its sums begin with, then the doubled inputs.
const LAID_OUT: usize = LANES + GROUP;

/// A row of whole groups, laid out for [`Avx512::sign_dot`]: sums of all inputs, negated, then each input twice, all modulo
/// 2^16, in which the sums of a group end where they should.
pub(crate) fn lay_out(row: &[i16]) -> Vec<i16> {
    let mut out = Vec::with_capacity(row.len() / GROUP * LAID_OUT);
    for group in row.as_chunks::<GROUP>().0 {
        for lane in 0..LANES {
            let sum = group[lane..].iter().step_by(LANES).fold(0, |sum: i16, &x| sum.wrapping_add(x));
            out.push(sum.wrapping_neg());
        }
        out.extend(group.iter().map(|x| x.wrapping_mul(2)));
    }
    out
}

impl Avx512 {
    /// `sum_g scales[g] * sum_k +-x[k]`, `+` where the bit is set, over groups `first_group..` of a whole row and its bits;
    /// the inner sums exact where no sum of magnitudes over a group exceeds `i16::MAX`.
    ///
    /// # Panics
    /// When there are fewer groups than scales.
    #[inline(always)]
    pub(crate) fn sign_dot(self, row: &[i16], first_group: usize, bits: &[u8], scales: &[f32]) -> f32 {
        let row = &row[first_group * LAID_OUT..][..scales.len() * LAID_OUT];
        let bits = &bits[first_group * GROUP / 8..][..scales.len() * GROUP / 8];
        // SAFETY: the token proves the instructions; the slices have these lengths.
        unsafe { sign_dot(row, bits.as_ptr().cast(), scales) }
    }
}

/// # Safety
/// `row` holds a laid-out group, and `bits` four words, for each of `scales`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sign_dot(row: &[i16], bits: *const u32, scales: &[f32]) -> f32 {
    const VECTORS: usize = GROUP / LANES;
    let ones = _mm512_set1_epi16(1);
    let mut total = _mm512_setzero_ps();
    for (g, scale) in scales.iter().enumerate() {
        // SAFETY: the vectors of one laid-out group, and its bits.
        let sum = unsafe {
            let group = row.as_ptr().add(g * LAID_OUT);
            let vector = |i: usize| _mm512_loadu_si512(group.add(i * LANES).cast());
            let mut sum = vector(0);
            for i in 0..VECTORS {
                let mask = bits.add(g * VECTORS + i).read_unaligned();
                sum = _mm512_mask_add_epi16(sum, mask, sum, vector(i + 1));
            }
            _mm512_madd_epi16(sum, ones)
        };
        total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(*scale), total);
    }
    _mm512_reduce_add_ps(total)
}
