//! The 16-bit look-up tile on AVX-512: a table of 32 integers is one register. With VBMI, `vpermb` looks up both bytes of
//! 32 columns; on many CPUs it is one operation where `vpermw` is two. Saturating additions, where nothing saturates,
//! keep clear of the permutations' port.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::isa::{Avx512, Avx512Vnni};
use crate::lookup::{Int16Alphabet, Int16LookupTile, NOTHING, STEP, Signs, Trits};

const MR: usize = 6;
const VECTORS: usize = 4;
/// Words of one vector of indices, each for two columns.
const WORDS: usize = 16;
const WIDTH: usize = VECTORS * 2 * WORDS;
/// Entries of a table.
const ENTRIES: usize = 32;

/// The tile with look-ups by `$permute`, for which an index is `entry * $factor + $offset`.
macro_rules! int16_lookup {
    ($token:ty, $look_up:ident, $features:literal, $permute:ident, $factor:literal, $offset:literal) => {
        impl Int16LookupTile for $token {
            const MR: usize = MR;
            const WIDTH: usize = WIDTH;
            /// A sum is made a float in the high half of a word.
            const SCALE: f32 = 1.0 / 65536.0;
            type Signs = Signs;
            type Trits = Trits;
            const COLUMNS_PER_WORD: usize = 2;

            #[inline(always)]
            fn index(entry: u16) -> u16 {
                entry * $factor + $offset
            }

            fn build<A: Int16Alphabet>(
                self,
                steps: usize,
                rows: &[i16],
                row_stride: usize,
                tables: &mut [i16],
            ) {
                const { assert!(A::ENTRIES == ENTRIES && A::STEP == STEP) };
                let laid_out = steps.next_multiple_of(4) * STEP;
                assert!(
                    rows.len() >= (MR - 1) * row_stride + laid_out,
                    "look-up rows: {} integers",
                    rows.len()
                );
                assert!(tables.len() >= steps * MR * ENTRIES, "look-up tables: {} integers", tables.len());
                // SAFETY: the token proves the instructions; the lengths were checked.
                unsafe { build::<A>(steps, rows.as_ptr(), row_stride, tables.as_mut_ptr()) }
            }

            fn look_up(self, steps: usize, tables: &[i16], indices: &[u32], scales: &[f32], acc: &mut [f32]) {
                assert!(tables.len() >= steps * MR * ENTRIES, "look-up tables: {} integers", tables.len());
                assert!(indices.len() >= steps * WIDTH / 2, "look-up indices: {} words", indices.len());
                assert!(scales.len() >= WIDTH, "look-up scales: {} floats", scales.len());
                assert!(acc.len() >= MR * WIDTH, "look-up sums: {} floats", acc.len());
                let (tables, indices) = (tables.as_ptr(), indices.as_ptr());
                // SAFETY: the token proves the instructions; the lengths were checked.
                unsafe { $look_up(steps, tables, indices, scales.as_ptr(), acc.as_mut_ptr()) }
            }
        }

        /// # Safety
        /// `tables` holds `steps * MR * ENTRIES` integers, `indices` `steps * WIDTH / 2` words, `scales` `WIDTH` floats, `acc`
        /// `MR * WIDTH`.
        #[target_feature(enable = $features)]
        unsafe fn $look_up(
            steps: usize,
            tables: *const i16,
            indices: *const u32,
            scales: *const f32,
            acc: *mut f32,
        ) {
            let mut sums = [[_mm512_setzero_si512(); VECTORS]; MR];
            for step in 0..steps {
                // SAFETY: `step < steps`, `m < MR` and `n < VECTORS` stay inside the lengths that the caller promised.
                unsafe {
                    // the sums that are added at the end come from the second-level cache
                    let line = 2 * WORDS * step.min(MR * WIDTH / (2 * WORDS) - 1);
                    _mm_prefetch::<_MM_HINT_T0>(acc.add(line).cast());
                    _mm_prefetch::<_MM_HINT_T0>(acc.add(line + WORDS).cast());
                    let index: [__m512i; VECTORS] = std::array::from_fn(|n| {
                        _mm512_loadu_si512(indices.add((step * VECTORS + n) * WORDS).cast())
                    });
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let table = _mm512_loadu_si512(tables.add((step * MR + m) * ENTRIES).cast());
                        for (sum, index) in sums.iter_mut().zip(index) {
                            *sum = _mm512_adds_epi16(*sum, $permute(index, table));
                        }
                    }
                }
            }
            let high_half = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
            for (m, sums) in sums.iter().enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    let low = _mm512_cvtepi32_ps(_mm512_slli_epi32::<16>(sum));
                    let high = _mm512_cvtepi32_ps(_mm512_and_si512(sum, high_half));
                    for (half, sum) in [low, high].into_iter().enumerate() {
                        let column = (2 * n + half) * WORDS;
                        // SAFETY: `column + WORDS <= WIDTH`.
                        unsafe {
                            let at = acc.add(m * WIDTH + column);
                            let scale = _mm512_loadu_ps(scales.add(column));
                            _mm512_storeu_ps(at, _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(at)));
                        }
                    }
                }
            }
        }
    };
}

