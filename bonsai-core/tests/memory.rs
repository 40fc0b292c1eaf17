//! What saves memory changes no number.

use bonsai_core::noise::NoiseSource;
use bonsai_core::scheduler::FlowMatchEuler;
use bonsai_core::{Context, Latents, Pipeline, PipelineOptions, Request};

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
