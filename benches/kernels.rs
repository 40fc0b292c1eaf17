//! Kernels at the model's own shapes, on every instruction set of this machine, next to what its registers could do.
//!
//! Before each run of a kernel stands a short run of its ceiling, a loop of the same instructions without memory; the
//! line after a benchmark gives the best of both in GMAC/s (`Gelem/s` of criterion's report is GMAC/s too) and their
//! ratio. `naive` is the loop that a first attempt would be.
//!
//! `cargo bench -p bonsai-benches`, or `cargo bench -p bonsai-benches -- linear/binary` for a part. `BENCH_THREADS`
//! names the numbers of threads (`1,2` by default).

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bonsai_kernels::attention::{Heads, Mask, attention};
use bonsai_kernels::ceiling::{
    Ceiling, Interleaved, LinearKind, LinearShape, linear_shapes, test_activations, test_weights,
};
use bonsai_kernels::conv2d::{Conv2d, ConvWeights, Sampling};
use bonsai_kernels::gemm::{ActivationPrecision, Epilogue, kernel_name, matmul};
use bonsai_kernels::norm::ChannelAffine;
use bonsai_kernels::weights::{BinaryWeights, FloatType, Weights};
use bonsai_kernels::{Cpu, DotPrecision, Isa, RayonThreads};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{Array2, Array3, ArrayView2};

/// All instruction sets, each on each number of threads.
fn cpus() -> Vec<Cpu> {
    let threads = std::env::var("BENCH_THREADS").unwrap_or_else(|_| "1,2".to_owned());
    let counts = threads.split(',').map(|n| n.trim().parse().expect("BENCH_THREADS: numbers and commas"));
    let pools: Vec<_> = counts.map(|n| Arc::new(RayonThreads::new(n).expect("threads"))).collect();
    let with_pools = |isa| pools.iter().map(move |pool| Cpu::new(isa).with_threads(pool.clone()));
    Isa::available().into_iter().flat_map(with_pools).collect()
}

/// Measures work that `make` prepares, if the command line asks for it: each run right after one of the ceiling.
fn compare<W: FnMut()>(
    c: &mut Criterion,
    group: &str,
    cpu: &Cpu,
    ceiling: Ceiling,
    macs: u64,
    make: impl FnOnce() -> W,
) {
    let ceiling = ceiling.on(cpu.isa()).or_else(|| Ceiling::F32Fma.on(cpu.isa()));
    let prepared = RefCell::new(None);
    let mut make = Some(make);
    let mut benchmarks = c.benchmark_group(group);
    benchmarks.sample_size(10).warm_up_time(Duration::from_millis(100));
    benchmarks.measurement_time(Duration::from_secs(1)).throughput(Throughput::Elements(macs));
    let name = format!("{}/{} thread", cpu.isa().name(), cpu.threads());
    benchmarks.bench_function(&name, |b| {
        b.iter_custom(|runs| {
            let mut prepared = prepared.borrow_mut();
            let (work, runner) = prepared.get_or_insert_with(|| {
                let work = make.take().expect("made once")();
                (work, Interleaved::new(cpu, ceiling).expect("a ceiling"))
            });
            let mut run = || {
                runner
                    .run(|| {
                        work();
                        Ok(())
                    })
                    .expect("no memory")
            };
            (0..runs).map(|_| run()).sum()
        });
    });
    benchmarks.finish();
    if let Some((_, runner)) = &*prepared.borrow() {
        let gmacs = runner.gmacs(macs).unwrap_or_default();
        match runner.ceiling() {
            Some((ceiling, most)) => println!(
                "{group}/{name}: best {gmacs:.1} GMAC/s, {:.1} % of {} ({most:.1})\n",
                100.0 * gmacs / most,
                ceiling.name()
            ),
            None => println!("{group}/{name}: best {gmacs:.1} GMAC/s\n"),
        }
    }
}

fn linear(c: &mut Criterion) {
    for kind in LinearKind::ALL {
        // a model of one row streams its weights from memory, which `bonsai bench --kernels` measures
        for shape in linear_shapes(kind).into_iter().filter(|shape| shape.m > 1) {
            for &precision in ActivationPrecision::ALL {
                linear_at(c, kind, shape, precision);
            }
        }
    }
    let (m, k, n) = (4, 3072, 256);
    let x = test_activations(m, k);
    let Weights::Binary(weights) = test_weights(LinearKind::Binary, n, k) else { unreachable!() };
    let mut y = Array2::zeros((m, n));
    let mut group = c.benchmark_group("linear/binary/naive");
    group.sample_size(10).throughput(Throughput::Elements((m * k * n) as u64));
    group.bench_function("naive", |b| b.iter(|| naive(x.view(), black_box(&weights), &mut y)));
}

