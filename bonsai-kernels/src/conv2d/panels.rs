use std::ops::Range;

use super::block::BlockShape;
use super::plan::Plan;
use super::weights::{BLOCK, ConvWeights, Panel};
use crate::Cpu;
use crate::dot::{DotTile, Number};
use crate::error::Result;
use crate::spare::SpareBuf;

/// The panels of a convolution, laid out once for all its tasks.
pub(super) struct Panels<N: Number> {
    columns: Vec<ColumnPanels>,
    /// For each set of columns, phase, block of channels and tap, `[words][width]`.
    words: SpareBuf<N::Word>,
    /// Words of a column.
    of_column: usize,
}

/// Columns that are multiplied at once, and their panels.
#[derive(Debug)]
pub(super) struct ColumnPanels {
    pub(super) columns: Range<usize>,
    /// Of the panels, which may be wider.
    pub(super) width: usize,
    start: usize,
}

impl<N: Number> Panels<N> {
    pub(super) fn new<T: DotTile<N>>(
        cpu: &Cpu,
        t: T,
        weights: &ConvWeights,
        plan: &Plan,
        shape: &BlockShape,
    ) -> Result<Self> {
        let of_column = shape.words * plan.phases.iter().map(|phase| phase.taps.len()).sum::<usize>();
        let (mut columns, mut first, mut len) = (Vec::new(), 0, 0);
        while first < weights.out_channels() {
            // a panel lies in one block of stored weights
            let left = (weights.out_channels() - first).min(BLOCK - first % BLOCK);
            let width = T::width_for(left);
            let of_columns = ColumnPanels { columns: first..first + width.min(left), width, start: len };
            first = of_columns.columns.end;
            len += of_column * width;
            columns.push(of_columns);
        }
        let mut words = cpu.spare(len)?;
        let (mut pieces, mut rest) = (Vec::new(), &mut *words);
        for of_columns in &columns {
            for phase in &plan.phases {
                for block in &shape.channel_blocks {
                    for tap in &phase.taps {
                        let piece;
                        (piece, rest) = rest.split_at_mut(block.words * of_columns.width);
                        pieces.push((of_columns, block, tap, piece));
                    }
                }
            }
        }
        cpu.for_each(
            pieces,
            || Ok(()),
            |(), (of_columns, block, tap, panel)| {
                let ColumnPanels { columns, width, .. } = of_columns;
                t.work(Panel::<N> {
                    weights,
                    columns: columns.clone(),
                    taps: &tap.sources,
                    inputs: block.first..block.first + block.channels,
                    scales: &plan.scales[columns.start..][..*width],
                    width: *width,
                    panel: &mut *panel,
                });
                t.arrange(panel, *width);
                Ok(())
            },
        )?;
        Ok(Self { columns, words, of_column })
    }

    /// Those that begin with this column.
    ///
    /// # Panics
    /// When none does.
    pub(super) fn of(&self, first: usize) -> &ColumnPanels {
        let at = self.columns.binary_search_by_key(&first, |of_columns| of_columns.columns.start);
        &self.columns[at.expect("tasks begin where panels do")]
    }

    /// The panels of some columns, one behind the other.
    pub(super) fn words(&self, of_columns: &ColumnPanels) -> &[N::Word] {
        &self.words[of_columns.start..][..self.of_column * of_columns.width]
    }
}
