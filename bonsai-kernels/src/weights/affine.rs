use std::ops::Range;

use super::expand::{Decode, ExpandF32, expand_codes};
use super::grouped::{GroupedCodes, grouped_shape};
use super::{Scales, SizeError};
use crate::SharedBytes;
use crate::isa::Token;

/// `BITS`-bit codes with a scale and a bias for each `group_size` inputs of a row: `w = scale * code + bias`.
#[derive(Debug, Clone)]
pub struct AffineWeights<const BITS: u32> {
    codes: GroupedCodes,
    biases: Scales,
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
        let codes = GroupedCodes::new(rows, cols, BITS, group_size, codes, scales)?;
        biases.expect_len("biases", rows.saturating_mul(codes.groups()))?;
        Ok(Self { codes, biases })
    }

    grouped_shape!(codes);

    /// Code of one weight.
    pub fn code(&self, row: usize, col: usize) -> u32 {
        self.codes.codes.code(row, col)
    }

    /// Bias of one group.
    pub fn bias(&self, row: usize, group: usize) -> f32 {
        self.biases.get(self.codes.group_index(row, group))
    }

    /// As `gather_scales`.
    #[inline(always)]
    pub(crate) fn gather_biases<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]) {
        self.codes.gather(t, &self.biases, first_row, group, out);
    }

    pub(super) fn grouped(&self) -> &GroupedCodes {
        &self.codes
    }

    pub(super) fn biases(&self) -> &Scales {
        &self.biases
    }

    pub(crate) fn bytes(&self) -> usize {
        self.codes.bytes() + self.biases.byte_len()
    }

    pub(crate) fn slice_rows(&self, rows: Range<usize>) -> Self {
        let biases = self.biases.slice(self.codes.group_range(&rows));
        Self { codes: self.codes.slice_rows(rows), biases }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let value = |col: usize| {
            let group = col / self.group_size();
            self.scale(row, group) * self.code(row, col) as f32 + self.bias(row, group)
        };
        (0..self.cols()).map(value).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.codes.scales.is_finite() && self.biases.is_finite()
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
        let AffineWeights { codes, biases } = self.weights;
        self.scales = codes.lanes(&codes.scales, first_row, group);
        self.biases = codes.lanes(biases, first_row, group);
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
        expand_codes::<W, _>(&self.codes.codes, self.group_size(), first_row, inputs, panel, levels);
    }
}
