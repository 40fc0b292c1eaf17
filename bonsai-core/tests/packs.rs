//! Matrices that the genuine packers wrote (`fixtures/make_fixtures.py` and `fixtures/make_mlx.py`), against what the
//! packers' own code reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bonsai_core::weights::{Attribute, Component, TensorFile, Weights};
use safetensors::SafeTensors;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");

fn fixture(name: &str) -> PathBuf {
    format!("{FIXTURES}{name}").into()
}

/// The recorded values of a file's matrices: name, shape, values.
fn expected(file: &str) -> BTreeMap<String, (usize, usize, Vec<f32>)> {
    let recorded = if file.starts_with("mlx") { "mlx_expected.safetensors" } else { "expected.safetensors" };
    let bytes = std::fs::read(fixture(recorded)).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let of_file = all.iter().filter_map(|(name, view)| {
        let name = name.strip_prefix(file)?.strip_prefix('/')?;
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Some((name.to_owned(), (view.shape()[0], view.shape()[1], values)))
    });
    of_file.collect()
}

/// Reads every matrix of a file and compares it; returns their kinds. `rounding` is the most that a value may differ,
/// relative to itself: 0 for formats whose packer computes what we do.
fn compare(file: &str, rounding: f32) -> BTreeMap<String, &'static str> {
    let weights = Weights::open(&[fixture(file)], Component::Vae).unwrap();
    let expected = expected(file);
    assert!(!expected.is_empty(), "{file}");
    for (name, (rows, cols, values)) in &expected {
        let matrix = weights.matrix(name, *rows, *cols).unwrap();
        let found: Vec<f32> = (0..*rows).flat_map(|row| matrix.row(row)).collect();
        let same = |(a, b): (&f32, &f32)| (a - b).abs() <= rounding * b.abs();
        let differ = found.iter().zip(values).filter(|pair| !same(*pair)).count();
        assert!(differ == 0 && found.len() == values.len(), "{file}: {name}: {differ} differ");
    }
    weights.kinds()
}

#[test]
fn mlx_packs_are_what_mlx_reads() {
    let kinds = compare("mlx.safetensors", 0.0);
    let kind = |name: &str| kinds[name];
    assert_eq!(
        ["int1", "int2", "int4", "int4_small_groups", "int8", "embed_tokens"].map(kind),
        ["binary", "int2", "int4", "int4", "int8", "int4"]
    );
}

#[test]
fn gemlite_packs_are_binary_and_ternary() {
    assert!(compare("gemlite_int1.pt", 0.0).values().all(|kind| *kind == "binary"));
    assert!(compare("gemlite_int2.pt", 0.0).values().all(|kind| *kind == "ternary"));
}

#[test]
fn a_view_is_read_by_its_strides() {
    let file = TensorFile::open(&fixture("gemlite_int2.pt")).unwrap();
    let strides = |name: &str| file.tensors[name].strides.clone();
    assert_eq!(strides("view.W_q"), Some(vec![1, 96]));
    assert_eq!(strides("view.scales"), None);
    assert_eq!(file.container, "torch");
}

#[test]
fn hqq_matrices_are_read_to_a_rounding() {
    // hqq rounds `code - zero`, then the product; here `scale * code` and `scale * zero` are exact and their
    // difference is rounded: three roundings of 2^-24 between the two
    let kinds = compare("hqq.pt", 3.0 * f32::EPSILON / 2.0);
    let kind = |name: &str| kinds[&format!("layers.{name}")];
    assert_eq!(
        ["int1", "int2", "int4", "int8", "floats", "columns"].map(kind),
        ["int1", "int2", "int4", "int8", "int4", "f32"]
    );
    let weights = Weights::open(&[fixture("hqq.pt")], Component::Vae).unwrap();
    assert_eq!(weights.attribute("layers.int4.nbits"), Some(&Attribute::Int(4)));
    assert_eq!(weights.attribute("layers.int4.shape"), Some(&Attribute::Ints(vec![16, 256])));
    assert_eq!(weights.matrix("embed_tokens", 8, 128).unwrap().kind(), "f16");
    let error = weights.matrix("layers.int4", 16, 128).unwrap_err().to_string();
    assert!(error.contains("layers.int4.W_q") && error.contains("[16, 256]"), "{error}");
}

#[test]
fn every_block_type_means_what_ggml_means() {
    let kinds = compare("blocks.gguf", 0.0);
    let kind = |name: &str| kinds[name];
    assert_eq!(["q4_0", "q4_1", "q4_k", "q3_k"].map(kind), ["int4"; 4]);
    assert_eq!(["q5_0", "q5_1", "q5_k", "q6_k", "q8_0"].map(kind), ["int8"; 5]);
    assert_eq!(["q2_k", "tq1_0", "tq2_0"].map(kind), ["int2", "ternary", "ternary"]);
}

/// Memory that is foretold from a file's header, and what its matrices then take.
fn copies(file: &str) -> Vec<(String, u64, u64)> {
    let weights = Weights::open(&[fixture(file)], Component::Vae).unwrap();
    let matrices = expected(file).into_iter().map(|(name, (rows, cols, _))| {
        let foretold = weights.footprint(&format!("{name}.")).copied;
        let matrix = weights.matrix(&name, rows, cols).unwrap();
        (name, foretold, matrix.bytes() as u64)
    });
    matrices.collect()
}

#[test]
fn copies_are_foretold() {
    for file in ["gemlite_int1.pt", "gemlite_int2.pt"] {
        for (name, foretold, taken) in copies(file) {
            // what was saved turned round lies as the kernels read it
            let in_place = if name == "view" { foretold * 2 < taken } else { foretold == taken };
            assert!(in_place, "{file} {name}: {foretold} foretold, {taken} taken");
        }
    }
    for (name, foretold, taken) in copies("hqq.pt") {
        // scales are used in place; codes and biases, or f32, are not
        assert!(foretold <= taken && taken <= foretold + foretold / 2, "{name}: {foretold}, {taken}");
        assert!(name != "layers.columns" || foretold == taken, "{foretold} {taken}");
    }
    let weights = Weights::open(&[fixture("hqq.pt")], Component::Vae).unwrap();
    let (rows, cols, _) = expected("hqq.pt")["layers.columns"];
    weights.matrix("layers.columns", rows, cols).unwrap();
    let warnings = weights.warnings();
    let bytes = format!("{} bytes", 4 * rows * cols);
    assert!(warnings.iter().any(|text| text.contains("axis 0") && text.contains(&bytes)), "{warnings:?}");
}