int16_lookup!(Avx512, look_up_words, "avx512f,avx512bw", _mm512_permutexvar_epi16, 1, 0);
// bytes `2 entry` and `2 entry + 1` of the table; only the low six bits of a byte count
int16_lookup!(
    Avx512Vnni,
    look_up_bytes,
    "avx512f,avx512bw,avx512vbmi",
    _mm512_permutexvar_epi8,
    0x0202,
    0x0100
);

/// # Safety
/// `rows` holds `(MR - 1) * row_stride` integers and whole vectors of `steps` steps behind them, `tables`
/// `steps * MR * ENTRIES`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn build<A: Int16Alphabet>(steps: usize, rows: *const i16, row_stride: usize, tables: *mut i16) {
    // bytes of a step for each entry of the table; a shuffle picks inside a quarter of the vector
    let picks: [__m512i; 4] = std::array::from_fn(|addend| {
        let mut bytes = [0u8; 2 * ENTRIES];
        for (entry, bytes) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let element = A::addends(entry)[addend];
            // a set top bit picks zero
            *bytes = if element == NOTHING { [0x80; 2] } else { [2 * element, 2 * element + 1] };
        }
        // SAFETY: the array holds 64 bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    });
    let pick = |step: __m512i, addend: usize| _mm512_shuffle_epi8(step, picks[addend]);
    let three = |step| _mm512_add_epi16(_mm512_add_epi16(pick(step, 0), pick(step, 1)), pick(step, 2));
    for m in 0..MR {
        // SAFETY: `m < MR`, and every step is below `steps` or, read only, in the last vector of steps.
        unsafe {
            let row = rows.add(m * row_stride);
            let quarters = |at: *const i16| _mm512_broadcast_i32x4(_mm_loadu_si128(at.cast()));
            for first in (0..steps).step_by(4) {
                // the rows of the next tile
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(MR * row_stride + first * STEP).cast());
                // where the first three addends depend on an eighth of the entries, those of four steps at once
                let mut eighths = [0i16; ENTRIES];
                if A::EIGHTHS {
                    let sums = three(_mm512_loadu_si512(row.add(first * STEP).cast()));
                    _mm512_storeu_si512(eighths.as_mut_ptr().cast(), sums);
                }
                for step in first..steps.min(first + 4) {
                    let laid_out = quarters(row.add(step * STEP));
                    let table = if A::EIGHTHS {
                        let sums = quarters(eighths.as_ptr().add((step - first) * STEP));
                        _mm512_add_epi16(sums, pick(laid_out, 3))
                    } else {
                        three(laid_out)
                    };
                    _mm512_storeu_si512(tables.add((step * MR + m) * ENTRIES).cast(), table);
                }
            }
        }
    }
}
