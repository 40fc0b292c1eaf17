//! Conversions: what comes back is what went in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bonsai_core::native::{Target, check_digests, convert};
use bonsai_core::tokenizer::Tokenizer;
use bonsai_core::weights::{Component, TensorFile, Weights};
use bonsai_core::{ComponentPaths, ErrorKind, Image, Pipeline, PipelineOptions, Request, VaePath};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

fn paint(model: &Path) -> Image {
    let options = PipelineOptions { threads: Some(2), ..PipelineOptions::default() };
    let request = Request::new("a bonsai in a glass jar").seed(9).steps(2);
    Pipeline::open_with(model, &options).unwrap().generate(&request).unwrap().image
}

/// The golden model with the named folder as its transformer.
fn model(dir: &Path, transformer: &str) -> PathBuf {
    let root = dir.join("model");
    for (from, to) in [
        ("text_encoder", "text_encoder"),
        ("vae", "vae"),
        ("tokenizer", "tokenizer"),
        (transformer, "transformer"),
    ] {
        fs::create_dir_all(root.join(to)).unwrap();
        for entry in fs::read_dir(Path::new(GOLDEN).join(from)).unwrap().flatten() {
            fs::copy(entry.path(), root.join(to).join(entry.file_name())).unwrap();
        }
    }
    fs::copy(Path::new(GOLDEN).join("bonsai.json"), root.join("bonsai.json")).unwrap();
    root
}

#[test]
fn every_form_and_the_way_back_paint_the_same_picture() {
    for transformer in ["transformer", "transformer_ternary"] {
        let dir = tempfile::tempdir().unwrap();
        let original = model(dir.path(), transformer);
        let want = paint(&original);
        let mut packs = Vec::new();
        for (name, target) in
            [("native", Target::Native), ("gguf", Target::Gguf), ("unpacked", Target::Unpacked)]
        {
            let converted = dir.path().join(format!("{name}.safetensors"));
            convert(&original, &converted, target).unwrap();
            assert!(paint(&converted) == want, "{transformer} as {name}");
            let back = dir.path().join(format!("{name}.back.safetensors"));
            convert(&converted, &back, Target::Native).unwrap();
            assert!(paint(&back) == want, "{transformer} as {name} and back");
            packs.push(fs::read(back).unwrap());
        }
        // from the native pack onwards to the others
        for (name, target) in [("gguf", Target::Gguf), ("unpacked", Target::Unpacked)] {
            let onwards = dir.path().join(format!("onwards-{name}"));
            convert(&dir.path().join("native.safetensors"), &onwards, target).unwrap();
            assert!(paint(&onwards) == want, "{transformer} from native to {name}");
        }
    }
}

#[test]
fn unpacked_weights_are_the_bits_of_the_packed_ones() {
    for (transformer, kind, forms) in
        [("transformer", "binary", ["Q1_0", "F16"]), ("transformer_ternary", "ternary", ["Q2_0", "F16"])]
    {
        let dir = tempfile::tempdir().unwrap();
        let original = model(dir.path(), transformer);
        let files = |root: &Path, ending: &str| -> Vec<PathBuf> {
            let entries = fs::read_dir(root.join("transformer")).unwrap().flatten().map(|e| e.path());
            entries.filter(|p| p.extension().is_some_and(|e| e == ending)).collect()
        };
        let rows = |paths: &[PathBuf]| -> BTreeMap<String, Vec<Vec<f32>>> {
            let weights = Weights::open(paths, Component::Transformer).unwrap();
            ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_out"]
                .into_iter()
                .map(|name| {
                    let hidden = weights.shape("x_embedder.weight").unwrap()[0];
                    let cols = if name.ends_with("to_out") { 4 * hidden } else { hidden };
                    let matrix = weights.matrix(name, hidden, cols).unwrap();
                    assert_eq!(matrix.kind(), kind, "{name}");
                    (name.to_owned(), (0..hidden).map(|row| matrix.row(row)).collect())
                })
                .collect()
        };
        let want = rows(&files(&original, "safetensors"));
        for (target, ending, form) in
            [(Target::Gguf, "gguf", forms[0]), (Target::Unpacked, "safetensors", forms[1])]
        {
            let to = dir.path().join(ending);
            convert(&original, &to, target).unwrap();
            let paths = files(&to, ending);
            let stored = bonsai_core::weights::TensorFile::open(&paths[0]).unwrap();
            // under the names that other programs look for
            let name = match target {
                Target::Gguf => "double_blocks.0.img_attn.qkv.weight",
                _ => "transformer_blocks.0.attn.to_q.weight",
            };
            assert_eq!(stored.tensors[name].dtype.to_string(), form);
            assert!(rows(&paths) == want, "{transformer} as {ending}");
        }
    }
}

