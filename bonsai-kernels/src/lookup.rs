//! The tile that looks sums of inputs up instead of multiplying: for weights that are signs, or signs and zeros.

use crate::isa::Token;

/// 16-bit integers that say how the table of one step is built.
pub(crate) const STEP: usize = 8;

/// Entries of a table.
pub(crate) const ENTRIES: usize = 32;

/// Which sums stand in a table of 32.
pub(crate) trait Alphabet: Copy + Send + Sync {
    /// Inputs of one table.
    const INPUTS: usize;
    /// What input `input` counts in entry `entry`: -1, 0 or +1.
    fn sign(entry: usize, input: usize) -> f32;

    /// Steps that cover `depth` inputs.
    fn steps(depth: usize) -> usize {
        depth.div_ceil(Self::INPUTS)
    }
}

/// All signed sums of five inputs: bit `j` of an entry is the sign of input `j`.
#[derive(Clone, Copy)]
pub(crate) struct Signs;

impl Alphabet for Signs {
    const INPUTS: usize = 5;
    fn sign(entry: usize, input: usize) -> f32 {
        if entry >> input & 1 == 1 { 1.0 } else { -1.0 }
    }
}

/// All sums of three inputs with signs or left out: digit `j` to base 3 of an entry is 1 more than the sign of input
/// `j`; 27 of the entries are used.
#[derive(Clone, Copy)]
pub(crate) struct Trits;

impl Alphabet for Trits {
    const INPUTS: usize = 3;
    fn sign(entry: usize, input: usize) -> f32 {
        (entry / 3usize.pow(input as u32) % 3) as f32 - 1.0
    }
}

/// Looks up and adds.
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
    /// Lays out the inputs of one step.
    fn lay_out(x: &[i16], step: &mut [i16; STEP]);
    /// Which elements of a step an entry adds up, or [`NOTHING`].
    fn addends(entry: usize) -> [u8; 4];
    /// Whether the first three addends are those of `entry % 8`; else there is no fourth.
    const EIGHTHS: bool;
}

/// `2 x0, 2 x1, 2 x2, 0`, then the four signed sums of `x3, x4`, less `x0 + x1 + x2`: an entry picks one of the sums, and
/// adds each doubled input whose sign is positive.
impl Int16Alphabet for Signs {
    const NAME: &'static str = "int16-signs";
    const EIGHTHS: bool = true;

    #[inline(always)]
    fn lay_out(x: &[i16], step: &mut [i16; STEP]) {
        let three = x[0].wrapping_add(x[1]).wrapping_add(x[2]);
        for (out, x) in step.iter_mut().zip(&x[..3]) {
            *out = x.wrapping_mul(2);
        }
        let both = x[3].wrapping_add(x[4]);
        let apart = x[3].wrapping_sub(x[4]);
        for (out, x) in step[4..].iter_mut().zip([both.wrapping_neg(), apart, apart.wrapping_neg(), both]) {
            *out = x.wrapping_sub(three);
        }
    }

    fn addends(entry: usize) -> [u8; 4] {
        let one = |j: usize| if entry >> j & 1 == 1 { j as u8 } else { NOTHING };
        [one(0), one(1), one(2), 4 + (entry >> 3) as u8]
    }
}

/// `x0, x1, x2`, then the same negated: an entry adds at most one of each.
impl Int16Alphabet for Trits {
    const NAME: &'static str = "int16-trits";
    const EIGHTHS: bool = false;

    #[inline(always)]
    fn lay_out(x: &[i16], step: &mut [i16; STEP]) {
        for (j, x) in x.iter().enumerate() {
            step[j] = *x;
            step[3 + j] = x.wrapping_neg();
        }
    }

    fn addends(entry: usize) -> [u8; 4] {
        let one = |j: usize| match entry / 3usize.pow(j as u32) % 3 {
            0 => 3 + j as u8,
            1 => NOTHING,
            _ => j as u8,
        };
        [one(0), one(1), one(2), NOTHING]
    }
}

/// Looks up and adds 16-bit integers, 32 columns a vector.
pub(crate) trait Int16LookupTile: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Columns of one panel, a multiple of 32.
    const WIDTH: usize;
    /// What column scales are multiplied by beforehand.
    const SCALE: f32;
    /// How an entry, below 32, stands in a panel.
    fn index(entry: u16) -> u16;

    /// `tables[step][m][entry]` for `MR` rows of laid-out steps, `row_stride` apart.
    ///
    /// # Panics
    /// When a slice is too short.
    fn build<A: Int16Alphabet>(self, steps: usize, rows: &[i16], row_stride: usize, tables: &mut [i16]);

    /// `indices` `[steps][WIDTH]`, two in a word, the columns of each 32 in the order 0, 16, 1, 17, ..:
    /// `acc[m][n] += scales[n] / SCALE * sum_step tables[step][m][entry(step, n)]`.
    ///
    /// # Panics
    /// When a slice is too short.
    fn look_up(self, steps: usize, tables: &[i16], indices: &[u32], scales: &[f32], acc: &mut [f32]);
}
