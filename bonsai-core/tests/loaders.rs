//! One transformer in every form that a checkpoint may have: all must predict the same velocity, bit for bit.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bonsai_core::kernels::{Cpu, Isa};
use bonsai_core::transformer::{
    Flux2Config, Flux2Transformer, Inputs, Scratch, image_positions, text_positions,
};
use bonsai_core::weights::{Component, Weights};
use bonsai_core::{ActivationPrecision, Context, noise};
use half::bf16;
use ndarray::Array2;
use safetensors::Dtype;

use common::{MODEL, Tensors, bfl, gguf, golden, unpacked, unpacked_f16, write};

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
    // equal weights of one kind give equal bits; those of two kinds go through two kernels
    let cpu = Cpu::new(Isa::named("portable").unwrap()).with_precision(ActivationPrecision::F32);
    let mut scratch = Scratch::new(&cpu, c, 19).unwrap();
    let out = model.forward(&mut Context::new(&cpu), inputs, &mut scratch).unwrap();
    (out.as_slice().iter().map(|v| v.to_bits()).collect(), weights.kinds())
}

/// Whether two velocities are one up to the rounding of f32 sums: the bound by which conformance tells transformers apart.
fn close(a: &[u32], b: &[u32]) -> bool {
    let square = |v: f64| v * v;
    let value = |&bits: &u32| f64::from(f32::from_bits(bits));
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(value(a) - value(b))).sum();
    a.len() == b.len() && off <= square(1e-4) * b.iter().map(|b| square(value(b))).sum::<f64>()
}

fn count(kinds: &BTreeMap<String, &str>, kind: &str) -> usize {
    kinds.values().filter(|&&k| k == kind).count()
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
        assert!(close(&dense, &want), "{kind} as F32");
        // without a config: sizes follow from the shapes
        let (recovered, kinds) = velocity(&[halves], None);
        assert_eq!(count(&kinds, name), linears);
        assert!(recovered == want, "{kind} as F16");
        let (recovered, kinds) = velocity(&[brains], None);
        assert_eq!(count(&kinds, name), linears);
        assert!(close(&recovered, &velocity(&[rounded_singles], None).0), "{kind} as BF16");
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
    gguf::write(&path, &[], &gguf::blocks(&dense, |name, _| is_packed(name).then_some(gguf::Q1_0)));
    let (got, kinds) = velocity(&[path], None);
    assert!(got == want, "diffusers naming");
    assert_eq!(count(&kinds, "binary"), packed.keys().filter(|n| n.ends_with(".scales")).count());

    let c = config("transformer");
    let path = dir.path().join("bfl.gguf");
    let in_blocks = |name: &str| name.contains("_blocks.") && name.ends_with(".weight");
    let single = bfl(&dense, c.num_layers, c.num_single_layers);
    gguf::write(&path, &[], &gguf::blocks(&single, |name, _| in_blocks(name).then_some(gguf::Q1_0)));
    assert!(velocity(&[path], None).0 == want, "BFL naming");

    // the same single file as safetensors
    let path = dir.path().join("bfl.safetensors");
    write(&path, &single);
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
