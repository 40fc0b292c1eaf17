//! One transformer in every form that a checkpoint may have: all must predict the same velocity, bit for bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bonsai_core::kernels::{Cpu, Isa};
use bonsai_core::transformer::{
    Flux2Config, Flux2Transformer, Inputs, Scratch, image_positions, text_positions,
};
use bonsai_core::weights::{Component, Weights};
use bonsai_core::{Context, noise};
use half::{bf16, f16};
use ndarray::Array2;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

type Tensors = BTreeMap<String, Tensor>;

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned =
        |t: TensorView<'_>| Tensor { dtype: t.dtype(), shape: t.shape().to_vec(), data: t.data().to_vec() };
    file.tensors().into_iter().map(|(name, t)| (name, owned(t))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, t)| (n, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

fn golden(kind: &str) -> Tensors {
    read(&Path::new(MODEL).join(kind).join("diffusion_pytorch_model.safetensors"))
}

fn config(kind: &str) -> Flux2Config {
    serde_json::from_str(&std::fs::read_to_string(Path::new(MODEL).join(kind).join("config.json")).unwrap())
        .unwrap()
}

/// Velocity bits for a fixed input, and how the matrices were stored.
fn velocity(paths: &[PathBuf], config: Option<Flux2Config>) -> (Vec<u32>, BTreeMap<String, &'static str>) {
    let weights = Weights::open(paths, Component::Transformer).unwrap();
    let config = config.unwrap_or_else(|| Flux2Config::detect(&weights).unwrap());
    let model = Flux2Transformer::load(&weights, config).unwrap();
    let c = model.config();
    let values = |seed, rows: usize, cols: usize| {
        Array2::from_shape_vec((rows, cols), noise::normal(Default::default(), seed, rows * cols)).unwrap()
    };
    let (latents, prompt) = (values(1, 12, c.in_channels), values(2, 7, c.joint_attention_dim));
    let inputs = Inputs {
        latents: latents.view(),
        prompt: prompt.view(),
        text_positions: &text_positions(7),
        image_positions: &image_positions(0, 3, 4),
        timestep: 0.875,
        guidance: None,
    };
    // here all kinds of weights go through one kernel, so that equal weights give equal bits
    let cpu = Cpu::new(Isa::named("portable").unwrap());
    let mut scratch = Scratch::new(&cpu, c, 19).unwrap();
    let out = model.forward(&mut Context::new(&cpu), inputs, &mut scratch).unwrap();
    (out.as_slice().iter().map(|v| v.to_bits()).collect(), weights.kinds())
}

fn count(kinds: &BTreeMap<String, &str>, kind: &str) -> usize {
    kinds.values().filter(|&&k| k == kind).count()
}

fn f16_at(data: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([data[2 * index], data[2 * index + 1]]).to_f32()
}

/// MLX triplets of 1 or 2 bits to dense tensors, through `store`.
fn unpacked(packed: &Tensors, store: impl Fn(f32) -> Vec<u8>, dtype: Dtype) -> Tensors {
    let mut dense = Tensors::new();
    for (name, tensor) in packed {
        let Some(stem) = name.strip_suffix(".weight") else { continue };
        let Some(scales) = packed.get(&format!("{stem}.scales")) else {
            let values = (0..tensor.data.len() / 2).flat_map(|i| store(f16_at(&tensor.data, i))).collect();
            dense.insert(name.clone(), Tensor { dtype, shape: tensor.shape.clone(), data: values });
            continue;
        };
        let biases = &packed[&format!("{stem}.biases")];
        let (rows, groups) = (scales.shape[0], scales.shape[1]);
        let cols = groups * 128;
        let bits = tensor.shape[1] * 32 / cols;
        let mut values = Vec::new();
        for row in 0..rows {
            for col in 0..cols {
                let bit = (row * cols + col) * bits;
                let code = tensor.data[bit / 8] >> (bit % 8) & ((1 << bits) - 1);
                let group = row * groups + col / 128;
                values.extend(store(
                    f16_at(&scales.data, group) * f32::from(code) + f16_at(&biases.data, group),
                ));
            }
        }
        dense.insert(name.clone(), Tensor { dtype, shape: vec![rows, cols], data: values });
    }
    dense
}

fn unpacked_f16(packed: &Tensors) -> Tensors {
    unpacked(packed, |v| f16::from_f32(v).to_le_bytes().to_vec(), Dtype::F16)
}

#[test]
fn packed_and_unpacked_checkpoints_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, name) in [("transformer", "binary"), ("transformer_ternary", "ternary")] {
        let packed = golden(kind);
        let source = Path::new(MODEL).join(kind).join("diffusion_pytorch_model.safetensors");
        let (want, kinds) = velocity(&[source], Some(config(kind)));
        let linears = packed.keys().filter(|n| n.ends_with(".scales")).count();
        assert_eq!(count(&kinds, name), linears);
        // F16 holds these weights exactly; BF16 rounds the scales, so that it is compared with its own values as F32
        let rounded = |v: f32| bf16::from_f32(v).to_f32();
        let save = |file: &str, tensors: &Tensors| {
            let path = dir.path().join(file);
            write(&path, tensors);
            path
        };
        let f32_bytes = |v: f32| v.to_le_bytes().to_vec();
        let singles = save("f32.safetensors", &unpacked(&packed, f32_bytes, Dtype::F32));
        let rounded_singles =
            save("rounded.safetensors", &unpacked(&packed, |v| f32_bytes(rounded(v)), Dtype::F32));
        let halves = save("f16.safetensors", &unpacked_f16(&packed));
        let brain = |v| bf16::from_f32(v).to_le_bytes().to_vec();
        let brains = save("bf16.safetensors", &unpacked(&packed, brain, Dtype::BF16));

        let (dense, kinds) = velocity(&[singles], Some(config(kind)));
        assert_eq!(count(&kinds, "f32"), kinds.len());
        assert!(dense == want, "{kind} as F32");
        // without a config: sizes follow from the shapes
        let (recovered, kinds) = velocity(&[halves], None);
        assert_eq!(count(&kinds, name), linears);
        assert!(recovered == want, "{kind} as F16");
        let (recovered, kinds) = velocity(&[brains], None);
        assert_eq!(count(&kinds, name), linears);
        assert!(recovered == velocity(&[rounded_singles], None).0, "{kind} as BF16");
    }
}

