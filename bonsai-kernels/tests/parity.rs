//! Every kernel against its plain twin, on every instruction set that this machine has, at odd sizes.
//!
//! Float bounds are derived: a sum of n products with unit roundoff u = 2^-24 is off by at most about
//! `(n + extra) * u * sum |x w|` in any order, where `extra` counts the roundings outside the sum.

use bonsai_kernels::attention::{self, Heads, Mask};
use bonsai_kernels::conv2d::{self, Conv2d, ConvWeights, Sampling};
use bonsai_kernels::gemm::{self, ActivationPrecision, Epilogue};
use bonsai_kernels::norm::ChannelAffine;
use bonsai_kernels::rope::{RopePairs, rope};
use bonsai_kernels::weights::{
    BinaryWeights, DenseWeights, FloatType, Int1Weights, Int2Weights, Int4Weights, Int8Weights, Scales,
    TernaryWeights, Weights,
};
use bonsai_kernels::{Cpu, DotPrecision, Isa, SharedBytes, activation, norm, reference};
use ndarray::{Array2, Array3};

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
    let (m, n, k) = (9, 37, 70);
    let x = random.matrix(m, k);
    let weights = random.dense(n, k, FloatType::F32);
    let bias = random.values(n);
    let before = random.matrix(m, n);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa);
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

/// How far attention may be off when |q|, |k|, |v| <= 1.
fn attention_bound(precision: DotPrecision, keys: usize, dim: usize) -> f64 {
    let n = dim as f64;
    // f32: a score is off by (dim + 3) u sqrt(dim) at most, and by its own rounding in base 2; exp by 2 ULP, sums over
    // the keys, rescaling by 2 ULP at each block
    let of_f32_scores = UNIT * (n + 6.0) * n.sqrt();
    let of_f32 = UNIT * (6.0 + 2.0 * keys as f64 + 6.0 * keys.div_ceil(128) as f64);
    let coarse_exp = 2.0 * 2f64.powf(-17.9);
    let (scores, rest) = match precision {
        DotPrecision::F32 => (0.0, 0.0),
        // both factors rounded: in the scores, then probabilities and values
        DotPrecision::Bf16 => (
            (2.0 * BF16_UNIT + BF16_UNIT * BF16_UNIT) * n.sqrt(),
            2.0 * BF16_UNIT + BF16_UNIT * BF16_UNIT + coarse_exp,
        ),
        // q and k are multiples of a unit, off by half of it in each of `dim` places; 128 probabilities of a block by
        // half a unit each, which is at most 1/32767 of their sum; values by half of 1/8191 of the largest
        DotPrecision::Int16 => {
            let unit = (n.sqrt() / 46_000.0).max(1.0 / 32_767.0);
            ((unit * n + 0.25 * unit * unit * n) / n.sqrt(), 64.0 / 32_767.0 + 0.5 / 8191.0 + coarse_exp)
        }
        other => panic!("no bound for {other:?}"),
    };
    // a shift of all scores by up to d moves a probability by a factor of up to e^2d
    (2.0 * (of_f32_scores + scores)).exp_m1() + rest + of_f32
}

