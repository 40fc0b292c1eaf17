//! What `generate` does, unrolled into the public steps:
//! `cargo run --release -p bonsai-examples --example step_by_step -- MODEL_DIR "a prompt"`.

use bonsai_core::noise::NoiseSource;
use bonsai_core::scheduler::FlowMatchEuler;
use bonsai_core::{Latents, Pipeline, Request};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model").into());
    let text = args.next().unwrap_or_else(|| "a bonsai in a glass jar".into());

    let pipeline = Pipeline::open(model)?;
    let (width, height) = pipeline.defaults().size;
    let (rows, columns, channels) = (height / 16, width / 16, pipeline.transformer().config().in_channels);

    let prompt = pipeline.encode_prompt(&text)?; // [tokens, taps * hidden size]
    println!("prompt: {} tokens, padded to {}", prompt.tokens, prompt.embeds.tokens());

    let mut latents = Latents::noise(NoiseSource::TorchCpu, 42, rows, columns, channels)?; // [rows * columns, 128]
    for step in &FlowMatchEuler::new(4, latents.tokens())? {
        let velocity = pipeline.velocity(&latents, &prompt, step.sigma)?;
        latents.advance(&velocity, step.delta())?;
        println!("step {}: sigma {:.4} -> {:.4}", step.index + 1, step.sigma, step.next_sigma);
    }
    let image = pipeline.decode(&latents)?;

    // the same as in one call
    let request = Request::new(text).size(width, height).steps(4).seed(42);
    assert_eq!(image, pipeline.generate(&request)?.image);

    let path = std::env::temp_dir().join("step_by_step.png");
    bonsai_core::image::write_png(&path, &image, &[])?;
    println!("{}", path.display());
    Ok(())
}
