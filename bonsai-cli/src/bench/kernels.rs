//! `bonsai bench --kernels`: each kernel at the model's shapes, as a share of what the machine could do at most.

use std::sync::Arc;
use std::time::Duration;

use bonsai_core::kernels::ceiling::{
    Ceiling, Interleaved, KernelRate, LEAST_RUNS, LinearKind, LinearShape, linear_shapes, measure,
};
use bonsai_core::kernels::gemm::ActivationPrecision;
use bonsai_core::kernels::{Cpu, KernelError, RayonThreads};
use bonsai_core::{Isa, PageAllocator};
use clap::Args;
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{chosen, print};

#[derive(Debug, Args)]
pub struct KernelBenchArgs {
    /// Measure the kernels at the 4B model's shapes, and the ceilings of this machine; needs no model
    #[arg(long, conflicts_with_all = ["model", "size", "width", "height", "steps", "precision"])]
    pub kernels: bool,
    /// Only kernels whose weights/activations/MxKxN contain this text, as in binary/int16; repeat it for more
    #[arg(long, value_name = "TEXT", requires = "kernels")]
    only: Vec<String>,
    /// Runs of each kernel, of which the best counts
    #[arg(long, value_name = "N", requires = "kernels", default_value_t = LEAST_RUNS as u16, value_parser = clap::value_parser!(u16).range(1..=1000), allow_negative_numbers = true)]
    runs: u16,
    /// Seconds that one run may take; slower kernels get fewer rows
    #[arg(long, value_name = "SECONDS", requires = "kernels", default_value_t = 2.0, value_parser = seconds, allow_negative_numbers = true)]
    longest: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1e6).contains(value));
    value.ok_or_else(|| "expected a number of seconds".to_owned())
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    cpu: Option<String>,
    isa: &'static str,
    isa_why: String,
    threads: usize,
    runs: u16,
    ceilings: Vec<CeilingRow>,
    kernels: Vec<KernelRow>,
}

/// The best that a ceiling reached by itself, before the kernels.
#[derive(Serialize)]
struct CeilingRow {
    name: &'static str,
    isa: &'static str,
    instructions: &'static str,
    threads: usize,
    gmacs: f64,
}

/// One kernel at one shape.
#[derive(Serialize)]
struct KernelRow {
    name: String,
    isa: &'static str,
    weights: &'static str,
    activations: &'static str,
    m: usize,
    k: usize,
    n: usize,
    threads: usize,
    gmacs: f64,
    ceiling: Option<&'static str>,
    ceiling_gmacs: Option<f64>,
    ratio: Option<f64>,
}

impl From<KernelRate> for KernelRow {
    fn from(rate: KernelRate) -> Self {
        let LinearShape { m, k, n } = rate.shape;
        Self {
            ratio: rate.ratio(),
            name: rate.name,
            isa: rate.isa,
            weights: rate.weights.name(),
            activations: rate.activations.name(),
            m,
            k,
            n,
            threads: rate.threads,
            gmacs: rate.gmacs,
            ceiling: rate.ceiling.map(|(ceiling, _)| ceiling.name()),
            ceiling_gmacs: rate.ceiling.map(|(_, gmacs)| gmacs),
        }
    }
}

/// What is to be measured.
struct Case {
    kind: LinearKind,
    precision: ActivationPrecision,
    shape: LinearShape,
}

impl Case {
    fn name(&self) -> String {
        let LinearShape { m, k, n } = self.shape;
        format!("{}/{}/{m}x{k}x{n}", self.kind.name(), self.precision.name())
    }
}

pub fn run(
    args: &KernelBenchArgs,
    isa: Isa,
    threads: Option<u16>,
    json: bool,
    quiet: bool,
) -> Result<(), Failure> {
    let cases = cases(&args.only)?;
    let interrupt = Interrupt::install()?;
    let threads =
        threads.map(usize::from).or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let pool = RayonThreads::new(threads.unwrap_or(1))
        .map_err(|e| Failure::new(Code::Failed, format!("threads: {e}")))?;
    let cpu = Cpu::new(isa)
        .with_threads(Arc::new(pool))
        .with_allocator(Arc::new(PageAllocator::default()))
        .with_cancel(interrupt.token.clone());
    interrupt.orderly();
    let mut progress = Progress::new(quiet, json);
    progress.stage("ceilings");
    let mut report = Report {
        cpu: chosen::cpu_name(),
        isa: isa.name(),
        isa_why: chosen::why(isa),
        threads: cpu.threads(),
        runs: args.runs,
        ceilings: ceilings(&cpu, args.runs)?,
        kernels: Vec::new(),
    };
    progress.done("ceilings");
    if !json {
        progress.hide(|| print::stdout(&head(&report)))?;
    }
    let longest = Duration::from_secs_f64(args.longest);
    for (index, case) in cases.iter().enumerate() {
        progress.fraction(index as f64 / cases.len() as f64, &case.name());
        let Case { kind, precision, shape } = *case;
        let rate = measure(&cpu, kind, precision, shape, args.runs.into(), longest).map_err(failure)?;
        let row = KernelRow::from(rate);
        if !json {
            progress.hide(|| print::stdout(&line(&row)))?;
        }
        report.kernels.push(row);
    }
    drop(progress);
    if json { print::json(&report) } else { Ok(()) }
}

