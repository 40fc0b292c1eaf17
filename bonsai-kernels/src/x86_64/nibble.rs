//! A few rows of 16-bit integers times signs of 32 columns at once: all signed sums of four inputs are a table of sixteen, whose
//! low and high bytes fill a vector of 128 bits each, and four bits of a weight's row look one up.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use super::sign_dot::GROUP;
use crate::isa::Avx2;

/// Columns at once.
pub(crate) const COLUMNS: usize = 32;
/// Bytes of bits of a group of one column.
const BYTES: usize = GROUP / 8;
/// Inputs of a table.
const INPUTS: usize = 4;
/// Bytes of a table.
const TABLE: usize = 2 << INPUTS;
/// Bytes of the tables of a group.
const TABLES: usize = GROUP / INPUTS * TABLE;

/// Bits of one group of 32 columns, those of the same inputs side by side, `[BYTES][COLUMNS]`.
pub(crate) type TurnedBits = [[u8; COLUMNS]; BYTES];

/// For each four inputs of a row of whole groups, the low bytes of their sixteen signed sums and then the high ones; sums are
/// modulo 2^16, in which those of a group end where they should.
pub(crate) fn tables(row: &[i16]) -> Vec<u8> {
    let mut out = vec![0; row.len() / GROUP * TABLES];
    for (inputs, table) in row.as_chunks::<INPUTS>().0.iter().zip(out.as_chunks_mut::<TABLE>().0) {
        let mut sums = [0i16; 1 << INPUTS];
        sums[0] = inputs.iter().fold(0, |sum, x| sum.wrapping_sub(*x));
        for (i, x) in inputs.iter().enumerate() {
            for code in 0..1 << i {
                sums[code | 1 << i] = sums[code].wrapping_add(x.wrapping_mul(2));
            }
        }
        let (low, high) = table.split_at_mut(TABLE / 2);
        for ((low, high), sum) in low.iter_mut().zip(high).zip(sums) {
            [*low, *high] = sum.to_le_bytes();
        }
    }
    out
}

/// The column whose bits are byte `at` of half `half` of the vectors: such that sums of 16 bits come out in order.
const fn column(half: usize, at: usize) -> usize {
    at % 8 + 8 * half + 16 * (at / 8)
}

impl Avx2 {
    /// Brings the bits of a group of 32 columns, given as whole rows of weights, side by side.
    ///
    /// # Panics
    /// When a row has no such group.
    #[inline(always)]
    pub(crate) fn turn_bits(self, rows: &[&[u8]; COLUMNS], group: usize, out: &mut TurnedBits) {
        let end = (group + 1) * BYTES;
        assert!(rows.iter().all(|row| row.len() >= end), "rows of whole groups");
        // SAFETY: the token proves the instructions; each row has the group.
        unsafe { turn(rows, group * BYTES, out) }
    }

    /// `sums[column] += scales[column] * sum_k +-x[k]`, `+` where the bit is set, over one group of the row that [`tables`] are
    /// of; the inner sums are exact where no sum of magnitudes over a group exceeds `i16::MAX`.
    ///
    /// # Panics
    /// When there are no tables of this group.
    #[inline(always)]
    pub(crate) fn add_signed_sums(
        self,
        tables: &[u8],
        group: usize,
        bits: &TurnedBits,
        scales: &[f32; COLUMNS],
        sums: &mut [f32; COLUMNS],
    ) {
        let tables = tables[group * TABLES..].first_chunk().expect("tables of all groups");
        // SAFETY: the token proves the instructions.
        unsafe { add(tables, bits, scales, sums) }
    }
}

/// # Safety
/// The CPU has AVX2; each row has a group's bytes from `first` on.
#[target_feature(enable = "avx2")]
unsafe fn turn(rows: &[&[u8]; COLUMNS], first: usize, out: &mut TurnedBits) {
    // loops, not closures: what is called from those of a library may not be inlined
    let mut lines = [_mm256_setzero_si256(); BYTES];
    for (i, line) in lines.iter_mut().enumerate() {
        // SAFETY: as the caller promised.
        *line = unsafe {
            let low = _mm_loadu_si128(rows[column(0, i)].as_ptr().add(first).cast());
            _mm256_set_m128i(_mm_loadu_si128(rows[column(1, i)].as_ptr().add(first).cast()), low)
        };
    }
    // each round rotates the bits of (line, byte) by one: after four of them lines are bytes
    for _ in 0..4 {
        let mut next = lines;
        for i in 0..BYTES / 2 {
            let (a, b) = (lines[i], lines[i + BYTES / 2]);
            next[2 * i] = _mm256_unpacklo_epi8(a, b);
            next[2 * i + 1] = _mm256_unpackhi_epi8(a, b);
        }
        lines = next;
    }
    for (out, line) in out.iter_mut().zip(lines) {
        // SAFETY: as many bytes as a vector has.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), line) }
    }
}

/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn add(tables: &[u8; TABLES], bits: &TurnedBits, scales: &[f32; COLUMNS], sums: &mut [f32; COLUMNS]) {
    let low = _mm256_set1_epi8(15);
    let mut of_columns = [_mm256_setzero_si256(); 2];
    for (bits, tables) in bits.iter().zip(tables.as_chunks::<{ 2 * TABLE }>().0) {
        // SAFETY: as many bytes as a vector has.
        let bits = unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) };
        let codes = [_mm256_and_si256(bits, low), _mm256_and_si256(_mm256_srli_epi16::<4>(bits), low)];
        for (codes, table) in codes.into_iter().zip(tables.as_chunks::<TABLE>().0) {
            // SAFETY: a table of twice 16 bytes.
            let (low, high) = unsafe {
                let table = table.as_ptr().cast::<__m128i>();
                (_mm_loadu_si128(table), _mm_loadu_si128(table.add(1)))
            };
            let low = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(low), codes);
            let high = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(high), codes);
            of_columns[0] = _mm256_add_epi16(of_columns[0], _mm256_unpacklo_epi8(low, high));
            of_columns[1] = _mm256_add_epi16(of_columns[1], _mm256_unpackhi_epi8(low, high));
        }
    }
    for (i, of_columns) in of_columns.into_iter().enumerate() {
        let halves = [_mm256_castsi256_si128(of_columns), _mm256_extracti128_si256::<1>(of_columns)];
        for (j, half) in halves.into_iter().enumerate() {
            let at = 16 * i + 8 * j;
            // SAFETY: eight columns from `at` on.
            unsafe {
                let (scales, sums) = (scales.as_ptr().add(at), sums.as_mut_ptr().add(at));
                let values = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(half));
                let sum = _mm256_fmadd_ps(values, _mm256_loadu_ps(scales), _mm256_loadu_ps(sums));
                _mm256_storeu_ps(sums, sum);
            }
        }
    }
}
