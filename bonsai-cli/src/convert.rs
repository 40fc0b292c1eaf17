//! `bonsai convert`: a model in another form.

use std::path::PathBuf;
use std::time::Instant;

use bonsai_core::model_dir::ModelDir;
use bonsai_core::native::{Target, convert_from};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::engine::ComponentArgs;
use crate::failure::Failure;
use crate::print;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  bonsai convert ~/models/bonsai-4b bonsai-4b.safetensors
      one file that opens in milliseconds; use it with -m
  bonsai convert --to gguf ~/models/bonsai-4b bonsai-4b-gguf
  bonsai convert --to unpacked ~/models/bonsai-4b bonsai-4b-unpacked
      directories for other tools; binary and ternary weights are exact in both";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertArgs {
    /// A model: a directory, or a native pack
    input: PathBuf,
    /// What to write; it must not exist
    output: PathBuf,
    #[command(flatten)]
    components: ComponentArgs,
    /// The form to write
    #[arg(long, value_enum, default_value_t = Form::Native)]
    to: Form,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One safetensors file, mapped and used in place
    Native,
    /// A directory with transformer and text encoder as GGUF
    Gguf,
    /// A directory of half-precision checkpoints
    Unpacked,
}

#[derive(Serialize)]
struct Report {
    path: String,
    total_s: f64,
}

pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let mut progress = Progress::new(args.quiet, args.json);
    progress.stage("converting the model");
    let target = match args.to {
        Form::Native => Target::Native,
        Form::Gguf => Target::Gguf,
        Form::Unpacked => Target::Unpacked,
    };
    let model = ModelDir::open(&args.input)?.with_components(args.components.paths());
    convert_from(&model, &args.output, target)?;
    drop(progress);
    let (path, total_s) = (args.output.display().to_string(), began.elapsed().as_secs_f64());
    if args.json {
        return print::json(&Report { path, total_s });
    }
    print::stdout(&format!("{path}: {total_s:.1} s"))
}
