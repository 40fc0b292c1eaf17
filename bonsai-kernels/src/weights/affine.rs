use std::ops::Range;

use super::codes::CodeRows;
use super::expand::{Decode, ExpandF32, expand_codes};
use super::{Scales, SizeError};
use crate::SharedBytes;

/// `BITS`-bit codes with a scale and a bias for each `group_size` inputs of a row: `w = scale * code + bias`.
#[derive(Debug, Clone)]
pub struct AffineWeights<const BITS: u32> {
    codes: CodeRows,
    scales: Scales,
    biases: Scales,
    group_size: usize,
}

/// One-bit codes: two levels for each group.
pub type Int1Weights = AffineWeights<1>;
/// Two-bit codes.
pub type Int2Weights = AffineWeights<2>;
/// Four-bit codes, as the text encoder has them.
pub type Int4Weights = AffineWeights<4>;
/// Eight-bit codes.
pub type Int8Weights = AffineWeights<8>;

impl<const BITS: u32> AffineWeights<BITS> {
    /// Codes row by row, first input in the lowest bits of the first byte; scales and biases
    /// `[rows, ceil(cols / group_size)]`.
    ///
    /// # Errors
    /// When the lengths do not fit the shape.
    pub fn new(
        rows: usize,
        cols: usize,
        group_size: usize,
        codes: SharedBytes,
        scales: Scales,
        biases: Scales,
    ) -> Result<Self, SizeError> {
        let codes = CodeRows::new(codes, rows, cols, BITS)?;
        let groups = rows.saturating_mul(cols.div_ceil(group_size));
        scales.expect_len("scales", groups)?;
        biases.expect_len("biases", groups)?;
        Ok(Self { codes, scales, biases, group_size })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.codes.rows()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.codes.cols()
    }

    /// Inputs that share a scale and a bias.
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// Groups of one row.
    pub fn groups(&self) -> usize {
        self.cols().div_ceil(self.group_size)
    }

    /// Code of one weight.
    pub fn code(&self, row: usize, col: usize) -> u32 {
        self.codes.code(row, col)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.codes.byte_len() + self.scales.byte_len() + self.biases.byte_len()
    }

    pub(crate) fn slice_rows(&self, range: Range<usize>) -> Self {
        let groups = self.groups();
        let of_groups = range.start * groups..range.end * groups;
        Self {
            codes: self.codes.slice_rows(range),
            scales: self.scales.slice(of_groups.clone()),
            biases: self.biases.slice(of_groups),
            group_size: self.group_size,
        }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let value = |col: usize| {
            let group = row * self.groups() + col / self.group_size;
            self.scales.get(group) * self.code(row, col) as f32 + self.biases.get(group)
        };
        (0..self.cols()).map(value).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.scales.is_finite() && self.biases.is_finite()
    }
}

struct Levels<'a, const BITS: u32, const W: usize> {
    weights: &'a AffineWeights<BITS>,
    scales: [f32; W],
    biases: [f32; W],
}

impl<const BITS: u32, const W: usize> Decode<W> for Levels<'_, BITS, W> {
    const BITS: u32 = BITS;

    #[inline(always)]
    fn begin_group(&mut self, first_row: usize, group: usize) {
        for lane in 0..W {
            let row = first_row + lane;
            let index = row * self.weights.groups() + group;
            let inside = row < self.weights.rows();
            self.scales[lane] = if inside { self.weights.scales.get(index) } else { 0.0 };
            self.biases[lane] = if inside { self.weights.biases.get(index) } else { 0.0 };
        }
    }

    #[inline(always)]
    fn value(&self, code: u32, lane: usize) -> f32 {
        self.scales[lane] * (code as i32) as f32 + self.biases[lane]
    }
}

impl<const BITS: u32> ExpandF32 for AffineWeights<BITS> {
    #[inline(always)]
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]) {
        let levels = Levels::<BITS, W> { weights: self, scales: [0.0; W], biases: [0.0; W] };
        expand_codes::<W, _>(&self.codes, self.group_size, first_row, inputs, panel, levels);
    }
}
