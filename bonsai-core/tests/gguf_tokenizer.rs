//! A GGUF text encoder brings its tokenizer with it: the ids are those of the recorded prompts.

mod common;

use std::path::{Path, PathBuf};

use bonsai_core::tokenizer::Tokenizer;
use bonsai_core::{ComponentPaths, ErrorKind, Pipeline, PipelineOptions, Request, VaePath};
use common::gguf::{self, Value};
use common::{MODEL, golden, weights_of};
use tempfile::TempDir;

/// Rows of the embedding beyond the last token, which converters fill with names.
const UNUSED: usize = 5;

/// The keys that llama.cpp's converter would write for the small model's tokenizer.
fn keys() -> Vec<(&'static str, Value)> {
    let text = std::fs::read_to_string(Path::new(MODEL).join("tokenizer/tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut tokens: Vec<(u64, String, i32)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone(), 1))
        .collect();
    for added in json["added_tokens"].as_array().unwrap() {
        let kind = if added["special"] == true { 3 } else { 4 };
        let token = (added["id"].as_u64().unwrap(), added["content"].as_str().unwrap().to_owned(), kind);
        tokens.retain(|other| other.0 != token.0);
        tokens.push(token);
    }
    tokens.sort();
    assert!((0..).zip(&tokens).all(|(i, token)| token.0 == i), "ids without a gap");
    let padding = tokens.iter().position(|token| token.1 == "<|endoftext|>").unwrap() as u32;
    let last = tokens.len();
    tokens.extend((last..last + UNUSED).map(|id| (id as u64, format!("[PAD{id}]"), 5)));
    let merge = |merge: &serde_json::Value| match merge.as_array() {
        Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        None => merge.as_str().unwrap().to_owned(),
    };
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    vec![
        ("general.architecture", Value::Text("qwen3")),
        ("qwen3.rope.freq_base", Value::F32(1e6)),
        ("qwen3.context_length", Value::U32(40960)),
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("qwen2")),
        ("tokenizer.ggml.tokens", Value::Texts(tokens.iter().map(|token| token.1.clone()).collect())),
        ("tokenizer.ggml.token_type", Value::Ints(tokens.iter().map(|token| token.2).collect())),
        ("tokenizer.ggml.merges", Value::Texts(merges)),
        ("tokenizer.ggml.eos_token_id", Value::U32(padding)),
        ("tokenizer.ggml.padding_token_id", Value::U32(padding)),
    ]
}

/// The small model's text encoder with these keys.
fn encoder(dir: &TempDir, name: &str, keys: &[(&'static str, Value)]) -> PathBuf {
    let path = dir.path().join(name);
    gguf::write(&path, keys, &gguf::blocks(&golden("text_encoder"), |_, _| None));
    path
}

#[test]
fn the_ids_are_the_recorded_ones() {
    let dir = TempDir::new().unwrap();
    let tokenizer = Tokenizer::open(&encoder(&dir, "qwen.gguf", &keys())).unwrap();
    let path = Path::new(MODEL).join("../tokenizer/prompts.json");
    let recorded: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let length = recorded["max_length"].as_u64().unwrap() as usize;
    assert_eq!(recorded["pad_id"], tokenizer.pad_id());
    assert_eq!(recorded["vocab_with_added"], tokenizer.vocab_size());
    let prompts = recorded["prompts"].as_array().unwrap();
    assert!(!prompts.is_empty());
    for prompt in prompts {
        let text = prompt["prompt"].as_str().unwrap();
        let ids: Vec<u32> =
            prompt["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode_prompt(text, length).unwrap().ids, ids, "{text:?}");
    }
    // what only fills the embedding up is no token
    let name = format!("[PAD{}]", tokenizer.vocab_size());
    assert!(tokenizer.encode_text(&name).unwrap().len() > 1);
}

#[test]
fn a_model_of_single_files_needs_no_tokenizer_beside_them() {
    let dir = TempDir::new().unwrap();
    let side: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(Path::new(MODEL).join("bonsai.json")).unwrap())
            .unwrap();
    let taps = side["text_encoder_out_layers"].as_array().unwrap();
    let options = |text_encoder: PathBuf| PipelineOptions {
        threads: Some(2),
        text_encoder_out_layers: Some(taps.iter().map(|tap| tap.as_u64().unwrap() as usize).collect()),
        max_sequence_length: Some(side["max_sequence_length"].as_u64().unwrap() as usize),
        components: ComponentPaths {
            transformer: Some(weights_of("transformer")),
            text_encoder: Some(text_encoder),
            vae: Some(VaePath::Path(weights_of("vae"))),
            ..ComponentPaths::default()
        },
        ..PipelineOptions::default()
    };
    let request = Request::new("a tiny castle").size(64, 48).steps(1).seed(5);
    let whole = options(encoder(&dir, "qwen.gguf", &keys()));
    assert!(whole.components.is_complete());
    let pipeline = Pipeline::open_components(&whole).unwrap();
    let want = Pipeline::open(MODEL).unwrap().generate(&request).unwrap().image;
    assert_eq!(pipeline.generate(&request).unwrap().image, want);

    // without the keys it says what to give
    let bare = options(encoder(&dir, "bare.gguf", &keys()[..3]));
    let error = Pipeline::open_components(&bare).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("tokenizer"), "{error}");
}

#[test]
fn keys_that_make_no_tokenizer_are_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |what: &str, value: Option<Value>| {
        let mut keys = keys();
        let at = keys.iter().position(|(key, _)| *key == what).unwrap();
        match value {
            Some(value) => keys[at].1 = value,
            None => drop(keys.remove(at)),
        }
        let error = Tokenizer::open(&encoder(&dir, "bad.gguf", &keys)).unwrap_err().to_string();
        assert!(error.contains("bad.gguf"), "{what}: {error}");
        error
    };
    assert!(refused("tokenizer.ggml.model", Some(Value::Text("llama"))).contains("gpt2"));
    assert!(refused("tokenizer.ggml.pre", Some(Value::Text("deepseek"))).contains("qwen2"));
    assert!(refused("tokenizer.ggml.tokens", None).contains("tokenizer"));
    assert!(refused("tokenizer.ggml.tokens", Some(Value::Ints(vec![1]))).contains("texts"));
    assert!(refused("tokenizer.ggml.tokens", Some(Value::Texts(vec!["a".into(); 3]))).contains("types"));
    assert!(refused("tokenizer.ggml.token_type", Some(Value::Ints(vec![1]))).contains("types"));
    assert!(refused("tokenizer.ggml.token_type", None).contains("types"));
    assert!(refused("tokenizer.ggml.merges", Some(Value::Texts(vec!["ab".into()]))).contains("merge 0"));
    assert!(refused("tokenizer.ggml.padding_token_id", Some(Value::U32(1 << 30))).contains("no such token"));
}
