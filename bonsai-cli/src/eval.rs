//! `bonsai eval`: how much of what prompts ask for a model paints, by the verdict of a small classifier.

mod benchmark;
mod judge;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bonsai_core::Request;
use clap::Args;
use serde::Serialize;

use crate::engine::{EngineArgs, KernelArgs, Loaded};
use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::print;
use crate::progress::Progress;
use benchmark::{Benchmark, Score, Shares};
use judge::Judge;

/// Where the files lie in the project.
const FOLDER: &str = "models/bonsai-mini";

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Prompts and what their pictures have to show [default: models/bonsai-mini/benchmark.json of the project]
    #[arg(long, value_name = "FILE")]
    benchmark: Option<PathBuf>,
    /// Weights of the classifier [default: models/bonsai-mini/judge.safetensors of the project]
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// Only the first N prompts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    count: Option<u32>,
    /// Denoising steps [default: the model's, mostly 4]
    #[arg(long, value_name = "N", value_parser = crate::generate::steps, allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Keep the pictures in this folder, which must exist
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    size: String,
    steps: usize,
    isa: &'static str,
    precision: &'static str,
    held_in: Shares,
    held_out: Shares,
}

pub fn run(args: &EvalArgs) -> Result<(), Failure> {
    let isa = args.kernel.isa()?;
    let in_files = |e| Failure::in_files(&e);
    let benchmark = Benchmark::open(&file(args.benchmark.as_deref(), "benchmark.json")?).map_err(in_files)?;
    let judge_path = file(args.judge.as_deref(), "judge.safetensors")?;
    let judge = Judge::open(&judge_path, benchmark.classes()).map_err(in_files)?;
    if let Some(dir) = args.save.as_deref().filter(|dir| !dir.is_dir()) {
        return Err(Failure::usage(format!("--save {}: no such folder", dir.display())));
    }
    let choice = args.engine.choose()?;
    let interrupt = Interrupt::install()?;
    let mut progress = Progress::new(args.quiet, args.json);
    progress.stage("loading the model");
    let Loaded { pipeline, .. } = args.engine.load(&choice, isa, args.kernel.precision(), None)?;
    progress.done("load");
    let pipeline = pipeline.with_cancel(interrupt.token.clone());
    interrupt.orderly();

    let count = args.count.map_or(usize::MAX, |n| n as usize).min(benchmark.prompts.len());
    let (mut held_in, mut held_out) = (Score::default(), Score::default());
    let (mut size, mut steps) = (String::new(), 0);
    for (index, prompt) in benchmark.prompts.iter().take(count).enumerate() {
        progress.fraction(index as f64 / count as f64, &format!("picture {}/{count}", index + 1));
        let request = Request { steps: args.steps, ..Request::new(prompt.prompt.clone()) }.seed(prompt.seed);
        let generated = pipeline.generate_with(&request, &mut |_| ControlFlow::Continue(()))?;
        let scores = judge.scores(pipeline.cpu(), &generated.image)?;
        let score = if prompt.held_out { &mut held_out } else { &mut held_in };
        score.add(prompt, &benchmark.verdict(prompt, &scores));
        if let Some(dir) = &args.save {
            let path = dir.join(format!("{index:04}.png"));
            generated.save_png(path).map_err(|e| Failure::in_output(&e))?;
        }
        (size, steps) =
            (format!("{}x{}", generated.recipe.width, generated.recipe.height), generated.recipe.steps);
    }
    progress.done("pictures");
    drop(progress);
    let report = Report {
        model: pipeline.name(),
        size,
        steps,
        isa: pipeline.cpu().isa().name(),
        precision: args.kernel.precision().name(),
        held_in: held_in.shares(),
        held_out: held_out.shares(),
    };
    if args.json {
        return print::json(&report);
    }
    let Report { model, size, precision, isa, .. } = &report;
    print::stdout(&format!("{model}, {size}, {}, {isa}, {precision}", print::count(steps, "step")))?;
    print::stdout(&benchmark::table(&[("held-in", report.held_in), ("held-out", report.held_out)]))
}

/// The file that was given, else that of the project around us.
fn file(given: Option<&Path>, name: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let here =
        std::env::current_dir().map_err(|e| Failure::new(Code::Failed, format!("current folder: {e}")))?;
    let found = here.ancestors().map(|folder| folder.join(FOLDER).join(name)).find(|path| path.is_file());
    let option = name.split('.').next().unwrap_or(name);
    found.ok_or_else(|| {
        Failure::new(Code::Model, format!("no {FOLDER}/{name} here or in a folder above"))
            .hint(format!("name the file with --{option} FILE"))
    })
}
