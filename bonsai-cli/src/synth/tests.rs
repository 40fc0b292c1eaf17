use std::cell::Cell;
use std::fs;
use std::path::Path;

use clap::ValueEnum;
use half::bf16;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use super::plan::TensorFile;
use super::vocabulary::Vocabulary;
use super::*;

fn silent(_: f64, _: &str) {}

fn read_all(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            files.extend(read_all(&entry.path()).into_iter().map(|(n, b)| (format!("{name}/{n}"), b)));
        } else {
            files.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

fn tiny(seed: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    run(Preset::Tiny, &dir.path().join("model"), seed, 0, &silent).unwrap();
    dir
}

/// (name, shape) of every tensor whose parts of quantised storage are taken together as one matrix.
fn matrices(file: &TensorFile, bits: u64) -> Vec<(String, Vec<u64>)> {
    let mut all = Vec::new();
    for (name, tensor) in &file.tensors {
        if name.ends_with(".scales") || name.ends_with(".biases") {
            continue;
        }
        let mut shape = tensor.shape.clone();
        if tensor.dtype == plan::Dtype::U32 {
            shape[1] *= 32 / bits;
            let base = name.strip_suffix(".weight").unwrap();
            for part in ["scales", "biases"] {
                assert_eq!(file.tensors[&format!("{base}.{part}")].shape, [shape[0], shape[1] / 128]);
            }
        }
        all.push((name.clone(), shape));
    }
    all
}

fn file_bytes(file: &TensorFile) -> u64 {
    8 + writer::header(file).unwrap().len() as u64 + file.data_bytes()
}

#[test]
fn presets_have_their_names() {
    let names: Vec<String> =
        Preset::value_variants().iter().map(|p| p.to_possible_value().unwrap().get_name().into()).collect();
    assert_eq!(names, ["bonsai-4b-binary", "bonsai-4b-ternary", "medium", "tiny"]);
}

#[test]
fn same_seed_same_bytes() {
    let (a, b, c) = (tiny(7), tiny(7), tiny(8));
    let [a, b, c] = [a, b, c].map(|dir| read_all(&dir.path().join("model")));
    assert_eq!(a, b);
    let names: Vec<&str> = a.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "bonsai.json",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
    for (a, c) in a.iter().zip(&c) {
        assert_eq!(a.0.ends_with(".safetensors"), a.1 != c.1, "{}", a.0);
    }
}

#[test]
fn files_are_sound_and_their_numbers_sane() {
    let dir = tiny(1);
    for (path, bytes) in read_all(dir.path()) {
        if !path.ends_with(".safetensors") {
            continue;
        }
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (header_len, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header_len % 8, 0);
        let metadata = metadata.metadata().clone().unwrap();
        assert_eq!(metadata["format"], "pt");
        assert_eq!(metadata.contains_key("quantization"), !path.contains("vae"));
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::BF16 {
                continue;
            }
            let values: Vec<f64> = view
                .data()
                .chunks_exact(2)
                .map(|b| f64::from(bf16::from_le_bytes([b[0], b[1]]).to_f32()))
                .collect();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
            assert!(values.iter().all(|v| v.abs() < 10.0), "{name}");
            if name.contains("norm") && name.ends_with(".weight") && view.shape().len() == 1 {
                assert!((mean - 1.0).abs() < 0.1 && std < 0.1, "{name}: {mean} ± {std}");
            } else if view.shape().len() == 4 && count > 5000.0 && !name.contains("conv_out") {
                let expected = (count / view.shape()[0] as f64).powf(-0.5);
                assert!(
                    (std / expected - 1.0).abs() < 0.05 && mean.abs() < 0.1 * std,
                    "{name}: {mean} ± {std}"
                );
            }
            if let Some(base) = name.strip_suffix(".scales") {
                let bits = if path.contains("text_encoder") { 4 } else { 1 };
                let biases = file.tensor(&format!("{base}.biases")).unwrap();
                for (scale, bias) in values.iter().zip(biases.data().chunks_exact(2)) {
                    let bias = bf16::from_le_bytes([bias[0], bias[1]]);
                    let centre = if bits == 1 { -0.5 } else { -7.5 };
                    assert_eq!(bias, bf16::from_f64(scale * centre), "{name}");
                    assert!(*scale > 0.0, "{name}");
                }
            }
        }
    }
}

#[test]
fn generators_keep_their_distributions() {
    use random::{Fill, Generator, SplitMix64};
    let generator = Generator::new();
    let bytes = |fill| {
        let mut bytes = vec![0; 1 << 16];
        generator.stream(fill, SplitMix64::named(3, "x")).fill(&mut bytes);
        bytes
    };
    let mut codes = [0_u32; 4];
    for byte in bytes(Fill::TernaryWords) {
        (0..4).for_each(|i| codes[usize::from(byte >> (2 * i) & 3)] += 1);
    }
    assert_eq!(codes[3], 0);
    assert!(codes[..3].iter().all(|n| n.abs_diff((1 << 18) / 3) < 1500), "{codes:?}");

    let whole = bytes(Fill::Words);
    let mut pieces = vec![0; 1 << 16];
    let mut stream = generator.stream(Fill::Words, SplitMix64::named(3, "x"));
    pieces.chunks_mut(4096).for_each(|piece| stream.fill(piece));
    assert_eq!(whole, pieces);
}

