//! The inner product that everything heavy is made of: a few rows times a narrow f32 panel.

use crate::isa::Token;

/// Multiplies a few rows with a panel; GEMM, convolution and attention are loops around it.
pub(crate) trait F32Tile: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Panel widths that the kernel takes, ascending; the last is the one to prefer.
    const WIDTHS: &'static [usize];

    /// `acc[m][n] += sum_k rows[m * row_stride + k] * panel[k][n]` for `MR` rows, `depth` inputs and `width` columns.
    /// `acc` has a stride of `width`.
    ///
    /// # Panics
    /// When `width` is none of `WIDTHS` or a slice is too short.
    fn tile(
        self,
        width: usize,
        depth: usize,
        rows: &[f32],
        row_stride: usize,
        panel: &[f32],
        acc: &mut [f32],
    );

    /// The narrowest panel that holds `columns`, or the widest there is.
    fn width_for(columns: usize) -> usize {
        let widest = Self::WIDTHS[Self::WIDTHS.len() - 1];
        Self::WIDTHS.iter().copied().find(|&w| w >= columns).unwrap_or(widest)
    }
}

/// What [`F32Tile::tile`] demands of its slices.
#[inline(always)]
pub(crate) fn check_tile(
    mr: usize,
    width: usize,
    depth: usize,
    rows: &[f32],
    row_stride: usize,
    panel: &[f32],
    acc: &[f32],
) {
    assert!(rows.len() >= (mr - 1) * row_stride + depth, "tile rows: {} floats", rows.len());
    assert!(panel.len() >= depth * width, "tile panel: {} floats", panel.len());
    assert!(acc.len() >= mr * width, "tile accumulators: {} floats", acc.len());
}

/// `$body` with the constant `$w` bound to the run-time `$width`, one of 4, 8, 16, 32 or 64.
macro_rules! with_width {
    ($width:expr, $w:ident => $body:expr) => {
        match $width {
            8 => {
                const $w: usize = 8;
                $body
            }
            16 => {
                const $w: usize = 16;
                $body
            }
            32 => {
                const $w: usize = 32;
                $body
            }
            64 => {
                const $w: usize = 64;
                $body
            }
            other => unreachable!("no kernel has a panel of {other} columns"),
        }
    };
}
pub(crate) use with_width;
