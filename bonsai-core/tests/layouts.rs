//! The small pipeline in each layout that a user may have: all exact ones paint the same picture, and a lossy one
//! paints that of its unpacked twin, which holds the weights that the lossy file means.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bonsai_core::model_dir::ModelDir;
use bonsai_core::native::{Target, convert, convert_from};
use bonsai_core::weights::{Component, Weights};
use bonsai_core::{
    ActivationPrecision, ComponentPaths, FinalModulation, Isa, Pipeline, PipelineOptions, Request, VaePath,
    noise,
};
use common::gguf::{self, LOSSY, Q1_0};
use common::{MODEL, Tensor, Tensors, bfl, bfl_vae, golden, torch, unpacked_f16, weights_of, write};
use half::{bf16, f16};
use safetensors::Dtype;
use tempfile::TempDir;

fn options(components: ComponentPaths) -> PipelineOptions {
    // equal weights of one kind give equal bits; those of another kind go through another kernel, in f32 like all, and give
    // pictures that are equal in bytes
    let isa = Some(Isa::named("portable").unwrap());
    let precision = ActivationPrecision::F32;
    PipelineOptions { threads: Some(2), isa, precision, components, ..PipelineOptions::default() }
}

fn picture(pipeline: &Pipeline) -> Vec<u8> {
    let request = Request::new("a tiny castle").size(64, 48).steps(2).seed(5);
    let picture = pipeline.generate(&request).unwrap().image;
    let bytes = picture.rgb().to_vec();
    assert!(bytes.iter().any(|&b| b != bytes[0]), "a picture of one colour");
    bytes
}

/// The picture of the small model with some components replaced.
fn with(components: ComponentPaths) -> Vec<u8> {
    picture(&Pipeline::open_with(MODEL, &options(components)).unwrap())
}

fn transformer(path: PathBuf) -> ComponentPaths {
    ComponentPaths { transformer: Some(path), ..ComponentPaths::default() }
}

fn text_encoder(path: PathBuf) -> ComponentPaths {
    ComponentPaths { text_encoder: Some(path), ..ComponentPaths::default() }
}

fn vae(path: PathBuf) -> ComponentPaths {
    ComponentPaths { vae: Some(VaePath::Path(path)), ..ComponentPaths::default() }
}

fn is_linear(name: &str) -> bool {
    name.contains("_blocks.") && !name.contains("norm")
}

/// gemlite's form of MLX triplets, which has everything turned round.
fn gemlite(packed: &Tensors) -> BTreeMap<String, torch::Value> {
    let turned = |tensor: &Tensor, size: usize, dtype: Dtype| {
        let rows = tensor.shape[0];
        let cols = tensor.data.len() / size / rows;
        let data = (0..cols).flat_map(|c| {
            (0..rows).flat_map(move |r| {
                let at = (r * cols + c) * size;
                tensor.data[at..at + size].to_vec()
            })
        });
        torch::Value::Tensor(Tensor { dtype, shape: vec![cols, rows], data: data.collect() })
    };
    let mut state = BTreeMap::new();
    for (name, tensor) in packed {
        let stem = name.rsplit_once('.').unwrap().0;
        let Some(scales) = packed.get(&format!("{stem}.scales")) else {
            state.insert(name.clone(), torch::Value::Tensor(tensor.clone()));
            continue;
        };
        let (rows, groups) = (scales.shape[0], scales.shape[1]);
        let bits = tensor.data.len() * 8 / (rows * groups * 128);
        if name.ends_with(".weight") {
            state.insert(format!("{stem}.W_q"), turned(tensor, 1, Dtype::U8));
            state.insert(format!("{stem}.scales"), turned(scales, 2, Dtype::F16));
            state.insert(format!("{stem}.zeros"), turned(&packed[&format!("{stem}.biases")], 2, Dtype::F16));
            let ints = |values: &[i32]| {
                let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                torch::Value::Tensor(Tensor { dtype: Dtype::I32, shape: vec![values.len()], data })
            };
            let metadata = [0, bits as i32, 128, (1 << bits) - 1, 8 / bits as i32, 1, 1, 0, 1, 0, 4, 1];
            state.insert(format!("{stem}.metadata"), ints(&metadata));
            state.insert(format!("{stem}.orig_shape"), ints(&[rows as i32, groups as i32 * 128]));
        }
    }
    state
}

