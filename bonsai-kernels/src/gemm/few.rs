//! Which kernel takes so few rows that what many share would not pay.

use super::few_rows::MOST_ROWS;
use super::precision::ActivationPrecision;
#[cfg(target_arch = "x86_64")]
use super::{each_sign_kind, few_permuted, few_signs, permute_kernel};
#[cfg(target_arch = "x86_64")]
use crate::isa::Avx512Vnni;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::weights::BinaryWeights;
use crate::weights::{DenseWeights, Weights};

/// How few rows are multiplied.
#[derive(Clone, Copy)]
pub(super) enum Few<'a> {
    Dense(&'a DenseWeights),
    #[cfg(target_arch = "x86_64")]
    Permuted(Avx512Vnni),
    #[cfg(target_arch = "x86_64")]
    Signs(&'a BinaryWeights),
}

impl<'a> Few<'a> {
    /// If they are so few.
    pub(super) fn of(
        isa: Isa,
        precision: ActivationPrecision,
        weights: &'a Weights,
        rows: usize,
    ) -> Option<Self> {
        if rows > MOST_ROWS {
            return None;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (isa, precision);
        match weights {
            Weights::Dense(w) => Some(Self::Dense(w)),
            #[cfg(target_arch = "x86_64")]
            Weights::Binary(_) | Weights::Ternary(_) if precision == ActivationPrecision::Int16 => {
                // slow permutations still outrun tables in memory, which a few rows cannot pay for
                let permutes = permute_kernel::of(isa);
                let permuted =
                    permutes.filter(|_| each_sign_kind!(weights, w => few_permuted::takes(rows, w)));
                match (permuted, weights) {
                    (Some(t), _) => Some(Self::Permuted(t)),
                    (None, Weights::Binary(w)) if permutes.is_none() && few_signs::takes(isa, rows, w) => {
                        Some(Self::Signs(w))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// For people.
    pub(super) fn name(self, isa: Isa) -> String {
        let method = match self {
            Self::Dense(_) => "f32-dot",
            #[cfg(target_arch = "x86_64")]
            Self::Permuted(_) => "int16-permute",
            #[cfg(target_arch = "x86_64")]
            Self::Signs(_) => "int16-signs",
        };
        format!("{}-{method}-few-rows", isa.name())
    }
}
