//! Products whose activations are rounded first.

use bonsai_kernels::gemm::{self, ActivationPrecision, Epilogue};
use bonsai_kernels::weights::{
    BinaryWeights, Int1Weights, Int2Weights, Int4Weights, Int8Weights, Scales, TernaryWeights, Weights,
};
use bonsai_kernels::{Cpu, Isa, SharedBytes};
use ndarray::Array2;

use crate::{Random, UNIT, all_kinds};

/// Sums of activations rounded to bf16, of full weights, are bounded as those of full activations are.
#[test]
fn bf16_activations_stay_inside_their_bound() {
    let mut random = Random(13);
    for (m, n, k) in [(1, 3, 31), (13, 65, 128), (7, 131, 259)] {
        for group in [128, 64, 48] {
            let mut x = random.matrix(m, k);
            // halfway between two bf16: to the even one, below and above
            x[[0, 0]] = 1.0 + 1.0 / 256.0;
            x[[0, 1]] = 1.0 + 3.0 / 256.0;
            let rounded = x.mapv(|x| half::bf16::from_f32(x).to_f32());
            assert_eq!((rounded[[0, 0]], rounded[[0, 1]]), (1.0, 1.015_625));
            for weights in all_kinds(&mut random, n, k, group) {
                // dense weights meet activations as they are
                let meant = if matches!(weights, Weights::Dense(_)) { &x } else { &rounded };
                let (want, magnitude) = gemm::reference::matmul(meant.view(), &weights);
                for isa in Isa::available() {
                    let cpu = Cpu::new(isa).with_precision(ActivationPrecision::Bf16);
                    let mut got = Array2::zeros((m, n));
                    gemm::matmul(&cpu, x.view(), &weights, got.view_mut(), Epilogue::Store).unwrap();
                    let roundings = (k + 1 + k.div_ceil(128)) as f64;
                    for ((got, want), magnitude) in got.iter().zip(&want).zip(&magnitude) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(
                            error <= roundings * UNIT * magnitude,
                            "{} {} {m}x{n}x{k} group {group}: {got} for {want}",
                            gemm::kernel_name(isa, ActivationPrecision::Bf16, &weights),
                            weights.kind()
                        );
                    }
                }
            }
        }
    }
}

/// Rows quantised as the precision says: codes, and the scale of each block of 128.
fn quantized(x: &Array2<f32>, precision: ActivationPrecision) -> (Array2<i64>, Array2<f64>) {
    const BLOCK: usize = 128;
    let (rows, cols) = x.dim();
    let mut scales = Array2::zeros((rows, cols.div_ceil(BLOCK)));
    for ((m, b), scale) in scales.indexed_iter_mut() {
        let row = x.row(m).to_vec();
        let block = &row[b * BLOCK..cols.min((b + 1) * BLOCK)];
        let largest = |v: &[f32]| v.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let l1 = |v: &[f32]| {
            let mut sums = [0.0f32; 16];
            v.iter().enumerate().for_each(|(i, x)| sums[i % 16] += x.abs());
            sums.iter().sum::<f32>()
        };
        *scale = f64::from(match precision {
            ActivationPrecision::Int16 => row.chunks(BLOCK).map(l1).fold(0.0, f32::max) / 32_600.0,
            ActivationPrecision::Int8 => largest(block) / 127.0,
            ActivationPrecision::Int8Row => largest(&row) / 127.0,
            ActivationPrecision::Int4 => largest(block) / 7.0,
            ActivationPrecision::Int2 => largest(block),
            ActivationPrecision::Binary => {
                (row.iter().map(|x| f64::from(x.abs())).sum::<f64>() / cols as f64) as f32
            }
            other => unreachable!("{}", other.name()),
        });
    }
    let codes = Array2::from_shape_fn(x.dim(), |(m, k)| {
        let scale = scales[[m, k / BLOCK]] as f32;
        let quotient = match precision {
            ActivationPrecision::Binary => return if x[[m, k]] >= 0.0 { 1 } else { -1 },
            ActivationPrecision::Int16 => x[[m, k]] * (1.0 / scale),
            _ => x[[m, k]] / scale,
        };
        if scale > 0.0 { quotient.round_ties_even() as i64 } else { 0 }
    });
    (codes, scales)
}

const INTEGERS: [ActivationPrecision; 6] = [
    ActivationPrecision::Int16,
    ActivationPrecision::Int8,
    ActivationPrecision::Int8Row,
    ActivationPrecision::Int4,
    ActivationPrecision::Int2,
    ActivationPrecision::Binary,
];