/// Names of llama.cpp.
fn llama(tensors: &Tensors) -> Tensors {
    let rename = |name: &str| {
        let mut name = name.replace("model.layers.", "blk.");
        for (transformers, llama) in [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            name = name.replace(transformers, llama);
        }
        name
    };
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

fn qwen_keys() -> [(&'static str, gguf::Value); 3] {
    [
        ("general.architecture", gguf::Value::Text("qwen3")),
        ("qwen3.rope.freq_base", gguf::Value::F32(1e6)),
        ("qwen3.context_length", gguf::Value::U32(40960)),
    ]
}

/// The unpacked twin of a file: every matrix as the f32 values that it means.
fn twin(source: &Path, component: Component, path: &Path, matrices: &[(String, usize, usize)]) {
    let weights = Weights::open(&[source.to_owned()], component).unwrap();
    let mut tensors = Tensors::new();
    for (name, rows, cols) in matrices {
        let matrix = weights.matrix(name, *rows, *cols).unwrap();
        let values = (0..*rows).flat_map(|row| matrix.row(row));
        tensors.insert(format!("{name}.weight"), Tensor::f32(&[*rows, *cols], values));
    }
    for (name, tensor) in common_vectors(&weights, source, component) {
        tensors.insert(name, tensor);
    }
    write(path, &tensors);
}

/// The tensors of one axis, as f32 under the models' names.
fn common_vectors(weights: &Weights, source: &Path, component: Component) -> Tensors {
    let file = bonsai_core::weights::TensorFile::open(source).unwrap();
    let vectors = file.tensors.iter().filter(|(_, tensor)| tensor.shape.len() == 1);
    let renamed = llama_back(component);
    vectors
        .filter(|(name, _)| name.contains("norm"))
        .map(|(name, tensor)| {
            let name = renamed(name);
            let values = weights.values(&name, &tensor.shape).unwrap();
            (name, Tensor::f32(&tensor.shape, values))
        })
        .collect()
}

fn llama_back(component: Component) -> impl Fn(&str) -> String {
    move |name| match component {
        Component::TextEncoder => {
            let name = name.strip_prefix("model.").unwrap_or(name).replace("blk.", "layers.");
            let name = name.replace("output_norm", "norm").replace("attn_norm", "input_layernorm");
            let name = name.replace("ffn_norm", "post_attention_layernorm");
            name.replace("attn_q_norm", "self_attn.q_norm").replace("attn_k_norm", "self_attn.k_norm")
        }
        _ => name.to_owned(),
    }
}

/// Layer, rows and columns of every matrix.
fn matrices(tensors: &Tensors, prefix: &str) -> Vec<(String, usize, usize)> {
    let matrix = |(name, tensor): (&String, &Tensor)| {
        let stem = name.strip_suffix(".weight")?;
        let &[rows, cols] = tensor.shape.as_slice() else { return None };
        Some((stem.strip_prefix(prefix).unwrap_or(stem).to_owned(), rows, cols))
    };
    tensors.iter().filter_map(matrix).collect()
}

#[test]
fn exact_layouts_paint_one_picture() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let want = with(ComponentPaths::default());
    let packed = golden("transformer");
    let dense = unpacked_f16(&packed);

    write(&at("unpacked.safetensors"), &dense);
    assert!(with(transformer(at("unpacked.safetensors"))) == want, "unpacked");

    torch::write(&at("state_dict.pt"), gemlite(&packed));
    assert!(with(transformer(at("state_dict.pt"))) == want, "gemlite");

    let linear = |name: &str, _: &Tensor| is_linear(name).then_some(Q1_0);
    gguf::write(&at("diffusers.gguf"), &[], &gguf::blocks(&dense, linear));
    assert!(with(transformer(at("diffusers.gguf"))) == want, "GGUF, diffusers naming");

    let blocks = |kind: &str| {
        let count = |name: &&String| name.starts_with(kind) && name.ends_with("norm_q.weight");
        dense.keys().filter(count).count()
    };
    let single = bfl(&dense, blocks("transformer_blocks."), blocks("single_transformer_blocks."));
    gguf::write(
        &at("bfl.gguf"),
        &[],
        &gguf::blocks(&single, |name, _| {
            (name.contains("_blocks.") && name.ends_with(".weight")).then_some(Q1_0)
        }),
    );
    assert!(with(transformer(at("bfl.gguf"))) == want, "GGUF, BFL naming");
    write(&at("bfl.safetensors"), &single);
    assert!(with(transformer(at("bfl.safetensors"))) == want, "BFL single file");

    let encoder = llama(&golden("text_encoder"));
    gguf::write(&at("qwen.gguf"), &qwen_keys(), &gguf::blocks(&encoder, |_, _| None));
    assert!(with(text_encoder(at("qwen.gguf"))) == want, "GGUF text encoder");

    let folder = at("vae");
    std::fs::create_dir(&folder).unwrap();
    write(&folder.join("ae.safetensors"), &bfl_vae(&golden("vae"), 4));
    std::fs::copy(Path::new(MODEL).join("vae/config.json"), folder.join("config.json")).unwrap();
    assert!(with(vae(folder.join("ae.safetensors"))) == want, "BFL VAE");

    let native = at("native.safetensors");
    convert(Path::new(MODEL), &native, Target::Native).unwrap();
    assert!(
        picture(&Pipeline::open_with(&native, &options(ComponentPaths::default())).unwrap()) == want,
        "native"
    );

    // all of them one by one, from files of other programs
    let components = ComponentPaths {
        transformer: Some(at("bfl.gguf")),
        text_encoder: Some(at("qwen.gguf")),
        vae: Some(VaePath::Path(folder.join("ae.safetensors"))),
        tokenizer: Some(Path::new(MODEL).join("tokenizer/tokenizer.json")),
        final_modulation: None,
    };
    let side = std::fs::read_to_string(Path::new(MODEL).join("bonsai.json")).unwrap();
    let side: serde_json::Value = serde_json::from_str(&side).unwrap();
    let taps = side["text_encoder_out_layers"].as_array().unwrap();
    let mut alone = options(components.clone());
    alone.text_encoder_out_layers = Some(taps.iter().map(|tap| tap.as_u64().unwrap() as usize).collect());
    alone.max_sequence_length = Some(side["max_sequence_length"].as_u64().unwrap() as usize);
    let pipeline = Pipeline::open_components(&alone).unwrap();
    assert_eq!((pipeline.name(), pipeline.warnings()), ("bfl", &[][..]));
    assert!(picture(&pipeline) == want, "one by one");
    let incomplete = options(ComponentPaths { tokenizer: None, ..components });
    assert!(Pipeline::open_components(&incomplete).unwrap_err().to_string().contains("tokenizer"));

    // and the same files lying loose in one folder, known by what is in them
    let loose = at("loose");
    std::fs::create_dir(&loose).unwrap();
    std::fs::rename(at("bfl.gguf"), loose.join("a.gguf")).unwrap();
    std::fs::rename(at("qwen.gguf"), loose.join("b.gguf")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(MODEL).join("tokenizer").join(name), loose.join(name)).unwrap();
    }
    std::fs::copy(Path::new(MODEL).join("bonsai.json"), loose.join("bonsai.json")).unwrap();
    let components = vae(folder.join("ae.safetensors"));
    let pipeline = Pipeline::open_with(&loose, &options(components)).unwrap();
    assert!(picture(&pipeline) == want, "loose files");
}