#[test]
fn a_matrix_that_is_almost_binary_stays_dense() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = unpacked_f16(&golden("transformer"));
    let name = "single_transformer_blocks.1.attn.to_out.weight";
    let data = &mut tensors.get_mut(name).unwrap().data;
    let last = data.len() - 2;
    data[last] ^= 1;
    let path = dir.path().join("model.safetensors");
    write(&path, &tensors);
    let (_, kinds) = velocity(&[path], Some(config("transformer")));
    assert_eq!(kinds["single_transformer_blocks.1.attn.to_out"], "f16");
    assert_eq!(kinds["single_transformer_blocks.0.attn.to_out"], "binary");
}

#[test]
fn shards_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = golden("transformer");
    let source = Path::new(MODEL).join("transformer/diffusion_pytorch_model.safetensors");
    let (want, _) = velocity(&[source], Some(config("transformer")));
    let mut shards = vec![Tensors::new(); 3];
    let mut weight_map = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        weight_map.insert(name.clone(), format!("part-{}.safetensors", i % 3).into());
        shards[i % 3].insert(name, tensor);
    }
    let folder = dir.path().join("transformer");
    std::fs::create_dir(&folder).unwrap();
    for (i, shard) in shards.iter().enumerate() {
        write(&folder.join(format!("part-{i}.safetensors")), shard);
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    std::fs::write(folder.join("diffusion_pytorch_model.safetensors.index.json"), index.to_string()).unwrap();
    let files = bonsai_core::model_dir::ModelDir::open(dir.path()).unwrap().component("transformer").unwrap();
    assert_eq!(files.weights.len(), 3);
    assert!(velocity(&files.weights, Some(config("transformer"))).0 == want);
}

/// A GGUF file of F16 tensors, and of Q1_0 blocks for names that `binary` accepts.
fn write_gguf(path: &Path, tensors: &Tensors, binary: impl Fn(&str) -> bool) {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(2u64.to_le_bytes());
    string(&mut head, "general.architecture");
    head.extend(8u32.to_le_bytes());
    string(&mut head, "flux");
    string(&mut head, "general.alignment");
    head.extend(4u32.to_le_bytes());
    head.extend(64u32.to_le_bytes());
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        data.resize(data.len().next_multiple_of(64), 0);
        string(&mut head, name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&n| head.extend((n as u64).to_le_bytes()));
        head.extend(if binary(name) { 41u32 } else { 1u32 }.to_le_bytes());
        head.extend((data.len() as u64).to_le_bytes());
        if binary(name) {
            for group in tensor.data.chunks_exact(256) {
                data.extend([group[0], group[1] & 0x7f]);
                for byte in group.chunks_exact(16) {
                    let bit = |(i, w): (usize, &[u8])| u8::from(w[1] >> 7 == 0) << i;
                    data.push(byte.chunks_exact(2).enumerate().map(bit).sum());
                }
            }
        } else {
            data.extend(&tensor.data);
        }
    }
    head.resize(head.len().next_multiple_of(64), 0);
    head.extend(data);
    std::fs::write(path, head).unwrap();
}

