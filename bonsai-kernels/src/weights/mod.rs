//! The truth about weights, independent of files: what the stored bits of one linear mean.
//!
//! Every kind stores its matrix `[rows, cols]` (outputs, inputs) row by row as a little-endian bit stream, so that
//! the MLX packs and plain 16-bit files are used in place, without a copy. A row starts at a whole byte.

mod affine;
mod binary;
mod codes;
mod dense;
mod expand;
mod grouped;
mod half_float;
mod parts;
mod scales;
mod ternary;

pub use affine::{AffineWeights, Int1Weights, Int2Weights, Int4Weights, Int8Weights};
pub use binary::BinaryWeights;
pub use codes::CodeRows;
pub use dense::DenseWeights;
pub use half_float::{bf16_to_f32, f16_to_f32};
pub use parts::WeightParts;
pub use scales::{FloatType, Scales};
pub use ternary::TernaryWeights;

pub(crate) use codes::word;
pub(crate) use expand::ExpandF32;

/// Stored bytes do not fit the shape that they are said to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected} bytes, found {found}")]
pub struct SizeError {
    what: &'static str,
    expected: usize,
    found: usize,
}

impl SizeError {
    /// Proves that so many bytes were found.
    pub(crate) fn check(what: &'static str, expected: usize, found: usize) -> Result<(), Self> {
        if expected == found { Ok(()) } else { Err(Self { what, expected, found }) }
    }
}

/// The weights of one linear, of whatever kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Weights {
    /// One bit a weight.
    Binary(BinaryWeights),
    /// -1, 0 or +1 in two bits.
    Ternary(TernaryWeights),
    /// One-bit codes with scale and bias.
    Int1(Int1Weights),
    /// Two-bit codes with scale and bias.
    Int2(Int2Weights),
    /// Four-bit codes with scale and bias.
    Int4(Int4Weights),
    /// Eight-bit codes with scale and bias.
    Int8(Int8Weights),
    /// F16, BF16 or F32.
    Dense(DenseWeights),
}

/// Calls `$body` with `$w` bound to the weights of whatever kind.
macro_rules! each_kind {
    ($weights:expr, $w:ident => $body:expr) => {
        match $weights {
            $crate::weights::Weights::Binary($w) => $body,
            $crate::weights::Weights::Ternary($w) => $body,
            $crate::weights::Weights::Int1($w) => $body,
            $crate::weights::Weights::Int2($w) => $body,
            $crate::weights::Weights::Int4($w) => $body,
            $crate::weights::Weights::Int8($w) => $body,
            $crate::weights::Weights::Dense($w) => $body,
        }
    };
}
pub(crate) use each_kind;

impl Weights {
    /// Output features.
    pub fn rows(&self) -> usize {
        each_kind!(self, w => w.rows())
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        each_kind!(self, w => w.cols())
    }

    /// Inputs that share a scale, for weights of codes.
    pub fn group_size(&self) -> Option<usize> {
        match self {
            Self::Binary(w) => Some(w.group_size()),
            Self::Ternary(w) => Some(w.group_size()),
            Self::Int1(w) => Some(w.group_size()),
            Self::Int2(w) => Some(w.group_size()),
            Self::Int4(w) => Some(w.group_size()),
            Self::Int8(w) => Some(w.group_size()),
            Self::Dense(_) => None,
        }
    }

    /// `binary`, `ternary`, `int4`, .., `f16`, `bf16` or `f32`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Binary(_) => "binary",
            Self::Ternary(_) => "ternary",
            Self::Int1(_) => "int1",
            Self::Int2(_) => "int2",
            Self::Int4(_) => "int4",
            Self::Int8(_) => "int8",
            Self::Dense(w) => w.float_type().name(),
        }
    }

    /// Bytes that the matrix takes, scales included.
    pub fn bytes(&self) -> usize {
        each_kind!(self, w => w.bytes())
    }

    /// Output rows `range`, sharing the same bytes.
    ///
    /// # Panics
    /// When the range does not lie inside.
    pub fn slice_rows(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows(), "rows {range:?} of {}", self.rows());
        match self {
            Self::Binary(w) => Self::Binary(w.slice_rows(range)),
            Self::Ternary(w) => Self::Ternary(w.slice_rows(range)),
            Self::Int1(w) => Self::Int1(w.slice_rows(range)),
            Self::Int2(w) => Self::Int2(w.slice_rows(range)),
            Self::Int4(w) => Self::Int4(w.slice_rows(range)),
            Self::Int8(w) => Self::Int8(w.slice_rows(range)),
            Self::Dense(w) => Self::Dense(w.slice_rows(range)),
        }
    }

    /// Row `row` as f32, exactly: the definition that every kernel is measured against.
    pub fn row(&self, row: usize) -> Vec<f32> {
        each_kind!(self, w => w.row(row))
    }

    /// Whether every scale, bias or dense value is a finite number.
    pub fn is_finite(&self) -> bool {
        each_kind!(self, w => w.is_finite())
    }
}
