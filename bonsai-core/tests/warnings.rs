//! Files that can be run and are not what they seem.

mod common;

use std::path::{Path, PathBuf};

use bonsai_core::{ComponentPaths, Pipeline, PipelineOptions};
use common::gguf::{self, LOSSY};
use common::{MODEL, Tensor, golden, unpacked_f16, weights_of, write};
use tempfile::TempDir;

fn warnings(components: ComponentPaths) -> Vec<String> {
    let options = PipelineOptions { threads: Some(1), components, ..PipelineOptions::default() };
    Pipeline::open_with(MODEL, &options).unwrap().warnings().to_vec()
}

fn transformer(path: PathBuf) -> ComponentPaths {
    ComponentPaths { transformer: Some(path), ..ComponentPaths::default() }
}

/// Expects one warning that holds these words.
fn expect(warnings: &[String], words: &[&str]) {
    assert!(matches!(warnings, [one] if words.iter().all(|word| one.contains(word))), "{warnings:?}");
}

#[test]
fn a_sound_model_gives_none() {
    assert_eq!(warnings(ComponentPaths::default()), Vec::<String>::new());
    assert_eq!(warnings(transformer(weights_of("transformer_ternary"))), Vec::<String>::new());
}

#[test]
fn packed_linears_beside_dense_tensors_of_another_file() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("transformer");
    std::fs::create_dir(&folder).unwrap();
    let all = golden("transformer");
    let is_packed = |name: &str| {
        let stem = name.rsplit_once('.').unwrap().0;
        all.contains_key(&format!("{stem}.scales"))
    };
    let (packed, dense) = all.clone().into_iter().partition(|(name, _)| is_packed(name));
    write(&folder.join("bonsai.safetensors"), &packed);
    write(&folder.join("klein.safetensors"), &dense);
    std::fs::copy(Path::new(MODEL).join("transformer/config.json"), folder.join("config.json")).unwrap();
    expect(&warnings(transformer(folder)), &["bonsai.safetensors", "klein.safetensors", "trained anew"]);
}

#[test]
fn a_lossy_quantisation_of_two_bits() {
    let dir = TempDir::new().unwrap();
    let dense = unpacked_f16(&golden("transformer"));
    let mut stored = gguf::blocks(&dense, |_, _| None);
    let name = "single_transformer_blocks.0.attn.to_out.weight";
    stored.insert(name.into(), gguf::random(LOSSY[0], &dense[name].shape, 3));
    let path = dir.path().join("q2_k.gguf");
    gguf::write(&path, &[], &stored);
    expect(&warnings(transformer(path)), &["1 of ", "neither binary nor ternary"]);
}

#[test]
fn another_qwen_of_the_same_sizes() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("text_encoder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(weights_of("text_encoder"), folder.join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(Path::new(MODEL).join("text_encoder/config.json")).unwrap();
    let other = config.replace("\"rope_theta\":1000000", "\"rope_theta\":5000000");
    assert_ne!(config, other);
    std::fs::write(folder.join("config.json"), other).unwrap();
    let components = ComponentPaths { text_encoder: Some(folder), ..ComponentPaths::default() };
    expect(&warnings(components), &["5000000", "Instruct-2507"]);
}

#[test]
fn an_index_of_another_pipeline() {
    let dir = TempDir::new().unwrap();
    let model = dir.path();
    for folder in ["transformer", "text_encoder", "vae", "tokenizer"] {
        std::fs::create_dir(model.join(folder)).unwrap();
        for entry in std::fs::read_dir(Path::new(MODEL).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, model.join(folder).join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(Path::new(MODEL).join("bonsai.json"), model.join("bonsai.json")).unwrap();
    let open = |index: &str| {
        std::fs::write(model.join("model_index.json"), index).unwrap();
        let options = PipelineOptions { threads: Some(1), ..PipelineOptions::default() };
        Pipeline::open_with(model, &options).map(|pipeline| pipeline.warnings().to_vec())
    };
    expect(
        &open(r#"{"_class_name":"Flux2KleinPipeline","is_distilled":false}"#).unwrap(),
        &["not distilled"],
    );
    expect(&open(r#"{"_class_name":"FluxPipeline"}"#).unwrap(), &["FluxPipeline"]);
    for index in [r#"{"transformer":["diffusers","../../x"]}"#, r#"{"../x":["a","b"]}"#, "[]", "{"] {
        let error = open(index).unwrap_err().to_string();
        assert!(error.contains("model_index.json"), "{error}");
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_its_file() {
    let dir = TempDir::new().unwrap();
    let mut tensors = golden("transformer");
    tensors.insert("proj_out.weight".into(), Tensor::f32(&[1, 2], [0.0, 0.0]));
    let path = dir.path().join("damaged.safetensors");
    write(&path, &tensors);
    let options =
        PipelineOptions { threads: Some(1), components: transformer(path), ..PipelineOptions::default() };
    let error = Pipeline::open_with(MODEL, &options).unwrap_err().to_string();
    assert!(error.contains("damaged.safetensors") && error.contains("proj_out"), "{error}");
}
