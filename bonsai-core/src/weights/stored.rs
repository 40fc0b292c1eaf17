use std::ops::Range;

use super::dtype::Dtype;

/// One tensor as it stands in a file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// How its elements are written.
    pub dtype: Dtype,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes stand in the file.
    pub range: Range<usize>,
    /// Elements from one index of each axis to the next; row-major without gaps when `None`.
    pub strides: Option<Vec<usize>>,
}

impl StoredTensor {
    /// A row-major tensor without gaps.
    pub fn new(dtype: Dtype, shape: Vec<usize>, range: Range<usize>) -> Self {
        Self { dtype, shape, range, strides: None }
    }
}

/// A plain value beside the tensors of a file: a key of GGUF, or what a pickled dict holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// A short list of whole numbers.
    Ints(Vec<i64>),
}

impl Attribute {
    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The text, if it is some.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }
}
