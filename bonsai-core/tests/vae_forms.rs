//! VAEs of other forms: TAEF2 against a plain implementation of it, decoders of other widths, and what is no VAE of
//! FLUX.2.

mod common;

use std::path::{Path, PathBuf};

use bonsai_core::kernels::{Cpu, Isa};
use bonsai_core::vae::{Vae, VaeConfig};
use bonsai_core::weights::{Component, Weights};
use bonsai_core::{ComponentPaths, Context, ErrorKind, Pipeline, PipelineOptions, Request, VaePath};
use common::{MODEL, Tensor, Tensors, bfl_vae, golden, read, write};
use ndarray::Array3;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}

/// A recorded picture `[1, channels, height, width]` as `[height, width, channels]`.
fn recorded(name: &str) -> Array3<f32> {
    let tensor = &read(&fixture("expected.safetensors"))[name];
    let values = tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let shape = (tensor.shape[1], tensor.shape[2], tensor.shape[3]);
    let planes = Array3::from_shape_vec(shape, values).unwrap();
    planes.permuted_axes([1, 2, 0]).as_standard_layout().into_owned()
}

/// Root mean square of the difference over that of the reference.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = got.iter().zip(want).map(|(a, b)| square(a - b)).sum();
    (error / want.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

fn tiny(names: &[&str]) -> Vae {
    let paths: Vec<_> = names.iter().map(|name| fixture(name)).collect();
    let weights = Weights::open(&paths, Component::Vae).unwrap();
    let config = VaeConfig::detect(&weights).unwrap();
    Vae::load(&weights, config).unwrap()
}

#[test]
fn taef2_computes_what_its_description_says() {
    let vae = tiny(&["taef2_decoder.pth", "taef2_encoder.pth"]);
    assert!(vae.is_tiny() && vae.can_encode() && vae.scale_factor() == 8);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa);
        let mut cx = Context::new(&cpu);
        let picture = vae.decode(&mut cx, recorded("taef2/latent").view()).unwrap();
        // the engine's pictures are of -1..1, TAEF2's of 0..1
        let want: Vec<f32> =
            recorded("taef2/decoded").iter().map(|v| v.clamp(0.0, 1.0) * 2.0 - 1.0).collect();
        let error = distance(picture.as_slice(), &want);
        assert!(error < 1e-5, "{}: decoded {error}", isa.name());
        let signed = recorded("taef2/picture").mapv(|v| v * 2.0 - 1.0);
        let latent = vae.encode(&mut cx, signed.view()).unwrap();
        let want = recorded("taef2/encoded");
        let error = distance(latent.as_slice(), want.as_slice().unwrap());
        assert!(error < 1e-5, "{}: encoded {error}", isa.name());
    }
}

#[test]
fn taef2_reads_latents_as_they_are() {
    let vae = tiny(&["taef2_decoder.pth"]);
    assert!(!vae.can_encode());
    let mut tokens: Vec<f32> = (0..vae.config().token_channels()).map(|i| i as f32 * 0.1 - 3.0).collect();
    let before = tokens.clone();
    vae.latent_norm().denormalise(&mut tokens);
    assert_eq!(tokens, before);
}