/// The sums inside a group are exact: with weights whose scales are 1 and whose biases are whole numbers, and activations
/// that are their own codes, nothing is ever rounded.
#[test]
fn integer_sums_are_exact() {
    let mut random = Random(11);
    for (m, n, k) in [(1, 3, 31), (7, 37, 128), (13, 140, 333), (2, 33, 1024)] {
        for group in [32, 128, 256] {
            for kind in all_kinds(&mut random, n, k, group) {
                // dense weights meet no integers; eight-bit ones leave the exact integers of f32 in long sums
                if matches!(kind, Weights::Dense(_)) || matches!(kind, Weights::Int8(_)) && k > 128 {
                    continue;
                }
                let weights = with_whole_scales(&mut random, &kind, group);
                for precision in INTEGERS {
                    // whole numbers, one of which makes the scale of every block 1, so that they stay what they are
                    let most = match precision {
                        ActivationPrecision::Int4 => 7,
                        ActivationPrecision::Int2 | ActivationPrecision::Binary => 1,
                        _ => 100,
                    };
                    let mut x = Array2::from_shape_fn((m, k), |_| {
                        (random.bits() % (2 * most + 1)) as f32 - most as f32
                    });
                    if precision == ActivationPrecision::Binary {
                        // there is no zero
                        x.mapv_inplace(|x| if x == 0.0 { 1.0 } else { x });
                    }
                    for mut row in x.rows_mut() {
                        for mut block in row.as_slice_mut().unwrap().chunks_mut(128) {
                            match precision {
                                ActivationPrecision::Int16 => fill_up(&mut block),
                                ActivationPrecision::Int8 | ActivationPrecision::Int8Row => block[0] = 127.0,
                                _ => block[0] = most as f32,
                            }
                        }
                    }
                    let want = Array2::from_shape_fn((m, n), |(i, j)| {
                        x.row(i)
                            .iter()
                            .zip(weights.row(j))
                            .map(|(&x, w)| f64::from(x) * f64::from(w))
                            .sum::<f64>()
                    });
                    for isa in Isa::available() {
                        let cpu = Cpu::new(isa).with_precision(precision);
                        let mut got = Array2::zeros((m, n));
                        gemm::matmul(&cpu, x.view(), &weights, got.view_mut(), Epilogue::Store).unwrap();
                        assert!(
                            got.iter().zip(&want).all(|(&g, &w)| f64::from(g) == w),
                            "{} {} {m}x{n}x{k} group {group}",
                            gemm::kernel_name(isa, precision, &weights),
                            weights.kind()
                        );
                    }
                }
            }
        }
    }
}

/// Makes the sum of magnitudes what 16-bit rows are scaled to.
fn fill_up(block: &mut &mut [f32]) {
    let others: f32 = block[1..].iter().map(|x| x.abs()).sum();
    block[0] = 32_600.0 - others;
}

/// The same codes with scales of 1 and whole biases.
fn with_whole_scales(random: &mut Random, weights: &Weights, group: usize) -> Weights {
    let (rows, cols) = (weights.rows(), weights.cols());
    let groups = rows * cols.div_ceil(group);
    let ones = || Scales::from_f32(&vec![1.0; groups]);
    let mut whole =
        || Scales::from_f32(&(0..groups).map(|_| (random.bits() % 9) as f32 - 4.0).collect::<Vec<_>>());
    let codes = |row: &dyn Fn(usize) -> Vec<u8>| SharedBytes::from_vec((0..rows).flat_map(row).collect());
    match weights {
        Weights::Binary(w) => Weights::Binary(
            BinaryWeights::new(rows, cols, group, codes(&|r| w.row_codes(r).to_vec()), ones()).unwrap(),
        ),
        Weights::Ternary(w) => Weights::Ternary(
            TernaryWeights::new(rows, cols, group, codes(&|r| w.row_codes(r).to_vec()), ones()).unwrap(),
        ),
        Weights::Int1(w) => Weights::Int1(
            Int1Weights::new(rows, cols, group, codes(&|r| w.row_codes(r).to_vec()), ones(), whole())
                .unwrap(),
        ),
        Weights::Int2(w) => Weights::Int2(
            Int2Weights::new(rows, cols, group, codes(&|r| w.row_codes(r).to_vec()), ones(), whole())
                .unwrap(),
        ),
        Weights::Int4(w) => Weights::Int4(
            Int4Weights::new(rows, cols, group, codes(&|r| w.row_codes(r).to_vec()), ones(), whole())
                .unwrap(),
        ),
        Weights::Int8(w) => Weights::Int8(
            Int8Weights::new(rows, cols, group, codes(&|r| w.row_codes(r).to_vec()), ones(), whole())
                .unwrap(),
        ),
        other => unreachable!("{} weights have no codes", other.kind()),
    }
}