pub(super) fn failure(error: KernelError) -> Failure {
    match error {
        KernelError::Cancelled => Failure::new(Code::Cancelled, error.to_string()),
        other => Failure::new(Code::Failed, other.to_string()),
    }
}

/// All cases whose name contains one of the texts.
fn cases(only: &[String]) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for kind in LinearKind::ALL {
        for &precision in ActivationPrecision::ALL {
            cases.extend(linear_shapes(kind).into_iter().map(|shape| Case { kind, precision, shape }));
        }
    }
    if only.is_empty() {
        return Ok(cases);
    }
    let names: Vec<_> = cases.iter().map(Case::name).collect();
    if let Some(none) = only.iter().find(|text| names.iter().all(|name| !name.contains(*text))) {
        let message = format!("--only {none}: no kernel of this name");
        return Err(Failure::usage(message).hint(format!("names are of the form {}", names[0])));
    }
    cases.retain(|case| only.iter().any(|text| case.name().contains(text)));
    Ok(cases)
}

fn ceilings(cpu: &Cpu, runs: u16) -> Result<Vec<CeilingRow>, Failure> {
    let mut rows = Vec::new();
    for ceiling in Ceiling::ALL.into_iter().filter_map(|ceiling| ceiling.on(cpu.isa())) {
        let mut runner = Interleaved::new(cpu, Some(ceiling)).map_err(failure)?;
        for _ in 0..runs {
            runner.run(|| Ok(())).map_err(failure)?;
        }
        rows.push(CeilingRow {
            name: ceiling.ceiling().name(),
            isa: cpu.isa().name(),
            instructions: ceiling.instructions(),
            threads: cpu.threads(),
            gmacs: runner.ceiling().map_or(0.0, |(_, gmacs)| gmacs),
        });
    }
    Ok(rows)
}

fn head(report: &Report) -> String {
    let cpu = report.cpu.as_deref().unwrap_or("unknown");
    let mut lines = vec![
        format!("cpu      {cpu}"),
        format!("runs on  {}, {} ({})", print::count(report.threads, "thread"), report.isa, report.isa_why),
        format!("best of  {} runs, each after one of the ceiling", report.runs),
        String::new(),
        format!("{:<9} {:>9}  instructions", "ceiling", "GMAC/s"),
    ];
    lines.extend(
        report.ceilings.iter().map(|c| format!("{:<9} {:>9.1}  {}", c.name, c.gmacs, c.instructions)),
    );
    lines.push(String::new());
    lines.push(format!(
        "{:<8} {:<11} {:>16} {:>9} {:>18} {:>7}  kernel",
        "weights", "activations", "MxKxN", "GMAC/s", "ceiling", "ratio"
    ));
    lines.join("\n")
}

fn line(row: &KernelRow) -> String {
    let shape = format!("{}x{}x{}", row.m, row.k, row.n);
    let ceiling = match (row.ceiling, row.ceiling_gmacs) {
        (Some(name), Some(gmacs)) => format!("{name} {gmacs:>8.1}"),
        _ => "none".to_owned(),
    };
    let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
    format!(
        "{:<8} {:<11} {shape:>16} {:>9.1} {ceiling:>18} {ratio:>7}  {}",
        row.weights, row.activations, row.gmacs, row.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_their_names() {
        let all = cases(&[]).unwrap();
        let one = cases(&["binary/f32/1536x3072x9216".to_owned()]).unwrap();
        assert_eq!(one.len(), 1);
        let two = cases(&["ternary/f32/1x".to_owned(), "int4/f32".to_owned()]).unwrap();
        assert_eq!(two.len(), 4 + 4);
        assert_eq!(all.len(), (8 + 8 + 4) * ActivationPrecision::ALL.len());
        assert_eq!(cases(&["f33".to_owned()]).err().unwrap().code, Code::Usage);
    }
}
