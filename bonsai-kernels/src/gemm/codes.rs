//! Weights as the integer kernels see them: small unsigned digits, with an affine meaning for each group.

use super::each_code_kind;
use super::rows::BLOCK;
use crate::int_tile::LANES;
use crate::isa::Token;
use crate::prefetch::prefetch;
use crate::weights::{AffineWeights, BinaryWeights, TernaryWeights, Weights, word};

/// `w = scale * (digit - ZERO) + bias`, where only some kinds have a bias.
pub(crate) trait Codes: Sync {
    /// Bits of one stored code.
    const BITS: usize;
    /// The digit of a stored code is `code * STEP`.
    const STEP: u32;
    /// What a digit counts from.
    const ZERO: i32;
    /// Whether groups have a bias.
    const BIASED: bool;
    fn group_size(&self) -> usize;
    /// The scales of one group for rows `first_row..`; what lies beyond the last row stays as it is.
    fn gather_scales<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]);
    /// The biases likewise, where there are any.
    fn gather_biases<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]);
    /// The packed codes of all rows, each from a whole byte on.
    fn codes(&self) -> &[u8];
    /// Inputs.
    fn cols(&self) -> usize;

    /// Inputs whose products are summed as integers: of one group, and of one block of quantised activations.
    fn depth(&self) -> usize {
        self.group_size().min(BLOCK)
    }
}

/// What codes mean, for what serves all kinds of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meaning {
    pub(crate) bits: usize,
    pub(crate) step: u32,
    pub(crate) zero: i32,
    pub(crate) biased: bool,
    /// [`Codes::depth`]
    pub(crate) depth: usize,
}

impl Meaning {
    /// Of weights of codes.
    pub(crate) fn of(weights: &Weights) -> Self {
        fn of<W: Codes>(weights: &W) -> Meaning {
            let depth = weights.depth();
            Meaning { bits: W::BITS, step: W::STEP, zero: W::ZERO, biased: W::BIASED, depth }
        }
        each_code_kind!(weights, w => of(w))
    }
}

/// Whether groups are whole words of codes and fit the blocks that activations are quantised by.
pub(crate) fn takes(group_size: usize) -> bool {
    matches!(group_size, 32 | 64) || group_size.is_multiple_of(BLOCK)
}

/// Rows whose codes are asked for before they are fetched.
const AHEAD: usize = 3 * LANES;

/// `words[i][lane]`: word `first_word + i` of row `first_row + lane`, 0 beyond the end.
#[inline(always)]
pub(crate) fn fetch_words<T: Token, W: Codes>(
    t: T,
    weights: &W,
    first_row: usize,
    first_word: usize,
    words: &mut [[u32; LANES]],
) {
    let rows = Rows { all: weights.codes(), len: (weights.cols() * W::BITS).div_ceil(8), first: first_row };
    rows.ask_ahead(4 * first_word);
    let (fours, left) = words.as_chunks_mut::<4>();
    let first_left = first_word + 4 * fours.len();
    for (i, words) in fours.iter_mut().enumerate() {
        let first = first_word + 4 * i;
        let copies;
        let four = match rows.four_words(first) {
            Some(four) => four,
            None => {
                copies = rows.four_words_padded(first);
                copies.each_ref()
            }
        };
        *words = t.turn(&four);
    }
    rows.single_words(first_left, left);
}

/// [`LANES`] rows of packed codes. What it does is not in the copies that kernels have of the rest.
struct Rows<'a> {
    all: &'a [u8],
    /// Bytes of a row.
    len: usize,
    first: usize,
}

impl<'a> Rows<'a> {
    /// Nothing beyond the last row.
    fn row(&self, lane: usize) -> &'a [u8] {
        let start = (self.first + lane) * self.len;
        self.all.get(start..start + self.len).unwrap_or(&[])
    }

    /// Rows are far apart, so that the CPU does not guess which lines come next.
    #[inline(never)]
    fn ask_ahead(&self, byte: usize) {
        for lane in 0..LANES {
            prefetch(self.all, (self.first + lane + AHEAD) * self.len + byte);
        }
    }

    /// Four words of each row, where all of them are there.
    #[inline(never)]
    fn four_words(&self, first: usize) -> Option<[&'a [u8; 16]; LANES]> {
        let mut four = [&[0; 16]; LANES];
        for (lane, four) in four.iter_mut().enumerate() {
            *four = self.row(lane).get(4 * first..)?.first_chunk()?;
        }
        Some(four)
    }

    /// The same with zeros for those that are not.
    #[inline(never)]
    fn four_words_padded(&self, first: usize) -> [[u8; 16]; LANES] {
        let mut four = [[0; 16]; LANES];
        for (lane, four) in four.iter_mut().enumerate() {
            let there = self.row(lane).get(4 * first..).unwrap_or(&[]);
            let len = there.len().min(four.len());
            four[..len].copy_from_slice(&there[..len]);
        }
        four
    }

    #[inline(never)]
    fn single_words(&self, first: usize, words: &mut [[u32; LANES]]) {
        for (i, words) in words.iter_mut().enumerate() {
            for (lane, to) in words.iter_mut().enumerate() {
                *to = word(self.row(lane), first + i);
            }
        }
    }
}

macro_rules! codes {
    ([$($generic:tt)*] $weights:ty, $bits:expr, $step:literal, $zero:literal, $biased:literal, $gather_biases:expr) => {
        impl $($generic)* Codes for $weights {
            const BITS: usize = $bits as usize;
            const STEP: u32 = $step;
            const ZERO: i32 = $zero;
            const BIASED: bool = $biased;
            fn group_size(&self) -> usize {
                self.group_size()
            }
            #[inline(always)]
            fn gather_scales<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]) {
                self.gather_scales(t, first_row, group, out);
            }
            #[inline(always)]
            fn gather_biases<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]) {
                $gather_biases(self, t, first_row, group, out);
            }
            #[inline(always)]
            fn codes(&self) -> &[u8] {
                self.codes()
            }
            #[inline(always)]
            fn cols(&self) -> usize {
                self.cols()
            }
        }
    };
}

fn no_biases<W, T>(_: &W, _: T, _: usize, _: usize, _: &mut [f32]) {}

codes!([] BinaryWeights, 1, 2, 1, false, no_biases);
codes!([] TernaryWeights, 2, 1, 1, false, no_biases);
codes!([<const BITS: u32>] AffineWeights<BITS>, BITS, 1, 0, true, Self::gather_biases);
