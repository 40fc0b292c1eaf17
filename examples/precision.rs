//! How far each precision of activations is from f32: after every block of the first step, and in the final latents.
//! `cargo run --release -p bonsai-examples --example precision -- MODEL [WIDTH HEIGHT [STEPS]]`
//!
//! `bonsai synth --outliers 12` makes a model whose activations have outlier channels, as trained ones do. Prompt
//! embeddings are those of f32 throughout, so that the transformer alone is compared.

use std::collections::BTreeMap;

use bonsai_core::noise::NoiseSource;
use bonsai_core::scheduler::FlowMatchEuler;
use bonsai_core::transformer::{Conditioning, Scratch, image_positions, text_positions};
use bonsai_core::{ActivationPrecision, Context, Latents, Pipeline, PipelineOptions, Probe};

/// Keeps what leaves each block.
#[derive(Default)]
struct Blocks(BTreeMap<(bool, usize), Vec<f32>>);

impl Probe for Blocks {
    fn record(&mut self, name: &str, _shape: &[usize], values: Vec<f32>) {
        let single = name.starts_with("single_transformer_blocks.");
        let mut parts = name.split('.').skip(1);
        let Some(block) = parts.next().and_then(|index| index.parse().ok()) else { return };
        // a block of its own name, or the image stream of a double block
        let stream = parts.next();
        let whole = if single { stream.is_none() } else { stream == Some("img") };
        if whole && parts.next().is_none() {
            self.0.insert((single, block), values);
        }
    }
}

/// Root of the mean square of the difference, over that of the first.
fn relative(of: &[f32], other: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = of.iter().zip(other).map(|(a, b)| square(a - b)).sum();
    (off / of.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model =
        args.first().cloned().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model").into());
    let number = |i: usize| args.get(i).map(|text| text.parse::<usize>()).transpose();
    let options = PipelineOptions { precision: ActivationPrecision::F32, ..PipelineOptions::default() };
    let pipeline = Pipeline::open_with(&model, &options)?;
    let size = pipeline.defaults().size;
    let (width, height) = (number(1)?.unwrap_or(size.0), number(2)?.unwrap_or(size.1));
    let steps = number(3)?.unwrap_or(4);

    let prompt = pipeline.encode_prompt("a bonsai tree on a wooden table, soft morning light")?;
    let transformer = pipeline.transformer();
    let (rows, columns) = (height / 16, width / 16);
    let noise = Latents::noise(NoiseSource::TorchCpu, 42, rows, columns, transformer.config().in_channels)?;
    let schedule = FlowMatchEuler::new(steps, noise.tokens())?;
    let timesteps: Vec<f32> = schedule.steps().map(|step| step.sigma).collect();
    let (text, image) = (text_positions(prompt.embeds.tokens()), image_positions(0, rows, columns));

    let paint = |precision: ActivationPrecision| -> bonsai_core::Result<(Blocks, Latents)> {
        let cpu = pipeline.cpu().clone().with_precision(precision);
        let mut scratch = Scratch::new(&cpu, transformer.config(), text.len() + image.len())?;
        let conditioning: Conditioning =
            transformer.condition(&mut Context::new(&cpu), prompt.embeds.view(), &timesteps, None)?;
        let (mut blocks, mut latents) = (Blocks::default(), noise.clone());
        for step in schedule.steps() {
            let mut context = Context::new(&cpu);
            if step.index == 0 {
                context = context.with_probe(&mut blocks);
            }
            let velocity = transformer.forward_conditioned(
                &mut context,
                latents.view(),
                &conditioning,
                step.index,
                &text,
                &image,
                &mut scratch,
            )?;
            let channels = velocity.channels();
            latents.advance(
                &Latents::new(rows, columns, channels, velocity.as_slice().to_vec())?,
                step.delta(),
            )?;
        }
        Ok((blocks, latents))
    };

    println!(
        "{model}, {width}x{height}, {steps} steps, on {}: rms off f32's, relative",
        pipeline.cpu().isa().name()
    );
    println!(
        "{:<10} {:>12} {:>12} {:>12} {:>12}",
        "precision", "first block", "middle block", "last block", "latents"
    );
    let (exact, exact_latents) = paint(ActivationPrecision::F32)?;
    for &precision in ActivationPrecision::ALL.iter().filter(|&&p| p != ActivationPrecision::F32) {
        let (blocks, latents) = paint(precision)?;
        let off: Vec<f64> = exact.0.iter().map(|(key, values)| relative(values, &blocks.0[key])).collect();
        println!(
            "{:<10} {:>12.2e} {:>12.2e} {:>12.2e} {:>12.2e}",
            precision.name(),
            off[0],
            off[off.len() / 2],
            off[off.len() - 1],
            relative(exact_latents.as_slice(), latents.as_slice())
        );
    }
    Ok(())
}
