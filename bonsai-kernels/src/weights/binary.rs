use std::ops::Range;

use super::codes::CodeRows;
use super::expand::{Decode, ExpandF32, expand_codes};
use super::{Scales, SizeError};
use crate::SharedBytes;

/// One bit a weight and one scale for each `group_size` inputs of a row:
/// `w = scale * (2 * bit - 1)`, so `sum w x = sum_g scale_g * (2 * sum_{bit = 1} x - sum x)`.
#[derive(Debug, Clone)]
pub struct BinaryWeights {
    bits: CodeRows,
    scales: Scales,
    group_size: usize,
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
        let bits = CodeRows::new(bits, rows, cols, 1)?;
        scales.expect_len("scales", rows.saturating_mul(cols.div_ceil(group_size)))?;
        Ok(Self { bits, scales, group_size })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.bits.rows()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.bits.cols()
    }

    /// Inputs that share a scale.
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// Groups of one row.
    pub fn groups(&self) -> usize {
        self.cols().div_ceil(self.group_size)
    }

    /// Whether the weight is `+scale`.
    pub fn bit(&self, row: usize, col: usize) -> bool {
        self.bits.code(row, col) == 1
    }

    /// The packed bits of one row.
    pub fn row_bits(&self, row: usize) -> &[u8] {
        self.bits.row_bytes(row)
    }

    /// Scale of one group.
    #[inline(always)]
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.get(row * self.groups() + group)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bits.byte_len() + self.scales.byte_len()
    }

    pub(crate) fn slice_rows(&self, range: Range<usize>) -> Self {
        let groups = self.groups();
        let scales = self.scales.slice(range.start * groups..range.end * groups);
        Self { bits: self.bits.slice_rows(range), scales, ..self.clone() }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let value = |col| {
            let scale = self.scale(row, col / self.group_size);
            if self.bit(row, col) { scale } else { -scale }
        };
        (0..self.cols()).map(value).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.scales.is_finite()
    }
}

struct Signs<'a, const W: usize> {
    weights: &'a BinaryWeights,
    scales: [f32; W],
}

impl<const W: usize> Decode<W> for Signs<'_, W> {
    const BITS: u32 = 1;

    #[inline(always)]
    fn begin_group(&mut self, first_row: usize, group: usize) {
        for (lane, scale) in self.scales.iter_mut().enumerate() {
            let row = first_row + lane;
            *scale = if row < self.weights.rows() { self.weights.scale(row, group) } else { 0.0 };
        }
    }

    #[inline(always)]
    fn value(&self, code: u32, lane: usize) -> f32 {
        f32::from_bits(self.scales[lane].to_bits() ^ (code ^ 1) << 31)
    }
}

impl ExpandF32 for BinaryWeights {
    #[inline(always)]
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]) {
        let signs = Signs { weights: self, scales: [0.0; W] };
        expand_codes::<W, _>(&self.bits, self.group_size, first_row, inputs, panel, signs);
    }
}
