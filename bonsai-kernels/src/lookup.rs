//! The tile that looks sums of inputs up instead of multiplying: for one-bit weights.

use crate::isa::Token;

/// Inputs whose signed sums stand in one table.
pub(crate) const INPUTS: usize = 5;
/// Entries of a table: one for each choice of signs.
pub(crate) const ENTRIES: usize = 1 << INPUTS;

/// Steps that cover `depth` inputs.
pub(crate) const fn steps(depth: usize) -> usize {
    depth.div_ceil(INPUTS)
}

/// Looks up and adds. Five weight bits of a row are an index; the table of five inputs `x` holds at index `i`
/// `sum_j (bit j of i ? +x_j : -x_j)`.
pub(crate) trait LookupTile: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Columns of one panel.
    const WIDTH: usize;

    /// `tables[step][m]` for `MR` rows, `row_stride` apart, of `depth` inputs.
    ///
    /// # Panics
    /// When a slice is too short.
    fn build(self, depth: usize, rows: &[f32], row_stride: usize, tables: &mut [f32]);

    /// `sums[m][n] += sum_step tables[step][m][indices[step][n]]`; only the low five bits of an index count.
    ///
    /// # Panics
    /// When a slice is too short.
    fn look_up(self, steps: usize, tables: &[f32], indices: &[u32], sums: &mut [f32]);
}