/// A product of quantised activations: exact sums, and for each group a few roundings of what they are scaled by.
#[test]
fn integer_activations_stay_inside_their_bound() {
    let mut random = Random(12);
    for (m, n, k) in [(1, 1, 1), (2, 70, 384), (13, 131, 259), (26, 5, 520)] {
        for group in [64, 128, 256] {
            let x = random.matrix(m, k);
            let mut kinds = all_kinds(&mut random, n, k, group);
            kinds.retain(|weights| !matches!(weights, Weights::Dense(_)));
            for weights in kinds {
                for precision in INTEGERS {
                    let (codes, scales) = quantized(&x, precision);
                    let meant =
                        Array2::from_shape_fn((m, k), |(i, j)| codes[[i, j]] as f64 * scales[[i, j / 128]]);
                    for isa in Isa::available() {
                        let cpu = Cpu::new(isa).with_precision(precision);
                        let mut got = Array2::zeros((m, n));
                        gemm::matmul(&cpu, x.view(), &weights, got.view_mut(), Epilogue::Store).unwrap();
                        for ((i, j), &got) in got.indexed_iter() {
                            let row = weights.row(j);
                            let products = row.iter().zip(meant.row(i)).map(|(&w, x)| f64::from(w) * x);
                            let want: f64 = products.clone().sum();
                            // scale and bias of affine weights act apart, each on its own sum
                            let magnitude: f64 = match &weights {
                                Weights::Binary(_) | Weights::Ternary(_) => products.map(f64::abs).sum(),
                                _ => (0..k)
                                    .map(|c| affine_magnitude(&weights, j, c) * meant[[i, c]].abs())
                                    .sum(),
                            };
                            let roundings = 2 * k.div_ceil(group.min(128)) + 6;
                            let error = (f64::from(got) - want).abs();
                            assert!(
                                error <= roundings as f64 * UNIT * magnitude,
                                "{} {} {m}x{n}x{k} group {group}: {got} for {want}",
                                gemm::kernel_name(isa, precision, &weights),
                                weights.kind()
                            );
                        }
                    }
                }
            }
        }
    }
}

/// `|scale| * code + |bias|` of one weight.
fn affine_magnitude(weights: &Weights, row: usize, col: usize) -> f64 {
    macro_rules! of {
        ($w:expr) => {{
            let group = col / $w.group_size();
            f64::from($w.scale(row, group).abs()) * f64::from($w.code(row, col))
                + f64::from($w.bias(row, group).abs())
        }};
    }
    match weights {
        Weights::Int1(w) => of!(w),
        Weights::Int2(w) => of!(w),
        Weights::Int4(w) => of!(w),
        Weights::Int8(w) => of!(w),
        other => unreachable!("{} weights have no bias", other.kind()),
    }
}

#[test]
fn few_rows_of_signs_make_the_bits_of_many() {
    for isa in ["avx2", "avx512vnni", "avx512bf16", "amx"] {
        match Isa::named(isa) {
            Ok(isa) => few_rows_make_the_bits_of_many(isa),
            Err(_) => println!("skipped: this CPU has no {isa}"),
        }
    }
}

fn few_rows_make_the_bits_of_many(isa: Isa) {
    let mut random = Random(12);
    let cpu = Cpu::new(isa).with_precision(ActivationPrecision::Int16);
    for (n, k) in [(1, 128), (31, 384), (33, 1280), (200, 3072)] {
        for weights in &all_kinds(&mut random, n, k, 128)[..2] {
            let x = random.matrix(17, k);
            let product = |rows: usize| {
                let mut y = Array2::zeros((rows, n));
                let x = x.slice(ndarray::s![..rows, ..]);
                gemm::matmul(&cpu, x, weights, y.view_mut(), Epilogue::Store).unwrap();
                y
            };
            let many = product(17);
            for rows in 1..=5 {
                let what = format!("{} {} {rows}x{n}x{k}", isa.name(), weights.kind());
                assert_eq!(product(rows), many.slice(ndarray::s![..rows, ..]), "{what}");
            }
        }
    }
}