#[test]
fn the_tiny_vae_of_a_model_directory() {
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("model");
    let tiny = |components| {
        let options = PipelineOptions { threads: Some(1), components, ..PipelineOptions::default() };
        Pipeline::open_with(&model, &options)
    };
    // a link would do, were there links everywhere
    for folder in ["transformer", "text_encoder", "vae", "tokenizer"] {
        std::fs::create_dir_all(model.join(folder)).unwrap();
        for entry in std::fs::read_dir(Path::new(MODEL).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, model.join(folder).join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(Path::new(MODEL).join("bonsai.json"), model.join("bonsai.json")).unwrap();
    let chosen = ComponentPaths { vae: Some("tiny".parse().unwrap()), ..ComponentPaths::default() };
    let error = tiny(chosen.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("TAEF2"), "{error}");
    for name in ["taef2_decoder.pth", "taef2_encoder.pth"] {
        std::fs::copy(fixture(name), model.join("vae").join(name)).unwrap();
    }
    let pipeline = tiny(chosen).unwrap();
    assert!(pipeline.vae().is_tiny() && pipeline.vae().can_encode());
    let picture = pipeline.generate(&Request::new("a tiny castle").size(64, 48).steps(1)).unwrap().image;
    assert_eq!((picture.width(), picture.height()), (64, 48));
    pipeline.encode_image(&picture).unwrap();
    // the other one is still what is meant without a word, and a path names one too
    assert!(!tiny(ComponentPaths::default()).unwrap().vae().is_tiny());
    let path = VaePath::Path(fixture("taef2_decoder.pth"));
    let named = ComponentPaths { vae: Some(path), ..ComponentPaths::default() };
    assert!(tiny(named).unwrap().vae().is_tiny());
}

fn load(tensors: &Tensors, config: Option<VaeConfig>) -> bonsai_core::Result<Vae> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vae.safetensors");
    write(&path, tensors);
    let weights = Weights::open(&[path], Component::Vae)?;
    let config = match config {
        Some(config) => config,
        None => VaeConfig::detect(&weights)?,
    };
    Vae::load(&weights, config)
}

fn config() -> VaeConfig {
    let text = std::fs::read_to_string(Path::new(MODEL).join("vae/config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The first entries along the first two axes.
fn cropped(tensor: &Tensor, sizes: [usize; 2]) -> Tensor {
    let size = tensor.data.len() / tensor.shape.iter().product::<usize>();
    let [rows, cols] = [tensor.shape[0].min(sizes[0]), tensor.shape.get(1).map_or(1, |&n| n.min(sizes[1]))];
    let inner: usize = tensor.shape.iter().skip(2).product::<usize>() * size;
    let row = tensor.shape.get(1).map_or(1, |&n| n) * inner;
    let data = (0..rows).flat_map(|i| tensor.data[i * row..i * row + cols * inner].to_vec()).collect();
    let mut shape = tensor.shape.clone();
    shape[0] = rows;
    if let Some(n) = shape.get_mut(1) {
        *n = cols;
    }
    Tensor { dtype: tensor.dtype, shape, data }
}

/// A decoder of half the width beside the whole encoder, as FLUX.2's small decoder comes.
fn small_decoder() -> Tensors {
    let half = |name: &str, n: usize| match (name, n) {
        (_, 3) => 3,
        _ => n / 2,
    };
    let small = |(name, tensor): (String, Tensor)| {
        let Some(part) = name.strip_prefix("decoder.") else { return (name, tensor) };
        let rows = half(part, tensor.shape[0]);
        // the latent keeps its channels
        let cols =
            tensor.shape.get(1).map_or(1, |&n| if part == "conv_in.weight" { n } else { half(part, n) });
        let tensor = cropped(&tensor, [rows, cols]);
        (name, tensor)
    };
    golden("vae").into_iter().map(small).collect()
}

#[test]
fn a_decoder_is_as_wide_as_its_tensors() {
    // the config says nothing of the other decoder
    let vae = load(&small_decoder(), Some(config())).unwrap();
    assert_eq!(vae.config().decoder_channels(), [8, 16, 16, 16]);
    assert_eq!(vae.config().block_out_channels, [16, 32, 32, 32]);
    let cpu = Cpu::new(Isa::best());
    let latent = Array3::from_elem((2, 3, 32), 0.5);
    let picture = vae.decode(&mut Context::new(&cpu), latent.view()).unwrap();
    assert_eq!(picture.dim(), (16, 24, 3));
    assert!(picture.as_slice().iter().all(|v| v.is_finite()));

    // and in BFL's words, from the shapes alone but for the norms' groups, which no shape tells
    let bfl = bfl_vae(&small_decoder(), 4);
    let renamed = load(&bfl, Some(config())).unwrap();
    let again = renamed.decode(&mut Context::new(&cpu), latent.view()).unwrap();
    assert_eq!(again.as_slice(), picture.as_slice());
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vae.safetensors");
    write(&path, &bfl);
    let detected = VaeConfig::detect(&Weights::open(&[path], Component::Vae).unwrap()).unwrap();
    assert_eq!(detected.decoder_channels(), [8, 16, 16, 16]);
}

#[test]
fn the_vae_of_another_model_is_refused() {
    let mut tensors = golden("vae");
    tensors.retain(|name, _| !name.starts_with("bn."));
    let error = load(&tensors, Some(config())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelMismatch);
    assert!(error.to_string().contains("bn.running_mean"), "{error}");
    let error = load(&Tensors::new(), None).unwrap_err().to_string();
    assert!(error.contains("decoder.up_blocks"), "{error}");
}
