//! Every kernel against its plain twin, on every instruction set that this machine has, at odd sizes.
//!
//! Float bounds are derived: a sum of n products with unit roundoff u = 2^-24 is off by at most about
//! `(n + extra) * u * sum |x w|` in any order, where `extra` counts the roundings outside the sum.

mod attention;
mod conv2d;
mod elementwise;
mod gemm;
mod quantized;

use bonsai_kernels::weights::{
    BinaryWeights, DenseWeights, FloatType, Int1Weights, Int2Weights, Int4Weights, Int8Weights, Scales,
    TernaryWeights, Weights,
};
use bonsai_kernels::{DotPrecision, Isa, SharedBytes};
use ndarray::Array2;

const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// Half the distance of neighbouring bf16, relatively.
const BF16_UNIT: f64 = 1.0 / (1 << 9) as f64;

/// All pairs of an instruction set and a precision that it has dot products for.
fn dots() -> Vec<(Isa, DotPrecision)> {
    let all = Isa::available().into_iter();
    all.flat_map(|isa| DotPrecision::available(isa).into_iter().map(move |p| (isa, p))).collect()
}

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Array2<f32> {
        Array2::from_shape_vec((rows, cols), self.values(rows * cols)).unwrap()
    }

    fn bytes(&mut self, n: usize) -> SharedBytes {
        SharedBytes::from_vec((0..n).map(|_| self.bits() as u8).collect())
    }

    fn scales(&mut self, n: usize, float_type: FloatType) -> Scales {
        let values = self.values(n);
        let bytes = values.iter().flat_map(|&v| match float_type {
            FloatType::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
            FloatType::Bf16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
            FloatType::F32 => v.to_le_bytes().to_vec(),
        });
        Scales::new(SharedBytes::from_vec(bytes.collect()), float_type, 1.0)
    }

    fn dense(&mut self, rows: usize, cols: usize, float_type: FloatType) -> Weights {
        let size = float_type.size();
        let values: Vec<u8> = self
            .values(rows * cols)
            .iter()
            .flat_map(|&v| match float_type {
                FloatType::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
                FloatType::Bf16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
                FloatType::F32 => v.to_le_bytes().to_vec(),
            })
            .collect();
        assert_eq!(values.len(), rows * cols * size);
        Weights::Dense(DenseWeights::new(rows, cols, float_type, SharedBytes::from_vec(values)).unwrap())
    }
}

/// All kinds of weights of one shape.
fn all_kinds(random: &mut Random, rows: usize, cols: usize, group: usize) -> Vec<Weights> {
    let groups = rows * cols.div_ceil(group);
    let codes = |r: &mut Random, bits: usize| r.bytes(rows * (cols * bits).div_ceil(8));
    let ternary = {
        let stream: Vec<u8> = (0..rows * (cols * 2).div_ceil(8))
            .map(|_| (0..4).fold(0, |b, i| b | ((random.bits() % 3) as u8) << (2 * i)))
            .collect();
        SharedBytes::from_vec(stream)
    };
    let r = random;
    macro_rules! affine {
        ($kind:ident, $weights:ident, $bits:literal, $scale:ident) => {{
            let (c, s, b) =
                (codes(r, $bits), r.scales(groups, FloatType::$scale), r.scales(groups, FloatType::$scale));
            Weights::$kind($weights::new(rows, cols, group, c, s, b).unwrap())
        }};
    }
    let (bits, scales) = (codes(r, 1), r.scales(groups, FloatType::F16));
    let trit_scales = r.scales(groups, FloatType::Bf16);
    vec![
        Weights::Binary(BinaryWeights::new(rows, cols, group, bits, scales).unwrap()),
        Weights::Ternary(TernaryWeights::new(rows, cols, group, ternary, trit_scales).unwrap()),
        affine!(Int1, Int1Weights, 1, F16),
        affine!(Int2, Int2Weights, 2, F32),
        affine!(Int4, Int4Weights, 4, Bf16),
        affine!(Int8, Int8Weights, 8, F16),
        r.dense(rows, cols, FloatType::F16),
        r.dense(rows, cols, FloatType::Bf16),
        r.dense(rows, cols, FloatType::F32),
    ]
}
