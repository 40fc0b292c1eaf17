//! The tile that looks sums of inputs up instead of multiplying: for weights that are signs, or signs and zeros.

use crate::isa::Token;

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

    /// `sums[m][n] = sum_step tables[step][m][indices[step][n]]`; only the low five bits of an index count.
    ///
    /// # Panics
    /// When a slice is too short.
    fn look_up(self, steps: usize, tables: &[f32], indices: &[u32], sums: &mut [f32]);
}