#[test]
fn a_native_pack_knows_its_digests_and_is_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let pack = dir.path().join("pack.safetensors");
    convert(Path::new(GOLDEN), &pack, Target::Native).unwrap();
    let checked = check_digests(&pack).unwrap();
    assert_eq!(checked.len(), 4, "{checked:?}");
    assert!(checked.iter().all(|(_, sound)| *sound), "{checked:?}");
    // nothing of it is copied
    let (options, request) = (PipelineOptions::default(), Request::new(""));
    let base = |model: &Path| bonsai_core::estimate(model, &options, &request).unwrap().base_bytes;
    assert!(base(&pack) <= base(Path::new(GOLDEN)));
    let stored = bonsai_core::weights::TensorFile::open(&pack).unwrap();
    assert!(stored.tensors.values().all(|t| t.dtype.to_string() == "U8" || t.range.start % 64 == 0));
    let codes = stored.tensors.iter().filter(|(name, _)| name.ends_with(".binary"));
    assert!(codes.clone().count() > 0 && codes.clone().all(|(_, t)| t.range.start % 64 == 0));

    let mut bytes = fs::read(&pack).unwrap();
    bytes[codes.map(|(_, t)| t.range.start).next().unwrap()] ^= 1;
    let damaged = dir.path().join("damaged.safetensors");
    fs::write(&damaged, bytes).unwrap();
    let wrong: Vec<_> = check_digests(&damaged).unwrap().into_iter().filter(|(_, sound)| !sound).collect();
    assert_eq!(wrong, [("transformer".to_owned(), false)]);
}

