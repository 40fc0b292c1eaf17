//! Every stage against what the reference implementations computed on tiny models.
//!
//! `golden/` of this repository, or the directory that `BONSAI_GOLDEN_DIR` names, holds the recorded values;
//! its `manifest.json` says for every file what to run. Nothing about models, shapes or prompts is known here.

#![deny(unsafe_code)]

mod compare;
mod formats;
mod gemm;
mod manifest;
mod models;
mod pipeline;
mod resize;
mod rng;
mod scheduler;
mod text_encoder;
mod tokenizer;
mod transformer;
mod vae;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bonsai_core::kernels::{Cpu, RayonThreads};
use bonsai_core::{ActivationPrecision, Isa};
use serde::Deserialize;

use compare::Report;
use manifest::Golden;

/// Why a case could not be run to its end.
type Failure = Box<dyn Error>;

/// What a case runs on.
struct Rig<'a> {
    golden: &'a Golden,
    cpu: Cpu,
    threads: usize,
}

impl<'a> Rig<'a> {
    fn new(golden: &'a Golden, isa: Isa, threads: usize) -> Result<Self, Failure> {
        Ok(Self { golden, cpu: Cpu::new(isa).with_threads(Arc::new(RayonThreads::new(threads)?)), threads })
    }

    fn with_precision(self, precision: ActivationPrecision) -> Self {
        Self { cpu: self.cpu.with_precision(precision), ..self }
    }

    fn title(&self) -> String {
        let cpu = &self.cpu;
        format!("{}, {}, threads: {}", cpu.isa().name(), cpu.precision().name(), self.threads)
    }
}

#[derive(Deserialize)]
#[serde(tag = "stage")]
enum Case {
    #[serde(rename = "tokenizer")]
    Tokenizer(tokenizer::Case),
    #[serde(rename = "text_encoder")]
    TextEncoder(text_encoder::Case),
    #[serde(rename = "transformer")]
    Transformer(transformer::Case),
    #[serde(rename = "vae.decode")]
    VaeDecode(vae::Case),
    #[serde(rename = "vae.encode")]
    VaeEncode(vae::Case),
    #[serde(rename = "vae.tiled")]
    VaeTiled(vae::TiledCase),
    #[serde(rename = "vae.latent_norm")]
    VaeLatentNorm(vae::Case),
    #[serde(rename = "scheduler.sigmas")]
    Sigmas(scheduler::SigmasCase),
    #[serde(rename = "scheduler.mu")]
    Mu(scheduler::MuCase),
    #[serde(rename = "scheduler.euler")]
    Euler(scheduler::EulerCase),
    #[serde(rename = "pipeline.text_to_image")]
    TextToImage(pipeline::Run),
    #[serde(rename = "pipeline.edit")]
    Edit(pipeline::EditCase),
    #[serde(rename = "pipeline.inpaint")]
    Inpaint(pipeline::InpaintCase),
    #[serde(rename = "formats.weights")]
    Weights(formats::WeightsCase),
    #[serde(rename = "formats.gguf_container")]
    Container(formats::ContainerCase),
    #[serde(rename = "gemm.w1a1")]
    W1a1(gemm::W1a1Case),
    #[serde(rename = "gemm.grouped")]
    Grouped(gemm::GroupedCase),
    #[serde(rename = "rng.torch_cpu")]
    TorchCpu(rng::Case),
    #[serde(rename = "rng.mlx")]
    Mlx(rng::Case),
    #[serde(rename = "image.resize")]
    Resize(resize::Case),
}

impl Case {
    fn run(&self, rig: &Rig<'_>, file: &str, report: &mut Report) -> Result<(), Failure> {
        match self {
            Self::Tokenizer(case) => tokenizer::run(rig, file, case, report),
            Self::TextEncoder(case) => text_encoder::run(rig, file, case, report),
            Self::Transformer(case) => transformer::run(rig, file, case, report),
            Self::VaeDecode(case) => vae::decode(rig, file, case, report),
            Self::VaeEncode(case) => vae::encode(rig, file, case, report),
            Self::VaeTiled(case) => vae::tiled(rig, file, case, report),
            Self::VaeLatentNorm(case) => vae::latent_norm(rig, file, case, report),
            Self::Sigmas(case) => scheduler::sigmas(rig, file, case, report),
            Self::Mu(case) => scheduler::mu(rig, file, case, report),
            Self::Euler(case) => scheduler::euler(rig, file, case, report),
            Self::TextToImage(run) => pipeline::text_to_image(rig, file, run, report),
            Self::Edit(case) => pipeline::edit(rig, file, case, report),
            Self::Inpaint(case) => pipeline::inpaint(rig, file, case, report),
            Self::Weights(case) => formats::weights(rig, file, case, report),
            Self::Container(case) => formats::container(rig, file, case, report),
            Self::W1a1(case) => gemm::w1a1(rig, file, case, report),
            Self::Grouped(case) => gemm::grouped(rig, file, case, report),
            Self::TorchCpu(case) => rng::torch_cpu(rig, file, case, report),
            Self::Mlx(case) => rng::mlx(rig, file, case, report),
            Self::Resize(case) => resize::run(rig, file, case, report),
        }
    }

    /// Whether weights of codes meet activations.
    fn depends_on_precision(&self) -> bool {
        matches!(
            self,
            Self::TextEncoder(_)
                | Self::Transformer(_)
                | Self::TextToImage(_)
                | Self::Edit(_)
                | Self::Inpaint(_)
        )
    }

