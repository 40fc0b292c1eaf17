//! `bonsai doctor`: what this machine offers, what of it is used and why, and whether the models are sound.

mod features;
mod models;

use std::path::PathBuf;

use bonsai_core::Isa;
use bonsai_core::kernels::OVERRIDE;
use bonsai_core::kernels::gemm::ActivationPrecision;
use clap::Args;
use serde::Serialize;

use crate::chosen::{self, ChosenKernel};
use crate::engine::KernelArgs;
use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{model, print};
use models::{Model, Verdict};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A model to look at beside those that are found: a directory, or a native pack
    #[arg(short, long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Models directory [default: $BONSAI_MODELS, else ./models]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Load no model and read no files
    #[arg(long)]
    quick: bool,
    /// Print it as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    architecture: &'static str,
    cpu: Option<String>,
    threads: usize,
    features: Vec<&'static str>,
    features_missing: Vec<&'static str>,
    isa: &'static str,
    isa_why: String,
    isa_best: &'static str,
    isa_available: Vec<&'static str>,
    isa_variable: Option<String>,
    precision: &'static str,
    kernels: Vec<ChosenKernel>,
    models_dir: String,
    models: Vec<Model>,
    problems: usize,
}

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let isa = args.kernel.isa()?;
    let interrupt = Interrupt::install()?;
    let mut progress = Progress::new(args.quiet, args.json);
    interrupt.orderly();
    let models_dir = model::models_dir(args.models.as_deref());
    let mut models = Vec::new();
    for (dir, found) in models::find(args.model.as_deref(), &models_dir) {
        let name = dir.display().to_string();
        progress.stage(&name);
        models.push(models::examine(&dir, found, isa, args.quick, &interrupt.token, &progress)?);
        progress.done(&name);
    }
    drop(progress);
    let (features, missing): (Vec<_>, Vec<_>) = features::all().into_iter().partition(|(_, has)| *has);
    let names = |list: Vec<(&'static str, bool)>| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        cpu: chosen::cpu_name(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        features: names(features),
        features_missing: names(missing),
        isa: isa.name(),
        isa_why: chosen::why(isa),
        isa_best: Isa::best().name(),
        isa_available: Isa::available().into_iter().map(Isa::name).collect(),
        isa_variable: std::env::var(OVERRIDE).ok().filter(|value| !value.is_empty()),
        precision: args.kernel.precision().name(),
        kernels: ActivationPrecision::ALL.iter().flat_map(|&p| chosen::kernels(isa, p)).collect(),
        models_dir: models_dir.display().to_string(),
        problems: models.iter().map(|model| model.problems.len()).sum(),
        models,
    };
    if args.json {
        print::json(&report)?
    } else {
        print::stdout(&text(&report))?
    }
    match report.problems {
        0 => Ok(()),
        count => Err(Failure::new(Code::Model, print::count(count, "problem"))
            .hint("`bonsai pull` fetches again what is missing or wrong in a model that it fetched")),
    }
}

fn text(r: &Report) -> String {
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    let mut lines = vec![
        format!("bonsai     {} for {}", r.version, r.architecture),
        format!(
            "cpu        {}, {}",
            r.cpu.as_deref().unwrap_or("unknown"),
            print::count(r.threads, "thread")
        ),
        format!("has        {}", list(&r.features)),
        format!("lacks      {}", list(&r.features_missing)),
        format!("uses       {}: {}", r.isa, r.isa_why),
        format!("could use  {}", list(&r.isa_available)),
        String::new(),
        format!("{:<8} {:<11} kernel (in a run: {})", "weights", "activations", r.precision),
    ];
    lines.extend(r.kernels.iter().map(|c| format!("{:<8} {:<11} {}", c.weights, c.activations, c.kernel)));
    for model in &r.models {
        lines.push(String::new());
        lines.push(format!("model {}, {}", model.path, model.found));
        if let Some(source) = &model.source {
            lines.push(format!("  from       {source}"));
        }
        if let Some(usable) = model.usable {
            lines.push(format!("  loads      {}", if usable { "yes" } else { "no" }));
        }
        let count = |verdict| model.files.iter().filter(|file| file.digest == verdict).count();
        let verdicts = [
            (Verdict::Matches, "with the right digest"),
            (Verdict::Differs, "with another digest"),
            (Verdict::Missing, "missing"),
            (Verdict::Unknown, "of unknown digest"),
            (Verdict::Unread, "not read"),
        ];
        let told = verdicts.iter().filter(|(verdict, _)| count(*verdict) > 0);
        let told: Vec<_> = told.map(|(verdict, words)| format!("{} {words}", count(*verdict))).collect();
        lines.push(format!(
            "  {:<10} {}",
            if model.is_pack { "components" } else { "files" },
            if told.is_empty() { "none".to_owned() } else { told.join(", ") }
        ));
        lines.extend(model.problems.iter().map(|problem| format!("  PROBLEM    {problem}")));
    }
    if r.models.is_empty() {
        lines.push(String::new());
        lines
            .push(format!("no models: -m names none, BONSAI_MODEL neither, and {} holds none", r.models_dir));
    }
    lines.join("\n")
}
