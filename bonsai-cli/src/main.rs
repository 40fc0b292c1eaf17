//! bonsai: one command from a prompt to a picture, on a plain CPU.

#![forbid(unsafe_code)]

mod bench;
mod bytes;
mod chosen;
mod convert;
mod doctor;
mod engine;
mod estimate;
mod eval;
mod failure;
mod generate;
mod info;
mod interrupt;
mod model;
mod output;
mod preview;
mod print;
mod progress;
mod prompt;
mod published;
#[cfg(feature = "pull")]
mod pull;
mod record;
mod resident;
mod seed;
mod size;
mod synth;
mod synthesize;
mod verify;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  bonsai generate \"a red maple bonsai in a blue pot at night, a moon on the left\"
  bonsai generate -m ~/models/klein-4b --size 512x512 -s 42 -o tree.png \"a bonsai tree\"
  bonsai info tree.png            what a picture was made from
  bonsai verify tree.png          paint it again and compare
  bonsai info ~/models/klein-4b   what a model directory holds
  bonsai pull binary              fetch the 1-bit model
  bonsai doctor                   what this machine offers, and whether the models are sound
  bonsai synth --preset tiny --out /tmp/tiny && bonsai bench -m /tmp/tiny

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the model or a file is unusable, 130 cancelled.";

/// Text to image on a plain CPU: FLUX.2 Klein and 1-bit Bonsai Image
#[derive(Debug, Parser)]
#[command(name = "bonsai", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Paint a picture from a prompt
    Generate(generate::GenerateArgs),
    /// Describe a model directory, or the recipe inside a picture
    Info(info::InfoArgs),
    /// Paint a picture again from its own recipe and compare the pixels
    Verify(verify::VerifyArgs),
    /// Measure the speed and the memory of a model, or the kernels by themselves
    Bench(bench::BenchArgs),
    /// Write a model in another form: one native file, GGUF, or half-precision checkpoints
    Convert(convert::ConvertArgs),
    /// Tell the memory and the work that a picture will take, before anything is loaded
    Estimate(estimate::EstimateArgs),
    /// Judge how much of what prompts ask for a model paints
    Eval(eval::EvalArgs),
    /// Fetch a published model from the Hugging Face hub
    #[cfg(feature = "pull")]
    Pull(pull::PullArgs),
    /// Tell what this machine offers, what is used of it, and whether the models are sound
    Doctor(doctor::DoctorArgs),
    /// Write a model of random weights: real shapes and formats, no real pictures
    Synth(synthesize::SynthArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let done = match &cli.command {
        Command::Generate(args) => generate::run(args),
        Command::Info(args) => info::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Estimate(args) => estimate::run(args),
        Command::Eval(args) => eval::run(args),
        #[cfg(feature = "pull")]
        Command::Pull(args) => pull::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Synth(args) => synthesize::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    for line in failure.lines() {
        print::stderr(&line);
    }
    failure.code.into()
}

/// Prints what the argument parser has to say: help, the version, or what is wrong with the arguments.
fn explain(error: &clap::Error) -> ExitCode {
    // a closed pipe is no reason to fail
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
    {
        print::stderr(&format!("\nhint: to paint it, write: bonsai generate {word:?}"));
    }
    failure::Code::Usage.into()
}
