//! The 16-bit look-up tile on NEON, where `tbl` looks bytes up among 16: tables are parted in the low and the high bytes
//! of their entries, which are summed apart.
//!
//! High bytes add as bytes. Low bytes add as words, in which the even ones are mixed with 256 times the odd ones, and the
//! odd ones once more by themselves to undo it. All of it is modulo 2^16, so nothing but the whole sum must fit 16 bits.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::aarch64::*;

use crate::isa::Neon;
use crate::lookup::{FourSigns, Int16Alphabet, Int16LookupTile, NOTHING, STEP, TwoTrits};

const MR: usize = 4;
const WIDTH: usize = 32;
/// Words of the indices of one step, and of a vector of them.
const WORDS: usize = WIDTH / 4;
const LANES: usize = 4;
const VECTORS: usize = WORDS / LANES;
/// Entries of a table.
const ENTRIES: usize = 16;

impl Int16LookupTile for Neon {
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
#[target_feature(enable = "neon")]
unsafe fn build<A: Int16Alphabet>(steps: usize, rows: *const i16, row_stride: usize, tables: *mut i16) {
    // bytes of a step for each entry of the table, in two halves
    let picks: [[uint8x16_t; 2]; 4] = std::array::from_fn(|addend| {
        let mut bytes = [0u8; 2 * ENTRIES];
        for (entry, bytes) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let element = A::addends(entry)[addend];
            // what is not there is zero
            *bytes = if element == NOTHING { [0xff; 2] } else { [2 * element, 2 * element + 1] };
        }
        // SAFETY: the array holds 32 bytes.
        unsafe { [vld1q_u8(bytes.as_ptr()), vld1q_u8(bytes.as_ptr().add(16))] }
    });
    for m in 0..MR {
        for step in 0..steps {
            // SAFETY: `m < MR` and `step < steps`; what is read behind a short step is there, and not picked.
            unsafe {
                let laid_out = vld1q_u8(rows.add(m * row_stride + step * A::STEP).cast());
                let pick = |addend: usize, half: usize| {
                    vreinterpretq_u16_u8(vqtbl1q_u8(laid_out, picks[addend][half]))
                };
                let mut halves = [pick(0, 0), pick(0, 1)];
                for addend in 1..A::ADDENDS {
                    halves = [vaddq_u16(halves[0], pick(addend, 0)), vaddq_u16(halves[1], pick(addend, 1))];
                }
                let [first, second] = halves.map(|half| vreinterpretq_u8_u16(half));
                let table = tables.add((step * MR + m) * ENTRIES).cast::<u8>();
                vst1q_u8(table, vuzp1q_u8(first, second));
                vst1q_u8(table.add(ENTRIES), vuzp2q_u8(first, second));
            }
        }
    }
}

/// # Safety
/// `tables` holds `steps * MR * ENTRIES` integers, `indices` `steps * WORDS` words, `scales` `WIDTH` floats, `acc`
/// `MR * WIDTH`.
#[target_feature(enable = "neon")]
unsafe fn look_up(steps: usize, tables: *const i16, indices: *const u32, scales: *const f32, acc: *mut f32) {
    // low bytes as words, odd low bytes, high bytes
    let mut mixed = [[vdupq_n_u16(0); VECTORS]; MR];
    let mut odd = mixed;
    let mut high = [[vdupq_n_u8(0); VECTORS]; MR];
    for step in 0..steps {
        // SAFETY: `step < steps`, `m < MR` and `n < VECTORS` stay inside the lengths that the caller promised.
        unsafe {
            let index: [uint8x16_t; VECTORS] =
                std::array::from_fn(|n| vld1q_u8(indices.add(step * WORDS + n * LANES).cast()));
            for m in 0..MR {
                let table = tables.add((step * MR + m) * ENTRIES).cast::<u8>();
                let (low_bytes, high_bytes) = (vld1q_u8(table), vld1q_u8(table.add(ENTRIES)));
                for n in 0..VECTORS {
                    let lows = vreinterpretq_u16_u8(vqtbl1q_u8(low_bytes, index[n]));
                    high[m][n] = vaddq_u8(high[m][n], vqtbl1q_u8(high_bytes, index[n]));
                    mixed[m][n] = vaddq_u16(mixed[m][n], lows);
                    odd[m][n] = vsraq_n_u16::<8>(odd[m][n], lows);
                }
            }
        }
    }
    let high_half = vdupq_n_u32(0xffff_0000);
    for m in 0..MR {
        for n in 0..VECTORS {
            let (mixed, odd, high) = (mixed[m][n], odd[m][n], vreinterpretq_u16_u8(high[m][n]));
            // mixed - 256 odd + 256 high, of the even bytes; odd + 256 high, of the odd ones
            let evens = vaddq_u16(mixed, vshlq_n_u16::<8>(vsubq_u16(high, odd)));
            let odds = vaddq_u16(odd, vandq_u16(high, vdupq_n_u16(0xff00)));
            let (evens, odds) = (vreinterpretq_u32_u16(evens), vreinterpretq_u32_u16(odds));
            let sums = [
                vshlq_n_u32::<16>(evens),
                vshlq_n_u32::<16>(odds),
                vandq_u32(evens, high_half),
                vandq_u32(odds, high_half),
            ];
            for (byte, sums) in sums.into_iter().enumerate() {
                let column = byte * WORDS + n * LANES;
                // SAFETY: `m < MR`, and four times `WORDS` columns make `WIDTH`.
                unsafe {
                    let at = acc.add(m * WIDTH + column);
                    let sums = vcvtq_f32_s32(vreinterpretq_s32_u32(sums));
                    vst1q_f32(at, vfmaq_f32(vld1q_f32(at), sums, vld1q_f32(scales.add(column))));
                }
            }
        }
    }
}
