//! Codes with scales to the kernels' weights, and half-precision matrices that are binary or ternary underneath.

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{
    BinaryWeights, DenseWeights, FloatType, Int1Weights, Int2Weights, Int4Weights, Int8Weights, Scales,
    SizeError, TernaryWeights, Weights,
};

/// How far a bias may lie from the one that makes a pack binary or ternary, over its scale: both were rounded to the
/// types of the file.
pub const ROUNDED: f32 = 1.0 / 256.0;
/// Of a file that is read from one end to the other, so much need be in memory at one time.
pub const PART_BYTES: usize = 8 << 20;
/// Inputs that share a scale in every released binary and ternary checkpoint.
const RELEASE_GROUP: usize = 128;

/// Shape of codes that share scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeShape {
    /// Bits of one code: 1, 2, 4 or 8.
    pub bits: u32,
    /// Inputs that share a scale.
    pub group_size: usize,
}

impl CodeShape {
    /// Bits and group size of an MLX matrix of `cols` inputs, from the columns of `weight` (32-bit words) and
    /// `scales`. `None` when they make no sense.
    pub fn detect(cols: usize, word_cols: usize, scale_cols: usize) -> Option<Self> {
        let bits = word_cols.checked_mul(32)?.checked_div(cols)? as u32;
        let group_size = cols.checked_div(scale_cols)?;
        let sound = matches!(bits, 1 | 2 | 4 | 8)
            && word_cols * 32 == cols * bits as usize
            && group_size > 0
            && cols == group_size * scale_cols;
        sound.then_some(Self { bits, group_size })
    }
}

/// Weights `scale * code + bias`, codes row by row, first input in the lowest bits. One bit with `bias = -scale / 2` is binary, two bits with
/// `bias = -scale` and no code 3 is ternary; everything else stays affine.
pub fn from_affine(
    rows: usize,
    cols: usize,
    shape: CodeShape,
    codes: SharedBytes,
    (scales, scale_type): (SharedBytes, FloatType),
    bias: Scales,
    slack: f32,
) -> Result<Weights, SizeError> {
    let group = shape.group_size;
    let scale = |multiplier| Scales::new(scales.clone(), scale_type, multiplier);
    let mirrors = |s: f32, b: f32| (b + s).abs() <= s.abs() * slack;
    Ok(match shape.bits {
        1 if scale(0.5).iter().zip(bias.iter()).all(|(s, b)| mirrors(s, b)) => {
            Weights::Binary(BinaryWeights::new(rows, cols, group, codes, scale(0.5))?)
        }
        2 if scale(1.0).iter().zip(bias.iter()).all(|(s, b)| mirrors(s, b))
            && no_code_3(codes.as_slice()) =>
        {
            Weights::Ternary(TernaryWeights::new(rows, cols, group, codes, scale(1.0))?)
        }
        1 => Weights::Int1(Int1Weights::new(rows, cols, group, codes, scale(1.0), bias)?),
        2 => Weights::Int2(Int2Weights::new(rows, cols, group, codes, scale(1.0), bias)?),
        4 => Weights::Int4(Int4Weights::new(rows, cols, group, codes, scale(1.0), bias)?),
        _ => Weights::Int8(Int8Weights::new(rows, cols, group, codes, scale(1.0), bias)?),
    })
}

fn no_code_3(codes: &[u8]) -> bool {
    codes.chunks(1 << 14).all(|block| block.iter().fold(0, |any, &b| any | b & (b >> 1) & 0x55) == 0)
}

/// A dense matrix, or the binary or ternary one that it exactly is.
///
/// In an unpacked checkpoint every group of 128 inputs holds one magnitude `s`: all `-s` and `+s` is binary, zeros
/// among them make it ternary. A matrix that is not of that form bit for bit stays dense. `done` is called behind each
/// [`PART_BYTES`] that were read.
pub fn from_dense(
    rows: usize,
    cols: usize,
    float_type: FloatType,
    values: SharedBytes,
    done: &dyn Fn(),
) -> Result<Weights, SizeError> {
    let recovered = match float_type {
        FloatType::F16 | FloatType::Bf16 if cols > 0 && cols.is_multiple_of(RELEASE_GROUP) => {
            recover(rows, cols, float_type, values.as_slice(), done)
        }
        _ => None,
    };
    match recovered {
        Some(weights) => weights,
        None => DenseWeights::new(rows, cols, float_type, values).map(Weights::Dense),
    }
}

