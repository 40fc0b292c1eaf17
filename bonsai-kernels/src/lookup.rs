//! The tile that looks sums of inputs up instead of multiplying: for weights that are signs, or signs and zeros.

use crate::isa::Token;

/// No step has more 16-bit integers that say how its table is built; kernels may read as many.
pub(crate) const STEP: usize = 8;

/// Entries of a table of f32, the most that a table has.
#[cfg(target_arch = "x86_64")]
pub(crate) const ENTRIES: usize = 32;

/// Which sums stand in a table.
pub(crate) trait Alphabet: Copy + Send + Sync {
    /// Inputs of one table.
    const INPUTS: usize;
    /// What input `input` counts in entry `entry`: -1, 0 or +1.
    #[cfg(target_arch = "x86_64")]
    fn sign(entry: usize, input: usize) -> f32;

    /// Steps that cover `depth` inputs.
    fn steps(depth: usize) -> usize {
        depth.div_ceil(Self::INPUTS)
    }
}

/// All signed sums of five inputs: bit `j` of an entry is the sign of input `j`.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only long vectors hold such tables"))]
pub(crate) struct Signs;

impl Alphabet for Signs {
    const INPUTS: usize = 5;
    #[cfg(target_arch = "x86_64")]
    fn sign(entry: usize, input: usize) -> f32 {
        if entry >> input & 1 == 1 { 1.0 } else { -1.0 }
    }
}

/// All sums of three inputs with signs or left out: digit `j` to base 3 of an entry is 1 more than the sign of input
/// `j`; 27 of the entries are used.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only long vectors hold such tables"))]
pub(crate) struct Trits;

impl Alphabet for Trits {
    const INPUTS: usize = 3;
    #[cfg(target_arch = "x86_64")]
    fn sign(entry: usize, input: usize) -> f32 {
        (entry / 3usize.pow(input as u32) % 3) as f32 - 1.0
    }
}

/// All signed sums of four inputs, in the order of [`Signs`].
#[derive(Clone, Copy)]
pub(crate) struct FourSigns;

impl Alphabet for FourSigns {
    const INPUTS: usize = 4;
    #[cfg(target_arch = "x86_64")]
    fn sign(entry: usize, input: usize) -> f32 {
        Signs::sign(entry, input)
    }
}

/// All sums of two inputs with signs or left out, in the order of [`Trits`]; 9 of 16 entries are used.
#[derive(Clone, Copy)]
pub(crate) struct TwoTrits;

impl Alphabet for TwoTrits {
    const INPUTS: usize = 2;
    #[cfg(target_arch = "x86_64")]
    fn sign(entry: usize, input: usize) -> f32 {
        Trits::sign(entry, input)
    }
}

/// Looks up and adds.
#[cfg(target_arch = "x86_64")]
pub(crate) trait LookupTile: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Columns of one panel.
    const WIDTH: usize;

    /// `tables[step][m][entry] = sum_j sign(entry, j) * rows[m][INPUTS step + j]` for `MR` rows, `row_stride` apart, of
    /// `depth` inputs.
    ///
    /// # Panics
    /// When a slice is too short.
    fn build<A: Alphabet>(self, depth: usize, rows: &[f32], row_stride: usize, tables: &mut [f32]);

    /// `acc[m][n] += scales[n] * sum_step tables[step][m][indices[step][n]]`; only the low five bits of an index count.
    ///
    /// # Panics
    /// When a slice is too short.
    fn look_up(self, steps: usize, tables: &[f32], indices: &[u32], scales: &[f32], acc: &mut [f32]);
}

/// An addend that is left out.
pub(crate) const NOTHING: u8 = 255;

/// An alphabet whose tables are built in 16-bit integers, modulo 2^16.
pub(crate) trait Int16Alphabet: Alphabet + 'static {
    /// Of the form of rows that tables are built from.
    const NAME: &'static str;
    /// Entries of a table, a power of two.
    const ENTRIES: usize;
    /// Integers of a step, at most [`STEP`].
    const STEP: usize;
    /// Lays out the inputs of one step.
    fn lay_out(x: &[i16], step: &mut [i16]);
    /// Addends of an entry that may be something.
    const ADDENDS: usize;
    /// Which elements of a step an entry adds up, or [`NOTHING`].
    fn addends(entry: usize) -> [u8; 4];
    /// Whether the first three addends are those of `entry % 8`; else there is no fourth.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only long vectors hold such tables"))]
    const EIGHTHS: bool;
    /// The entry of the codes in the low bits; only bits below `ENTRIES` count.
    fn entry(codes: u16) -> u16;
    /// The entries of four codes of four bits, each in a byte.
    #[inline(always)]
    fn entries(codes: u32) -> u32 {
        u32::from_le_bytes(codes.to_le_bytes().map(|code| Self::entry(code.into()) as u8))
    }
}

/// `2 x0, 2 x1, 2 x2, 0`, then the four signed sums of `x3, x4`, less `x0 + x1 + x2`: an entry picks one of the sums, and
/// adds each doubled input whose sign is positive.
impl Int16Alphabet for Signs {
    const NAME: &'static str = "int16-signs";
    const ENTRIES: usize = 32;
    const STEP: usize = STEP;

    #[inline(always)]
    fn lay_out(x: &[i16], step: &mut [i16]) {
        let three = x[0].wrapping_add(x[1]).wrapping_add(x[2]);
        for (out, x) in step.iter_mut().zip(&x[..3]) {
            *out = x.wrapping_mul(2);
        }
        for (out, sum) in step[4..].iter_mut().zip(signed_sums(x[3], x[4])) {
            *out = sum.wrapping_sub(three);
        }
    }

