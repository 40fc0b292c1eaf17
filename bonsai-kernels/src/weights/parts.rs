use super::{Scales, Weights};
use crate::SharedBytes;

/// A matrix taken apart, for whoever writes it to a file.
#[derive(Debug, Clone)]
pub struct WeightParts {
    /// Codes or floats row by row, as [`super::CodeRows`] has them.
    pub codes: SharedBytes,
    /// Inputs that share a scale; 0 for dense weights.
    pub group_size: usize,
    /// `[rows, ceil(cols / group_size)]`; none for dense weights.
    pub scales: Option<Scales>,
    /// As many as scales, for affine weights.
    pub biases: Option<Scales>,
}

impl Weights {
    /// The stored pieces of this matrix.
    pub fn parts(&self) -> WeightParts {
        let (grouped, biases) = match self {
            Self::Binary(w) => (w.grouped(), None),
            Self::Ternary(w) => (w.grouped(), None),
            Self::Int1(w) => (w.grouped(), Some(w.biases())),
            Self::Int2(w) => (w.grouped(), Some(w.biases())),
            Self::Int4(w) => (w.grouped(), Some(w.biases())),
            Self::Int8(w) => (w.grouped(), Some(w.biases())),
            Self::Dense(w) => {
                return WeightParts { codes: w.stored(), group_size: 0, scales: None, biases: None };
            }
        };
        WeightParts {
            codes: grouped.codes.bytes(),
            group_size: grouped.group_size,
            scales: Some(grouped.scales.clone()),
            biases: biases.cloned(),
        }
    }
}
