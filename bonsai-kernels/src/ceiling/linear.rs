//! The linears of the 4B model: their shapes, and random values to fill them with.

use ndarray::Array2;

use crate::SharedBytes;
use crate::weights::{BinaryWeights, FloatType, Int4Weights, Scales, TernaryWeights, Weights};

/// Weights of the model's big linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearKind {
    /// The binary transformer, group size 128.
    Binary,
    /// The ternary transformer, group size 128.
    Ternary,
    /// The text encoder, affine, group size 64.
    Int4,
}

impl LinearKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Binary, Self::Ternary, Self::Int4];

    /// `binary`, `ternary` or `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Ternary => "ternary",
            Self::Int4 => "int4",
        }
    }

    fn group_size(self) -> usize {
        match self {
            Self::Binary | Self::Ternary => 128,
            Self::Int4 => 64,
        }
    }

    fn code_bits(self) -> usize {
        match self {
            Self::Binary => 1,
            Self::Ternary => 2,
            Self::Int4 => 4,
        }
    }

    /// Bytes of the codes of `[n, k]` weights.
    pub(super) fn bytes(self, k: usize, n: usize) -> usize {
        n * k * self.code_bits() / 8
    }
}

/// `y[m, n] = x[m, k] * w[n, k]^T`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of activations.
    pub m: usize,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
}

impl LinearShape {
    /// Multiply-accumulates of the product.
    pub fn macs(self) -> u64 {
        (self.m * self.k * self.n) as u64
    }
}

/// The shapes of the 4B model's linears: the transformer's at 512x512 (1,024 image tokens and 512 of the prompt), the
/// text encoder's at 512 tokens; and the large ones of the transformer once more for a single row.
pub fn linear_shapes(kind: LinearKind) -> Vec<LinearShape> {
    let shape = |m, (k, n)| LinearShape { m, k, n };
    match kind {
        LinearKind::Binary | LinearKind::Ternary => {
            // q, k and v together or one half of a feed-forward; the single block's fused input; the feed-forward's
            // output; the single block's output
            let blocks = [(3072, 9216), (3072, 27648), (9216, 3072), (12288, 3072)];
            [1536, 1].into_iter().flat_map(|m| blocks.map(|block| shape(m, block))).collect()
        }
        // q; attention's output; gate or up; down
        LinearKind::Int4 => {
            [(2560, 4096), (4096, 2560), (2560, 9728), (9728, 2560)].map(|block| shape(512, block)).into()
        }
    }
}

/// Random activations of `m` rows, -1 to 1.
pub fn test_activations(m: usize, k: usize) -> Array2<f32> {
    let mut state = 1;
    Array2::from_shape_simple_fn((m, k), || (next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0)
}

/// Random weights of `n` rows of `k`, scales around 0.02.
///
/// # Panics
/// When groups don't divide `k`.
pub fn test_weights(kind: LinearKind, n: usize, k: usize) -> Weights {
    let group = kind.group_size();
    let mut state = 2;
    let mut codes: Vec<u8> =
        (0..kind.bytes(k, n).div_ceil(8)).flat_map(|_| next(&mut state).to_le_bytes()).collect();
    codes.truncate(kind.bytes(k, n));
    let scales = || {
        let mut state = 3;
        // 16-bit floats, as in the released files: from 2^-7 up to 2^-5
        let bits = |state: &mut u64| 0x2000 + (next(state) >> 53) as u16;
        let bytes = (0..n * k / group).flat_map(|_| bits(&mut state).to_le_bytes()).collect();
        Scales::new(SharedBytes::from_vec(bytes), FloatType::F16, 1.0)
    };
    match kind {
        LinearKind::Binary => {
            BinaryWeights::new(n, k, group, SharedBytes::from_vec(codes), scales()).map(Weights::Binary)
        }
        LinearKind::Ternary => {
            // the code 3 means nothing: its low bit goes
            for byte in &mut codes {
                *byte &= !(*byte >> 1 & 0x55);
            }
            TernaryWeights::new(n, k, group, SharedBytes::from_vec(codes), scales()).map(Weights::Ternary)
        }
        LinearKind::Int4 => {
            let codes = SharedBytes::from_vec(codes);
            Int4Weights::new(n, k, group, codes, scales(), scales()).map(Weights::Int4)
        }
    }
    .unwrap_or_else(|error| panic!("weights {n}x{k}: {error}"))
}

/// The next of a sequence of well-mixed 64-bit numbers (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
