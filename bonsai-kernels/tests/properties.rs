//! What must hold for any shape and any bits.

use std::sync::Arc;

use bonsai_kernels::gemm::{self, Epilogue, reference};
use bonsai_kernels::weights::{BinaryWeights, Int4Weights, Scales, TernaryWeights, Weights};
use bonsai_kernels::{Cpu, Isa, RayonThreads, SharedBytes};
use ndarray::Array2;
use proptest::prelude::*;

/// Any bytes, repeated to a length.
fn cycle(bytes: &[u8], len: usize) -> SharedBytes {
    SharedBytes::from_vec(bytes.iter().copied().cycle().take(len).collect())
}

fn matmul(cpu: &Cpu, x: &Array2<f32>, weights: &Weights) -> Array2<f32> {
    let mut y = Array2::zeros((x.nrows(), weights.rows()));
    gemm::matmul(cpu, x.view(), weights, y.view_mut(), Epilogue::Store).unwrap();
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_shape_any_bits_any_threads(
        m in 1usize..40,
        n in 1usize..140,
        k in 1usize..400,
        group in 1usize..200,
        bytes in prop::collection::vec(any::<u8>(), 1..64),
        inputs in prop::collection::vec(-4.0f32..4.0, 1..64),
        scales in prop::collection::vec(-2.0f32..2.0, 1..16),
    ) {
        let x = Array2::from_shape_fn((m, k), |(i, j)| inputs[(i * 31 + j * 7) % inputs.len()]);
        let groups = n * k.div_ceil(group);
        let scale = || Scales::from_f32(&scales.iter().copied().cycle().take(groups).collect::<Vec<_>>());
        // a code of 3 is no ternary weight
        let trits: Vec<u8> = bytes.iter().map(|b| b & !(b & (b >> 1) & 0x55)).collect();
        let kinds = [
            Weights::Binary(BinaryWeights::new(n, k, group, cycle(&bytes, n * k.div_ceil(8)), scale()).unwrap()),
            Weights::Ternary(TernaryWeights::new(n, k, group, cycle(&trits, n * (2 * k).div_ceil(8)), scale()).unwrap()),
            Weights::Int4(
                Int4Weights::new(n, k, group, cycle(&bytes, n * (4 * k).div_ceil(8)), scale(), scale()).unwrap(),
            ),
        ];
        let threads = Arc::new(RayonThreads::new(3).unwrap());
        for weights in kinds {
            let (want, magnitude) = reference::matmul(x.view(), &weights);
            for isa in Isa::available() {
                let got = matmul(&Cpu::new(isa), &x, &weights);
                prop_assert_eq!(&got, &matmul(&Cpu::new(isa).with_threads(threads.clone()), &x, &weights));
                let roundings = (k + 1 + k.div_ceil(128)) as f64 / f64::from(1 << 24);
                for ((got, want), magnitude) in got.iter().zip(&want).zip(&magnitude) {
                    prop_assert!((f64::from(*got) - want).abs() <= roundings * magnitude);
                }
            }
        }
    }

    #[test]
    fn popcount_is_the_sum_of_sign_products(signs in prop::collection::vec(any::<(bool, bool)>(), 1..300)) {
        let of = |f: fn(&(bool, bool)) -> bool| signs.iter().map(|s| if f(s) { 1i8 } else { -1 }).collect::<Vec<_>>();
        let (x, w) = (of(|s| s.0), of(|s| s.1));
        let sum: i32 = x.iter().zip(&w).map(|(x, w)| i32::from(x * w)).sum();
        prop_assert_eq!(reference::dot_signs(&reference::pack_signs(&x), &reference::pack_signs(&w), x.len()), sum);
    }
}
