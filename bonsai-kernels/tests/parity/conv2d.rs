//! Convolutions, alone and with what is fused into them.

use bonsai_kernels::conv2d::{self, Conv2d, ConvWeights, Sampling};
use bonsai_kernels::norm::ChannelAffine;
use bonsai_kernels::weights::{FloatType, Weights};
use bonsai_kernels::{Cpu, DotPrecision, Isa, activation, norm, reference};
use ndarray::{Array2, Array3};

use crate::{BF16_UNIT, Random, UNIT, dots};

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
