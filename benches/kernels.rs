//! Kernels at the model's own shapes, on every instruction set of this machine. Throughput is in multiply-accumulates:
//! `Gelem/s` of criterion's report is GMAC/s. `naive` is the loop that a first attempt would be.
//!
//! `cargo bench -p bonsai-benches`, or `cargo bench -p bonsai-benches -- linear` for a part. `BENCH_THREADS` sets the
//! threads (1 by default).

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bonsai_kernels::attention::{Heads, Mask, attention};
use bonsai_kernels::conv2d::{Conv2d, ConvWeights, Sampling};
use bonsai_kernels::gemm::{ActivationPrecision, Activations, Epilogue};
use bonsai_kernels::weights::{
    BinaryWeights, DenseWeights, FloatType, Int4Weights, Scales, TernaryWeights, Weights,
};
use bonsai_kernels::{Cpu, Isa, RayonThreads, SharedBytes};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use ndarray::{Array2, Array3, ArrayView2};

/// (M, K, N) of the transformer's linears at 512x512 (1,536 tokens).
const LINEARS: [(usize, usize, usize); 3] = [(1536, 3072, 9216), (1536, 9216, 3072), (1536, 12288, 3072)];

fn cpus() -> Vec<Cpu> {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let pool = Arc::new(RayonThreads::new(threads).expect("threads"));
    Isa::available().into_iter().map(|isa| Cpu::new(isa).with_threads(pool.clone())).collect()
}

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn bytes(n: usize) -> SharedBytes {
    SharedBytes::from_vec((0..n).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 13) as u8).collect())
}

fn kinds(n: usize, k: usize) -> Vec<Weights> {
    let trits = SharedBytes::from_vec((0..n * k / 4).map(|i| [0x24, 0x49, 0x92, 0x18][i % 4]).collect());
    let scales = |group: usize| Scales::from_f32(&vec![0.02; n * k / group]);
    vec![
        Weights::Binary(BinaryWeights::new(n, k, 128, bytes(n * k / 8), scales(128)).expect("shape")),
        Weights::Ternary(TernaryWeights::new(n, k, 128, trits, scales(128)).expect("shape")),
        Weights::Int4(Int4Weights::new(n, k, 64, bytes(n * k / 2), scales(64), scales(64)).expect("shape")),
        Weights::Dense(
            DenseWeights::new(n, k, FloatType::Bf16, SharedBytes::from_vec(vec![0x3c; 2 * n * k]))
                .expect("shape"),
        ),
    ]
}

/// One output after the other from unpacked bits, single-threaded, on a sample of the rows.
fn naive(x: ArrayView2<'_, f32>, weights: &BinaryWeights, out: &mut Array2<f32>) {
    for ((m, n), out) in out.indexed_iter_mut() {
        let mut sum = 0.0;
        for k in 0..weights.cols() {
            let w = weights.scale(n, k / 128);
            sum += if weights.bit(n, k) { x[[m, k]] * w } else { -x[[m, k]] * w };
        }
        *out = sum;
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str, macs: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(macs as u64));
    group
}

fn linear(c: &mut Criterion) {
    for (m, k, n) in LINEARS {
        let x = Array2::from_shape_vec((m, k), noise(m * k)).expect("shape");
        let mut y = Array2::zeros((m, n));
        for weights in kinds(n, k) {
            let mut group = group(c, &format!("linear/{}/{m}x{k}x{n}", weights.kind()), m * k * n);
            for cpu in cpus() {
                group.bench_function(cpu.isa().name(), |b| {
                    b.iter(|| {
                        let rows =
                            Activations::prepare(&cpu, x.view(), ActivationPrecision::F32).expect("memory");
                        rows.matmul(&cpu, &weights, y.view_mut(), Epilogue::Store).expect("memory");
                    });
                });
            }
        }
    }
    let (m, k, n) = (4, 3072, 256);
    let x = Array2::from_shape_vec((m, k), noise(m * k)).expect("shape");
    let Weights::Binary(weights) = &kinds(n, k)[0] else { unreachable!() };
    let mut y = Array2::zeros((m, n));
    group(c, "linear/binary/naive", m * k * n)
        .bench_function("naive", |b| b.iter(|| naive(x.view(), black_box(weights), &mut y)));
}

fn attend(c: &mut Criterion) {
    for tokens in [768, 1536] {
        let heads = Heads { query: 24, key_value: 24, dim: 128 };
        let x = Array2::from_shape_vec((tokens, 3072), noise(tokens * 3072)).expect("shape");
        let mut y = Array2::zeros((tokens, 3072));
        let mut group = group(c, &format!("attention/{tokens}"), 2 * tokens * tokens * 3072);
        for cpu in cpus() {
            group.bench_function(cpu.isa().name(), |b| {
                b.iter(|| attention(&cpu, x.view(), x.view(), x.view(), heads, Mask::None, y.view_mut()));
            });
        }
    }
}

fn convolve(c: &mut Criterion) {
    for (size, channels) in [(64, 512), (256, 256), (512, 128)] {
        let x = Array3::from_shape_vec((size, size, channels), noise(size * size * channels)).expect("shape");
        let mut y = Array3::zeros((size, size, channels));
        let values = vec![0x3c; channels * channels * 9 * 2];
        let weights = ConvWeights::new(channels, channels, 3, FloatType::Bf16, &values, vec![0.0; channels])
            .expect("shape");
        let conv = Conv2d { weights: &weights, sampling: Sampling::Same, norm_silu: None, add: false };
        let mut group =
            group(c, &format!("conv3x3/{size}x{size}x{channels}"), size * size * channels * channels * 9);
        for cpu in cpus() {
            group.bench_function(cpu.isa().name(), |b| b.iter(|| conv.run(&cpu, x.view(), y.view_mut())));
        }
    }
}

criterion_group!(benches, linear, attend, convolve);
criterion_main!(benches);
