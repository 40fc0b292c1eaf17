use std::ops::Range;

use super::codes::CodeRows;
use super::expand::{Decode, ExpandF32, expand_codes};
use super::{Scales, SizeError};
use crate::SharedBytes;

/// Weights of -1, 0 or +1 times one scale for each `group_size` inputs of a row: `w = scale * (code - 1)`,
/// two bits a code, codes 0, 1 and 2.
#[derive(Debug, Clone)]
pub struct TernaryWeights {
    codes: CodeRows,
    scales: Scales,
    group_size: usize,
}

impl TernaryWeights {
    /// Codes row by row, first input in the lowest bits of the first byte, and scales
    /// `[rows, ceil(cols / group_size)]`. A code of 3 would mean `+2 scale`; readers refuse it.
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
        let codes = CodeRows::new(codes, rows, cols, 2)?;
        scales.expect_len("scales", rows.saturating_mul(cols.div_ceil(group_size)))?;
        Ok(Self { codes, scales, group_size })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.codes.rows()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.codes.cols()
    }

    /// Inputs that share a scale.
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// Groups of one row.
    pub fn groups(&self) -> usize {
        self.cols().div_ceil(self.group_size)
    }

    /// -1, 0 or +1.
    pub fn sign(&self, row: usize, col: usize) -> i8 {
        self.codes.code(row, col) as i8 - 1
    }

    /// The packed codes of one row.
    pub fn row_codes(&self, row: usize) -> &[u8] {
        self.codes.row_bytes(row)
    }

    /// Scale of one group.
    #[inline(always)]
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.get(row * self.groups() + group)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.codes.byte_len() + self.scales.byte_len()
    }

    pub(crate) fn slice_rows(&self, range: Range<usize>) -> Self {
        let groups = self.groups();
        let scales = self.scales.slice(range.start * groups..range.end * groups);
        Self { codes: self.codes.slice_rows(range), scales, ..self.clone() }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let value = |col| self.scale(row, col / self.group_size) * f32::from(self.sign(row, col));
        (0..self.cols()).map(value).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.scales.is_finite()
    }
}

struct Trits<'a, const W: usize> {
    weights: &'a TernaryWeights,
    scales: [f32; W],
}

impl<const W: usize> Decode<W> for Trits<'_, W> {
    const BITS: u32 = 2;

    #[inline(always)]
    fn begin_group(&mut self, first_row: usize, group: usize) {
        for (lane, scale) in self.scales.iter_mut().enumerate() {
            let row = first_row + lane;
            *scale = if row < self.weights.rows() { self.weights.scale(row, group) } else { 0.0 };
        }
    }

    #[inline(always)]
    fn value(&self, code: u32, lane: usize) -> f32 {
        self.scales[lane] * (code as i32 - 1) as f32
    }
}

impl ExpandF32 for TernaryWeights {
    #[inline(always)]
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]) {
        let trits = Trits { weights: self, scales: [0.0; W] };
        expand_codes::<W, _>(&self.codes, self.group_size, first_row, inputs, panel, trits);
    }
}
