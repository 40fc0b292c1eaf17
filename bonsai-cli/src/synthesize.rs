//! `bonsai synth`: a model of random weights.

use std::path::PathBuf;
use std::time::Instant;

use bonsai_core::ErrorKind;
use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::print;
use crate::progress::Progress;
use crate::synth::{self, Preset};

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Which model
    #[arg(long)]
    preset: Preset,
    /// Folder to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of the weights; the same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Channels of the transformer whose activations are tens of times as large as the others, as trained models have
    /// a few
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=64), allow_negative_numbers = true)]
    outliers: u16,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report {
    path: String,
    seed: u64,
    total_s: f64,
}

pub fn run(args: &SynthArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let mut progress = Progress::new(args.quiet, args.json);
    progress.stage("tokenizer");
    let tell = |fraction, file: &str| progress.fraction(fraction, file);
    synth::run(args.preset, &args.out, args.seed, args.outliers, &tell).map_err(|error| {
        match error.kind() {
            ErrorKind::InvalidArgument => Failure::from(error),
            _ => Failure::in_output(&error),
        }
    })?;
    drop(progress);
    let (path, total_s) = (args.out.display().to_string(), began.elapsed().as_secs_f64());
    if args.json {
        return print::json(&Report { path, seed: args.seed, total_s });
    }
    print::stdout(&format!("{path}: {total_s:.1} s"))?;
    if !args.quiet {
        print::stderr(&format!("try: bonsai bench -m {path}"));
    }
    Ok(())
}
