//! Packed weights: stored bytes through the real loading code to exact matrices and products.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bonsai_core::kernels::SharedBytes;
use bonsai_core::kernels::gemm::{Epilogue, matmul};
use bonsai_core::kernels::weights::{Scales, Weights as Matrix};
use bonsai_core::weights::{BlockType, Component, Dtype, TensorFile, Weights};
use half::bf16;
use ndarray::Array2;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use tempfile::TempDir;

use crate::compare::{PRODUCT_FLOOR, Report};
use crate::manifest::{Tensor, TensorSet, matrix};
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct WeightsCase {
    format: String,
    /// What the weights were made from.
    source: Option<String>,
    /// Activations.
    x: String,
    /// The matrix that the stored bytes mean.
    golden: String,
    /// Its product with the activations.
    y: String,
}

#[derive(Deserialize)]
pub struct ContainerCase {
    /// Tensors of the container, and the files that hold their bytes too.
    tensors: BTreeMap<String, String>,
}

/// Under which the stored bytes are written for the loader.
const LAYER: &str = "layer";

pub fn weights(rig: &Rig<'_>, file: &str, case: &WeightsCase, report: &mut Report) -> Result<(), Failure> {
    let name = file;
    let file = rig.golden.tensors(file)?;
    let golden = rig.golden.resolve(&file, &case.golden)?;
    let (rows, cols) = golden.rows_and_columns();
    let folder = tempfile::tempdir()?;
    let block = case.format.strip_prefix("gguf_");

    let path = match block {
        Some(block) => write_gguf(&folder, block, &file, (rows, cols))?,
        None if case.format.starts_with("mlx_") => {
            let part = |part: &str| Ok::<_, Failure>((format!("{LAYER}.{part}"), file.get(part)?));
            write_safetensors(&folder, &[part("weight")?, part("scales")?, part("biases")?])?
        }
        None if case.format == "bf16" => {
            check_rounding(file.get("f32")?, &golden, report)?;
            write_safetensors(&folder, &[(format!("{LAYER}.weight"), &golden)])?
        }
        None if ["gemlite_", "hqq_"].iter().any(|packer| case.format.starts_with(packer)) => {
            // all that the packer wrote; the others are what it should mean
            let mut parts = Vec::new();
            for part in file.names().filter(|name| ![&case.golden, &case.y].contains(&&(*name).to_owned())) {
                parts.push((format!("{LAYER}.{part}"), file.get(part)?));
            }
            write_safetensors(&folder, &parts)?
        }
        None => return Err(format!("an unknown format {}", case.format).into()),
    };

    let opened = Weights::open(&[path], Component::Vae)?;
    let loaded = opened.matrix(LAYER, rows, cols)?;
    opened.finish()?;

    report.exact_floats(&golden, &all_rows(&loaded));
    // whether the stored bytes mean the source itself
    let lossless = case.golden.contains(':');
    if let Some(source @ ("binary" | "ternary")) = case.source.as_deref().filter(|_| lossless) {
        report.exact("kind", &[source], &[loaded.kind()]);
        check_scales(rig, name, source, &loaded, report)?;
    }
    product(rig, &loaded, &rig.golden.resolve(&file, &case.x)?, &rig.golden.resolve(&file, &case.y)?, report)
}

/// The sources themselves, as an unpacked checkpoint holds them.
pub fn sources(
    rig: &Rig<'_>,
    file: &str,
    cases: &[&WeightsCase],
    report: &mut Report,
) -> Result<(), Failure> {
    let name = file;
    let file = rig.golden.tensors(file)?;
    for source in file.below("y.") {
        let Some(case) = cases.iter().find(|case| case.source.as_deref() == Some(source)) else { continue };
        let dense = file.get(source)?;
        let (rows, cols) = dense.rows_and_columns();
        let folder = tempfile::tempdir()?;
        let path = write_safetensors(&folder, &[(format!("{LAYER}.weight"), dense)])?;
        let loaded = Weights::open(&[path], Component::Vae)?.matrix(LAYER, rows, cols)?;
        report.exact_floats(dense, &all_rows(&loaded));
        if matches!(source, "binary" | "ternary") {
            report.exact(&format!("{source}: kind"), &[source], &[loaded.kind()]);
            check_scales(rig, name, source, &loaded, report)?;
        }
        product(rig, &loaded, file.get(&case.x)?, file.get(&format!("y.{source}"))?, report)?;
    }
    Ok(())
}

fn all_rows(matrix: &Matrix) -> Vec<f32> {
    (0..matrix.rows()).flat_map(|row| matrix.row(row)).collect()
}

fn product(
    rig: &Rig<'_>,
    weights: &Matrix,
    x: &Tensor,
    want: &Tensor,
    report: &mut Report,
) -> Result<(), Failure> {
    let values = x.floats()?;
    let x = matrix(x.rows_and_columns(), &values)?;
    let mut y = Array2::zeros((x.nrows(), weights.rows()));
    matmul(&rig.cpu, x, weights, y.view_mut(), Epilogue::Store)?;
    report.close(want, y.as_slice().ok_or("a product in rows")?, PRODUCT_FLOOR);
    Ok(())
}

