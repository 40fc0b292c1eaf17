//! `bonsai estimate`: the memory and the work that a picture will take, and with `--measure` what it took.

use std::ops::ControlFlow;

use bonsai_core::{Event, PipelineOptions, Request, StageEstimate};
use clap::Args;
use serde::Serialize;

use crate::engine::{EngineArgs, KernelArgs, Loaded};
use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::model::Choice;
use crate::print;
use crate::progress::Progress;
use crate::resident;
use crate::size::SizeArgs;

#[derive(Debug, Args)]
pub struct EstimateArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// Denoising steps [default: the model's, mostly 4]
    #[arg(long, value_name = "N", value_parser = crate::generate::steps, allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Decode the picture in tiles
    #[arg(long)]
    vae_tiling: bool,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Paint a picture too, and put what was resident beside what was expected (Linux)
    #[arg(long)]
    measure: bool,
    /// Print it as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    width: usize,
    height: usize,
    steps: usize,
    threads: usize,
    isa: &'static str,
    precision: &'static str,
    /// Upsamplings of the decoder that are made in strips.
    strips: usize,
    /// Prompts that are kept for further pictures, at most.
    prompts: usize,
    /// Whether mapped weights stay in memory once they were read.
    keep_weights: bool,
    base_bytes: u64,
    /// Of these: weights that are prepared once and kept.
    prepared_bytes: u64,
    stages: Vec<StageReport>,
    peak_bytes: u64,
    measured_bytes: Option<u64>,
    macs: u64,
    /// Seconds from the prompt to the picture; known only once one was painted.
    measured_s: Option<f64>,
}

#[derive(Serialize)]
struct StageReport {
    stage: &'static str,
    peak_bytes: u64,
    mapped_bytes: u64,
    activation_bytes: u64,
    macs: u64,
    measured_bytes: Option<u64>,
    measured_s: Option<f64>,
}

impl From<&StageEstimate> for StageReport {
    fn from(s: &StageEstimate) -> Self {
        let StageEstimate { stage, peak_bytes, mapped_bytes, activation_bytes, macs, .. } = *s;
        let (stage, measured_bytes, measured_s) = (stage.name(), None, None);
        Self { stage, peak_bytes, mapped_bytes, activation_bytes, macs, measured_bytes, measured_s }
    }
}

pub fn run(args: &EstimateArgs) -> Result<(), Failure> {
    let mut request =
        Request { steps: args.steps, vae_tiling: args.vae_tiling, ..Request::new("a bonsai tree") };
    request.size = args.size.over((16, 16));
    request.check()?;
    let choice = args.engine.choose()?;
    let isa = args.kernel.isa()?;
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.engine.threads.map_or_else(all, usize::from);
    let options = PipelineOptions {
        threads: Some(threads),
        isa: Some(isa),
        precision: args.kernel.precision(),
        max_memory: args.engine.max_memory,
        keep_weights: args.engine.keep_weights,
        components: args.engine.components.paths(),
        ..PipelineOptions::default()
    };
    let defaults = choice
        .estimate(
            &PipelineOptions { max_memory: None, ..options.clone() },
            &Request { size: None, ..request.clone() },
        )
        .map_err(|e| Failure::in_files(&e))?;
    request.size = args.size.over((defaults.width, defaults.height));
    let estimate = choice.estimate(&options, &request)?;
    let mut report = Report {
        model: choice.to_string(),
        width: estimate.width,
        height: estimate.height,
        steps: estimate.steps,
        threads,
        isa: isa.name(),
        precision: args.kernel.precision().name(),
        strips: estimate.plan.strips,
        prompts: estimate.plan.prompts,
        keep_weights: estimate.plan.keep_weights,
        base_bytes: estimate.base_bytes,
        prepared_bytes: estimate.copied_bytes,
        stages: estimate.stages.iter().map(StageReport::from).collect(),
        peak_bytes: estimate.peak_bytes(),
        measured_bytes: None,
        macs: estimate.macs(),
        measured_s: None,
    };
    if args.measure {
        measure(args, &choice, isa, &request, &mut report)?;
    }
    if args.engine.keep_weights && !report.keep_weights {
        print::stderr("note: --keep-weights: the budget has no room for them");
    }
    if args.json { print::json(&report) } else { print::stdout(&table(&report)) }
}

