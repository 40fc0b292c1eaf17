//! What saves memory changes no number, and what it saves is known beforehand.

use bonsai_core::noise::NoiseSource;
use bonsai_core::scheduler::FlowMatchEuler;
use bonsai_core::{
    ComponentPaths, Context, ErrorKind, Estimate, Latents, Pipeline, PipelineOptions, Request, VaePath,
    estimate,
};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

fn pipeline() -> Pipeline {
    Pipeline::open_with(MODEL, &PipelineOptions { threads: Some(2), ..PipelineOptions::default() }).unwrap()
}

#[test]
fn upsampling_in_strips_gives_the_same_picture_bit_for_bit() {
    let pipeline = pipeline();
    let (vae, channels) = (pipeline.vae(), pipeline.transformer().config().in_channels);
    let levels = vae.config().block_out_channels.len();
    // one strip, several with a rest, and a picture that is wider than high
    for (rows, columns) in [(1, 1), (13, 5), (5, 21)] {
        let latents = Latents::noise(NoiseSource::TorchCpu, 3, rows, columns, channels).unwrap();
        let latent = pipeline.denormalise(&latents).unwrap();
        let want = vae.decode(&mut Context::new(pipeline.cpu()), latent.view()).unwrap();
        for strips in 1..levels {
            let mut cx = Context::new(pipeline.cpu());
            let got = vae.decode_in_strips(&mut cx, latent.view(), strips).unwrap();
            assert!(got.as_slice() == want.as_slice(), "{rows}x{columns} tokens, {strips} levels in strips");
        }
    }
}

#[test]
fn conditioning_once_gives_the_same_picture_as_step_by_step() {
    let pipeline = pipeline();
    let request = Request::new("a bonsai in a glass jar").seed(11).steps(3);
    let prompt = pipeline.encode_prompt(&request.prompt).unwrap();
    let mut latents = pipeline.noise(&request).unwrap();
    for step in &FlowMatchEuler::new(3, latents.tokens()).unwrap() {
        let velocity = pipeline.velocity(&latents, &prompt, step.sigma).unwrap();
        latents.advance(&velocity, step.delta()).unwrap();
    }
    assert_eq!(pipeline.generate(&request).unwrap().image, pipeline.decode(&latents).unwrap());
}

fn options(max_memory: Option<u64>) -> PipelineOptions {
    // the first thing that a budget takes is the place of kept prompts, of which another test tells
    PipelineOptions { threads: Some(2), max_memory, cached_prompts: Some(0), ..PipelineOptions::default() }
}

#[test]
fn an_estimate_is_the_same_before_and_after_loading() {
    for size in [(64, 96), (512, 512), (2048, 1024)] {
        let request = Request { size: Some(size), ..Request::new("") };
        let kept = PipelineOptions { cached_prompts: None, ..options(None) };
        let before = estimate(MODEL, &kept, &request).unwrap();
        assert_eq!(before, pipeline().estimate(&request).unwrap());
        assert_eq!((before.width, before.height), size);
        assert!(before.stages.iter().all(|s| s.macs > 0 && s.peak_bytes > before.base_bytes));
    }
}

#[test]
fn a_preview_decoder_is_counted() {
    let taef2 = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/taef2_decoder.pth");
    let watched = PipelineOptions { preview_decoder: taef2.parse().ok(), ..options(None) };
    let request = Request::new("").size(1024, 1024);
    let with = estimate(MODEL, &watched, &request).unwrap();
    assert_eq!(with, Pipeline::open_with(MODEL, &watched).unwrap().estimate(&request).unwrap());
    let without = estimate(MODEL, &options(None), &request).unwrap();
    // three maps of its eight channels at full size, which the transformer does not need at the same time
    let maps = 3 * 8 * 1024 * 1024 * 4;
    assert!(with.stages[1].peak_bytes > without.stages[1].peak_bytes);
    assert!((maps..maps + maps / 2).contains(&with.stages[1].activation_bytes), "{with:?}");
    assert_eq!(with.stages[2].activation_bytes, without.stages[2].activation_bytes);
}

