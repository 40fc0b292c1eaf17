//! `bonsai generate`: a picture from a prompt.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bonsai_core::image::write_png;
use bonsai_core::noise::NoiseSource;
use bonsai_core::{Generated, PipelineOptions, Request};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use crate::engine::{EngineArgs, KernelArgs, Loaded};
use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::preview::{PreviewArgs, Watch};
use crate::print;
use crate::progress::Progress;
use crate::prompt::PromptArgs;
use crate::seed::{self, Seed};
use crate::size::SizeArgs;

const EXAMPLES: &str = "\
Examples:
  bonsai generate \"a bonsai tree on a wooden table\"
      a picture of the model's own size under a name made of time and seed
  bonsai generate -m ~/models/klein-4b --size 624x416 -s 42 -o tree.png \"a bonsai tree\"
  bonsai generate -s 7 -b 4 -o 'tree-{seed}.png' \"a bonsai tree\"
      four pictures, of the seeds 7, 8, 9 and 10
  fortune | bonsai generate --json -
      the prompt from standard input, the result as JSON

Ctrl-C stops within a second and leaves no unfinished file; a second Ctrl-C stops at once.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    /// PNG file to write; %03d counts the pictures from 1, {seed} is the seed [default: a new file named by time and seed]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// Denoising steps [default: the model's, mostly 4]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Seed of the noise, -1 for a random one; repeat it, or separate by commas, for several pictures [default: random]
    #[arg(short, long, value_name = "SEED", value_delimiter = ',', allow_negative_numbers = true)]
    seed: Vec<Seed>,
    /// Pictures for each seed; the i-th gets seed + i
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), allow_negative_numbers = true)]
    batch_count: u32,
    /// Whose random numbers a seed stands for: diffusers on a CPU, or Apple's MLX
    #[arg(long, value_name = "NAME", default_value_t = NoiseSource::default(), value_parser = noise_source())]
    rng: NoiseSource,
    #[command(flatten)]
    kernel: KernelArgs,
    #[command(flatten)]
    preview: PreviewArgs,
    /// Guidance value, for models that read one
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Decode the picture in tiles: less memory for large pictures, slightly other tones
    #[arg(long)]
    vae_tiling: bool,
    /// Leave the prompt and the recipe out of the PNG
    #[arg(long)]
    no_metadata: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress and no notes
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    images: Vec<Painted>,
    prompt: String,
    width: usize,
    height: usize,
    steps: usize,
    guidance: Option<f32>,
    rng: &'static str,
    model: String,
    precision: &'a str,
    isa: &'static str,
    threads: usize,
    tokens_used: usize,
    tokens_cut: usize,
    load_s: f64,
    total_s: f64,
    cancelled: bool,
}

#[derive(Serialize)]
struct Painted {
    path: String,
    seed: u64,
    text_encode_s: f64,
    step_s: Vec<f64>,
    vae_decode_s: f64,
    total_s: f64,
}

pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let mut request = Request {
        noise_source: args.rng,
        steps: args.steps,
        // a side that is not given is known to fit
        size: args.size.over((16, 16)),
        guidance: args.guidance,
        vae_tiling: args.vae_tiling,
        ..Request::new(args.prompt.read()?)
    };
    request.check()?;
    let options = PipelineOptions {
        isa: Some(args.kernel.isa()?),
        precision: args.kernel.precision(),
        preview_decoder: args.preview.decoder()?,
        ..PipelineOptions::default()
    };
    let seeds = seed::all(&args.seed, args.batch_count);
    let output = Output::plan(args.output.as_deref(), &seeds)?;
    let choice = args.engine.choose()?;
    let interrupt = Interrupt::install()?;

    let mut progress = Progress::new(args.quiet, args.json);
    progress.stage("loading the model");
    let Loaded { pipeline, took } = args.engine.load_with(&choice, options)?;
    progress.done("load");
    let pipeline = pipeline.with_cancel(interrupt.token.clone());
    interrupt.orderly();
    request.size = args.size.over(pipeline.defaults().size);
    if args.guidance.is_some() && !pipeline.transformer().config().guidance_embeds {
        progress.warn("this model reads no guidance value; --guidance changes nothing");
    }

    let mut report = Report {
        images: Vec::new(),
        prompt: request.prompt.clone(),
        width: 0,
        height: 0,
        steps: 0,
        guidance: None,
        rng: args.rng.name(),
        model: pipeline.name().to_owned(),
        precision: args.kernel.precision().name(),
        isa: pipeline.cpu().isa().name(),
        threads: pipeline.cpu().threads(),
        tokens_used: 0,
        tokens_cut: 0,
        load_s: took.as_secs_f64(),
        total_s: 0.0,
        cancelled: false,
    };
    let mut failed = None;
    for (index, &seed) in seeds.iter().enumerate() {
        progress.picture(index, seeds.len());
        request.seed = seed;
        let mut watch = Watch { progress: &mut progress, args: &args.preview, seed };
        let began = Instant::now();
        let painted = pipeline.generate_observed(&request, &mut watch).map_err(Failure::from);
        let saved = painted.and_then(|generated| {
            let path = output.path(index, seed);
            save(&path, &generated, args.no_metadata)?;
            Ok((path, generated))
        });
        let (path, generated) = match saved {
            Ok(saved) => saved,
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        let recipe = &generated.recipe;
        if !args.json {
            let line = if args.quiet {
                format!("{}: seed {seed}", path.display())
            } else {
                let (width, height, steps) =
                    (recipe.width, recipe.height, print::count(recipe.steps, "step"));
                format!("{}: seed {seed}, {width}x{height}, {steps}, {seconds:.2} s", path.display())
            };
            progress.hide(|| print::stdout(&line))?;
        }
        (report.width, report.height, report.steps) = (recipe.width, recipe.height, recipe.steps);
        (report.guidance, report.tokens_used, report.tokens_cut) =
            (recipe.guidance, recipe.tokens_used, generated.cut);
        report.images.push(Painted {
            path: path.display().to_string(),
            seed,
            text_encode_s: generated.timings.text_encode.as_secs_f64(),
            step_s: generated.timings.steps.iter().map(|t| t.as_secs_f64()).collect(),
            vae_decode_s: generated.timings.vae_decode.as_secs_f64(),
            total_s: seconds,
        });
    }
    drop(progress);
    if args.json && !report.images.is_empty() {
        report.total_s = began.elapsed().as_secs_f64();
        report.cancelled = failed.as_ref().is_some_and(|failure| failure.code == Code::Cancelled);
        print::json(&report)?;
    }
    failed.map_or(Ok(()), Err)
}

fn save(path: &Path, generated: &Generated, no_metadata: bool) -> Result<(), Failure> {
    let saved = if no_metadata { write_png(path, &generated.image, &[]) } else { generated.save_png(path) };
    saved.map_err(|error| Failure::in_output(&error))
}

pub fn steps(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a number of steps".to_owned())
}

fn noise_source() -> impl TypedValueParser<Value = NoiseSource> {
    PossibleValuesParser::new(NoiseSource::ALL.map(NoiseSource::name))
        .try_map(|name| name.parse::<NoiseSource>())
}