#[test]
fn bad_packs_are_errors_and_outputs_are_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let pack = dir.path().join("pack.safetensors");
    convert(Path::new(GOLDEN), &pack, Target::Native).unwrap();
    let again = convert(Path::new(GOLDEN), &pack, Target::Native).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InvalidArgument);
    let bytes = fs::read(&pack).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap();
    // each keeps the length of the header
    let changes = [
        (r#""version":"1""#, r#""version":"7""#, ErrorKind::Unsupported),
        (r#""format":"bonsai""#, r#""format":"pt    ""#, ErrorKind::NotFound),
        ("attn.to_q.binary", "attn.to_q.b1nary", ErrorKind::ModelMismatch),
        (r#""tokenizer.tables""#, r#""tokenizer.tablez""#, ErrorKind::NotFound),
    ];
    for (from, to, kind) in changes {
        assert!(text.contains(from), "{from}");
        let mut changed = bytes.clone();
        changed[8..8 + header].copy_from_slice(text.replacen(from, to, 1).as_bytes());
        let path = dir.path().join("changed.safetensors");
        fs::write(&path, changed).unwrap();
        assert_eq!(Pipeline::open(&path).unwrap_err().kind(), kind, "{to}");
    }
    for len in [0, 7, 8 + header / 2, 8 + header, bytes.len() - 1] {
        let path = dir.path().join("short.safetensors");
        fs::write(&path, &bytes[..len]).unwrap();
        assert_eq!(Pipeline::open(&path).unwrap_err().kind(), ErrorKind::ModelFormat, "{len} bytes");
    }
}

#[test]
fn an_unpacked_directory_is_what_diffusers_opens() {
    let dir = tempfile::tempdir().unwrap();
    // with and without the files that only diffusers reads
    let bare = model(dir.path(), "transformer");
    for (source, name) in [(Path::new(GOLDEN), "whole"), (bare.as_path(), "bare")] {
        let pack = dir.path().join(format!("{name}.safetensors"));
        convert(source, &pack, Target::Native).unwrap();
        for source in [source, &pack] {
            let to = dir.path().join("unpacked");
            convert(source, &to, Target::Unpacked).unwrap();
            let read = |root: &Path, file: &str| -> serde_json::Value {
                serde_json::from_str(&fs::read_to_string(root.join(file)).unwrap()).unwrap()
            };
            let golden = |file: &str| read(Path::new(GOLDEN), file);
            assert_eq!(read(&to, "model_index.json"), golden("model_index.json"));
            let scheduler = read(&to, "scheduler/scheduler_config.json");
            let whole = golden("scheduler/scheduler_config.json");
            for (key, value) in scheduler.as_object().unwrap() {
                assert_eq!(&whole[key], value, "{key}");
            }
            assert!(scheduler["use_dynamic_shifting"].as_bool().unwrap());
            fs::remove_dir_all(&to).unwrap();
        }
    }
}

#[test]
fn gguf_files_stand_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("gguf");
    convert(Path::new(GOLDEN), &to, Target::Gguf).unwrap();
    let open = |role: &str| TensorFile::open(&to.join(role).join("model.gguf")).unwrap();
    let (transformer, encoder) = (open("transformer"), open("text_encoder"));
    let text = |file: &TensorFile, key: &str| file.attributes[key].as_text().map(str::to_owned);
    assert_eq!(text(&transformer, "general.architecture").as_deref(), Some("flux"));
    // every name is one of BFL's or of llama.cpp's
    let is_bfl = |name: &str| {
        ["double_blocks.", "single_blocks.", "img_in.", "txt_in.", "time_in.", "final_layer."]
            .into_iter()
            .chain(["double_stream_modulation_", "single_stream_modulation.lin."])
            .any(|start| name.starts_with(start))
    };
    assert!(transformer.tensors.keys().all(|name| is_bfl(name)), "{:?}", transformer.tensors.keys());
    let is_llama = |name: &str| ["blk.", "token_embd.", "output_norm."].iter().any(|s| name.starts_with(s));
    assert!(encoder.tensors.keys().all(|name| is_llama(name)), "{:?}", encoder.tensors.keys());
    assert!(encoder.tensors.contains_key("output_norm.weight"));
    for (key, value) in [("block_count", 4), ("embedding_length", 128), ("attention.head_count_kv", 2)] {
        assert_eq!(encoder.attributes[&format!("qwen3.{key}")].as_int(), Some(value), "{key}");
    }
    assert_eq!(text(&encoder, "tokenizer.ggml.pre").as_deref(), Some("qwen2"));

    // neither configs nor a tokenizer beside them are needed
    let want = paint(Path::new(GOLDEN));
    let copy = |role: &str| {
        let path = dir.path().join(format!("{role}.gguf"));
        fs::copy(to.join(role).join("model.gguf"), &path).unwrap();
        Some(path)
    };
    let components = ComponentPaths {
        transformer: copy("transformer"),
        text_encoder: copy("text_encoder"),
        vae: Some(VaePath::Path(Path::new(GOLDEN).join("vae"))),
        ..ComponentPaths::default()
    };
    let side: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(Path::new(GOLDEN).join("bonsai.json")).unwrap()).unwrap();
    let taps = side["text_encoder_out_layers"].as_array().unwrap();
    let options = PipelineOptions {
        threads: Some(2),
        text_encoder_out_layers: Some(taps.iter().map(|tap| tap.as_u64().unwrap() as usize).collect()),
        max_sequence_length: Some(side["max_sequence_length"].as_u64().unwrap() as usize),
        components,
        ..PipelineOptions::default()
    };
    let pipeline = Pipeline::open_components(&options).unwrap();
    let own = Tokenizer::open(&Path::new(GOLDEN).join("tokenizer")).unwrap();
    let prompt = "A bonsai \u{1f333} in  a glass jar, 12:30!";
    assert_eq!(pipeline.tokenizer().encode_text(prompt).unwrap(), own.encode_text(prompt).unwrap());
    let size = side["default_size"].as_array().unwrap();
    let size = [0, 1].map(|i| size[i].as_u64().unwrap() as usize);
    let request = Request::new("a bonsai in a glass jar").seed(9).steps(2).size(size[0], size[1]);
    assert!(pipeline.generate(&request).unwrap().image == want);
}