#[test]
fn the_4b_transformer_has_its_tensors() {
    let mut expected: Vec<(String, Vec<u64>)> = [
        ("x_embedder.weight", [3072, 128]),
        ("context_embedder.weight", [3072, 7680]),
        ("time_guidance_embed.timestep_embedder.linear_1.weight", [3072, 256]),
        ("time_guidance_embed.timestep_embedder.linear_2.weight", [3072, 3072]),
        ("double_stream_modulation_img.linear.weight", [18432, 3072]),
        ("double_stream_modulation_txt.linear.weight", [18432, 3072]),
        ("single_stream_modulation.linear.weight", [9216, 3072]),
        ("norm_out.linear.weight", [6144, 3072]),
        ("proj_out.weight", [128, 3072]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
    .into();
    for b in 0..5 {
        let block = format!("transformer_blocks.{b}");
        for name in
            ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
        {
            expected.push((format!("{block}.attn.{name}.weight"), vec![3072, 3072]));
        }
        for name in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            expected.push((format!("{block}.attn.{name}.weight"), vec![128]));
        }
        for name in ["ff", "ff_context"] {
            expected.push((format!("{block}.{name}.linear_in.weight"), vec![18432, 3072]));
            expected.push((format!("{block}.{name}.linear_out.weight"), vec![3072, 9216]));
        }
    }
    for b in 0..20 {
        let attn = format!("single_transformer_blocks.{b}.attn");
        expected.push((format!("{attn}.to_qkv_mlp_proj.weight"), vec![27648, 3072]));
        expected.push((format!("{attn}.to_out.weight"), vec![3072, 12288]));
        expected.push((format!("{attn}.norm_q.weight"), vec![128]));
        expected.push((format!("{attn}.norm_k.weight"), vec![128]));
    }
    expected.sort();
    assert_eq!(expected.len(), 169);

    for (preset, bits) in [(Preset::Bonsai4bBinary, 1), (Preset::Bonsai4bTernary, 2)] {
        let file = transformer::file(&preset.shapes().transformer, 0);
        assert_eq!(file.tensors.len(), 369);
        let words = file.tensors.values().filter(|t| t.dtype == plan::Dtype::U32);
        assert_eq!(words.map(|t| t.shape.iter().product::<u64>() * 32 / bits).sum::<u64>(), 3_680_501_760);
        assert_eq!(matrices(&file, bits), expected);
    }
}

#[test]
fn the_4b_files_have_their_sizes() {
    let binary = Preset::Bonsai4bBinary.shapes();
    let ternary = Preset::Bonsai4bTernary.shapes();
    let near = |file: &TensorFile, published: u64| {
        let bytes = file_bytes(file);
        assert!(bytes.abs_diff(published) < 20_000, "{}: {bytes}, published {published}", file.path);
    };
    near(&transformer::file(&ternary.transformer, 0), 1_425_271_472);
    let file = transformer::file(&binary.transformer, 0);
    // 1.25 instead of 2.25 bits for each of the quantised weights.
    near(&file, 1_425_271_472 - 3_680_501_760 / 8);

    let file = text_encoder::file(&binary.text_encoder);
    assert_eq!(file.tensors.len(), 904);
    assert_eq!(file.tensors["model.layers.0.self_attn.q_proj.weight"].shape, [4096, 320]);
    assert_eq!(file.tensors["model.layers.35.self_attn.k_proj.scales"].shape, [1024, 40]);
    assert_eq!(file.tensors["model.embed_tokens.weight"].shape, [151_936, 320]);
    near(&file, 2_263_022_529);

    let file = vae::file(&binary.vae);
    assert_eq!(file.tensors.len(), 251);
    assert_eq!(file.data_bytes(), 168_120_878 - 28_120 - 8);
    near(&file, 168_120_878);
}

fn tokenizer_of(preset: Preset) -> tokenizers::Tokenizer {
    let shape = preset.shapes().tokenizer;
    let vocabulary = Vocabulary::new(shape.merges, shape.pinned);
    assert_eq!(vocabulary.merges.len(), shape.merges);
    assert_eq!(vocabulary.tokens.len(), 256 + shape.merges);
    let json = serde_json::to_string(&tokenizer::TokenizerJson::new(&vocabulary)).unwrap();
    json.parse().unwrap()
}

fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn the_4b_vocabulary_has_the_ids_of_the_template() {
    let tokenizer = tokenizer_of(Preset::Bonsai4bBinary);
    assert_eq!(tokenizer.get_vocab_size(false), 151_643);
    assert_eq!(tokenizer.get_vocab_size(true), 151_669);
    assert_eq!(tokenizer.token_to_id("</think>"), Some(151_668));
    let template = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
    assert_eq!(
        ids(&tokenizer, template),
        [151_644, 872, 198, 151_645, 198, 151_644, 77_091, 198, 151_667, 271, 151_668, 271]
    );
    let (space, newline) = (ids(&tokenizer, " "), ids(&tokenizer, "\n"));
    assert_eq!((space, newline), (vec![220], vec![198]));

    let text = "A photograph of a small bonsai tree in a blue ceramic pot, standing on an old wooden table \
                beside the window; soft morning light, shallow depth of field, very detailed.";
    let tokens = ids(&tokenizer, text);
    let words = text.split(' ').count();
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text);
    assert!((words..2 * words + words / 4).contains(&tokens.len()), "{} tokens, {words} words", tokens.len());
}

