//! Tasks of linears keep threads busy.

use super::*;
use crate::busy::{USUAL_THREADS, busy, lengths};
use crate::weights::{BinaryWeights, Int4Weights, Scales, TernaryWeights};
use crate::{Isa, SharedBytes};

/// Rows and columns of a task of `kernel`.
fn task<W, K: Microkernel<W>>(
    kernel: K,
    _: &W,
    (rows, columns): (usize, usize),
    threads: usize,
) -> (usize, usize) {
    kernel.task(rows, columns, threads)
}

/// The sizes of tasks.
fn pieces(shape: (usize, usize), of_task: (usize, usize)) -> impl Iterator<Item = usize> {
    lengths(shape.0, of_task.0)
        .flat_map(move |rows| lengths(shape.1, of_task.1).map(move |columns| rows * columns))
}

/// The linears of a step at 256x256, 512x512 and 1024x1024, and of the text encoder, in every precision.
#[test]
fn up_to_64_threads_stay_busy() {
    let bytes = |len| SharedBytes::from_vec(vec![0u8; len]);
    let scales = || Scales::from_f32(&[1.0]);
    let binary = Weights::Binary(BinaryWeights::new(1, 128, 128, bytes(16), scales()).unwrap());
    let ternary = Weights::Ternary(TernaryWeights::new(1, 128, 128, bytes(32), scales()).unwrap());
    let int4 = Weights::Int4(Int4Weights::new(1, 128, 128, bytes(64), scales(), scales()).unwrap());
    let steps = [768, 1536, 4608].iter().flat_map(|&m| [3072, 9216, 18432, 27648].map(move |n| (m, n)));
    let steps: Vec<_> = steps.collect();
    let text = vec![(512, 1024), (512, 2560), (512, 4096), (512, 9728)];
    for isa in Isa::available() {
        for &precision in ActivationPrecision::ALL {
            for (weights, shapes) in [(&binary, &steps), (&ternary, &steps), (&int4, &text)] {
                for (&shape, threads) in shapes.iter().flat_map(|s| USUAL_THREADS.map(move |t| (s, t))) {
                    let of_task = task_of(isa, precision, weights, shape, threads);
                    let busy = busy(pieces(shape, of_task), threads);
                    let name = kernel_name(isa, precision, weights);
                    assert!(busy > 0.75, "{threads} threads are busy for {busy:.2}: {name}, {shape:?}");
                }
            }
        }
    }
}

/// What [`Activations::matmul`] would have threads do.
fn task_of(
    isa: Isa,
    precision: ActivationPrecision,
    weights: &Weights,
    shape: (usize, usize),
    threads: usize,
) -> (usize, usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(t) = permuted(isa, precision, weights) {
        return match (precision, weights) {
            (ActivationPrecision::F32 | ActivationPrecision::Bf16, Weights::Binary(w)) => {
                task(PermuteF32Kernel(t, PlainRows), w, shape, threads)
            }
            _ => each_sign_kind!(weights, w => {
                task(PermuteKernel::new(t, Int16Rows), w, shape, threads)
            }),
        };
    }
    #[cfg(target_arch = "x86_64")]
    if let Some((t, choice)) = Matrix::of(isa, precision, weights) {
        return with_matrix!(t, choice, weights, |kernel, w| task(kernel, w, shape, threads));
    }
    if let Some((vectors, numbers)) = tables(isa, precision, weights) {
        let rows = table_rows(vectors, numbers, weights);
        return table::task(rows, shape.0, shape.1, threads);
    }
    with_kernel!(isa, precision, weights, |kernel, w| task(kernel, w, shape, threads))
}
