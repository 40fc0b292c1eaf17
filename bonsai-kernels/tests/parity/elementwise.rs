//! Norms, rotations and gates.

use bonsai_kernels::gemm::{ActivationPrecision, Activations, Epilogue, matmul};
use bonsai_kernels::rope::{RopePairs, rope};
use bonsai_kernels::{Cpu, Isa, activation, norm, reference};
use ndarray::{Array2, s};

use crate::{Random, UNIT, all_kinds};

#[test]
fn norms_agree_with_their_definition() {
    let mut random = Random(8);
    for (rows, cols) in [(1, 1), (3, 7), (5, 193), (40, 384)] {
        let mut x = random.matrix(rows, cols);
        x.row_mut(0).fill(0.0);
        let (shift, scale) = (random.values(cols), random.values(cols));
        for isa in Isa::available() {
            let cpu = Cpu::new(isa);
            let (mut layer, mut rms) = (Array2::zeros(x.dim()), Array2::zeros(x.dim()));
            norm::layer_norm_modulate(&cpu, x.view(), 1e-6, &shift, &scale, layer.view_mut()).unwrap();
            norm::rms_norm(&cpu, x.view(), 1e-6, &scale, rms.view_mut()).unwrap();
            let mut heads = x.clone();
            norm::rms_norm_heads(&cpu, heads.view_mut(), 1e-6, &scale).unwrap();
            assert_eq!(heads, rms, "one head is a whole row");
            let want_layer = reference::layer_norm_modulate(x.view(), 1e-6, &shift, &scale);
            let want_rms = reference::rms_norm(x.view(), 1e-6, &scale);
            for ((r, c), &want) in want_rms.indexed_iter() {
                assert!((f64::from(rms[[r, c]]) - want).abs() <= 4.0 * UNIT * want.abs());
            }
            for ((r, c), &want) in want_layer.indexed_iter() {
                let row = x.row(r).mapv(f64::from);
                let mean = row.sum() / cols as f64;
                let variance = row.mapv(|v| (v - mean).powi(2)).sum() / cols as f64;
                // the rounded mean counts as much as the value itself; six roundings in all
                let factor = (1.0 + f64::from(scale[c]).abs()) / (variance + 1e-6).sqrt();
                let size = (row[c].abs() + mean.abs()) * factor + want.abs();
                assert!((f64::from(layer[[r, c]]) - want).abs() <= 6.0 * UNIT * size);
            }
        }
    }
}

#[test]
fn rope_rotates_the_right_pairs() {
    let mut random = Random(9);
    let (tokens, heads, dim) = (5, 3, 12);
    let x = random.matrix(tokens, heads * dim);
    let angles = random.matrix(tokens, dim / 2);
    let (cos, sin) = (angles.mapv(f32::cos), angles.mapv(f32::sin));
    for isa in Isa::available() {
        for pairs in [RopePairs::Interleaved, RopePairs::HalfSplit] {
            let mut got = x.clone();
            rope(&Cpu::new(isa), got.view_mut(), cos.view(), sin.view(), pairs).unwrap();
            let want = reference::rope(x.view(), cos.view(), sin.view(), pairs);
            for (got, want) in got.iter().zip(&want) {
                // two products and a sum of values below 1
                assert!((f64::from(*got) - want).abs() <= 3.0 * UNIT);
            }
        }
    }
}

#[test]
fn swiglu_and_gates_agree_with_their_definition() {
    let mut random = Random(10);
    let (tokens, channels) = (7, 67);
    let x = random.matrix(tokens, 2 * channels).mapv(|v| 12.0 * v);
    let gate = random.values(channels);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa);
        let mut got = Array2::zeros((tokens, channels));
        activation::swiglu(&cpu, x.view(), got.view_mut()).unwrap();
        for (got, want) in got.iter().zip(&reference::swiglu(x.view())) {
            assert!(
                (f64::from(*got) - want).abs() <= 8.0 * UNIT * want.abs(),
                "{}: {got} for {want}",
                isa.name()
            );
        }
        let mut sum = got.clone();
        activation::add_gated(&cpu, sum.view_mut(), &gate, got.view()).unwrap();
        for ((t, c), &sum) in sum.indexed_iter() {
            assert_eq!(sum, got[[t, c]] + gate[c] * got[[t, c]]);
        }
    }
}

#[test]
fn a_swiglu_that_is_made_for_a_linear_has_the_bits_of_one_that_stands() {
    let mut random = Random(12);
    let (beside, channels, n) = (128, 256, 37);
    let weights = all_kinds(&mut random, n, beside + channels, 128);
    for rows in [1, 4, 5, 70] {
        let (x, gate_up) = (random.matrix(rows, beside), random.matrix(rows, 2 * channels).mapv(|v| 6.0 * v));
        let of = |isa| ActivationPrecision::ALL.iter().map(move |&precision| (isa, precision));
        for (isa, precision) in Isa::available().into_iter().flat_map(of) {
            let cpu = Cpu::new(isa).with_precision(precision);
            let mut all = Array2::zeros((rows, beside + channels));
            all.slice_mut(s![.., ..beside]).assign(&x);
            activation::swiglu(&cpu, gate_up.view(), all.slice_mut(s![.., beside..])).unwrap();
            for weights in &weights {
                let [mut want, mut got] = std::array::from_fn(|_| Array2::zeros((rows, n)));
                matmul(&cpu, all.view(), weights, want.view_mut(), Epilogue::Store).unwrap();
                let made = Activations::with_swiglu(&cpu, x.view(), gate_up.view());
                made.matmul(&cpu, weights, got.view_mut(), Epilogue::Store).unwrap();
                assert_eq!(got, want, "{} {} {} {rows}", isa.name(), precision.name(), weights.kind());
            }
        }
    }
}
