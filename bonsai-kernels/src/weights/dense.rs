use std::ops::Range;

use super::codes::CodeRows;
use super::expand::{Decode, ExpandF32, expand_codes};
use super::half_float::{self, bf16_to_f32, f16_to_f32};
use super::{FloatType, SizeError};
use crate::SharedBytes;

/// One float a weight.
#[derive(Debug, Clone)]
pub struct DenseWeights {
    values: CodeRows,
    float_type: FloatType,
}

impl DenseWeights {
    /// Little-endian floats `[rows, cols]`.
    ///
    /// # Errors
    /// When the length does not fit the shape.
    pub fn new(
        rows: usize,
        cols: usize,
        float_type: FloatType,
        values: SharedBytes,
    ) -> Result<Self, SizeError> {
        let values = CodeRows::new(values, rows, cols, 8 * float_type.size() as u32)?;
        Ok(Self { values, float_type })
    }

    /// f32 values `[rows, cols]`.
    ///
    /// # Errors
    /// When their number does not fit the shape.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Result<Self, SizeError> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(rows, cols, FloatType::F32, SharedBytes::from_vec(bytes))
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.values.rows()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.values.cols()
    }

    /// How the values are stored.
    pub fn float_type(&self) -> FloatType {
        self.float_type
    }

    /// One weight.
    pub fn value(&self, row: usize, col: usize) -> f32 {
        self.decode(self.values.code(row, col))
    }

    /// The stored floats of all rows, one behind the other.
    #[inline(always)]
    pub(crate) fn codes(&self) -> &[u8] {
        self.values.as_slice()
    }

    /// The stored floats of one row.
    #[inline(always)]
    pub(crate) fn row_bytes(&self, row: usize) -> &[u8] {
        self.values.row_bytes(row)
    }

    #[inline(always)]
    fn decode(&self, code: u32) -> f32 {
        match self.float_type {
            FloatType::F16 => f16_to_f32(code),
            FloatType::Bf16 => bf16_to_f32(code),
            FloatType::F32 => f32::from_bits(code),
        }
    }

    /// The values as they are stored.
    pub fn stored(&self) -> SharedBytes {
        self.values.bytes()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.values.byte_len()
    }

    pub(crate) fn slice_rows(&self, range: Range<usize>) -> Self {
        Self { values: self.values.slice_rows(range), ..self.clone() }
    }

    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        (0..self.cols()).map(|col| self.value(row, col)).collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        half_float::is_finite(self.values.as_slice(), self.float_type)
    }
}

struct Half<const BF16: bool>;

impl<const W: usize, const BF16: bool> Decode<W> for Half<BF16> {
    const BITS: u32 = 16;
    #[inline(always)]
    fn begin_group(&mut self, _: usize, _: usize) {}
    #[inline(always)]
    fn value(&self, code: u32, _: usize) -> f32 {
        if BF16 { bf16_to_f32(code) } else { f16_to_f32(code) }
    }
}

struct Single;

impl<const W: usize> Decode<W> for Single {
    const BITS: u32 = 32;
    #[inline(always)]
    fn begin_group(&mut self, _: usize, _: usize) {}
    #[inline(always)]
    fn value(&self, code: u32, _: usize) -> f32 {
        f32::from_bits(code)
    }
}

impl ExpandF32 for DenseWeights {
    #[inline(always)]
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]) {
        let values = &self.values;
        match self.float_type {
            FloatType::F16 => {
                expand_codes::<W, _>(values, usize::MAX, first_row, inputs, panel, Half::<false>);
            }
            FloatType::Bf16 => {
                expand_codes::<W, _>(values, usize::MAX, first_row, inputs, panel, Half::<true>);
            }
            FloatType::F32 => expand_codes::<W, _>(values, usize::MAX, first_row, inputs, panel, Single),
        }
    }
}