/// The single-file layout: q, k, v in one matrix, shift before scale at the end.
fn bfl(tensors: &Tensors) -> Tensors {
    let mut renamed = Tensors::new();
    let mut put = |name: String, parts: &[&Tensor]| {
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|p| p.shape[0]).sum();
        let data = parts.iter().flat_map(|p| p.data.clone()).collect();
        renamed
            .insert(format!("model.diffusion_model.{name}"), Tensor { dtype: parts[0].dtype, shape, data });
    };
    let get = |name: &str| &tensors[name];
    for (bfl, diffusers) in [
        ("img_in", "x_embedder"),
        ("txt_in", "context_embedder"),
        ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
        ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
        ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
        ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
        ("single_stream_modulation.lin", "single_stream_modulation.linear"),
        ("final_layer.linear", "proj_out"),
    ] {
        put(format!("{bfl}.weight"), &[get(&format!("{diffusers}.weight"))]);
    }
    let last = get("norm_out.linear.weight");
    let half = last.data.len() / 2;
    let swapped = [&last.data[half..], &last.data[..half]].concat();
    put("final_layer.adaLN_modulation.1.weight".into(), &[&Tensor { data: swapped, ..last.clone() }]);
    let c = config("transformer");
    for i in 0..c.num_layers {
        let at = |name: &str| get(&format!("transformer_blocks.{i}.{name}.weight"));
        let block = format!("double_blocks.{i}");
        put(format!("{block}.img_attn.qkv.weight"), &[at("attn.to_q"), at("attn.to_k"), at("attn.to_v")]);
        let txt = [at("attn.add_q_proj"), at("attn.add_k_proj"), at("attn.add_v_proj")];
        put(format!("{block}.txt_attn.qkv.weight"), &txt);
        for (bfl, diffusers) in [
            ("img_attn.proj.weight", "attn.to_out.0"),
            ("txt_attn.proj.weight", "attn.to_add_out"),
            ("img_attn.norm.query_norm.scale", "attn.norm_q"),
            ("img_attn.norm.key_norm.scale", "attn.norm_k"),
            ("txt_attn.norm.query_norm.scale", "attn.norm_added_q"),
            ("txt_attn.norm.key_norm.scale", "attn.norm_added_k"),
            ("img_mlp.0.weight", "ff.linear_in"),
            ("img_mlp.2.weight", "ff.linear_out"),
            ("txt_mlp.0.weight", "ff_context.linear_in"),
            ("txt_mlp.2.weight", "ff_context.linear_out"),
        ] {
            put(format!("{block}.{bfl}"), &[at(diffusers)]);
        }
    }
    for i in 0..c.num_single_layers {
        for (bfl, diffusers) in [
            ("linear1.weight", "to_qkv_mlp_proj"),
            ("linear2.weight", "to_out"),
            ("norm.query_norm.scale", "norm_q"),
            ("norm.key_norm.scale", "norm_k"),
        ] {
            let tensor = get(&format!("single_transformer_blocks.{i}.attn.{diffusers}.weight"));
            put(format!("single_blocks.{i}.{bfl}"), &[tensor]);
        }
    }
    renamed
}

#[test]
fn gguf_in_both_namings_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let packed = golden("transformer");
    let source = Path::new(MODEL).join("transformer/diffusion_pytorch_model.safetensors");
    let (want, _) = velocity(&[source], Some(config("transformer")));
    let dense = unpacked_f16(&packed);
    let is_packed = |name: &str| {
        let stem = name.trim_end_matches(".weight");
        packed.contains_key(&format!("{stem}.scales"))
    };
    let path = dir.path().join("diffusers.gguf");
    write_gguf(&path, &dense, is_packed);
    let (got, kinds) = velocity(&[path], None);
    assert!(got == want, "diffusers naming");
    assert_eq!(count(&kinds, "binary"), packed.keys().filter(|n| n.ends_with(".scales")).count());

    let path = dir.path().join("bfl.gguf");
    let in_blocks = |name: &str| name.contains("_blocks.") && name.ends_with(".weight");
    write_gguf(&path, &bfl(&dense), in_blocks);
    assert!(velocity(&[path], None).0 == want, "BFL naming");

    // the same single file as safetensors
    let path = dir.path().join("bfl.safetensors");
    write(&path, &bfl(&dense));
    assert!(velocity(&[path], None).0 == want, "BFL naming in safetensors");
}