#[test]
fn a_ternary_model_in_each_layout() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let want = with(transformer(weights_of("transformer_ternary")));
    assert!(want != with(ComponentPaths::default()));
    let packed = golden("transformer_ternary");
    write(&at("unpacked.safetensors"), &unpacked_f16(&packed));
    assert!(with(transformer(at("unpacked.safetensors"))) == want, "unpacked");
    torch::write(&at("state_dict.pt"), gemlite(&packed));
    assert!(with(transformer(at("state_dict.pt"))) == want, "gemlite");
    let chosen = ModelDir::open(Path::new(MODEL)).unwrap();
    let chosen = chosen.with_components(transformer(weights_of("transformer_ternary")));
    for (name, target) in [("native", Target::Native), ("gguf", Target::Gguf), ("half", Target::Unpacked)] {
        convert_from(&chosen, &at(name), target).unwrap();
        let pipeline = Pipeline::open_with(at(name), &options(ComponentPaths::default())).unwrap();
        assert!(picture(&pipeline) == want, "{name}");
    }
}

#[test]
fn an_hqq_text_encoder_paints_the_picture_of_its_twin() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let encoder = golden("text_encoder");
    let folder = at("text_encoder-hqq-4bit");
    hqq_text_encoder(&folder);
    twin(
        &folder.join("qmodel.pt"),
        Component::TextEncoder,
        &at("twin.safetensors"),
        &matrices(&encoder, "model."),
    );
    let got = with(text_encoder(folder));
    assert!(got == with(text_encoder(at("twin.safetensors"))));
    assert!(got != with(ComponentPaths::default()), "four bits change something");
}

