//! The seam between the one driver and its kernels.

use std::ops::Range;

use crate::aligned::Element;

/// How one kind of weights `W` is multiplied on one instruction set with one kind of activations.
///
/// The driver owns blocking, threads, edges and the epilogue; a microkernel prepares operands and multiplies tiles.
/// All hooks run on the thread that needs their result, with buffers that the driver made.
pub(crate) trait Microkernel<W>: Copy + Send + Sync {
    /// `isa-activations-MRxNR`, for people.
    const NAME: &'static str;
    /// Rows of one tile. The driver pads the last tile with rows of zeros.
    const MR: usize;
    /// Element of a prepared row: plain f32, quantised integers, look-up tables.
    type Row: Element;
    /// Element of a weight panel.
    type Panel: Element;
    /// Element of the sums inside a group.
    type Sum: Element;

    /// Inputs in one K block: a multiple of 32 and of the weights' group, where they have one.
    fn depth(self, weights: &W) -> usize;
    /// Panel width for this many remaining columns.
    fn width(self, columns: usize) -> usize;
    /// Elements that one prepared row of `cols` inputs takes.
    fn row_len(self, cols: usize) -> usize;
    /// Elements of a panel of `width` columns and `depth` inputs.
    fn panel_len(self, width: usize, depth: usize) -> usize;

    /// Turns one row of activations into what `accumulate` reads. Done once for all columns.
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
    /// Adds the products of `inputs` to `sums` `[MR, width]`. `rows` are `MR` prepared rows, `row_len` apart.
    fn accumulate(
        self,
        rows: &[Self::Row],
        row_len: usize,
        inputs: Range<usize>,
        panel: &[Self::Panel],
        width: usize,
        sums: &mut [Self::Sum],
    );
    /// Ends a K block: scales `sums` where the panel did not, adds them to `acc` `[MR, width]` and clears them.
    fn flush(self, sums: &mut [Self::Sum], panel: &[Self::Panel], acc: &mut [f32]);
}