#[test]
fn what_nobody_asked_for_and_what_is_missing_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let load = |tensors: &Tensors| {
        let path = dir.path().join("model.safetensors");
        write(&path, tensors);
        let weights = Weights::open(&[path], Component::Transformer).unwrap();
        Flux2Transformer::load(&weights, config("transformer")).unwrap_err().to_string()
    };
    let mut tensors = golden("transformer");
    let stray = tensors["proj_out.weight"].clone();
    tensors.insert("transformer_blocks.0.attn.stray.weight".into(), stray);
    assert!(load(&tensors).contains("transformer_blocks.0.attn.stray.weight"));

    let mut tensors = golden("transformer");
    tensors.remove("transformer_blocks.1.ff.linear_in.biases");
    let message = load(&tensors);
    assert!(
        message.contains("transformer_blocks.1.ff.linear_in.biases") && message.contains("missing"),
        "{message}"
    );

    let mut tensors = golden("transformer");
    tensors.get_mut("proj_out.weight").unwrap().shape.swap(0, 1);
    let message = load(&tensors);
    assert!(message.contains("proj_out.weight") && message.contains("[128, 256]"), "{message}");
}

/// Keeps one recorded value.
struct Keep(&'static str, Vec<f32>);

impl bonsai_core::Probe for Keep {
    fn record(&mut self, name: &str, _: &[usize], values: Vec<f32>) {
        if name == self.0 {
            self.1 = values;
        }
    }
}

#[test]
fn a_guidance_embedder_adds_to_the_time_embedding() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = golden("transformer");
    for linear in ["linear_1", "linear_2"] {
        let timestep = tensors[&format!("time_guidance_embed.timestep_embedder.{linear}.weight")].clone();
        tensors.insert(format!("time_guidance_embed.guidance_embedder.{linear}.weight"), timestep);
    }
    let path = dir.path().join("model.safetensors");
    write(&path, &tensors);
    let text = std::fs::read_to_string(Path::new(MODEL).join("transformer/config.json")).unwrap();
    let with_guidance = text.replace("\"guidance_embeds\": false", "\"guidance_embeds\": true");
    assert_ne!(text, with_guidance);
    let config: Flux2Config = serde_json::from_str(&with_guidance).unwrap();
    let load = |path, config| {
        Flux2Transformer::load(&Weights::open(&[path], Component::Transformer).unwrap(), config).unwrap()
    };
    let both = load(path, config);
    let source = Path::new(MODEL).join("transformer/diffusion_pytorch_model.safetensors");
    let plain = load(source, self::config("transformer"));
    let cpu = Cpu::new(Isa::best());
    let temb = |model: &Flux2Transformer, guidance| {
        let c = model.config();
        let (latents, prompt) =
            (Array2::zeros((1, c.in_channels)), Array2::zeros((1, c.joint_attention_dim)));
        let inputs = Inputs {
            latents: latents.view(),
            prompt: prompt.view(),
            text_positions: &text_positions(1),
            image_positions: &image_positions(0, 1, 1),
            timestep: 0.5,
            guidance,
        };
        let mut keep = Keep("time_guidance_embed", vec![]);
        let mut scratch = Scratch::new(&cpu, c, 2).unwrap();
        let mut cx = Context::new(&cpu).with_probe(&mut keep);
        model.forward(&mut cx, inputs, &mut scratch).map(|_| keep.1)
    };
    // both embedders hold the same weights: equal values give twice one of them, which another guidance does not
    let (once, twice) = (temb(&plain, None).unwrap(), temb(&both, Some(0.5)).unwrap());
    assert!(twice.iter().zip(&once).all(|(twice, once)| *twice == 2.0 * once));
    assert_ne!(twice, temb(&both, Some(4.0)).unwrap());
    // none given where one is needed
    assert!(temb(&both, None).unwrap_err().to_string().contains("guidance"));
}