/// A folder with the text encoder as HQQ saves it.
fn hqq_text_encoder(folder: &Path) {
    const GROUP: usize = 64;
    let mut modules = BTreeMap::new();
    for (name, tensor) in &golden("text_encoder") {
        let (module, _) = name.rsplit_once('.').unwrap();
        let is_linear = tensor.shape.len() == 2 && !name.contains("embed");
        let item = if is_linear {
            hqq(tensor, GROUP)
        } else {
            BTreeMap::from([("weight".to_owned(), torch::Value::Tensor(tensor.clone()))])
        };
        modules.insert(module.to_owned(), torch::Value::Dict(item));
    }
    std::fs::create_dir(folder).unwrap();
    torch::write(&folder.join("qmodel.pt"), modules);
    std::fs::copy(Path::new(MODEL).join("text_encoder/config.json"), folder.join("config.json")).unwrap();
}

/// A folder with the text encoder in MLX's triplets of 4 bits, its embedding too, and its tokenizer.
fn mlx_text_encoder(folder: &Path) {
    const GROUP: usize = 64;
    let mut packed = Tensors::new();
    for (name, tensor) in golden("text_encoder") {
        let &[rows, cols] = tensor.shape.as_slice() else {
            packed.insert(name, tensor);
            continue;
        };
        let stem = name.strip_suffix(".weight").unwrap();
        let values: Vec<f32> =
            tensor.data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        let (mut codes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for values in values.chunks_exact(GROUP) {
            let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            let (scale, bias) = (bf16::from_f32((high - low) / 15.0), bf16::from_f32(low));
            let code = |v: &f32| ((v - bias.to_f32()) / scale.to_f32()).round().clamp(0.0, 15.0) as u8;
            codes.extend(values.chunks_exact(2).map(|pair| code(&pair[0]) | code(&pair[1]) << 4));
            scales.extend(scale.to_le_bytes());
            biases.extend(bias.to_le_bytes());
        }
        let mut put = |part: &str, dtype, cols, data| {
            packed.insert(format!("{stem}.{part}"), Tensor { dtype, shape: vec![rows, cols], data });
        };
        put("weight", Dtype::U32, cols / 8, codes);
        put("scales", Dtype::BF16, cols / GROUP, scales);
        put("biases", Dtype::BF16, cols / GROUP, biases);
    }
    std::fs::create_dir(folder).unwrap();
    write(&folder.join("model.safetensors"), &packed);
    let config = std::fs::read_to_string(Path::new(MODEL).join("text_encoder/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["quantization"] = serde_json::json!({"bits": 4, "group_size": GROUP});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(Path::new(MODEL).join("tokenizer/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
}

/// Copies the files of a folder of the small model.
fn copy_folder(from: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(Path::new(MODEL).join(from)).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The small model laid out as the releases are, with all that lies beside the weights there.
#[test]
fn each_release_is_read_as_it_lies() {
    let dir = TempDir::new().unwrap();
    let encoder = golden("text_encoder");
    // a transformer's config with the keys that a training tool left in it
    let config = |kind: &str| {
        let text = std::fs::read_to_string(Path::new(MODEL).join(kind).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["enable_time_sign_embed"] = false.into();
        config["musubi_block_swap_device"] = "cpu".into();
        config["musubi_blocks_to_swap"] = 0.into();
        config.to_string()
    };
    for (kind, gemlite_folder) in
        [("transformer", "transformer-gemlite-int1"), ("transformer_ternary", "transformer-gemlite-int2")]
    {
        let release = |name: &str| {
            let root = dir.path().join(format!("{kind}-{name}"));
            copy_folder("vae", &root.join("vae"));
            copy_folder("scheduler", &root.join("scheduler"));
            for file in ["model_index.json", "bonsai.json"] {
                std::fs::copy(Path::new(MODEL).join(file), root.join(file)).unwrap();
            }
            std::fs::write(root.join("manifest.json"), "{}").unwrap();
            root
        };
        let beside = |folder: &Path, names: &[&str]| {
            std::fs::write(folder.join("config.json"), config(kind)).unwrap();
            names.iter().for_each(|name| std::fs::write(folder.join(name), "{}").unwrap());
        };

        let mlx = release("mlx");
        copy_folder("tokenizer", &mlx.join("tokenizer"));
        mlx_text_encoder(&mlx.join("text_encoder-mlx-4bit"));
        let folder = mlx.join("transformer-packed-mflux");
        copy_folder(kind, &folder);
        beside(&folder, &["quantization_config.json", "checkpoint_manifest.json"]);

        let pt = release("gemlite");
        hqq_text_encoder(&pt.join("text_encoder-hqq-4bit"));
        copy_folder("tokenizer", &pt.join("text_encoder-hqq-4bit/tokenizer"));
        let folder = pt.join(gemlite_folder);
        std::fs::create_dir(&folder).unwrap();
        torch::write(&folder.join("state_dict.pt"), gemlite(&golden(kind)));
        beside(&folder, &["quantization_config.json", "gemlite_autotune.json"]);

        for (root, encoder_file) in
            [(mlx, "text_encoder-mlx-4bit/model.safetensors"), (pt, "text_encoder-hqq-4bit/qmodel.pt")]
        {
            let pipeline = Pipeline::open_with(&root, &options(ComponentPaths::default())).unwrap();
            assert_eq!(pipeline.warnings(), &[][..] as &[String], "{}", root.display());
            let same = root.join("twin.safetensors");
            let matrices = matrices(&encoder, "model.");
            twin(&root.join(encoder_file), Component::TextEncoder, &same, &matrices);
            let want = with(ComponentPaths {
                transformer: Some(weights_of(kind)),
                text_encoder: Some(same),
                ..ComponentPaths::default()
            });
            assert!(picture(&pipeline) == want, "{}", root.display());
            assert!(want != with(transformer(weights_of(kind))), "four bits change something");
        }
    }
}

/// The project that calls its files `bonsai-image` names quantised tensors after their layer alone, and has a ternary
/// type of its own.
#[test]
fn a_ternary_file_of_another_project() {
    let dir = TempDir::new().unwrap();
    let packed = golden("transformer_ternary");
    let mut stored = BTreeMap::new();
    for (name, tensor) in gguf::blocks(&unpacked_f16(&packed), |_, _| None) {
        let stem = name.strip_suffix(".weight").unwrap();
        match packed.get(&format!("{stem}.scales")) {
            Some(scales) => stored.insert(stem.to_owned(), gguf::ternary_g128(&packed[&name], scales)),
            None => stored.insert(name, tensor),
        };
    }
    let path = dir.path().join("bonsai-image.gguf");
    gguf::write(&path, &[("general.architecture", gguf::Value::Text("bonsai-image"))], &stored);
    let pipeline = Pipeline::open_with(MODEL, &options(transformer(path))).unwrap();
    assert_eq!(pipeline.warnings(), &[][..] as &[String]);
    assert!(picture(&pipeline) == with(transformer(weights_of("transformer_ternary"))));
}

/// Names of BFL and the order of diffusers, as converters leave it that rename and nothing else.
#[test]
fn a_file_that_was_only_renamed_needs_a_word() {
    let dir = TempDir::new().unwrap();
    let dense = unpacked_f16(&golden("transformer"));
    let mut renamed = dense.clone();
    let last = renamed.remove("norm_out.linear.weight").unwrap();
    renamed.insert("final_layer.adaLN_modulation.1.weight".into(), last);
    let path = dir.path().join("renamed.safetensors");
    write(&path, &renamed);
    let want = with(ComponentPaths::default());
    let stated = |order| ComponentPaths { final_modulation: order, ..transformer(path.clone()) };
    assert!(with(stated(None)) != want);
    assert!(with(stated(Some(FinalModulation::ShiftScale))) != want);
    assert!(with(stated(Some(FinalModulation::ScaleShift))) == want);
    // and what is converted then needs none
    let chosen = ModelDir::open(Path::new(MODEL)).unwrap();
    let chosen = chosen.with_components(stated(Some(FinalModulation::ScaleShift)));
    for (name, target) in [("native", Target::Native), ("gguf", Target::Gguf)] {
        let to = dir.path().join(name);
        convert_from(&chosen, &to, target).unwrap();
        assert!(picture(&Pipeline::open_with(to, &options(ComponentPaths::default())).unwrap()) == want);
    }
}

/// A matrix as HQQ packs it: 4 bits, groups along the inputs.
fn hqq(tensor: &Tensor, group: usize) -> BTreeMap<String, torch::Value> {
    let values: Vec<f32> =
        tensor.data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let (mut codes, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
    for values in values.chunks_exact(group) {
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        let scale = f16::from_f32((high - low) / 15.0);
        let zero = f16::from_f32(-low / scale.to_f32());
        let code = |v: &f32| (v / scale.to_f32() + zero.to_f32()).round().clamp(0.0, 15.0) as u8;
        codes.extend(values.iter().map(code));
        scales.extend(scale.to_le_bytes());
        zeros.extend(zero.to_le_bytes());
    }
    let (high, low) = codes.split_at(codes.len() / 2);
    let data = high.iter().zip(low).map(|(high, low)| high << 4 | low).collect();
    let groups = codes.len() / group;
    let tensor_of =
        |dtype, shape: [usize; 2], data| torch::Value::Tensor(Tensor { dtype, shape: shape.to_vec(), data });
    let shape = tensor.shape.iter().map(|&n| n as i32).collect();
    BTreeMap::from([
        ("W_q".to_owned(), tensor_of(Dtype::U8, [groups / 2, group], data)),
        ("scale".to_owned(), tensor_of(Dtype::F16, [groups, 1], scales)),
        ("zero".to_owned(), tensor_of(Dtype::F16, [groups, 1], zeros)),
        ("nbits".to_owned(), torch::Value::Int(4)),
        ("group_size".to_owned(), torch::Value::Int(group as i32)),
        ("axis".to_owned(), torch::Value::Int(1)),
        ("shape".to_owned(), torch::Value::Ints(shape)),
        ("packing".to_owned(), torch::Value::Text("4bit_u8")),
        ("view_as_float".to_owned(), torch::Value::Bool(false)),
        ("quant_scale".to_owned(), torch::Value::Bool(false)),
        ("quant_zero".to_owned(), torch::Value::Bool(false)),
    ])
}

/// A second small model, whose widths are multiples of 256 as the larger blocks need them.
#[test]
fn lossy_gguf_paints_the_picture_of_its_twin() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let values = |seed, n| noise::normal(Default::default(), seed, n);

    // the transformer: linears of all types in turn, and a wider prompt
    const PROMPT: usize = 768;
    let mut dense = unpacked_f16(&golden("transformer"));
    let width = dense["x_embedder.weight"].shape[0];
    let embedder = values(7, width * PROMPT).into_iter().map(|v| v * 0.02);
    dense.insert("context_embedder.weight".into(), Tensor::f32(&[width, PROMPT], embedder));
    let mut stored = gguf::blocks(&dense, |_, _| None);
    let mut used = 0;
    for (name, tensor) in dense.iter().filter(|(name, _)| is_linear(name)) {
        let block = LOSSY[used % LOSSY.len()];
        stored.insert(name.clone(), gguf::random(block, &tensor.shape, used as u64));
        used += 1;
    }
    assert!(used >= LOSSY.len());
    gguf::write(&at("transformer.gguf"), &[], &stored);
    twin(
        &at("transformer.gguf"),
        Component::Transformer,
        &at("transformer.safetensors"),
        &matrices(&dense, ""),
    );

    // the text encoder: 256 wide
    const HIDDEN: usize = 256;
    let mut encoder = Tensors::new();
    let mut put = |name: String, shape: &[usize]| {
        let ones = shape.iter().product();
        encoder.insert(name, Tensor::f32(shape, std::iter::repeat_n(1.0, ones)));
    };
    put("model.embed_tokens.weight".into(), &[960, HIDDEN]);
    put("model.norm.weight".into(), &[HIDDEN]);
    for layer in 0..4 {
        let mut put = |name: &str, shape: &[usize]| put(format!("model.layers.{layer}.{name}.weight"), shape);
        for name in ["input_layernorm", "post_attention_layernorm"] {
            put(name, &[HIDDEN]);
        }
        for (name, rows, cols) in [
            ("self_attn.q_proj", 256, HIDDEN),
            ("self_attn.k_proj", 64, HIDDEN),
            ("self_attn.v_proj", 64, HIDDEN),
            ("self_attn.o_proj", HIDDEN, 256),
            ("mlp.gate_proj", 512, HIDDEN),
            ("mlp.up_proj", 512, HIDDEN),
            ("mlp.down_proj", HIDDEN, 512),
        ] {
            put(name, &[rows, cols]);
        }
        put("self_attn.q_norm", &[32]);
        put("self_attn.k_norm", &[32]);
    }
    let named = llama(&encoder);
    let mut stored = gguf::blocks(&named, |_, _| None);
    for (i, (name, tensor)) in named.iter().filter(|(_, tensor)| tensor.shape.len() == 2).enumerate() {
        stored.insert(name.clone(), gguf::random(LOSSY[i % LOSSY.len()], &tensor.shape, 100 + i as u64));
    }
    gguf::write(&at("qwen.gguf"), &qwen_keys(), &stored);
    twin(&at("qwen.gguf"), Component::TextEncoder, &at("qwen.safetensors"), &matrices(&encoder, "model."));

    let components = |ending: &str| ComponentPaths {
        transformer: Some(at(&format!("transformer.{ending}"))),
        text_encoder: Some(at(&format!("qwen.{ending}"))),
        ..ComponentPaths::default()
    };
    assert!(with(components("gguf")) == with(components("safetensors")));
}
