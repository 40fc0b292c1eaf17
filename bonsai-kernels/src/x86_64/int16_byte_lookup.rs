//! The 16-bit look-up tile on AVX2, where `vpshufb` looks bytes up among 16: tables are parted in the low and the high
//! bytes of their entries, which are summed apart.
//!
//! High bytes add as bytes. Low bytes add as words, in which the even ones are mixed with 256 times the odd ones, and the
//! odd ones once more by themselves to undo it. All of it is modulo 2^16, so nothing but the whole sum must fit 16 bits.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::isa::Avx2;
use crate::lookup::{FourSigns, Int16Alphabet, Int16LookupTile, NOTHING, STEP, TwoTrits};

const MR: usize = 4;
const WIDTH: usize = 32;
/// Words of the indices of one step.
const WORDS: usize = WIDTH / 4;
/// Entries of a table.
const ENTRIES: usize = 16;

impl Int16LookupTile for Avx2 {
    const MR: usize = MR;
    const WIDTH: usize = WIDTH;
    /// A sum is made a float in the high half of a word.
    const SCALE: f32 = 1.0 / 65536.0;
    type Signs = FourSigns;
    type Trits = TwoTrits;
    const COLUMNS_PER_WORD: usize = 4;

    #[inline(always)]
    fn index(entry: u16) -> u16 {
        entry
    }

    fn build<A: Int16Alphabet>(self, steps: usize, rows: &[i16], row_stride: usize, tables: &mut [i16]) {
        const { assert!(A::ENTRIES == ENTRIES) };
        let laid_out = steps * A::STEP + STEP;
        assert!(rows.len() >= (MR - 1) * row_stride + laid_out, "look-up rows: {} integers", rows.len());
        assert!(tables.len() >= steps * MR * ENTRIES, "look-up tables: {} integers", tables.len());
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { build::<A>(steps, rows.as_ptr(), row_stride, tables.as_mut_ptr()) }
    }

    fn look_up(self, steps: usize, tables: &[i16], indices: &[u32], scales: &[f32], acc: &mut [f32]) {
        assert!(tables.len() >= steps * MR * ENTRIES, "look-up tables: {} integers", tables.len());
        assert!(indices.len() >= steps * WORDS, "look-up indices: {} words", indices.len());
        assert!(scales.len() >= WIDTH, "look-up scales: {} floats", scales.len());
        assert!(acc.len() >= MR * WIDTH, "look-up sums: {} floats", acc.len());
        let (tables, indices) = (tables.as_ptr(), indices.as_ptr());
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { look_up(steps, tables, indices, scales.as_ptr(), acc.as_mut_ptr()) }
    }
}

/// The low bytes of 16 entries, then their high bytes.
///
/// # Safety
/// `rows` holds `(MR - 1) * row_stride + steps * A::STEP + STEP` integers, `tables` `steps * MR * ENTRIES`.
#[target_feature(enable = "avx2")]
unsafe fn build<A: Int16Alphabet>(steps: usize, rows: *const i16, row_stride: usize, tables: *mut i16) {
    // bytes of a step for each entry of the table; a shuffle picks inside half of the vector
    let picks: [__m256i; 4] = std::array::from_fn(|addend| {
        let mut bytes = [0u8; 2 * ENTRIES];
        for (entry, bytes) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let element = A::addends(entry)[addend];
            // a set top bit picks zero
            *bytes = if element == NOTHING { [0x80; 2] } else { [2 * element, 2 * element + 1] };
        }
        // SAFETY: the array holds 32 bytes.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    });
    let low_bytes = _mm256_set1_epi16(0xff);
    for m in 0..MR {
        for step in 0..steps {
            // SAFETY: `m < MR` and `step < steps`; what is read behind a short step is there, and not picked.
            unsafe {
                let step_at = rows.add(m * row_stride + step * A::STEP);
                // the row of the next tile
                _mm_prefetch::<_MM_HINT_T0>(step_at.wrapping_add(MR * row_stride).cast());
                let laid_out = _mm_loadu_si128(step_at.cast());
                let laid_out = _mm256_broadcastsi128_si256(laid_out);
                let mut entries = _mm256_shuffle_epi8(laid_out, picks[0]);
                for &pick in &picks[1..A::ADDENDS] {
                    entries = _mm256_add_epi16(entries, _mm256_shuffle_epi8(laid_out, pick));
                }
                let (low, high) = (_mm256_and_si256(entries, low_bytes), _mm256_srli_epi16::<8>(entries));
                // low and high bytes of the first eight entries, then of the others
                let packed = _mm256_packus_epi16(low, high);
                let table = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
                _mm256_storeu_si256(tables.add((step * MR + m) * ENTRIES).cast(), table);
            }
        }
    }
}

/// # Safety
/// `tables` holds `steps * MR * ENTRIES` integers, `indices` `steps * WORDS` words, `scales` `WIDTH` floats, `acc`
/// `MR * WIDTH`.
#[target_feature(enable = "avx2,fma")]
unsafe fn look_up(steps: usize, tables: *const i16, indices: *const u32, scales: *const f32, acc: *mut f32) {
    let zero = _mm256_setzero_si256();
    // low bytes as words, odd low bytes, high bytes
    let (mut mixed, mut odd, mut high) = ([zero; MR], [zero; MR], [zero; MR]);
    for step in 0..steps {
        // SAFETY: `step < steps` and `m < MR` stay inside the lengths that the caller promised.
        unsafe {
            let index = _mm256_loadu_si256(indices.add(step * WORDS).cast());
            for m in 0..MR {
                let table = tables.add((step * MR + m) * ENTRIES).cast::<__m128i>();
                let bytes = |half| _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(half)));
                let lows = _mm256_shuffle_epi8(bytes(0), index);
                let highs = _mm256_shuffle_epi8(bytes(1), index);
                high[m] = _mm256_add_epi8(high[m], highs);
                mixed[m] = _mm256_add_epi16(mixed[m], lows);
                odd[m] = _mm256_add_epi16(odd[m], _mm256_srli_epi16::<8>(lows));
            }
        }
    }
    let high_byte = _mm256_set1_epi16(0xff00u16.cast_signed());
    let high_half = _mm256_set1_epi32(0xffff_0000u32.cast_signed());
    for m in 0..MR {
        // mixed - 256 odd + 256 high, of the even bytes; odd + 256 high, of the odd ones
        let apart = _mm256_slli_epi16::<8>(_mm256_sub_epi8(high[m], odd[m]));
        let evens = _mm256_add_epi16(mixed[m], apart);
        let odds = _mm256_add_epi16(odd[m], _mm256_and_si256(high[m], high_byte));
        let sums = [
            _mm256_slli_epi32::<16>(evens),
            _mm256_slli_epi32::<16>(odds),
            _mm256_and_si256(evens, high_half),
            _mm256_and_si256(odds, high_half),
        ];
        for (byte, sums) in sums.into_iter().enumerate() {
            // SAFETY: `m < MR`, and four times `WORDS` columns make `WIDTH`.
            unsafe {
                let at = acc.add(m * WIDTH + byte * WORDS);
                let scale = _mm256_loadu_ps(scales.add(byte * WORDS));
                _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, _mm256_loadu_ps(at)));
            }
        }
    }
}