fn measure(
    args: &EstimateArgs,
    choice: &Choice,
    isa: bonsai_core::Isa,
    request: &Request,
    report: &mut Report,
) -> Result<(), Failure> {
    if !resident::reset_peak() {
        return Err(Failure::new(
            Code::Failed,
            "--measure: this system does not tell resident memory by stage",
        ));
    }
    let interrupt = Interrupt::install()?;
    let mut progress = Progress::new(args.json, args.json);
    progress.stage("loading the model");
    let Loaded { pipeline, .. } = args.engine.load(choice, isa, args.kernel.precision(), None)?;
    let pipeline = pipeline.with_cancel(interrupt.token.clone());
    interrupt.orderly();
    let mut whole = resident::peak_bytes();
    let mut peaks: [Option<u64>; 3] = [None; 3];
    let mut end = |stage: usize| {
        peaks[stage] = resident::peak_bytes();
        whole = whole.max(peaks[stage]);
        resident::reset_peak();
    };
    resident::reset_peak();
    let generated = pipeline.generate_with(request, &mut |event| {
        progress.event(event);
        match event {
            Event::TextEncode { layer, layers } if layer == layers => end(0),
            Event::Step { step, steps, block, blocks } if step + 1 == steps && block == blocks => end(1),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    end(2);
    let t = &generated.timings;
    let seconds = [t.text_encode, t.steps.iter().sum(), t.vae_decode].map(|time| time.as_secs_f64());
    for ((stage, peak), seconds) in report.stages.iter_mut().zip(peaks).zip(seconds) {
        (stage.measured_bytes, stage.measured_s) = (peak, Some(seconds));
    }
    report.measured_bytes = whole;
    report.measured_s = Some(seconds.iter().sum());
    Ok(())
}

fn table(r: &Report) -> String {
    let measured = |bytes: Option<u64>, expected: u64| {
        bytes.map_or_else(String::new, |b| {
            let off = 100.0 * (expected as f64 / b as f64 - 1.0);
            format!(", measured {} ({off:+.1} %)", print::bytes(b))
        })
    };
    let plan = match r.strips {
        0 => "decoder in one piece".to_owned(),
        n => format!("{} of the decoder made twice, in strips", print::count(n, "upsampling")),
    };
    let in_files = if r.keep_weights { ", and kept in memory" } else { "" };
    let weights = match r.prepared_bytes {
        0 if r.keep_weights => format!("used where they lie in the files{in_files}"),
        0 => "used where they lie in the files; a further picture costs page faults".to_owned(),
        bytes => format!(
            "{} of them prepared once on opening and kept for further pictures; the rest used in the files{in_files}",
            print::bytes(bytes)
        ),
    };
    let prompts = match r.prompts {
        0 => "each read anew".to_owned(),
        n => format!("the last {n} kept for further pictures"),
    };
    let mut lines = vec![
        format!("model        {}", r.model),
        format!("picture      {}x{}, {}", r.width, r.height, print::count(r.steps, "step")),
        format!("plan         {}, {}, {}, {plan}", print::count(r.threads, "thread"), r.isa, r.precision),
        format!("weights      {weights}"),
        format!("prompts      {prompts}"),
        format!("always       {}", print::bytes(r.base_bytes)),
    ];
    for s in &r.stages {
        lines.push(format!(
            "{:<12} {}: weights {}, activations {}, {:.2} TMAC{}{}",
            s.stage,
            print::bytes(s.peak_bytes),
            print::bytes(s.mapped_bytes),
            print::bytes(s.activation_bytes),
            s.macs as f64 / 1e12,
            measured(s.measured_bytes, s.peak_bytes),
            s.measured_s.map_or_else(String::new, |seconds| format!(", {seconds:.2} s"))
        ));
    }
    lines.push(format!(
        "peak         {}{}",
        print::bytes(r.peak_bytes),
        measured(r.measured_bytes, r.peak_bytes)
    ));
    lines.push(match r.measured_s {
        Some(seconds) => format!("time         {seconds:.2} s from the prompt to the picture"),
        None => "time         not known before a picture was painted; --measure paints one".to_owned(),
    });
    lines.join("\n")
}
