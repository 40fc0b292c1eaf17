//! Norms, rotations and gates.

use bonsai_kernels::rope::{RopePairs, rope};
use bonsai_kernels::{Cpu, Isa, activation, norm, reference};
use ndarray::Array2;

use crate::{Random, UNIT};

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