/// The scales that the source was made with, where they are recorded.
fn check_scales(
    rig: &Rig<'_>,
    file: &str,
    source: &str,
    loaded: &Matrix,
    report: &mut Report,
) -> Result<(), Failure> {
    let wanted = format!("{source}.scales");
    for beside in rig.golden.sources_beside(file) {
        let set = rig.golden.tensors(beside)?;
        let Some(want) = set.find(&wanted) else { continue };
        let scale: Box<dyn Fn(usize, usize) -> f32> = match loaded {
            Matrix::Binary(w) => Box::new(|row, group| w.scale(row, group)),
            Matrix::Ternary(w) => Box::new(|row, group| w.scale(row, group)),
            _ => continue,
        };
        let (rows, groups) = want.rows_and_columns();
        let got: Vec<f32> =
            (0..rows).flat_map(|row| (0..groups).map(move |g| (row, g))).map(|(r, g)| scale(r, g)).collect();
        report.exact_floats(want, &got);
    }
    Ok(())
}

fn check_rounding(exact: &Tensor, rounded: &Tensor, report: &mut Report) -> Result<(), Failure> {
    let got: Vec<f32> = exact.floats()?.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect();
    report.exact("rounding to bf16", &rounded.floats()?, &got);
    Ok(())
}

fn write_safetensors(folder: &TempDir, tensors: &[(String, &Tensor)]) -> Result<PathBuf, Failure> {
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        views.push((name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)?));
    }
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None)?)?;
    Ok(path)
}

/// A file of one tensor, whose blocks are the file's `raw`.
fn write_gguf(
    folder: &TempDir,
    block: &str,
    file: &TensorSet<'_>,
    (rows, cols): (usize, usize),
) -> Result<PathBuf, Failure> {
    const ALIGNMENT: usize = 32;
    let is_block = |&id: &u32| BlockType::from_id(id).is_some_and(|b| b.name().eq_ignore_ascii_case(block));
    let id = (0..=255).find(is_block).ok_or_else(|| format!("an unknown block type {block}"))?;
    let name = format!("{LAYER}.weight");

    let mut bytes = b"GGUF".to_vec();
    let (version, tensors, pairs, axes, offset) = (3u32, 1u64, 0u64, 2u32, 0u64);
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(pairs.to_le_bytes());
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(axes.to_le_bytes());
    // the contiguous axis first
    bytes.extend((cols as u64).to_le_bytes());
    bytes.extend((rows as u64).to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend(&file.get("raw")?.bytes);
    let path = folder.path().join("weights.gguf");
    std::fs::write(&path, bytes)?;
    Ok(path)
}

pub fn container(
    rig: &Rig<'_>,
    file: &str,
    case: &ContainerCase,
    report: &mut Report,
) -> Result<(), Failure> {
    let name = file;
    let file = TensorFile::open(&rig.golden.path(file))?;
    let bytes = |tensor: &str| {
        let stored = file.tensors.get(tensor)?;
        Some((stored, file.bytes.as_slice().get(stored.range.clone())?))
    };
    for (tensor, twin) in &case.tensors {
        // without its quantiser a type is left out, here as there
        if !rig.golden.has(twin) {
            report.note(tensor, format!("nothing to compare with: no {twin}"));
            continue;
        }
        match bytes(tensor) {
            Some((_, found)) => report.exact(tensor, &rig.golden.tensors(twin)?.get("raw")?.bytes, found),
            None => report.fail(tensor, "missing"),
        }
    }

    // the others are plain floats: the first rows of some source
    let mut sources = Vec::new();
    for beside in rig.golden.sources_beside(name) {
        let set = rig.golden.tensors(beside)?;
        sources.extend(set.names().filter_map(|name| Some(set.get(name).ok()?.clone())));
    }
    let mut plain = 0;
    for tensor in file.tensors.keys().filter(|name| !case.tensors.contains_key(*name)) {
        let Some((stored, found)) = bytes(tensor) else { continue };
        let Dtype::Float(float_type) = stored.dtype else {
            report.fail(tensor, format!("neither listed nor plain floats: {}", stored.dtype));
            continue;
        };
        plain += 1;
        let found: Vec<f32> =
            Scales::new(SharedBytes::from_vec(found.to_vec()), float_type, 1.0).iter().collect();
        let columns = stored.shape.last().copied().unwrap_or(0);
        let begins = |source: &Tensor| {
            source.rows_and_columns().1 == columns
                && source.floats().is_ok_and(|values| values.starts_with(&found))
        };
        report.check(
            tensor,
            !found.is_empty() && sources.iter().any(begins),
            "not the first rows of any source",
        );
    }
    report.check("plain floats", plain > 0, "none found");
    Ok(())
}
