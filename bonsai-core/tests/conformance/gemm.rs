//! Products with binary and ternary weights: exact sums of integers, and what floats make of them.

use bonsai_core::kernels::SharedBytes;
use bonsai_core::kernels::gemm::reference::{
    self, SignedCodes, dot_signs, group_sums, pack_signs, quantize_rows_i8, scale_group_sums, signs,
};
use bonsai_core::kernels::gemm::{ActivationPrecision, Epilogue, matmul};
use bonsai_core::kernels::weights::{BinaryWeights, Scales, TernaryWeights, Weights};
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;

use crate::compare::{PRODUCT_FLOOR, Report};
use crate::manifest::{TensorSet, matrix};
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct W1a1Case {
    ks: Vec<usize>,
}

#[derive(Deserialize)]
pub struct GroupedCase {
    group_size: usize,
}

fn exact_integers(
    report: &mut Report,
    file: &TensorSet<'_>,
    name: &str,
    got: impl Iterator<Item = i64>,
) -> Result<(), Failure> {
    report.exact(name, &file.get(name)?.integers()?, &got.collect::<Vec<_>>());
    Ok(())
}

pub fn w1a1(rig: &Rig<'_>, file: &str, case: &W1a1Case, report: &mut Report) -> Result<(), Failure> {
    let file = rig.golden.tensors(file)?;
    for &k in &case.ks {
        let packed = |name: &str| -> Result<Vec<Vec<u64>>, Failure> {
            let tensor = file.get(&format!("k{k}.{name}"))?;
            let values = tensor.floats()?;
            let signs = signs(matrix(tensor.rows_and_columns(), &values)?);
            Ok(signs.rows().into_iter().map(|row| pack_signs(&row.to_vec())).collect())
        };
        let (x, w) = (packed("x")?, packed("w")?);
        let sums = x.iter().flat_map(|x| w.iter().map(|w| dot_signs(x, w, k).into()));
        exact_integers(report, &file, &format!("k{k}.acc"), sums)?;
    }
    Ok(())
}

pub fn grouped(rig: &Rig<'_>, file: &str, case: &GroupedCase, report: &mut Report) -> Result<(), Failure> {
    let file = rig.golden.tensors(file)?;
    let x = file.get("x")?;
    let values = x.floats()?;
    let x = matrix(x.rows_and_columns(), &values)?;
    let (q, scales) = quantize_rows_i8(x);
    exact_integers(report, &file, "q", q.iter().map(|&q| q.into()))?;
    report.exact_floats(file.get("sx")?, &scales);
    let mean = |row: ndarray::ArrayView1<'_, f32>| {
        (row.iter().map(|v| f64::from(v.abs())).sum::<f64>() / row.len() as f64) as f32
    };
    let means: Vec<f32> = x.rows().into_iter().map(mean).collect();
    report.close(file.get("ax")?, &means, PRODUCT_FLOOR);

    for kind in file.before(".codes") {
        let codes = file.get(&format!("{kind}.codes"))?;
        let (rows, cols) = codes.rows_and_columns();
        let (codes, group) = (codes.integers()?, case.group_size);
        let scales = Scales::from_f32(&file.get(&format!("{kind}.scales"))?.floats()?);
        match kind {
            "binary" => {
                let bits = pack(&codes, 1, |code| u8::from(code > 0));
                let weights = BinaryWeights::new(rows, cols, group, bits, scales)?;
                integer_products(&file, kind, x, &q, &means, &weights, report)?;
                full_product(rig, &file, kind, x, &Weights::Binary(weights), report)?;
            }
            "ternary" => {
                let pairs = pack(&codes, 2, |code| (code + 1) as u8);
                let weights = TernaryWeights::new(rows, cols, group, pairs, scales)?;
                integer_products(&file, kind, x, &q, &means, &weights, report)?;
                full_product(rig, &file, kind, x, &Weights::Ternary(weights), report)?;
            }
            other => report.fail(other, "an unknown kind of weights"),
        }
    }
    Ok(())
}

/// Codes of `bits` bits, the first in the lowest.
fn pack(codes: &[i64], bits: usize, stored: impl Fn(i64) -> u8) -> SharedBytes {
    let byte = |chunk: &[i64]| {
        let codes = chunk.iter().enumerate();
        codes.fold(0, |byte, (i, &code)| byte | stored(code) << (bits * i))
    };
    SharedBytes::from_vec(codes.chunks(8 / bits).map(byte).collect())
}

fn integer_products(
    file: &TensorSet<'_>,
    kind: &str,
    x: ArrayView2<'_, f32>,
    q: &Array2<i8>,
    means: &[f32],
    weights: &impl SignedCodes,
    report: &mut Report,
) -> Result<(), Failure> {
    let (_, scales) = quantize_rows_i8(x);
    let times = |y: &Array2<f64>, factors: &[f32]| -> Vec<f32> {
        y.indexed_iter().map(|((m, _), y)| (y * f64::from(factors[m])) as f32).collect()
    };
    let sums = group_sums(q.view(), weights);
    exact_integers(report, file, &format!("{kind}.acc_a8"), sums.iter().map(|&s| s.into()))?;
    let y = times(&scale_group_sums(&sums, weights), &scales);
    report.close(file.get(&format!("{kind}.y_a8"))?, &y, PRODUCT_FLOOR);

    let sums = group_sums(signs(x).view(), weights);
    exact_integers(report, file, &format!("{kind}.acc_a1"), sums.iter().map(|&s| s.into()))?;
    let y = scale_group_sums(&sums, weights);
    let plain: Vec<f32> = y.iter().map(|&y| y as f32).collect();
    report.close(file.get(&format!("{kind}.y_a1"))?, &plain, PRODUCT_FLOOR);
    report.close(file.get(&format!("{kind}.y_a1_scaled"))?, &times(&y, means), PRODUCT_FLOOR);
    Ok(())
}

/// The definition, and the kernels: activations as they are, as bytes with a scale for each row, and as signs.
fn full_product(
    rig: &Rig<'_>,
    file: &TensorSet<'_>,
    kind: &str,
    x: ArrayView2<'_, f32>,
    weights: &Weights,
    report: &mut Report,
) -> Result<(), Failure> {
    let want = file.get(&format!("{kind}.y_full"))?;
    let (defined, _) = reference::matmul(x, weights);
    let defined: Vec<f32> = defined.iter().map(|&y| y as f32).collect();
    report.close(&want.renamed(format!("{} (definition)", want.name)), &defined, PRODUCT_FLOOR);
    for (name, precision) in [
        ("y_full", ActivationPrecision::F32),
        ("y_a8", ActivationPrecision::Int8Row),
        ("y_a1_scaled", ActivationPrecision::Binary),
    ] {
        let want = file.get(&format!("{kind}.{name}"))?;
        let cpu = rig.cpu.clone().with_precision(precision);
        let mut y = Array2::zeros((x.nrows(), weights.rows()));
        matmul(&cpu, x, weights, y.view_mut(), Epilogue::Store)?;
        let kernel = want.renamed(format!("{} (kernel)", want.name));
        report.close(&kernel, y.as_slice().ok_or("a product in rows")?, PRODUCT_FLOOR);
    }
    Ok(())
}
