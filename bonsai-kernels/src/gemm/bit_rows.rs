//! Rows of activations in few bits.

use super::rows::{BLOCK, RowForm, largest_magnitude};
use crate::isa::{Isa, Token, Work, dispatch};

/// Bits of a word.
const WORD: usize = 32;
/// Keeps rows whose length is a power of two out of the same cache sets.
pub(super) const ROW_PADDING: usize = 16;

/// Words of one plane of a row.
fn plane_len(cols: usize) -> usize {
    cols.next_multiple_of(2 * BLOCK) / WORD
}

/// From the first to the second plane of a row of so many words, if it has two.
pub(crate) fn plane_stride(row_len: usize) -> usize {
    (row_len - ROW_PADDING) / 2
}

/// The bit of a word where input `input` of 32 stands: in order, or, if `PAIRED`, the two halves alternating, as they
/// fall out of words of two-bit codes.
pub(crate) const fn position(paired: bool, input: usize) -> usize {
    if paired { input % 16 * 2 + input / 16 } else { input }
}

/// A word of the bits of up to 32 inputs.
#[inline(always)]
fn pack<const PAIRED: bool>(x: &[f32], set: impl Fn(f32) -> bool) -> u32 {
    let mut bits = [0u32; WORD];
    for (i, (bit, &x)) in bits.iter_mut().zip(x).enumerate() {
        *bit = u32::from(set(x)) << position(PAIRED, i);
    }
    bits.iter().fold(0, |word, bit| word | bit)
}

#[inline(always)]
fn pack_all<const PAIRED: bool>(x: &[f32], words: &mut [u32], set: impl Fn(f32) -> bool + Copy) {
    let (whole, rest) = x.as_chunks::<WORD>();
    for (x, word) in whole.iter().zip(&mut *words) {
        *word = pack::<PAIRED>(x, set);
    }
    if !rest.is_empty() {
        words[whole.len()] = pack::<PAIRED>(rest, set);
    }
}

/// The mean of magnitudes, summed in f64 in the same order on every instruction set.
#[inline(always)]
pub(super) fn mean_magnitude<T: Token>(t: T, x: &[f32]) -> f32 {
    let (lanes, rest) = x.as_chunks::<16>();
    let mut sums = t.magnitudes(lanes);
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x.abs());
    }
    (sums.iter().sum::<f64>() / x.len() as f64) as f32
}

/// Rows in planes of bits.
pub(crate) trait BitRows: RowForm<Element = u32> {
    const METHOD: &'static str;
    /// In which order the bits of a word stand; see [`position`].
    const PAIRED: bool;
    /// Whether activations can be zero: then there is a second plane, of what is not zero, and a scale for each block.
    const ZEROS: bool;
}

/// Signs, 1 for `x >= 0`, with the mean magnitude as the scale of the row.
#[derive(Clone, Copy)]
pub(crate) struct SignBits<const PAIRED: bool>;

impl<const PAIRED: bool> RowForm for SignBits<PAIRED> {
    const NAME: &'static str = if PAIRED { "sign-bits-paired" } else { "sign-bits" };
    type Element = u32;
    const ROW_SCALE: bool = true;

    fn len(cols: usize) -> usize {
        plane_len(cols) + ROW_PADDING
    }

    fn scales(_: usize) -> usize {
        1
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [u32], scales: &mut [f32], _: &mut Vec<i16>) {
        dispatch!(isa, t => t.work(SignRow::<PAIRED, _> { t, x, row, scale: &mut scales[0] }));
    }
}

struct SignRow<'a, const PAIRED: bool, T> {
    t: T,
    x: &'a [f32],
    row: &'a mut [u32],
    scale: &'a mut f32,
}

impl<const PAIRED: bool, T: Token> Work for SignRow<'_, PAIRED, T> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        if PAIRED {
            pack_all::<true>(self.x, self.row, |x| x >= 0.0);
        } else {
            let (whole, rest) = self.x.as_chunks::<WORD>();
            for (x, word) in whole.iter().zip(&mut *self.row) {
                *word = self.t.sign_bits(x);
            }
            if !rest.is_empty() {
                self.row[whole.len()] = pack::<false>(rest, |x| x >= 0.0);
            }
        }
        *self.scale = mean_magnitude(self.t, self.x);
    }
}

impl<const PAIRED: bool> BitRows for SignBits<PAIRED> {
    const METHOD: &'static str = "binary-popcount";
    const PAIRED: bool = PAIRED;
    const ZEROS: bool = false;
}

/// -1, 0 and 1, with the largest magnitude of each block of 128 as its scale.
#[derive(Clone, Copy)]
pub(crate) struct TritBits<const PAIRED: bool>;

impl<const PAIRED: bool> RowForm for TritBits<PAIRED> {
    const NAME: &'static str = if PAIRED { "trit-bits-paired" } else { "trit-bits" };
    type Element = u32;
    const ROW_SCALE: bool = false;

    fn len(cols: usize) -> usize {
        2 * plane_len(cols) + ROW_PADDING
    }

    fn scales(cols: usize) -> usize {
        cols.next_multiple_of(2 * BLOCK) / BLOCK
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [u32], scales: &mut [f32], _: &mut Vec<i16>) {
        dispatch!(isa, t => t.work(TritRow::<PAIRED> { x, row, scales }));
    }
}

struct TritRow<'a, const PAIRED: bool> {
    x: &'a [f32],
    row: &'a mut [u32],
    scales: &'a mut [f32],
}

impl<const PAIRED: bool> Work for TritRow<'_, PAIRED> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let (signs, counts) = self.row.split_at_mut(plane_len(self.x.len()));
        pack_all::<PAIRED>(self.x, signs, |x| x > 0.0);
        let blocks = self.x.chunks(BLOCK).zip(counts.chunks_mut(BLOCK / WORD));
        for ((x, counts), scale) in blocks.zip(self.scales) {
            let largest = largest_magnitude(x);
            *scale = largest;
            if largest.is_finite() {
                // a true division, as for all codes: half the largest rounds to the even 0
                pack_all::<PAIRED>(x, counts, |x| (x / largest).abs() > 0.5);
            }
        }
    }
}

impl<const PAIRED: bool> BitRows for TritBits<PAIRED> {
    const METHOD: &'static str = "int2-popcount";
    const PAIRED: bool = PAIRED;
    const ZEROS: bool = true;
}
