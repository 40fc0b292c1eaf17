//! The options of every command that runs a model, and the loading of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bonsai_core::{
    ActivationPrecision, ComponentPaths, Error, ErrorKind, FinalModulation, Isa, Meter, Pipeline,
    PipelineOptions, VaePath,
};
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::failure::Failure;
use crate::model::{self, Choice};
use crate::print;

#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Model directory [default: $BONSAI_MODEL, else bonsai-mini, the small model inside this program]
    #[arg(short, long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Threads [default: all]; the picture does not depend on them
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), allow_negative_numbers = true)]
    pub threads: Option<u16>,
    /// The most memory to use, for example 1G: the plan keeps it, or says what would do
    #[arg(long, value_name = "BYTES", value_parser = crate::bytes::parse)]
    pub max_memory: Option<u64>,
    /// Keep weights in memory once they were read, as far as --max-memory allows it: a little faster, in as much more
    /// memory as the model is large
    #[arg(long)]
    pub keep_weights: bool,
    #[command(flatten)]
    pub components: ComponentArgs,
}

/// Components that are files of their own, as users of other programs have them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Components instead of the model's own")]
pub struct ComponentArgs {
    /// Transformer: a file (safetensors, GGUF, .pt) or a folder
    #[arg(long, value_name = "PATH")]
    transformer: Option<PathBuf>,
    /// Text encoder, a Qwen3: a file or a folder
    #[arg(long, value_name = "PATH")]
    text_encoder: Option<PathBuf>,
    /// VAE: a file or a folder, or `tiny` for the TAEF2 in the model directory (TAEF2 needs its .pth or .safetensors)
    #[arg(long, value_name = "PATH|tiny")]
    vae: Option<VaePath>,
    /// Tokenizer: tokenizer.json, or a folder that holds it
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Order of the halves of the transformer's last modulation [default: that of the file's naming]. A file that was
    /// renamed from diffusers' names to BFL's and nothing else needs scale-shift: without it pictures are pale and noisy
    #[arg(long, value_name = "ORDER", value_parser = PossibleValuesParser::new(FinalModulation::ALL.map(|(name, _)| name)))]
    final_modulation: Option<String>,
}

impl ComponentArgs {
    pub fn paths(&self) -> ComponentPaths {
        let Self { transformer, text_encoder, vae, tokenizer, final_modulation } = self.clone();
        // clap has seen to the name
        let final_modulation = final_modulation.as_deref().and_then(FinalModulation::named);
        ComponentPaths { transformer, text_encoder, vae, tokenizer, final_modulation }
    }
}

#[derive(Debug, Args)]
pub struct KernelArgs {
    /// Instruction set, no better than this CPU's: portable, avx2, avxvnni, avx512, avx512vnni, avx512bf16, amx; neon, dotprod, i8mm [default: $BONSAI_ISA, else the best]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// How activations enter the linears with packed weights: f32 is exact, int16 finer than bf16 and faster, the rest
    /// coarser
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ActivationPrecision::ALL.iter().map(|p| p.name())), default_value = ActivationPrecision::default().name())]
    precision: String,
}

impl KernelArgs {
    pub fn precision(&self) -> ActivationPrecision {
        // clap has seen to the name
        ActivationPrecision::named(&self.precision).unwrap_or_default()
    }

    pub fn isa(&self) -> Result<Isa, Failure> {
        let (isa, option) = match &self.isa {
            Some(name) => (Isa::named(name), true),
            None => (Isa::from_env(), false),
        };
        isa.map_err(|error| {
            let message = error.to_string();
            // the kernels know the environment variable only
            Failure::usage(if option { message.replacen("BONSAI_ISA=", "--isa ", 1) } else { message })
        })
    }
}

/// A loaded model and how long that took.
pub struct Loaded {
    pub pipeline: Pipeline,
    pub took: Duration,
}

impl EngineArgs {
    /// Which model is meant.
    pub fn choose(&self) -> Result<Choice, Failure> {
        if self.model.is_none() && self.components.paths().is_complete() {
            return Ok(Choice::Components);
        }
        let choice = model::choose(self.model.as_deref())?;
        if matches!(choice, Choice::Dir(_)) || self.components.paths().is_empty() {
            return Ok(choice);
        }
        let message =
            "--transformer, --text-encoder, --vae and --tokenizer: some are named, and no model for the rest";
        Err(Failure::usage(message).hint("name all four, or a model directory with -m DIR"))
    }

    pub fn load(
        &self,
        choice: &Choice,
        isa: Isa,
        precision: ActivationPrecision,
        meter: Option<Arc<Meter>>,
    ) -> Result<Loaded, Failure> {
        self.load_with(choice, PipelineOptions { isa: Some(isa), precision, meter, ..Default::default() })
    }

    /// The same with more options; those that are arguments of every command are set here.
    pub fn load_with(&self, choice: &Choice, options: PipelineOptions) -> Result<Loaded, Failure> {
        let options = PipelineOptions {
            threads: self.threads.map(usize::from),
            max_memory: self.max_memory,
            keep_weights: self.keep_weights,
            components: self.components.paths(),
            ..options
        };
        let started = Instant::now();
        let pipeline = match choice {
            Choice::Dir(dir) => Pipeline::open_with(dir, &options).map_err(|e| unusable(&e, dir))?,
            Choice::Components => Pipeline::open_components(&options).map_err(|e| Failure::in_files(&e))?,
            #[cfg(feature = "mini")]
            Choice::Mini => bonsai_mini::open(&options)?,
        };
        for warning in pipeline.warnings() {
            print::stderr(&format!("warning: {warning}"));
        }
        Ok(Loaded { pipeline, took: started.elapsed() })
    }
}

/// What to say of a directory that is no usable model.
fn unusable(error: &Error, dir: &Path) -> Failure {
    let failure = Failure::in_files(error);
    match error.kind() {
        ErrorKind::NotFound if !dir.is_dir() => {
            failure.hint("-m DIR names the model; without it bonsai-mini, the small model inside, paints")
        }
        ErrorKind::NotFound | ErrorKind::ModelFormat | ErrorKind::ModelMismatch => failure.hint(format!(
            "`bonsai info {}` tells what the directory holds and what it lacks",
            dir.display()
        )),
        _ => failure,
    }
}