    /// Whether kernels that differ between instruction sets take part.
    fn depends_on_isa(&self) -> bool {
        matches!(
            self,
            Self::TextEncoder(_)
                | Self::Transformer(_)
                | Self::VaeDecode(_)
                | Self::VaeEncode(_)
                | Self::VaeTiled(_)
                | Self::TextToImage(_)
                | Self::Weights(_)
                | Self::Grouped(_)
        )
    }
}

struct Named {
    stage: String,
    file: String,
    case: Case,
}

/// Runs what `wanted` picks; a failure or panic in one case leaves the others be.
fn run(rig: &Rig<'_>, cases: &[Named], wanted: impl Fn(&Case) -> bool) -> Report {
    let report = Report::new(rig.title());
    let exact = rig.cpu.precision() == ActivationPrecision::F32;
    let mut report = if exact { report } else { report.coarse() };
    for Named { stage, file, case } in cases.iter().filter(|named| wanted(&named.case)) {
        report.begin(stage, file);
        guard(&mut report, |report| case.run(rig, file, report));
    }
    report
}

fn guard(report: &mut Report, body: impl FnOnce(&mut Report) -> Result<(), Failure>) {
    match catch_unwind(AssertUnwindSafe(|| body(report))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.fail("the case", error.to_string()),
        Err(_) => report.fail("the case", "panicked"),
    }
}

/// The cases of the manifest, by stage. One that can't be read is a miss.
fn read_cases(golden: &Golden, report: &mut Report) -> Vec<Named> {
    let mut cases = Vec::new();
    for (file, case) in golden.cases() {
        let stage = case.get("stage").and_then(|stage| stage.as_str()).unwrap_or("no stage").to_owned();
        match Case::deserialize(case) {
            Ok(case) => cases.push(Named { stage, file: file.to_owned(), case }),
            Err(error) => {
                report.begin(&stage, file);
                report.fail("the case", error.to_string());
            }
        }
    }
    cases.sort_by(|a, b| (&a.stage, &a.file).cmp(&(&b.stage, &b.file)));
    cases
}

/// The dense matrices that the formats' files were made from.
fn run_sources(rig: &Rig<'_>, cases: &[Named], report: &mut Report) {
    let formats = cases.iter().filter_map(|named| match &named.case {
        Case::Weights(case) => Some((named.file.as_str(), case)),
        _ => None,
    });
    let (files, formats): (Vec<_>, Vec<_>) = formats.unzip();
    let Some(first) = files.first() else { return };
    for file in rig.golden.sources_beside(first) {
        report.begin("formats.weights", file);
        guard(report, |report| formats::sources(rig, file, &formats, report));
    }
}

#[test]
fn conformance() -> Result<(), Failure> {
    let golden = Golden::open()?;
    println!("golden values of {}", golden.root().display());
    let isas = Isa::available();
    let best = *isas.last().ok_or("no instruction set")?;

    let mut ledger = Report::new("ledger, threads and instruction sets");
    let cases = read_cases(&golden, &mut ledger);
    ledger.begin("manifest", "");
    ledger.check("cases", !cases.is_empty(), "none found");

    let rig = Rig::new(&golden, best, 2)?;
    let mut whole = run(&rig, &cases, |_| true);
    run_sources(&rig, &cases, &mut whole);

    ledger.begin("ledger", "");
    let unused = golden.unused();
    ledger.check("everything was looked at", unused.is_empty(), unused.join("; "));

    let mut runs = Vec::new();
    for isa in isas {
        let [one, two] = [1, 2].map(|threads| -> Result<Report, Failure> {
            Ok(run(&Rig::new(&golden, isa, threads)?, &cases, Case::depends_on_isa))
        });
        let (one, two) = (one?, two?);
        ledger.begin("threads", isa.name());
        ledger.same_bits("1 thread and 2", &one, &two);
        runs.push((isa, one, two));
    }
    ledger.begin("instruction sets", "");
    if let Some(((_, _, best), lower)) = runs.split_last() {
        for (isa, _, run) in lower {
            ledger.same_pictures(isa.name(), best, run);
        }
    }

    let mut coarse = Vec::new();
    for precision in [ActivationPrecision::default(), ActivationPrecision::Bf16] {
        for isa in [Isa::available()[0], best] {
            let [one, two] = [1, 2].map(|threads| -> Result<Report, Failure> {
                let rig = Rig::new(&golden, isa, threads)?.with_precision(precision);
                Ok(run(&rig, &cases, Case::depends_on_precision))
            });
            let (one, two) = (one?, two?);
            ledger.begin(precision.name(), isa.name());
            ledger.same_bits("1 thread and 2", &one, &two);
            coarse.push(two);
        }
    }

    // the rows of the best instruction set stand in the whole run already
    whole.print_rows();
    runs.iter().filter(|(isa, ..)| *isa != best).for_each(|(_, _, two)| two.print_rows());
    ledger.print_rows();
    let reports = std::iter::once(&whole)
        .chain(runs.iter().flat_map(|(_, one, two)| [one, two]))
        .chain(&coarse)
        .chain([&ledger]);
    let mut misses = 0;
    for report in reports {
        report.print_summary();
        misses += report.misses();
    }
    if misses == 0 { Ok(()) } else { Err(format!("{misses} misses").into()) }
}
