//! Attention, in every precision that an instruction set has dot products for.

use bonsai_kernels::attention::{self, HeadNorms, Heads, Mask, Rotation, attention_in};
use bonsai_kernels::norm::rms_norm_heads;
use bonsai_kernels::rope::{RopePairs, rope};
use bonsai_kernels::{Cpu, DotPrecision, Isa};
use ndarray::{Array2, Axis, s};

use crate::{BF16_UNIT, Random, UNIT, dots};

/// How far attention may be off when |q|, |k|, |v| <= 1.
fn attention_bound(precision: DotPrecision, keys: usize, dim: usize) -> f64 {
    let n = dim as f64;
    // f32: a score is off by (dim + 3) u sqrt(dim) at most, and by its own rounding in base 2; exp by 2 ULP, sums over
    // the keys, rescaling by 2 ULP at each block
    let of_f32_scores = UNIT * (n + 6.0) * n.sqrt();
    let of_f32 = UNIT * (6.0 + 2.0 * keys as f64 + 6.0 * keys.div_ceil(256) as f64);
    let coarse_exp = 2.0 * 2f64.powf(-17.9);
    let (scores, rest) = match precision {
        DotPrecision::F32 => (0.0, 0.0),
        // both factors rounded: in the scores, then probabilities and values
        DotPrecision::Bf16 => (
            (2.0 * BF16_UNIT + BF16_UNIT * BF16_UNIT) * n.sqrt(),
            2.0 * BF16_UNIT + BF16_UNIT * BF16_UNIT + coarse_exp,
        ),
        // q and k are multiples of a unit, off by half of it in each of `dim` places; 256 probabilities of a block by
        // half a unit each, which is at most 1/32767 of their sum; values by half of 1/8191 of the largest
        DotPrecision::Int16 => {
            let unit = (n.sqrt() / 46_000.0).max(1.0 / 32_767.0);
            ((unit * n + 0.25 * unit * unit * n) / n.sqrt(), 128.0 / 32_767.0 + 0.5 / 8191.0 + coarse_exp)
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
                attention::attention_in(
                    &Cpu::new(isa),
                    precision,
                    q,
                    k,
                    v,
                    heads,
                    mask,
                    None,
                    got.view_mut(),
                )
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
    let (queries, keys, dim) = (9, 516, 384);
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
        for peak in [0, 1, 100, 511] {
            // `peak` keys that look like the queries, the others orthogonal or opposite
            let k = Array2::from_shape_fn((keys, dim), |(j, c)| {
                row(kind, c) * [-1.0, 1.0][usize::from(j < peak)]
            });
            let v = Array2::from_shape_fn((keys, dim), |(j, c)| [1.0, -1.0, 1.0][(j / 256 + c) % 3]);
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
                    None,
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
            attention::attention_in(&cpu, precision, q, k, v, heads, Mask::None, None, out.view_mut())
                .unwrap();
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
fn heads_that_turn_while_they_are_read_meet_as_those_that_turned_before() {
    let mut random = Random(13);
    for (tokens, heads, pairs) in [
        (1, Heads { query: 2, key_value: 2, dim: 32 }, RopePairs::Interleaved),
        (300, Heads { query: 4, key_value: 2, dim: 64 }, RopePairs::HalfSplit),
        (70, Heads { query: 1, key_value: 1, dim: 12 }, RopePairs::Interleaved),
    ] {
        let Heads { query, key_value, dim } = heads;
        let q = random.matrix(tokens, query * dim);
        let [k, v] = std::array::from_fn(|_| random.matrix(tokens, key_value * dim));
        let angles = random.matrix(tokens, dim / 2).mapv(|x| 9.0 * x);
        let (cos, sin) = (angles.mapv(f32::cos), angles.mapv(f32::sin));
        // the first tokens have norms of their own
        let weights: [[Vec<f32>; 2]; 2] =
            std::array::from_fn(|_| std::array::from_fn(|_| random.values(dim)));
        let from = [0, tokens / 4];
        let seen = vec![true; tokens];
        for (isa, precision) in dots() {
            let cpu = Cpu::new(isa);
            for (normed, mask) in [(true, Mask::None), (false, Mask::Causal { keys: &seen })] {
                let [mut want, mut got] = std::array::from_fn(|_| Array2::zeros(q.dim()));
                let (mut turned_q, mut turned_k) = (q.clone(), k.clone());
                for (side, x) in [&mut turned_q, &mut turned_k].into_iter().enumerate() {
                    if normed {
                        let (first, rest) = x.view_mut().split_at(Axis(0), from[1]);
                        rms_norm_heads(&cpu, first, 1e-6, &weights[0][side]).unwrap();
                        rms_norm_heads(&cpu, rest, 1e-6, &weights[1][side]).unwrap();
                    }
                    rope(&cpu, x.view_mut(), cos.view(), sin.view(), pairs).unwrap();
                }
                let (x, y, v) = (turned_q.view(), turned_k.view(), v.view());
                attention_in(&cpu, precision, x, y, v, heads, mask, None, want.view_mut()).unwrap();
                let norms = [0, 1].map(|i| {
                    let [query, key] = &weights[i];
                    HeadNorms { from: from[i], eps: 1e-6, query, key }
                });
                let norms = if normed { &norms[..] } else { &[] };
                let rotation = Rotation { norms, cos: cos.view(), sin: sin.view(), pairs };
                let (x, y) = (q.view(), k.view());
                attention_in(&cpu, precision, x, y, v, heads, mask, Some(&rotation), got.view_mut()).unwrap();
                assert_eq!(got, want, "{} {precision:?} {heads:?}", isa.name());
                if let Mask::None = mask {
                    // of the last tokens alone
                    let last = tokens / 3..;
                    let mut got = got.slice_mut(s![last.clone(), ..]);
                    got.fill(0.0);
                    let x = x.slice(s![last.clone(), ..]);
                    attention_in(&cpu, precision, x, y, v, heads, mask, Some(&rotation), got.view_mut())
                        .unwrap();
                    assert_eq!(got, want.slice(s![last, ..]), "{} {precision:?} {heads:?}", isa.name());
                }
            }
        }
    }
}