    const ADDENDS: usize = 4;

    fn addends(entry: usize) -> [u8; 4] {
        let one = |j: usize| if entry >> j & 1 == 1 { j as u8 } else { NOTHING };
        [one(0), one(1), one(2), 4 + (entry >> 3) as u8]
    }

    const EIGHTHS: bool = true;

    #[inline(always)]
    fn entry(codes: u16) -> u16 {
        codes
    }
}

/// `-a - b, a - b, b - a, a + b`
#[inline(always)]
fn signed_sums(a: i16, b: i16) -> [i16; 4] {
    let (sum, difference) = (a.wrapping_add(b), a.wrapping_sub(b));
    [sum.wrapping_neg(), difference, difference.wrapping_neg(), sum]
}

/// The four signed sums of `x0, x1`, then those of `x2, x3`: an entry adds one of each.
impl Int16Alphabet for FourSigns {
    const NAME: &'static str = "int16-four-signs";
    const ENTRIES: usize = 16;
    const STEP: usize = 8;

    #[inline(always)]
    fn lay_out(x: &[i16], step: &mut [i16]) {
        step[..4].copy_from_slice(&signed_sums(x[0], x[1]));
        step[4..8].copy_from_slice(&signed_sums(x[2], x[3]));
    }

    const ADDENDS: usize = 2;

    fn addends(entry: usize) -> [u8; 4] {
        [(entry & 3) as u8, 4 + (entry >> 2) as u8, NOTHING, NOTHING]
    }

    const EIGHTHS: bool = false;

    #[inline(always)]
    fn entry(codes: u16) -> u16 {
        codes
    }

    #[inline(always)]
    fn entries(codes: u32) -> u32 {
        codes
    }
}

/// The addend for digit `j` to base 3 of an entry, where the `inputs` inputs stand first, then the same negated.
fn trit_addend(entry: usize, j: usize, inputs: usize) -> u8 {
    match entry / 3usize.pow(j as u32) % 3 {
        0 => (inputs + j) as u8,
        1 => NOTHING,
        _ => j as u8,
    }
}

/// `x0, x1, x2`, then the same negated: an entry adds at most one of each.
impl Int16Alphabet for Trits {
    const NAME: &'static str = "int16-trits";
    const ENTRIES: usize = 32;
    const STEP: usize = STEP;

    #[inline(always)]
    fn lay_out(x: &[i16], step: &mut [i16]) {
        for (j, x) in x.iter().enumerate() {
            step[j] = *x;
            step[3 + j] = x.wrapping_neg();
        }
    }

    const ADDENDS: usize = 3;

    fn addends(entry: usize) -> [u8; 4] {
        let one = |j| trit_addend(entry, j, 3);
        [one(0), one(1), one(2), NOTHING]
    }

    const EIGHTHS: bool = false;

    #[inline(always)]
    fn entry(codes: u16) -> u16 {
        (codes & 3) + (codes >> 2 & 3) * 3 + (codes >> 4 & 3) * 9
    }
}

/// `x0, x1`, then the same negated: an entry adds at most one of each.
impl Int16Alphabet for TwoTrits {
    const NAME: &'static str = "int16-two-trits";
    const ENTRIES: usize = 16;
    const STEP: usize = 4;

    #[inline(always)]
    fn lay_out(x: &[i16], step: &mut [i16]) {
        step[..4].copy_from_slice(&[x[0], x[1], x[0].wrapping_neg(), x[1].wrapping_neg()]);
    }

    const ADDENDS: usize = 2;

    fn addends(entry: usize) -> [u8; 4] {
        [trit_addend(entry, 0, 2), trit_addend(entry, 1, 2), NOTHING, NOTHING]
    }

    const EIGHTHS: bool = false;

    #[inline(always)]
    fn entry(codes: u16) -> u16 {
        (codes & 3) + (codes >> 2 & 3) * 3
    }

    #[inline(always)]
    fn entries(codes: u32) -> u32 {
        (codes & 0x0303_0303) + (codes >> 2 & 0x0303_0303) * 3
    }
}

/// Looks up and adds 16-bit integers.
pub(crate) trait Int16LookupTile: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Columns of one panel, a multiple of 32.
    const WIDTH: usize;
    /// What column scales are multiplied by beforehand.
    const SCALE: f32;
    /// The tables for one-bit weights.
    type Signs: Int16Alphabet;
    /// The tables for ternary weights.
    type Trits: Int16Alphabet;
    /// Columns whose indices share a word of a panel, 2 or 4: of each 32 columns, word `i` holds those that leave `i` when
    /// divided by the number of words, the first in the low bits.
    const COLUMNS_PER_WORD: usize;
    /// How an entry stands in its part of a word.
    fn index(entry: u16) -> u16;

    /// `tables[step][m][..]` for `MR` rows of laid-out steps, `row_stride` apart. How entries stand in a table is up to the
    /// tile.
    ///
    /// # Panics
    /// When a slice is too short.
    fn build<A: Int16Alphabet>(self, steps: usize, rows: &[i16], row_stride: usize, tables: &mut [i16]);

    /// `acc[m][n] += scales[n] / SCALE * sum_step tables[step][m][entry(step, n)]`, `indices`
    /// `[steps][WIDTH / COLUMNS_PER_WORD]`. The sum is exact where it fits 16 bits.
    ///
    /// # Panics
    /// When a slice is too short.
    fn look_up(self, steps: usize, tables: &[i16], indices: &[u32], scales: &[f32], acc: &mut [f32]);
}
