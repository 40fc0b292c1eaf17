//! The same bits for any number of threads, and a prompt end when the token is set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bonsai_kernels::attention::{Heads, Mask, attention_in};
use bonsai_kernels::conv2d::{Conv2d, ConvWeights, Sampling};
use bonsai_kernels::gemm::{Activations, Epilogue, matmul};
use bonsai_kernels::norm::group_norm;
use bonsai_kernels::weights::{BinaryWeights, FloatType, Scales, Weights};
use bonsai_kernels::{CancelToken, Cpu, DotPrecision, Isa, KernelError, RayonThreads, SharedBytes};
use ndarray::{Array2, Array3, s};

fn waves(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 1009) as f32 * 0.37).sin()).collect()
}

fn binary(rows: usize, cols: usize) -> Weights {
    let bits = (0..rows * cols / 8).map(|i| (i * 97 + i / 13) as u8).collect();
    let scales = Scales::from_f32(&vec![0.01; rows * cols / 128]);
    Weights::Binary(BinaryWeights::new(rows, cols, 128, SharedBytes::from_vec(bits), scales).unwrap())
}

/// All heavy operations, one after the other.
fn everything(cpu: &Cpu) -> Vec<u32> {
    // just more than one task in each direction: emulated CPUs run this too
    let x = Array2::from_shape_vec((205, 256), waves(205 * 256)).unwrap();
    let mut y = Array2::zeros((205, 1100));
    matmul(cpu, x.view(), &binary(1100, 256), y.view_mut(), Epilogue::Store).unwrap();
    let heads = Heads { query: 2, key_value: 2, dim: 128 };
    let picture = Array3::from_shape_vec((60, 70, 16), waves(60 * 70 * 16)).unwrap();
    let ones = vec![1.0; 16];
    let norm = group_norm(cpu, picture.view(), 4, 1e-6, &ones, &ones).unwrap();
    // the second one's channels are split among threads, too
    let convolved = [(24, s![.., .., ..]), (150, s![..9, ..10, ..])].map(|(channels, part)| {
        let values: Vec<u8> = waves(channels * 16 * 9).iter().flat_map(|v| v.to_le_bytes()).collect();
        let weights = ConvWeights::new(channels, 16, 3, FloatType::F32, &values, waves(channels)).unwrap();
        (weights, picture.slice(part).to_owned())
    });
    let mut all: Vec<u32> = y.iter().map(|v: &f32| v.to_bits()).collect();
    for precision in DotPrecision::available(cpu.isa()) {
        let mut o = Array2::zeros((205, 256));
        attention_in(cpu, precision, x.view(), x.view(), x.view(), heads, Mask::None, None, o.view_mut())
            .unwrap();
        all.extend(o.iter().map(|v: &f32| v.to_bits()));
        for (weights, picture) in &convolved {
            let conv = Conv2d { weights, sampling: Sampling::Same, norm_silu: Some(&norm), add: false };
            let (height, width, _) = picture.dim();
            let mut p = Array3::zeros((height, width, weights.out_channels()));
            conv.run_rows_in(cpu, precision, picture.view(), 0, p.view_mut()).unwrap();
            all.extend(p.iter().map(|v: &f32| v.to_bits()));
        }
    }
    all
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for isa in Isa::available() {
        let want = everything(&Cpu::new(isa));
        for threads in [2, 3, 8] {
            let cpu = Cpu::new(isa).with_threads(Arc::new(RayonThreads::new(threads).unwrap()));
            assert!(everything(&cpu) == want, "{} threads on {}", threads, isa.name());
        }
    }
}

#[test]
fn a_set_token_ends_a_large_product_soon() {
    let token = CancelToken::new();
    let threads = Arc::new(RayonThreads::new(2).unwrap());
    let cpu = Cpu::new(Isa::best()).with_threads(threads).with_cancel(token.clone());
    let x = Array2::from_elem((2048, 4096), 1.0f32);
    let weights = binary(16384, 4096);
    let mut y = Array2::zeros((2048, 16384));
    let started = Instant::now();
    let cancelled_at = std::thread::scope(|scope| {
        let canceller = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            token.cancel();
            started.elapsed()
        });
        assert_eq!(
            matmul(&cpu, x.view(), &weights, y.view_mut(), Epilogue::Store),
            Err(KernelError::Cancelled)
        );
        canceller.join().unwrap()
    });
    assert!(started.elapsed() - cancelled_at < Duration::from_secs(2), "took {:?}", started.elapsed());
}

/// Linears of the same rows, called by tasks of the pool that they work on: a thread that waits for its part takes up the next of
/// these tasks meanwhile, and may not wait there for what it is about to finish.
#[test]
fn tasks_of_one_pool_share_rows() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let cpu = Cpu::new(Isa::best()).with_threads(Arc::new(RayonThreads::shared(Arc::clone(&pool))));
    let x = Array2::from_shape_vec((205, 256), waves(205 * 256)).unwrap();
    let weights = binary(96, 256);
    let product = |rows: &Activations<'_>| {
        let mut y = Array2::<f32>::zeros((205, 96));
        rows.matmul(&cpu, &weights, y.view_mut(), Epilogue::Store).unwrap();
        y
    };
    let want = product(&Activations::new(&cpu, x.view()));
    for _ in 0..100 {
        let rows = Activations::new(&cpu, x.view());
        pool.in_place_scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|_| assert_eq!(product(&rows), want));
            }
        });
    }
}