#[test]
fn attention_stays_inside_its_bound() {
    let mut random = Random(4);
    let cases = [
        (1, 1, 1, 1, 8),
        (5, 9, 2, 1, 32),
        (70, 70, 6, 2, 32),
        (131, 131, 2, 2, 128),
        (67, 67, 1, 1, 200),
        (13, 300, 1, 1, 301),
    ];
    for (queries, keys, query, key_value, dim) in cases {
        let heads = Heads { query, key_value, dim };
        let q = random.matrix(queries, query * dim);
        let k = random.matrix(keys, key_value * dim);
        let v = random.matrix(keys, key_value * dim);
        let seen: Vec<bool> = (0..keys).map(|j| j < keys / 2 || j % 3 == 0).collect();
        let mut masks = vec![Mask::None];
        if queries == keys {
            masks.push(Mask::Causal { keys: &seen });
        }
        for mask in masks {
            let want = attention::reference(q.view(), k.view(), v.view(), heads, mask);
            let mut int16: Option<Array2<f32>> = None;
            for (isa, precision) in dots() {
                let mut got = Array2::zeros(q.dim());
                let (q, k, v) = (q.view(), k.view(), v.view());
                attention::attention_in(&Cpu::new(isa), precision, q, k, v, heads, mask, got.view_mut())
                    .unwrap();
                let bound = attention_bound(precision, keys, dim);
                for (got, want) in got.iter().zip(&want) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error <= bound,
                        "{} {precision:?} {heads:?} {queries}x{keys}: {got} for {want}, bound {bound}",
                        isa.name()
                    );
                }
                if precision == DotPrecision::Int16 {
                    let first = int16.get_or_insert_with(|| got.clone());
                    assert_eq!(*first, got, "integers are the same on {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn sixteen_bit_sums_do_not_overflow() {
    // rows that reach the limits: one value alone, all values alike, alternating signs; and probabilities likewise
    let (queries, keys, dim) = (9, 260, 384);
    let heads = Heads { query: 1, key_value: 1, dim };
    let row = |kind: usize, c: usize| match kind {
        0 => f32::from(u8::from(c == 5)),
        1 => 1.0,
        2 => [1.0, -1.0][c % 2],
        3 => 0.0,
        _ => f32::from(u8::from(c < 30)),
    };
    for kind in 0..5 {
        let q = Array2::from_shape_fn((queries, dim), |(i, c)| [1.0, -1.0][i % 2] * row(kind, c));
        for peak in [0, 1, 100, 255] {
            // `peak` keys that look like the queries, the others orthogonal or opposite
            let k = Array2::from_shape_fn((keys, dim), |(j, c)| {
                row(kind, c) * [-1.0, 1.0][usize::from(j < peak)]
            });
            let v = Array2::from_shape_fn((keys, dim), |(j, c)| [1.0, -1.0, 1.0][(j / 128 + c) % 3]);
            let want = attention::reference(q.view(), k.view(), v.view(), heads, Mask::None);
            for (isa, precision) in dots() {
                let mut got = Array2::zeros(q.dim());
                let (q, k, v) = (q.view(), k.view(), v.view());
                attention::attention_in(
                    &Cpu::new(isa),
                    precision,
                    q,
                    k,
                    v,
                    heads,
                    Mask::None,
                    got.view_mut(),
                )
                .unwrap();
                let bound = attention_bound(precision, keys, dim);
                let worst = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
                assert!(worst <= bound, "{} {precision:?} kind {kind} peak {peak}: {worst}", isa.name());
            }
        }
    }
}

#[test]
fn values_of_any_size_keep_their_precision_and_nan_is_noticed() {
    let mut random = Random(11);
    let heads = Heads { query: 1, key_value: 1, dim: 64 };
    let (q, k) = (random.matrix(7, 64), random.matrix(50, 64));
    let v = random.matrix(50, 64);
    for (isa, precision) in dots() {
        let cpu = Cpu::new(isa);
        let run = |q: &Array2<f32>, k: &Array2<f32>, v: &Array2<f32>| {
            let mut out = Array2::zeros(q.dim());
            let (q, k, v) = (q.view(), k.view(), v.view());
            attention::attention_in(&cpu, precision, q, k, v, heads, Mask::None, out.view_mut()).unwrap();
            out
        };
        let plain = run(&q, &k, &v);
        // powers of two that leave the products as they are
        let scaled = run(&q.mapv(|x| x * 2f32.powi(40)), &k.mapv(|x| x * 2f32.powi(-40)), &v);
        assert_eq!(plain, scaled, "{} {precision:?}", isa.name());
        let large = run(&q, &k, &v.mapv(|x| x * 2f32.powi(60)));
        assert_eq!(plain.mapv(|x| x * 2f32.powi(60)), large, "{} {precision:?}", isa.name());
        for bad in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::INFINITY] {
            for (which, at) in [(0, 3), (1, 20), (2, 20)] {
                let mut operands = [q.clone(), k.clone(), v.clone()];
                operands[which][[at, 9]] = bad;
                let out = run(&operands[0], &operands[1], &operands[2]);
                let row = if which == 0 { 3 } else { 0 };
                assert!(
                    out.row(row).iter().any(|x| !x.is_finite()) || which == 1 && bad == f32::INFINITY,
                    "{} {precision:?}: {bad} in operand {which}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn a_query_without_keys_gets_zeros() {
    let mut random = Random(5);
    let heads = Heads { query: 2, key_value: 1, dim: 16 };
    let (q, k) = (random.matrix(4, 32), random.matrix(4, 16));
    let seen = [false, false, true, true];
    for isa in Isa::available() {
        let mut out = Array2::from_elem((4, 32), 7.0);
        let mask = Mask::Causal { keys: &seen };
        attention::attention(&Cpu::new(isa), q.view(), k.view(), k.view(), heads, mask, out.view_mut())
            .unwrap();
        assert!(out.rows().into_iter().take(2).flatten().all(|&v| v == 0.0));
        assert!(out.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn convolutions_stay_inside_their_bound() {
    let mut random = Random(6);
    let cases = [
        (3, 5, 3, 7, 3, Sampling::Same),
        (1, 1, 1, 1, 1, Sampling::Same),
        (9, 14, 130, 66, 3, Sampling::Same),
        (6, 7, 32, 3, 3, Sampling::Same),
        (5, 6, 33, 70, 1, Sampling::Same),
        (4, 5, 16, 20, 3, Sampling::UpsampleNearest),
        (8, 14, 5, 9, 3, Sampling::Downsample),
        (40, 100, 3, 4, 3, Sampling::Same),
        (19, 67, 5, 4, 3, Sampling::UpsampleNearest),
        (3, 4, 300, 131, 3, Sampling::UpsampleNearest),
        (34, 70, 4, 7, 3, Sampling::Downsample),
        (2, 3, 515, 17, 1, Sampling::Same),
    ];
    for (height, width, channels, out_channels, kernel, sampling) in cases {
        let x = Array3::from_shape_vec((height, width, channels), random.values(height * width * channels))
            .unwrap();
        let taps = kernel * kernel;
        for float_type in [FloatType::F32, FloatType::Bf16, FloatType::F16] {
            let Weights::Dense(dense) = random.dense(out_channels, channels * taps, float_type) else {
                unreachable!()
            };
            let bytes: Vec<u8> = (0..out_channels * channels * taps)
                .flat_map(|i| {
                    let value = dense.value(i / (channels * taps), i % (channels * taps));
                    match float_type {
                        FloatType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                        FloatType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
                        FloatType::F32 => value.to_le_bytes().to_vec(),
                    }
                })
                .collect();
            let bias = random.values(out_channels);
            let weights = ConvWeights::new(out_channels, channels, kernel, float_type, &bytes, bias).unwrap();
            let conv = Conv2d { weights: &weights, sampling, norm_silu: None, add: false };
            let enlarged =
                Array3::from_shape_fn((2 * height, 2 * width, channels), |(y, c, i)| x[[y / 2, c / 2, i]]);
            let source = if sampling == Sampling::UpsampleNearest { enlarged.view() } else { x.view() };
            let (want, magnitude) = conv2d::reference(&conv, source);
            let (out_height, out_width) = sampling.output_size(height, width);
            let folds = if sampling == Sampling::UpsampleNearest { 4.0 } else { 1.0 };
            let mut int16: Option<Array3<f32>> = None;
            for (isa, precision) in dots() {
                let mut got = Array3::zeros((out_height, out_width, out_channels));
                conv.run_rows_in(&Cpu::new(isa), precision, x.view(), 0, got.view_mut()).unwrap();
                // the products, one addition for each part, bias, and up to three additions of weights that meet
                let roundings = (taps * channels + 5 + taps * channels.div_ceil(128)) as f64;
                for (i, got) in got.iter().enumerate() {
                    let at = [i / out_channels, i % out_channels];
                    let error = (f64::from(*got) - want[at]).abs();
                    let rounded = match precision {
                        DotPrecision::F32 => 0.0,
                        // both factors; the sum of weights that meet is no larger than the sum of their magnitudes
                        DotPrecision::Bf16 => (2.0 * BF16_UNIT + BF16_UNIT * BF16_UNIT) * magnitude[at],
                        // both factors are multiples of a unit: each product is off by half a unit of one times the
                        // other factor. |x|, |w| <= 1; up to four weights meet where pixels are repeated.
                        DotPrecision::Int16 => {
                            let unit = ((channels as f64).sqrt() / 46_000.0).max(1.0 / 32_767.0);
                            let products = (taps * channels) as f64;
                            0.5 * unit * products * (1.0 + folds) + 0.25 * folds * unit * unit * products
                        }
                        other => panic!("no bound for {other:?}"),
                    };
                    assert!(
                        error <= rounded + roundings * UNIT * magnitude[at],
                        "{} {precision:?} {sampling:?}: {got} for {}",
                        isa.name(),
                        want[at]
                    );
                }
                if precision == DotPrecision::Int16 {
                    let first = int16.get_or_insert_with(|| got.clone());
                    assert_eq!(*first, got, "integers are the same on {}", isa.name());
                }
                // the same in strips
                let mut strips = Array3::zeros(got.dim());
                for (i, mut strip) in strips.axis_chunks_iter_mut(ndarray::Axis(0), 6).enumerate() {
                    let strip = strip.view_mut();
                    conv.run_rows_in(&Cpu::new(isa), precision, x.view(), 6 * i, strip).unwrap();
                }
                assert_eq!(got, strips, "{} {precision:?} {sampling:?}", isa.name());
                // added to itself
                let mut twice = got.clone();
                let add = Conv2d { add: true, ..conv };
                add.run_rows_in(&Cpu::new(isa), precision, x.view(), 0, twice.view_mut()).unwrap();
                assert!(twice.iter().zip(&got).all(|(t, g)| (t - 2.0 * g).abs() <= 4e-6 * g.abs().max(1.0)));
            }
        }
    }
}

#[test]
fn norm_and_silu_fused_into_a_convolution_are_the_separate_ones() {
    let mut random = Random(7);
    let (height, width, channels) = (7, 9, 24);
    let x =
        Array3::from_shape_vec((height, width, channels), random.values(height * width * channels)).unwrap();
    let (weight, bias) = (random.values(channels), random.values(channels));
    let values: Vec<u8> = random.values(8 * channels * 9).iter().flat_map(|v| v.to_le_bytes()).collect();
    let weights = ConvWeights::new(8, channels, 3, FloatType::F32, &values, random.values(8)).unwrap();
    for isa in Isa::available() {
        let cpu = Cpu::new(isa);
        let affine = norm::group_norm(&cpu, x.view(), 6, 1e-6, &weight, &bias).unwrap();
        check_group_norm(&affine, &x, 6, &weight);
        let mut separate = Array2::zeros((height * width, channels));
        let flat = x.view().into_shape_with_order((height * width, channels)).unwrap();
        affine.apply(&cpu, flat, separate.view_mut()).unwrap();
        activation::silu(&cpu, separate.as_slice_mut().unwrap());
        let separate = separate.into_shape_with_order((height, width, channels)).unwrap();
        let plain = Conv2d { weights: &weights, sampling: Sampling::Same, norm_silu: None, add: false };
        let (mut want, mut got) = (Array3::zeros((height, width, 8)), Array3::zeros((height, width, 8)));
        plain.run(&cpu, separate.view(), want.view_mut()).unwrap();
        Conv2d { norm_silu: Some(&affine), ..plain }.run(&cpu, x.view(), got.view_mut()).unwrap();
        assert_eq!(got, want);
    }
}

fn check_group_norm(affine: &ChannelAffine, x: &Array3<f32>, groups: usize, weight: &[f32]) {
    let per_group = x.dim().2 / groups;
    for (c, &weight) in weight.iter().enumerate() {
        let (mean, variance) = reference::group_statistics(x.view(), groups)[c / per_group];
        assert!((f64::from(affine.mean[c]) - mean).abs() <= UNIT * mean.abs() + 1e-12);
        let scale = f64::from(weight) / (variance + 1e-6).sqrt();
        assert!((f64::from(affine.scale[c]) - scale).abs() <= 4.0 * UNIT * scale.abs());
    }
}

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
            ActivationPrecision::Int16 => row.chunks(BLOCK).map(l1).fold(0.0, f32::max) / 32_700.0,
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
    block[0] = 32_700.0 - others;
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