fn linear_at(c: &mut Criterion, kind: LinearKind, shape: LinearShape, precision: ActivationPrecision) {
    let LinearShape { m, k, n } = shape;
    let group = format!("linear/{}/{}/{m}x{k}x{n}", kind.name(), precision.name());
    for cpu in cpus() {
        let Some(ceiling) = Ceiling::of(precision, cpu.isa()) else { continue };
        compare(c, &group, &cpu, ceiling.ceiling(), shape.macs(), || {
            let (x, weights) = (test_activations(m, k), test_weights(kind, n, k));
            println!("{}", kernel_name(cpu.isa(), precision, &weights));
            let mut y = Array2::zeros((m, n));
            let cpu = cpu.clone().with_precision(precision);
            move || matmul(&cpu, x.view(), &weights, y.view_mut(), Epilogue::Store).expect("memory")
        });
    }
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

/// Instruction sets and threads, each with the number formats that attention and convolutions can have there, and the ceiling of each.
/// 16-bit integers reach half of `int8-dot` at most, a quarter on tiles.
fn dots() -> impl Iterator<Item = (Cpu, DotPrecision, Ceiling)> {
    let formats = [
        (ActivationPrecision::F32, DotPrecision::F32, Ceiling::F32Fma),
        (ActivationPrecision::Bf16, DotPrecision::Bf16, Ceiling::Bf16Dot),
        (ActivationPrecision::Int16, DotPrecision::Int16, Ceiling::Int8Dot),
    ];
    cpus().into_iter().flat_map(move |cpu| {
        formats.into_iter().filter_map(move |(precision, format, ceiling)| {
            let cpu = cpu.clone().with_precision(precision);
            (DotPrecision::chosen(&cpu) == format).then_some((cpu, format, ceiling))
        })
    })
}

fn attend(c: &mut Criterion) {
    for tokens in [768, 1536, 4608] {
        let heads = Heads { query: 24, key_value: 24, dim: 128 };
        let macs = (2 * tokens * tokens * heads.query * heads.dim) as u64;
        for (cpu, format, ceiling) in dots() {
            compare(c, &format!("attention/{}/{tokens}", format.name()), &cpu, ceiling, macs, || {
                let x = test_activations(tokens, heads.query * heads.dim);
                let mut y = Array2::zeros(x.dim());
                let cpu = &cpu;
                move || {
                    attention(cpu, x.view(), x.view(), x.view(), heads, Mask::None, y.view_mut())
                        .expect("memory");
                }
            });
        }
    }
}

/// Convolutions of the decoder at 512x512, with the norm and SiLU before them; the last one doubles its input.
fn convolve(c: &mut Criterion) {
    const SAME: Sampling = Sampling::Same;
    for (size, channels, sampling) in
        [(64, 512, SAME), (256, 256, SAME), (512, 128, SAME), (128, 512, Sampling::UpsampleNearest)]
    {
        let (height, width) = sampling.output_size(size, size);
        // the doubled input meets four kernels of 2x2
        let taps = if sampling == SAME { 9 } else { 4 };
        let macs = (height * width * channels * channels * taps) as u64;
        for (cpu, format, ceiling) in dots() {
            let name = format!("conv3x3/{}/{height}x{width}x{channels}", format.name());
            compare(c, &name, &cpu, ceiling, macs, || {
                let x = test_activations(size * size, channels).into_shape_with_order((size, size, channels));
                let x = x.expect("as many values");
                let mut y = Array3::zeros((height, width, channels));
                let values = vec![0x3c; channels * channels * 9 * 2];
                let bias = vec![0.0; channels];
                let weights =
                    ConvWeights::new(channels, channels, 3, FloatType::Bf16, &values, bias).expect("shape");
                let [mean, bias_of_norm] = [0.0, 0.0].map(|value| vec![value; channels]);
                let norm = ChannelAffine { mean, scale: vec![1.0; channels], bias: bias_of_norm };
                let norm = (sampling == SAME).then_some(norm);
                let cpu = &cpu;
                move || {
                    let norm_silu = norm.as_ref();
                    let conv = Conv2d { weights: &weights, sampling, norm_silu, add: false };
                    conv.run(cpu, x.view(), y.view_mut()).expect("memory");
                }
            });
        }
    }
}

criterion_group!(benches, linear, attend, convolve);
criterion_main!(benches);
