//! The plain twins of the GEMM kernels: loops over the definition, in f64 or exact integers.

use ndarray::{Array2, Array3, ArrayView2};

use crate::weights::{BinaryWeights, TernaryWeights, Weights};

/// `x * weights^T` in f64, and `sum |x w|` for each output, which error bounds are made of.
pub fn matmul(x: ArrayView2<'_, f32>, weights: &Weights) -> (Array2<f64>, Array2<f64>) {
    let shape = (x.nrows(), weights.rows());
    let (mut y, mut magnitude) = (Array2::zeros(shape), Array2::zeros(shape));
    for n in 0..weights.rows() {
        let row = weights.row(n);
        for m in 0..x.nrows() {
            for (&x, &w) in x.row(m).iter().zip(&row) {
                let product = f64::from(x) * f64::from(w);
                y[[m, n]] += product;
                magnitude[[m, n]] += product.abs();
            }
        }
    }
    (y, magnitude)
}

/// Weights that are small integers times a group scale.
pub trait SignedCodes {
    /// Output and input features.
    fn shape(&self) -> (usize, usize);
    /// Inputs that share a scale.
    fn group_size(&self) -> usize;
    /// -1, 0 or +1.
    fn sign(&self, row: usize, col: usize) -> i32;
    /// Scale of one group.
    fn scale(&self, row: usize, group: usize) -> f32;
}

impl SignedCodes for BinaryWeights {
    fn shape(&self) -> (usize, usize) {
        (self.rows(), self.cols())
    }
    fn group_size(&self) -> usize {
        self.group_size()
    }
    fn sign(&self, row: usize, col: usize) -> i32 {
        if self.bit(row, col) { 1 } else { -1 }
    }
    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scale(row, group)
    }
}

impl SignedCodes for TernaryWeights {
    fn shape(&self) -> (usize, usize) {
        (self.rows(), self.cols())
    }
    fn group_size(&self) -> usize {
        self.group_size()
    }
    fn sign(&self, row: usize, col: usize) -> i32 {
        self.sign(row, col).into()
    }
    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scale(row, group)
    }
}

/// Rows rounded to int8: one scale `max|x| / 127` a row, codes rounded half to even into -127..=127; a row of zeros
/// has scale 0.
pub fn quantize_rows_i8(x: ArrayView2<'_, f32>) -> (Array2<i8>, Vec<f32>) {
    let scales: Vec<f32> =
        x.rows().into_iter().map(|row| row.fold(0.0f32, |max, v| max.max(v.abs())) / 127.0).collect();
    let codes = Array2::from_shape_fn(x.dim(), |(m, k)| {
        let scale = if scales[m] > 0.0 { scales[m] } else { 1.0 };
        (x[[m, k]] / scale).round_ties_even().clamp(-127.0, 127.0) as i8
    });
    (codes, scales)
}

/// `+1` for `x >= 0` (both zeros included), else `-1`.
pub fn signs(x: ArrayView2<'_, f32>) -> Array2<i8> {
    x.mapv(|v| if v >= 0.0 { 1 } else { -1 })
}

/// Exact sums `[M, N, groups]` of integer activations times weight signs, one for each group.
pub fn group_sums(x: ArrayView2<'_, i8>, weights: &impl SignedCodes) -> Array3<i32> {
    let (rows, cols) = weights.shape();
    let size = weights.group_size();
    Array3::from_shape_fn((x.nrows(), rows, cols.div_ceil(size)), |(m, n, g)| {
        (g * size..cols.min((g + 1) * size)).map(|k| i32::from(x[[m, k]]) * weights.sign(n, k)).sum()
    })
}

/// `sum_g scale_g * sums[.., g]` in f64.
pub fn scale_group_sums(sums: &Array3<i32>, weights: &impl SignedCodes) -> Array2<f64> {
    let (m, n, groups) = sums.dim();
    Array2::from_shape_fn((m, n), |(m, n)| {
        (0..groups).map(|g| f64::from(weights.scale(n, g)) * f64::from(sums[[m, n, g]])).sum()
    })
}

/// Signs packed to words, `+1` as a set bit; unused high bits of the last word are 0.
pub fn pack_signs(signs: &[i8]) -> Vec<u64> {
    let pack = |chunk: &[i8]| chunk.iter().enumerate().fold(0, |word, (i, &s)| word | u64::from(s > 0) << i);
    signs.chunks(64).map(pack).collect()
}

/// `sum x w` over signs by XNOR and popcount: `cols - 2 * popcount(x ^ w)`. Both paddings are equal, so they cancel.
pub fn dot_signs(x: &[u64], w: &[u64], cols: usize) -> i32 {
    let differ: u32 = x.iter().zip(w).map(|(x, w)| (x ^ w).count_ones()).sum();
    cols as i32 - 2 * differ as i32
}
