use std::ops::Range;

use super::expand::{Decode, ExpandF32, expand_codes};
use super::grouped::{GroupedCodes, grouped_shape};
use super::{Scales, SizeError};
use crate::SharedBytes;

/// One bit a weight and one scale for each `group_size` inputs of a row:
/// `w = scale * (2 * bit - 1)`, so `sum w x = sum_g scale_g * (2 * sum_{bit = 1} x - sum x)`.
#[derive(Debug, Clone)]
pub struct BinaryWeights {
    bits: GroupedCodes,
}

impl BinaryWeights {
    /// Bits row by row, first input in the lowest bit of the first byte, and scales `[rows, ceil(cols / group_size)]`.
    ///
    /// # Errors
    /// When the lengths do not fit the shape.
    pub fn new(
        rows: usize,
        cols: usize,
        group_size: usize,
        bits: SharedBytes,
        scales: Scales,
    ) -> Result<Self, SizeError> {
        Ok(Self { bits: GroupedCodes::new(rows, cols, 1, group_size, bits, scales)? })
    }

    grouped_shape!(bits);

    /// Whether the weight is `+scale`.
    pub fn bit(&self, row: usize, col: usize) -> bool {
        self.bits.codes.code(row, col) == 1
    }

    /// The scales of groups `first_group..` of one row, as many as `out` holds.
    #[inline(always)]
    pub(crate) fn copy_scales(&self, row: usize, first_group: usize, out: &mut [f32]) {
        self.bits.copy_scales(row, first_group, out);
    }

    pub(super) fn grouped(&self) -> &GroupedCodes {
        &self.bits
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bits.bytes()
    }

    pub(crate) fn slice_rows(&self, rows: Range<usize>) -> Self {
        Self { bits: self.bits.slice_rows(rows) }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let value = |col| {
            let scale = self.scale(row, col / self.group_size());
            if self.bit(row, col) { scale } else { -scale }
        };
        (0..self.cols()).map(value).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.bits.scales.is_finite()
    }
}

struct Signs<'a, const W: usize> {
    bits: &'a GroupedCodes,
    scales: [f32; W],
}

impl<const W: usize> Decode<W> for Signs<'_, W> {
    const BITS: u32 = 1;

    #[inline(always)]
    fn begin_group(&mut self, first_row: usize, group: usize) {
        self.scales = self.bits.lanes(&self.bits.scales, first_row, group);
    }

    #[inline(always)]
    fn value(&self, code: u32, lane: usize) -> f32 {
        f32::from_bits(self.scales[lane].to_bits() ^ (code ^ 1) << 31)
    }
}

impl ExpandF32 for BinaryWeights {
    #[inline(always)]
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]) {
        let signs = Signs { bits: &self.bits, scales: [0.0; W] };
        expand_codes::<W, _>(&self.bits.codes, self.group_size(), first_row, inputs, panel, signs);
    }
}
