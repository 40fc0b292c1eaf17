//! The seam between the one driver and its kernels.

use std::ops::Range;

use super::driver::Blocking;
use super::rows::RowForm;
use crate::aligned;

/// The most columns of one task: wide tasks prepare a tile of rows less often.
const COLUMNS_PER_TASK: usize = 3072;

/// How one kind of weights `W` is multiplied on one instruction set with one kind of activations.
///
/// The driver owns blocking, threads, edges and the epilogue; a microkernel prepares operands and multiplies tiles.
/// All hooks run on the thread that needs their result, with buffers that the driver made.
pub(crate) trait Microkernel<W>: Copy + Send + Sync {
    /// Activations and method, for people: `f32-fma`.
    const NAME: &'static str;
    /// Rows of one tile; divides [`ROW_MULTIPLE`](super::driver::ROW_MULTIPLE), to which rows of zeros pad.
    const MR: usize;
    /// Rows of one task: many enough to pay for laying out the weights, few enough to stay in the second-level cache.
    const ROWS: usize = 384;
    /// Tiles of rows that one panel after the other meets, where it is not one tile after the other that meets all panels:
    /// so many that their inputs of a pass stay in the second-level cache.
    const TILES_BY_PANELS: Option<usize> = None;
    /// Whether `multiply` itself begins sums where [`Tile::begins`] says so; otherwise they are zeros then.
    const BEGINS: bool = false;
    /// Columns that pass by before the next tile of rows is prepared: as many as make `prepare_tile` cheap, as few as
    /// keep their panels in the second-level cache.
    const COLUMNS: usize;
    /// How rows are prepared.
    type Rows: RowForm;
    /// Element of what a tile of rows becomes for one K block, as look-up tables.
    type Operand: aligned::Element;
    /// Element of a weight panel.
    type Panel: aligned::Element;

    /// The most rows and columns of one task.
    fn task(self, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
        let kernel = Blocking {
            rows: Self::ROWS,
            columns: COLUMNS_PER_TASK,
            tile: (Self::MR, self.width(usize::MAX)),
            laying_out: 32,
            building: 8,
        };
        kernel.task(rows, columns, threads)
    }
    /// Inputs in one K block: a multiple of 32 and of the weights' group, where sums are scaled by group.
    fn depth(self, weights: &W) -> usize;
    /// Panel width for this many remaining columns.
    fn width(self, columns: usize) -> usize;
    /// Elements of a panel of `width` columns and `depth` inputs.
    fn panel_len(self, weights: &W, width: usize, depth: usize) -> usize;
    /// Elements of a tile's operand for `depth` inputs; 0 when `accumulate` reads the rows themselves.
    fn operand_len(self, depth: usize) -> usize;

    /// Lays out the weights of columns `first_column..first_column + width` and inputs `inputs`.
    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        width: usize,
        inputs: Range<usize>,
        panel: &mut [Self::Panel],
    );
    /// Builds the operand of `MR` prepared rows for `inputs`.
    fn prepare_tile(
        self,
        weights: &W,
        rows: TileRows<'_, Element<Self, W>>,
        inputs: Range<usize>,
        operand: &mut [Self::Operand],
    );
    /// `acc += rows * weights` over `inputs` for the tile's panels, `acc` `[panels][MR][width]`; if `TILES_BY_PANELS`, for
    /// some tiles of rows and one panel.
    fn multiply(
        self,
        weights: &W,
        tile: Tile<'_, Self, W>,
        inputs: Range<usize>,
        width: usize,
        acc: &mut [f32],
    );
}

/// Element of the rows that a kernel reads.
pub(crate) type Element<K, W> = <<K as Microkernel<W>>::Rows as RowForm>::Element;

/// `MR` prepared rows.
#[derive(Clone, Copy)]
pub(crate) struct TileRows<'a, R> {
    /// The rows, `row_len` apart.
    pub(crate) rows: &'a [R],
    pub(crate) row_len: usize,
    /// Their scales, `scales_len` apart.
    pub(crate) scales: &'a [f32],
    pub(crate) scales_len: usize,
}

/// What one call of `multiply` reads.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "several tiles at once are for products of tiles")
)]
pub(crate) struct Tile<'a, K: Microkernel<W>, W> {
    pub(crate) rows: TileRows<'a, Element<K, W>>,
    /// What `prepare_tile` made of the rows.
    pub(crate) operand: &'a [K::Operand],
    /// Panels of a pass, all or some, one behind the other.
    pub(crate) panels: &'a [K::Panel],
    /// Tiles of rows, whose operands stand one behind the other.
    pub(crate) tiles: usize,
    /// From the sums of one tile to those of the next.
    pub(crate) acc_stride: usize,
    /// Whether nothing was added to the sums so far.
    pub(crate) begins: bool,
}