#[test]
fn a_tiny_decoder_is_estimated_as_what_it_is() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/taef2_decoder.pth");
    let components = ComponentPaths { vae: Some(VaePath::Path(file.into())), ..ComponentPaths::default() };
    let tiny = PipelineOptions { components, ..options(None) };
    let request = Request::new("").size(512, 512);
    let before = estimate(MODEL, &tiny, &request).unwrap();
    assert_eq!(before, Pipeline::open_with(MODEL, &tiny).unwrap().estimate(&request).unwrap());
    let full = estimate(MODEL, &options(None), &request).unwrap();
    let decode = |estimate: &Estimate| estimate.stages[2];
    assert!(decode(&before).macs < decode(&full).macs && decode(&before).macs > 0);
    // three maps of its eight channels at full size
    let maps = 3 * 8 * 512 * 512 * 4;
    assert!((maps..maps + maps / 2).contains(&decode(&before).activation_bytes), "{before:?}");
    // it has no strips to save memory with
    let poor = PipelineOptions { max_memory: Some(before.peak_bytes() - 1), ..tiny };
    assert_eq!(estimate(MODEL, &poor, &request).unwrap_err().kind(), ErrorKind::MemoryBudget);
}

#[test]
fn weights_stay_where_there_is_room_and_paint_the_same_picture() {
    let request = Request::new("a bonsai").size(64, 64).steps(2).seed(5);
    let keeping = PipelineOptions { keep_weights: true, ..options(None) };
    let kept = estimate(MODEL, &keeping, &request).unwrap();
    let lean = estimate(MODEL, &options(None), &request).unwrap();
    assert!(kept.plan.keep_weights && !lean.plan.keep_weights);
    let pipeline = Pipeline::open_with(MODEL, &keeping).unwrap();
    assert_eq!(kept, pipeline.estimate(&request).unwrap());
    // all of the three files but the embedding and the layers behind the last tap
    let files = ["transformer/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"];
    let size = |file: &str| std::fs::metadata(format!("{MODEL}/{file}.safetensors")).unwrap().len();
    let all: u64 = files.into_iter().map(size).sum();
    for stage in &kept.stages {
        assert!(stage.mapped_bytes <= all && stage.mapped_bytes > all / 2, "{stage:?}, {all} bytes of files");
    }
    let poor = PipelineOptions { max_memory: Some(kept.peak_bytes() - 1), ..keeping };
    assert!(!estimate(MODEL, &poor, &request).unwrap().plan.keep_weights);
    let image = |options: &PipelineOptions| {
        Pipeline::open_with(MODEL, options).unwrap().generate(&request).unwrap().image
    };
    assert_eq!(image(&poor), pipeline.generate(&request).unwrap().image);
}

#[test]
fn a_budget_changes_the_plan_then_refuses_and_names_what_fits() {
    let request = Request::new("").size(1024, 1024);
    let fastest = estimate(MODEL, &options(Some(u64::MAX)), &request).unwrap();
    assert_eq!(fastest.plan.strips, 0);
    let less = fastest.peak_bytes() - 1;
    let leaner = estimate(MODEL, &options(Some(less)), &request).unwrap();
    assert!(leaner.plan.strips > 0 && leaner.peak_bytes() <= less, "{leaner:?}");
    assert!(leaner.macs() > fastest.macs());

    let refused = estimate(MODEL, &options(Some(leaner.peak_bytes() / 3)), &request).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::MemoryBudget);
    let message = refused.to_string();
    let (_, rest) = message.split_once("a picture of ").unwrap();
    let (_, rest) = rest.split_once("a picture of ").expect("a smaller picture is named");
    let (width, height) = rest.split_once(' ').unwrap().0.split_once('x').unwrap();
    let smaller = Request::new("").size(width.parse().unwrap(), height.parse().unwrap());
    assert!(estimate(MODEL, &options(Some(leaner.peak_bytes() / 3)), &smaller).is_ok(), "{message}");

    let nothing = estimate(MODEL, &options(Some(1)), &request).unwrap_err();
    assert!(nothing.to_string().contains("no picture would fit"), "{nothing}");
}

#[test]
fn a_pipeline_keeps_its_budget_and_paints_the_same_picture() {
    let request = Request::new("a bonsai").size(256, 256).steps(1).seed(5);
    let fast = pipeline().without_prompt_cache();
    let budget = fast.estimate(&request).unwrap().peak_bytes() - 1;
    let lean = Pipeline::open_with(MODEL, &options(Some(budget))).unwrap();
    assert!(lean.estimate(&request).unwrap().plan.strips > 0);
    assert_eq!(lean.generate(&request).unwrap().image, fast.generate(&request).unwrap().image);
    let poor = Pipeline::open_with(MODEL, &options(Some(1 << 20))).unwrap();
    assert_eq!(poor.generate(&request).unwrap_err().kind(), ErrorKind::MemoryBudget);
}
