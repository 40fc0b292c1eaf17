//! The plain twins of the elementwise kernels: their definitions in f64. Those of GEMM, attention and convolution stand
//! beside their kernels.

use ndarray::{Array2, ArrayView2, ArrayView3};

use crate::rope::RopePairs;

/// `(x - mean) / sqrt(var + eps) * (1 + scale) + shift` for each row.
pub fn layer_norm_modulate(x: ArrayView2<'_, f32>, eps: f64, shift: &[f32], scale: &[f32]) -> Array2<f64> {
    let n = x.ncols() as f64;
    let mut out = x.mapv(f64::from);
    for mut row in out.rows_mut() {
        let mean = row.sum() / n;
        let variance = row.mapv(|v| (v - mean).powi(2)).sum() / n;
        for ((v, &shift), &scale) in row.iter_mut().zip(shift).zip(scale) {
            *v = (*v - mean) / (variance + eps).sqrt() * (1.0 + f64::from(scale)) + f64::from(shift);
        }
    }
    out
}

/// `x / sqrt(mean(x^2) + eps) * weight` for each row.
pub fn rms_norm(x: ArrayView2<'_, f32>, eps: f64, weight: &[f32]) -> Array2<f64> {
    let n = x.ncols() as f64;
    let mut out = x.mapv(f64::from);
    for mut row in out.rows_mut() {
        let mean_square = row.mapv(|v| v * v).sum() / n;
        for (v, &w) in row.iter_mut().zip(weight) {
            *v = *v / (mean_square + eps).sqrt() * f64::from(w);
        }
    }
    out
}

/// Mean and variance of each group of neighbouring channels over a picture `[height, width, channels]`.
pub fn group_statistics(x: ArrayView3<'_, f32>, groups: usize) -> Vec<(f64, f64)> {
    let per_group = x.dim().2 / groups;
    let of_group = |group: usize| {
        let values: Vec<f64> = x
            .indexed_iter()
            .filter(|((_, _, c), _)| c / per_group == group)
            .map(|(_, &v)| v.into())
            .collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
    };
    (0..groups).map(of_group).collect()
}

/// Every pair `(a, b)` of every head turned by its angle: `(a cos - b sin, b cos + a sin)`.
pub fn rope(
    x: ArrayView2<'_, f32>,
    cos: ArrayView2<'_, f32>,
    sin: ArrayView2<'_, f32>,
    pairs: RopePairs,
) -> Array2<f64> {
    let (half, mut out) = (cos.ncols(), x.mapv(f64::from));
    for token in 0..x.nrows() {
        for head in (0..x.ncols()).step_by(2 * half) {
            for i in 0..half {
                let (a, b) = match pairs {
                    RopePairs::Interleaved => (head + 2 * i, head + 2 * i + 1),
                    RopePairs::HalfSplit => (head + i, head + i + half),
                };
                let (c, s) = (f64::from(cos[[token, i]]), f64::from(sin[[token, i]]));
                let (x_a, x_b) = (f64::from(x[[token, a]]), f64::from(x[[token, b]]));
                out[[token, a]] = x_a * c - x_b * s;
                out[[token, b]] = x_b * c + x_a * s;
            }
        }
    }
    out
}

/// `x / (1 + e^-x)`
pub fn silu(x: f32) -> f64 {
    let x = f64::from(x);
    x / (1.0 + (-x).exp())
}

/// `silu(gate) * linear` for rows that hold gate and linear part side by side.
pub fn swiglu(x: ArrayView2<'_, f32>) -> Array2<f64> {
    let n = x.ncols() / 2;
    Array2::from_shape_fn((x.nrows(), n), |(t, c)| silu(x[[t, c]]) * f64::from(x[[t, c + n]]))
}

/// `e^x / sum e^x` of a row, scores of minus infinity giving 0.
pub fn softmax(scores: &[f32]) -> Vec<f64> {
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s.into()));
    let powers: Vec<f64> = scores.iter().map(|&s| (f64::from(s) - max).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|p| p / total).collect()
}