#[test]
fn every_token_of_the_4b_vocabulary_can_be_reached() {
    let shape = Preset::Bonsai4bBinary.shapes().tokenizer;
    let vocabulary = Vocabulary::new(shape.merges, shape.pinned);
    let tokenizer = tokenizer_of(Preset::Bonsai4bBinary);
    let mut seen = std::collections::HashSet::new();
    for (rank, &(a, b)) in vocabulary.merges.iter().enumerate() {
        assert!((a.max(b) as usize) < 256 + rank);
        assert!(seen.insert(&vocabulary.tokens[256 + rank]));
    }
    for id in (256..151_643).step_by(101) {
        let text = tokenizer.decode(&[id], false).unwrap();
        assert_eq!(ids(&tokenizer, &text), [id], "{text:?}");
    }
}

#[test]
fn the_engine_reads_the_tiny_tokenizer() {
    let dir = tiny(0);
    let tokenizer = bonsai_core::tokenizer::Tokenizer::open(&dir.path().join("model/tokenizer")).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.pad_id()), (982, 956));
    let tokens = tokenizer.encode_prompt("", 64).unwrap();
    assert_eq!(tokens.ids[..12], [957, 872, 198, 958, 198, 957, 946, 198, 980, 271, 981, 271]);
    assert_eq!(tokenizer.encode_prompt("a tiny bonsai tree in a ceramic pot", 64).unwrap().cut, 0);
}

#[test]
fn progress_runs_from_nothing_to_all() {
    let dir = TempDir::new().unwrap();
    let last = Cell::new(-1.0);
    run(Preset::Tiny, dir.path(), 0, 0, &|fraction, _| {
        assert!(fraction >= last.get() && fraction <= 1.0);
        last.set(fraction);
    })
    .unwrap();
    assert_eq!(last.get(), 1.0);
}

#[test]
fn a_folder_in_use_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    let error = run(Preset::Tiny, dir.path(), 0, 0, &silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(read_all(dir.path()).len(), 1);

    let error = run(Preset::Tiny, &dir.path().join("mine.txt"), 0, 0, &silent).unwrap_err();
    assert!(error.to_string().contains("mine.txt"), "{error}");
}

#[test]
fn outliers_are_channels_of_large_scales() {
    let (plain, dir) = (tiny(3), TempDir::new().unwrap());
    run(Preset::Tiny, dir.path(), 3, 4, &silent).unwrap();
    let file = "transformer/diffusion_pytorch_model.safetensors";
    let (with, without) =
        (fs::read(dir.path().join(file)).unwrap(), fs::read(plain.path().join("model").join(file)).unwrap());
    let (with, without) =
        (SafeTensors::deserialize(&with).unwrap(), SafeTensors::deserialize(&without).unwrap());
    let values = |set: &SafeTensors<'_>, name: &str| -> Vec<f32> {
        let (pairs, []) = set.tensor(name).unwrap().data().as_chunks::<2>() else { panic!("odd bytes") };
        pairs.iter().map(|&pair| bf16::from_le_bytes(pair).to_f32()).collect()
    };
    for name in with.names() {
        if with.tensor(name).unwrap().data() == without.tensor(name).unwrap().data() {
            assert!(!name.contains("modulation"), "{name}");
            continue;
        }
        let (with, without) = (values(&with, name), values(&without, name));
        // rows of 256 inputs: 256 shifts, 256 scales, 256 gates
        for (row, (a, b)) in with.chunks(256).zip(without.chunks(256)).enumerate() {
            let outlier = row / 256 % 3 == 1 && row % 64 == 32;
            let factor = if outlier { 32.0 } else { 1.0 };
            assert!(a.iter().zip(b).all(|(a, b)| *a == b * factor), "{name}, row {row}");
        }
    }
}
