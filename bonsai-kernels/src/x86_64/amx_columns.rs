//! Codes of weights become tiles of columns.
#![expect(
    unsafe_code,
    reason = "masks that the compiler does not make, and memory that is not cleared first"
)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::amx::{Factors, LINE, MOST_STEPS, MULTIPLE, TILE, TILE_WORDS, words};
use crate::int_tile::{Bytes, Digits, IntTile, LANES, Pairs};
use crate::isa::{Amx, Avx512Vnni};

/// A tile of factors of 16 columns.
type Tile = [u32; TILE_WORDS];

/// Tiles `[steps][sizes][halves]` of a group of columns. Where there are two sizes, the first is [`MULTIPLE`] times the second.
pub(super) struct Columns(MaybeUninit<Tiles>);

#[repr(C, align(64))]
struct Tiles([Tile; MOST_STEPS * 2]);

impl Columns {
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// The halves of one step in one size.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> *const u32 {
        self.0.as_ptr().cast::<u32>().wrapping_add(index * 2 * TILE_WORDS)
    }

    /// Spreads the codes `[halves][words][16]` of a group.
    ///
    /// # Panics
    /// When there are too few codes, or too many steps.
    #[inline(never)]
    pub(super) fn spread(
        &mut self,
        t: Amx,
        factors: Factors,
        sizes: usize,
        digits: Digits,
        codes: &[u32],
        steps: usize,
    ) {
        let words = words(factors, digits.bits, steps);
        assert!(codes.len() >= 2 * words * TILE && steps * sizes <= MOST_STEPS, "codes of a group");
        let codes = codes.as_chunks::<LANES>().0;
        let to = self.0.as_mut_ptr().cast::<Tile>();
        for half in 0..2 {
            let codes = &codes[half * words..][..words];
            // SAFETY: the token proves the instructions; there are tiles for all steps and sizes, and words for all steps.
            unsafe {
                let to = to.add(half);
                match (digits.bits, factors) {
                    (1, Factors::SignedBytes) => signs_to_bytes(codes, sizes, steps, to),
                    (1, Factors::Bf16) if digits.step == 2 => signs_to_bf16(codes, steps, to),
                    (4, Factors::Bf16) => nibbles_to_bf16(codes, steps, to),
                    _ => spread(t.lower().lower(), factors, sizes, digits, codes, steps, to),
                }
            }
        }
    }
}

/// Of signs: a row of a tile has the bits of four inputs of each column, which mask bytes that they choose the sign of.
///
/// # Safety
/// `codes` has two words for each step; from `to` on, every other tile of as many steps and sizes is there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn signs_to_bytes(codes: &[[u32; LANES]], sizes: usize, steps: usize, to: *mut Tile) {
    let splat = |byte: i8| _mm512_set1_epi8(byte);
    let (one, minus_one) = (splat(1), splat(-1));
    let (multiple, minus_multiple) = (splat(MULTIPLE), splat(-MULTIPLE));
    let bits = [0x0804_0201, 0x8040_2010u32].map(|bits| _mm512_set1_epi32(bits.cast_signed()));
    // all bytes of a word are its first
    let first = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
    for (i, word) in codes.iter().enumerate().take(2 * steps) {
        // SAFETY: sixteen words; the rows of a word are half a tile of a step.
        unsafe {
            let word = _mm512_loadu_si512(word.as_ptr().cast());
            let rows = to.add(i / 2 * sizes * 2).cast::<u8>().add(i % 2 * 8 * LINE);
            for byte in 0..4 {
                let four = _mm512_shuffle_epi8(word, _mm512_add_epi8(first, splat(byte)));
                for (half, &bits) in bits.iter().enumerate() {
                    let (mask, rows) =
                        (_mm512_test_epi8_mask(four, bits), rows.add((2 * byte as usize + half) * LINE));
                    let ones = _mm512_mask_blend_epi8(mask, minus_one, one);
                    if sizes > 1 {
                        let multiples = _mm512_mask_blend_epi8(mask, minus_multiple, multiple);
                        _mm512_store_si512(rows.cast(), multiples);
                    }
                    _mm512_store_si512(rows.add((sizes - 1) * 2 * TILE * LINE).cast(), ones);
                }
            }
        }
    }
}

