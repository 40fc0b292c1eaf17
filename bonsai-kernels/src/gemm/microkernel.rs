//! The seam between the one driver and its kernels.

use std::ops::Range;

use crate::aligned::Element;

/// How one kind of weights `W` is multiplied on one instruction set with one kind of activations.
///
/// The driver owns blocking, threads, edges and the epilogue; a microkernel prepares operands and multiplies tiles.
/// All hooks run on the thread that needs their result, with buffers that the driver made.
pub(crate) trait Microkernel<W>: Copy + Send + Sync {
    /// Activations and method, for people: `f32-fma`.
    const NAME: &'static str;
    /// Rows of one tile; divides [`ROW_MULTIPLE`](super::driver::ROW_MULTIPLE), to which rows of zeros pad.
    const MR: usize;
    /// Columns that pass by before the next tile of rows is prepared: as many as make `prepare_tile` cheap, as few as
    /// keep their panels in the second-level cache.
    const COLUMNS: usize;
    /// Element of a prepared row: plain f32, or quantised integers.
    type Row: Element;
    /// Element of what a tile of rows becomes for one K block, as look-up tables.
    type Operand: Element;
    /// Element of a weight panel.
    type Panel: Element;
    /// Element of the sums inside a group.
    type Sum: Element;

    /// Inputs in one K block: a multiple of 32 and of the weights' group, where sums are scaled by group.
    fn depth(self, weights: &W) -> usize;
    /// Panel width for this many remaining columns.
    fn width(self, columns: usize) -> usize;
    /// Elements of a panel of `width` columns and `depth` inputs.
    fn panel_len(self, width: usize, depth: usize) -> usize;
    /// Elements of a tile's operand for `depth` inputs; 0 when `accumulate` reads the rows themselves.
    fn operand_len(self, depth: usize) -> usize;

    /// Turns one row of activations into its prepared form, once for all columns. `row` has zeros behind its end.
    fn prepare_row(self, x: &[f32], row: &mut [Self::Row]);
    /// Lays out the weights of columns `first_column..first_column + width` and inputs `inputs`.
    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [Self::Panel],
    );
    /// Builds the operand of `MR` prepared rows, `row_len` apart, for `inputs`.
    fn prepare_tile(
        self,
        rows: &[Self::Row],
        row_len: usize,
        inputs: Range<usize>,
        operand: &mut [Self::Operand],
    );
    /// Sets `sums` `[MR, width]` to the sums of products over `inputs`.
    fn accumulate(
        self,
        tile: TileRows<'_, Self::Row, Self::Operand>,
        inputs: Range<usize>,
        panel: &[Self::Panel],
        width: usize,
        sums: &mut [Self::Sum],
    );
    /// Ends a K block: scales `sums` where the panel did not, adds them to `acc` `[MR, width]`.
    fn flush(self, sums: &[Self::Sum], panel: &[Self::Panel], width: usize, acc: &mut [f32]);
}

/// `MR` rows as `accumulate` may read them.
#[derive(Clone, Copy)]
pub(crate) struct TileRows<'a, R, O> {
    /// The prepared rows, `row_len` apart.
    pub(crate) rows: &'a [R],
    pub(crate) row_len: usize,
    /// What `prepare_tile` made of them.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "no kernel with tables on this target")
    )]
    pub(crate) operand: &'a [O],
}
