//! Products with all kinds of weights, activations as they are.

use bonsai_kernels::gemm::{self, ActivationPrecision, Epilogue};
use bonsai_kernels::{Cpu, Isa};
use ndarray::Array2;

use crate::{Random, UNIT, all_kinds};

#[test]
fn gemm_of_every_kind_stays_inside_its_bound() {
    let mut random = Random(1);
    let shapes = [
        (1, 1, 1),
        (1, 3, 31),
        (2, 66, 40),
        (3, 5, 97),
        (4, 65, 130),
        (7, 5, 67),
        (13, 65, 128),
        (31, 129, 193),
        (200, 70, 384),
        (5, 600, 300),
        // several passes over the sums
        (17, 40, 2200),
    ];
    for (m, n, k) in shapes {
        // large shapes with fewer groups: emulated CPUs run this too
        let groups: &[usize] = if m * n * k > 500_000 { &[128, 48] } else { &[128, 64, 32, 48] };
        for &group in groups {
            let x = random.matrix(m, k);
            for weights in all_kinds(&mut random, n, k, group) {
                let (want, magnitude) = gemm::reference::matmul(x.view(), &weights);
                for isa in Isa::available() {
                    let mut got = Array2::zeros((m, n));
                    gemm::matmul(&Cpu::new(isa), x.view(), &weights, got.view_mut(), Epilogue::Store)
                        .unwrap();
                    // k products, one rounding of each product without FMA, one addition for each K block
                    let roundings = (k + 1 + k.div_ceil(128)) as f64;
                    for ((got, want), magnitude) in got.iter().zip(&want).zip(&magnitude) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(
                            error <= roundings * UNIT * magnitude,
                            "{} {} {m}x{n}x{k} group {group}: {got} for {want}",
                            isa.name(),
                            weights.kind()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn epilogues_add_what_they_say() {
    let mut random = Random(2);
    let (m, n, k) = (9, 137, 70);
    let x = random.matrix(m, k);
    let bias = random.values(n);
    let before = random.matrix(m, n);
    for weights in all_kinds(&mut random, n, k, 64) {
        for (isa, precision) in precisions() {
            let cpu = Cpu::new(isa).with_precision(precision);
            let mut plain = Array2::zeros((m, n));
            gemm::matmul(&cpu, x.view(), &weights, plain.view_mut(), Epilogue::Store).unwrap();
            let check = |epilogue, expected: &dyn Fn(f32, f32, f32) -> f32| {
                let mut out = before.clone();
                gemm::matmul(&cpu, x.view(), &weights, out.view_mut(), epilogue).unwrap();
                for ((i, j), &got) in out.indexed_iter() {
                    assert_eq!(got, expected(before[[i, j]], plain[[i, j]], bias[j]));
                }
            };
            check(Epilogue::Bias(&bias), &|_, p, b| p + b);
            check(Epilogue::Add, &|o, p, _| o + p);
            check(Epilogue::AddBias(&bias), &|o, p, b| o + (p + b));
            check(Epilogue::AddGated(&bias), &|o, p, b| o + b * p);
        }
    }
}

/// All pairs of an instruction set and one of the precisions that go through tables of floats and of integers.
fn precisions() -> impl Iterator<Item = (Isa, ActivationPrecision)> {
    let both = [ActivationPrecision::F32, ActivationPrecision::Int16];
    Isa::available().into_iter().flat_map(move |isa| both.map(|precision| (isa, precision)))
}

#[test]
fn what_is_empty_is_no_fault() {
    let mut random = Random(4);
    for (m, n, k) in [(0, 3, 128), (5, 0, 128), (5, 3, 0)] {
        let x = random.matrix(m, k);
        for weights in all_kinds(&mut random, n, k, 128) {
            for (isa, precision) in precisions() {
                let cpu = Cpu::new(isa).with_precision(precision);
                let mut out = Array2::ones((m, n));
                gemm::matmul(&cpu, x.view(), &weights, out.view_mut(), Epilogue::Store).unwrap();
                assert!(out.iter().all(|&y| y == 0.0), "{} {m}x{n}x{k} {}", isa.name(), weights.kind());
            }
        }
    }
}

#[test]
fn row_slices_are_the_same_rows() {
    let mut random = Random(3);
    for weights in all_kinds(&mut random, 11, 70, 32) {
        let part = weights.slice_rows(4..9);
        assert_eq!((part.rows(), part.cols()), (5, 70));
        for row in 0..5 {
            assert_eq!(part.row(row), weights.row(row + 4), "{}", weights.kind());
        }
    }
}