/// The same in bf16, two inputs in a row of a tile.
///
/// # Safety
/// `codes` has a word for each step; from `to` on, every other tile of as many steps is there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn signs_to_bf16(codes: &[[u32; LANES]], steps: usize, to: *mut Tile) {
    const ONE: u16 = 0x3f80;
    let (one, minus_one) =
        (_mm512_set1_epi16(ONE.cast_signed()), _mm512_set1_epi16((ONE | 0x8000).cast_signed()));
    // both halves of a word are its first
    let first = _mm512_set4_epi32(0x0d0c_0d0c, 0x0908_0908, 0x0504_0504, 0x0100_0100);
    for (i, word) in codes.iter().enumerate().take(steps) {
        // SAFETY: sixteen words, of which two inputs make one of 16 rows.
        unsafe {
            let word = _mm512_loadu_si512(word.as_ptr().cast());
            let rows = to.add(i * 2).cast::<u8>();
            for half in 0..2 {
                let two = _mm512_shuffle_epi8(word, _mm512_add_epi8(first, _mm512_set1_epi8(2 * half)));
                for pair in 0..8 {
                    let bits = 0x0002_0001u32 << (2 * pair);
                    let mask = _mm512_test_epi16_mask(two, _mm512_set1_epi32(bits.cast_signed()));
                    let signs = _mm512_mask_blend_epi16(mask, minus_one, one);
                    _mm512_store_si512(rows.add((8 * half as usize + pair) * LINE).cast(), signs);
                }
            }
        }
    }
}

/// Unsigned codes of four bits, two in a row of a tile, by a table of what bf16 makes of them.
///
/// # Safety
/// `codes` has four words for each step; from `to` on, every other tile of as many steps is there.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn nibbles_to_bf16(codes: &[[u32; LANES]], steps: usize, to: *mut Tile) {
    const VALUES: [u16; 32] = {
        let (mut values, mut code) = ([0; 32], 1);
        while code < 16 {
            values[code] = ((code as f32).to_bits() >> 16) as u16;
            code += 1;
        }
        values
    };
    // SAFETY: a vector of words.
    let values = unsafe { _mm512_loadu_si512(VALUES.as_ptr().cast()) };
    let code = _mm512_set1_epi16(15);
    // of two words that make a long one: where the codes of a row begin, in bits, for the halves of both
    let first = _mm512_set1_epi64(0x2424_2020_0404_0000);
    for (i, word) in codes.iter().enumerate().take(4 * steps) {
        // SAFETY: sixteen words, which make four of the 16 rows of a step.
        unsafe {
            let word = _mm512_loadu_si512(word.as_ptr().cast());
            let rows = to.add(i / 4 * 2).cast::<u8>().add(i % 4 * 4 * LINE);
            for pair in 0..4 {
                let at = _mm512_add_epi8(first, _mm512_set1_epi8(8 * pair));
                let two = _mm512_and_si512(_mm512_multishift_epi64_epi8(at, word), code);
                let two = _mm512_permutexvar_epi16(two, values);
                _mm512_store_si512(rows.add(pair as usize * LINE).cast(), two);
            }
        }
    }
}

/// Of any codes, by way of digits.
///
/// # Safety
/// `codes` has words for all steps; from `to` on, every other tile of as many steps and sizes is there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn spread(
    t: Avx512Vnni,
    factors: Factors,
    sizes: usize,
    digits: Digits,
    codes: &[[u32; LANES]],
    steps: usize,
    to: *mut Tile,
) {
    let mut all = [[0; TILE_WORDS]; MOST_STEPS];
    let of_steps = all[..steps].as_flattened_mut();
    match factors {
        Factors::Bf16 => IntTile::<Pairs>::spread(t, digits, codes, of_steps, LANES),
        _ => IntTile::<Bytes>::spread(t, Digits { zero: 0, ..digits }, codes, of_steps, LANES),
    }
    for (step, from) in all.iter().enumerate().take(steps) {
        // SAFETY: tiles of this step.
        let (first, last) = unsafe {
            let first = to.add(step * sizes * 2);
            (first, first.add((sizes - 1) * 2))
        };
        let mut tile = *from;
        match factors {
            Factors::Bf16 => to_bf16(&mut tile),
            Factors::SignedBytes => to_signed(digits.zero, &mut tile),
            Factors::UnsignedBytes => {}
        }
        // SAFETY: as above.
        unsafe {
            last.write(tile);
            if sizes > 1 {
                multiply(&mut tile);
                first.write(tile);
            }
        }
    }
}

/// Digits less what they count from, in bytes that may have a sign.
#[inline(always)]
fn to_signed(zero: i32, tile: &mut Tile) {
    for byte in bytemuck::must_cast_slice_mut::<_, u8>(tile) {
        *byte = byte.wrapping_sub(zero as u8);
    }
}

/// [`MULTIPLE`], which is one less than 128, times bytes of -1, 0 and 1.
#[inline(always)]
fn multiply(tile: &mut Tile) {
    for byte in bytemuck::must_cast_slice_mut::<_, u8>(tile) {
        *byte = (*byte << 7).wrapping_sub(*byte);
    }
}

/// Digits of 8 bits and a sign, which bf16 holds.
#[inline(always)]
fn to_bf16(tile: &mut Tile) {
    for word in tile {
        let [low, high] = [*word as i16, (*word >> 16) as i16].map(|digit| f32::from(digit).to_bits());
        *word = low >> 16 | high & 0xffff_0000;
    }
}
