//! What an observer may see besides events: previews, and the picture before it is rounded.

use std::ops::ControlFlow;

use bonsai_core::{
    CancelToken, ErrorKind, Event, Image, Observer, Pipeline, PipelineOptions, Preview, Request, VaePath,
};
use ndarray::ArrayView3;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");
const TAEF2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/taef2_decoder.pth");

/// Wants a preview after every step but those of this list.
#[derive(Default)]
struct Curious {
    skips: Vec<usize>,
    previews: Vec<Preview>,
    decoded: Vec<f32>,
    stop_at: Option<usize>,
}

impl Observer for Curious {
    fn event(&mut self, _: Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn wants_preview(&self, step: usize, _: usize) -> bool {
        !self.skips.contains(&step)
    }

    fn preview(&mut self, preview: &Preview) -> ControlFlow<()> {
        self.previews.push(preview.clone());
        if self.stop_at == Some(preview.step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn decoded(&mut self, picture: ArrayView3<'_, f32>) {
        self.decoded = picture.iter().copied().collect();
    }
}

fn request() -> Request {
    Request::new("An icy bonsai tree, in a rainy forest").seed(7).size(96, 64)
}

#[test]
fn previews_never_change_the_picture() {
    let want = Pipeline::open(MODEL).unwrap().generate(&request()).unwrap();
    let mut curious = Curious { skips: vec![1], ..Curious::default() };
    let pipeline = Pipeline::open(MODEL).unwrap();
    for _ in 0..2 {
        curious.previews.clear();
        let found = pipeline.generate_observed(&request(), &mut curious).unwrap();
        assert_eq!((found.image, found.recipe), (want.image.clone(), want.recipe.clone()));
        assert_eq!(
            curious.previews.iter().map(|p| (p.step, p.steps)).collect::<Vec<_>>(),
            [(0, 4), (2, 4), (3, 4)]
        );
        assert!(curious.previews.iter().all(|p| (p.image.width(), p.image.height()) == (12, 8)));
        assert_eq!(Image::from_decoded(96, 64, &curious.decoded), want.image);
    }
}

/// Mean square distance of two equal-sized pictures.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32
}

/// Mean colours of the squares of 8x8 pixels, `[height / 8, width / 8, 3]`.
fn shrunk(image: &Image) -> Vec<f32> {
    let (width, height) = (image.width(), image.height());
    let mean = |y: usize, x: usize, c: usize| {
        let at = |i: usize| f32::from(image.rgb()[((8 * y + i / 8) * width + 8 * x + i % 8) * 3 + c]);
        (0..64).map(at).sum::<f32>() / 64.0
    };
    (0..height / 8 * (width / 8) * 3).map(|i| mean(i / 3 / (width / 8), i / 3 % (width / 8), i % 3)).collect()
}

#[test]
fn the_fitted_map_foretells_colours() {
    let pipeline = Pipeline::open(MODEL).unwrap();
    // not the latents that the map was fitted to
    let latents = pipeline.noise(&request().size(256, 256).seed(1)).unwrap();
    let preview: Vec<f32> =
        pipeline.preview(&latents).unwrap().rgb().iter().copied().map(f32::from).collect();
    let small = shrunk(&pipeline.decode(&latents).unwrap());
    let mut mean = [0.0; 3];
    small
        .as_chunks::<3>()
        .0
        .iter()
        .for_each(|p| (0..3).for_each(|c| mean[c] += p[c] / (small.len() / 3) as f32));
    let flat: Vec<f32> = (0..small.len()).map(|i| mean[i % 3]).collect();
    // better than the best single colour, which knows the picture
    let (found, flat) = (distance(&preview, &small), distance(&flat, &small));
    assert!(found < flat, "{found} {flat}");
}

#[test]
fn a_preview_may_stop_the_work() {
    let mut curious = Curious { stop_at: Some(1), ..Curious::default() };
    let error = Pipeline::open(MODEL).unwrap().generate_observed(&request(), &mut curious).unwrap_err();
    assert_eq!(error.kind(), bonsai_core::ErrorKind::Cancelled);
    assert_eq!(curious.previews.len(), 2);
}

#[test]
fn a_stored_map_is_used_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    copy(std::path::Path::new(MODEL), dir.path());
    let file = dir.path().join("vae/latent_rgb.json");
    let channels = Pipeline::open(MODEL).unwrap().vae().config().latent_channels;
    let weights = vec!["[0.0, 0.0, 0.0]"; channels].join(",");
    std::fs::write(&file, format!("{{\"weights\": [{weights}], \"bias\": [1.0, -1.0, 0.0]}}")).unwrap();
    let mut curious = Curious::default();
    Pipeline::open(dir.path()).unwrap().generate_observed(&request(), &mut curious).unwrap();
    assert!(curious.previews[0].image.rgb().as_chunks::<3>().0.iter().all(|p| *p == [255, 0, 128]));
    for bad in [
        "{\"weights\": [[0, 0, 0]], \"bias\": [0, 0, 0]}",
        "{}",
        "[",
        "{\"weights\": [], \"bias\": [0, 0, 0]}",
    ] {
        std::fs::write(&file, bad).unwrap();
        let error = Pipeline::open(dir.path()).unwrap_err();
        assert_eq!(error.file(), Some(file.as_path()), "{error}");
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (source, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if source.is_dir() && name != "transformer_ternary" {
            copy(&source, &to.join(&name));
        } else if source.is_file() {
            std::fs::copy(&source, to.join(&name)).unwrap();
        }
    }
}

fn with_decoder(path: &str) -> bonsai_core::Result<Pipeline> {
    let preview_decoder = path.parse::<VaePath>().ok();
    Pipeline::open_with(MODEL, &PipelineOptions { preview_decoder, ..PipelineOptions::default() })
}

#[test]
fn a_decoder_paints_previews_at_full_size_and_changes_no_picture() {
    let want = Pipeline::open(MODEL).unwrap().generate(&request()).unwrap();
    let pipeline = with_decoder(TAEF2).unwrap();
    let mut curious = Curious { skips: vec![1], ..Curious::default() };
    let found = pipeline.generate_observed(&request(), &mut curious).unwrap();
    assert_eq!((found.image, found.recipe), (want.image, want.recipe));
    assert_eq!(curious.previews.len(), 3);
    assert!(curious.previews.iter().all(|p| (p.image.width(), p.image.height()) == (96, 64)));
    assert_ne!(curious.previews[0].image, curious.previews[1].image);

    // the picture that the same decoder makes of the same latents as a VAE of its own
    let components = bonsai_core::ComponentPaths { vae: TAEF2.parse().ok(), ..Default::default() };
    let options = PipelineOptions { components, ..PipelineOptions::default() };
    let tiny = Pipeline::open_with(MODEL, &options).unwrap();
    let latents = tiny.noise(&request()).unwrap();
    assert_eq!(pipeline.preview(&latents).unwrap(), tiny.decode(&latents).unwrap());
}

#[test]
fn a_preview_decoder_is_the_tiny_one_and_where_it_was_said_to_be() {
    // the model's own VAE is none
    let whole = format!("{MODEL}/vae/diffusion_pytorch_model.safetensors");
    let error = with_decoder(&whole).unwrap_err();
    assert_eq!((error.kind(), error.file()), (ErrorKind::ModelMismatch, Some(whole.as_ref())), "{error}");
    assert!(error.to_string().contains("TAEF2"), "{error}");
    let config = format!("{MODEL}/vae/config.json");
    let error = with_decoder(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelFormat, "{error}");
    assert!(error.to_string().contains("config.json"), "{error}");
    assert_eq!(with_decoder("no such file").unwrap_err().kind(), ErrorKind::NotFound);
    // nothing in the model's directory, and a folder that holds one
    let error = with_decoder("tiny").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("TAEF2"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(TAEF2, dir.path().join("taef2_decoder.pth")).unwrap();
    assert!(with_decoder(dir.path().to_str().unwrap()).unwrap().preview_decoder().is_some());
}

#[test]
fn previews_of_a_decoder_are_cancelled_as_all_work_is() {
    let cancel = CancelToken::new();
    let pipeline = with_decoder(TAEF2).unwrap().with_cancel(cancel.clone());
    let latents = pipeline.noise(&request()).unwrap();
    cancel.cancel();
    assert_eq!(pipeline.preview(&latents).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn opening_ends_when_it_is_cancelled() {
    let cancel = CancelToken::new();
    let options = PipelineOptions { cancel: Some(cancel.clone()), ..PipelineOptions::default() };
    // a token that nobody sets changes nothing, and setting it later does not reach the runs
    let pipeline = Pipeline::open_with(MODEL, &options).unwrap();
    cancel.cancel();
    pipeline.generate(&request()).unwrap();
    assert_eq!(Pipeline::open_with(MODEL, &options).unwrap_err().kind(), ErrorKind::Cancelled);
}
