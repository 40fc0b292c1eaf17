use std::ops::Range;

use super::expand::{Decode, ExpandF32, expand_codes};
use super::grouped::{GroupedCodes, grouped_shape};
use super::{Scales, SizeError};
use crate::SharedBytes;

/// Weights of -1, 0 or +1 times one scale for each `group_size` inputs of a row: `w = scale * (code - 1)`,
/// two bits a code, codes 0, 1 and 2.
#[derive(Debug, Clone)]
pub struct TernaryWeights {
    trits: GroupedCodes,
}

impl TernaryWeights {
    /// Codes row by row, first input in the lowest bits of the first byte, and scales
    /// `[rows, ceil(cols / group_size)]`. A code of 3 means nothing: readers refuse it, and kernels may take it for
    /// any weight.
    ///
    /// # Errors
    /// When the lengths do not fit the shape.
    pub fn new(
        rows: usize,
        cols: usize,
        group_size: usize,
        codes: SharedBytes,
        scales: Scales,
    ) -> Result<Self, SizeError> {
        Ok(Self { trits: GroupedCodes::new(rows, cols, 2, group_size, codes, scales)? })
    }

    grouped_shape!(trits);

    /// -1, 0 or +1.
    pub fn sign(&self, row: usize, col: usize) -> i8 {
        self.trits.codes.code(row, col) as i8 - 1
    }

    /// The scales of groups `first_group..` of one row, as many as `out` holds.
    #[inline(always)]
    pub(crate) fn copy_scales(&self, row: usize, first_group: usize, out: &mut [f32]) {
        self.trits.copy_scales(row, first_group, out);
    }

    pub(super) fn grouped(&self) -> &GroupedCodes {
        &self.trits
    }

    pub(crate) fn bytes(&self) -> usize {
        self.trits.bytes()
    }

    pub(crate) fn slice_rows(&self, rows: Range<usize>) -> Self {
        Self { trits: self.trits.slice_rows(rows) }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let value = |col| self.scale(row, col / self.group_size()) * f32::from(self.sign(row, col));
        (0..self.cols()).map(value).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.trits.scales.is_finite()
    }
}

struct Trits<'a, const W: usize> {
    trits: &'a GroupedCodes,
    scales: [f32; W],
}

impl<const W: usize> Decode<W> for Trits<'_, W> {
    const BITS: u32 = 2;

    #[inline(always)]
    fn begin_group(&mut self, first_row: usize, group: usize) {
        self.scales = self.trits.lanes(&self.trits.scales, first_row, group);
    }

    #[inline(always)]
    fn value(&self, code: u32, lane: usize) -> f32 {
        self.scales[lane] * (code as i32 - 1) as f32
    }
}

impl ExpandF32 for TernaryWeights {
    #[inline(always)]
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]) {
        let trits = Trits { trits: &self.trits, scales: [0.0; W] };
        expand_codes::<W, _>(&self.trits.codes, self.group_size(), first_row, inputs, panel, trits);
    }
}