fn recover(
    rows: usize,
    cols: usize,
    float_type: FloatType,
    bytes: &[u8],
    done: &dyn Fn(),
) -> Option<Result<Weights, SizeError>> {
    let groups = bytes.as_chunks::<{ 2 * RELEASE_GROUP }>().0;
    if groups.len() * 2 * RELEASE_GROUP != bytes.len() {
        return None;
    }
    let parts = || groups.chunks(PART_BYTES / (2 * RELEASE_GROUP));
    let mut scales = Vec::with_capacity(2 * groups.len());
    let (mut any_zero, mut any_scale) = (false, false);
    // first proof, then packing: an ordinary matrix fails at its first group
    for part in parts() {
        for group in part {
            let halves = group.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b) & 0x7fff);
            let s = halves.clone().fold(0, u16::max);
            let (alien, zero) = halves
                .fold((false, false), |(alien, zero), h| (alien | (h != s) & (h != 0), zero | (h == 0)));
            let infinite = if float_type == FloatType::F16 { 0x7c00 } else { 0x7f80 };
            if alien || s >= infinite {
                return None;
            }
            // a group of zeros fits both forms
            any_zero |= zero && s != 0;
            any_scale |= s != 0;
            scales.extend_from_slice(&s.to_le_bytes());
        }
        done();
    }
    if !any_scale {
        return None;
    }
    let scales = Scales::new(SharedBytes::from_vec(scales), float_type, 1.0);
    let bits = if any_zero { 2 } else { 1 };
    let mut codes = Vec::with_capacity(rows * cols * bits / 8);
    for part in parts() {
        for halves in part.as_flattened().chunks_exact(2 * 8 / bits) {
            let halves = halves.as_chunks::<2>().0.iter().rev().map(|b| u16::from_le_bytes(*b));
            codes.push(if any_zero {
                halves.fold(0, |byte: u8, h| byte << 2 | ternary_code(h))
            } else {
                halves.fold(0, |byte: u8, h| byte << 1 | u8::from(h >> 15 == 0))
            });
        }
        done();
    }
    let codes = SharedBytes::from_vec(codes);
    Some(if any_zero {
        TernaryWeights::new(rows, cols, RELEASE_GROUP, codes, scales).map(Weights::Ternary)
    } else {
        BinaryWeights::new(rows, cols, RELEASE_GROUP, codes, scales).map(Weights::Binary)
    })
}

/// 0, 1 and 2 are -1, 0 and +1; `half` is of either 16-bit type.
fn ternary_code(half: u16) -> u8 {
    match (half & 0x7fff == 0, half >> 15) {
        (true, _) => 1,
        (false, 0) => 2,
        (false, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half_bytes(values: &[f32]) -> SharedBytes {
        SharedBytes::from_vec(values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect())
    }

    fn recovered(values: &[f32], rows: usize) -> Weights {
        from_dense(rows, values.len() / rows, FloatType::F16, half_bytes(values), &|| ()).unwrap()
    }

    #[test]
    fn a_binary_matrix_is_recognised_and_exact() {
        let values: Vec<f32> =
            (0..512).map(|i| if i * 7 % 5 < 2 { 0.25 } else { -0.25 } * (1 + i / 128) as f32).collect();
        let weights = recovered(&values, 2);
        assert_eq!(weights.kind(), "binary");
        assert_eq!([weights.row(0), weights.row(1)].concat(), values);
    }

    #[test]
    fn a_ternary_matrix_is_recognised_and_exact() {
        let values: Vec<f32> = (0..256).map(|i| [0.5, 0.0, -0.5][i * 11 % 3]).collect();
        let weights = recovered(&values, 2);
        assert_eq!(weights.kind(), "ternary");
        assert_eq!([weights.row(0), weights.row(1)].concat(), values);
    }

    #[test]
    fn one_other_value_keeps_a_matrix_dense() {
        let mut values = vec![0.5; 256];
        values[200] = 0.25;
        assert_eq!(recovered(&values, 2).kind(), "f16");
        assert_eq!(recovered(&[0.0; 256], 2).kind(), "f16");
    }

    #[test]
    fn mlx_shapes_are_detected_or_refused() {
        assert_eq!(CodeShape::detect(3072, 96, 24), Some(CodeShape { bits: 1, group_size: 128 }));
        assert_eq!(CodeShape::detect(2560, 320, 40), Some(CodeShape { bits: 4, group_size: 64 }));
        for (cols, words, scales) in [(0, 1, 1), (128, 12, 1), (128, 4, 0), (128, 4, 3), (100, 0, 1)] {
            assert_eq!(CodeShape::detect(cols, words, scales), None);
        }
    }
}
