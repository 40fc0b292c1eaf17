//! `bonsai bench`: one picture of a fixed prompt and seed, and what it took; or the kernels by themselves.

mod kernels;
mod loads;
mod roofline;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bonsai_core::{Meter, Request};
use clap::Args;
use serde::Serialize;

use crate::chosen::ChosenKernel;
use crate::engine::{EngineArgs, KernelArgs, Loaded};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::resident;
use crate::size::SizeArgs;
use crate::{chosen, print};
use kernels::KernelBenchArgs;
use roofline::Roofline;

const PROMPT: &str = "a bonsai tree on a wooden table, soft morning light";
const SEED: u64 = 42;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// Denoising steps [default: the model's, mostly 4]
    #[arg(long, value_name = "N", value_parser = crate::generate::steps, allow_negative_numbers = true)]
    steps: Option<usize>,
    #[command(flatten)]
    kernel: KernelArgs,
    #[command(flatten)]
    kernels: KernelBenchArgs,
    /// Paint nothing; open the model so often and tell how long that takes
    #[arg(long, value_name = "N", conflicts_with_all = ["kernels", "size", "width", "height", "steps"], value_parser = clap::value_parser!(u16).range(1..=1000), allow_negative_numbers = true)]
    loads: Option<u16>,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// The figures. `total_s` is from the prompt to the picture; loading is not in it.
#[derive(Serialize)]
struct Figures {
    model: String,
    size: String,
    steps: usize,
    threads: usize,
    isa: &'static str,
    isa_why: String,
    precision: String,
    kernels: Vec<ChosenKernel>,
    load_s: f64,
    /// Of these: for the tokenizer.
    load_tokenizer_s: f64,
    text_encode_s: f64,
    step_s: Vec<f64>,
    vae_decode_s: f64,
    total_s: f64,
    linear_gmacs: Option<f64>,
    /// The least that the stages could take here.
    roofline: Option<Roofline>,
    peak_rss_bytes: Option<u64>,
}

pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    if args.kernels.kernels {
        let isa = args.kernel.isa()?;
        return kernels::run(&args.kernels, isa, args.engine.threads, args.json, args.quiet);
    }
    if let Some(count) = args.loads {
        return loads::run(args, count);
    }
    let mut request =
        Request { steps: args.steps, size: args.size.over((16, 16)), ..Request::new(PROMPT) }.seed(SEED);
    request.check()?;
    let isa = args.kernel.isa()?;
    let precision = args.kernel.precision();
    let choice = args.engine.choose()?;
    let interrupt = Interrupt::install()?;
    let mut progress = Progress::new(args.quiet, args.json);
    let meter = Arc::new(Meter::default());

    progress.stage("loading the model");
    let Loaded { pipeline, took: load } =
        args.engine.load(&choice, isa, precision, Some(Arc::clone(&meter)))?;
    progress.done("load");
    let pipeline = pipeline.with_cancel(interrupt.token.clone());
    interrupt.orderly();
    request.size = args.size.over(pipeline.defaults().size);
    progress.picture(0, 1);
    let began = Instant::now();
    let generated = pipeline.generate_with(&request, &mut |event| {
        progress.event(event);
        ControlFlow::Continue(())
    })?;
    let total = began.elapsed();
    let peak = resident::peak_bytes();
    progress.stage("ceilings");
    let roofline =
        Roofline::measure(pipeline.cpu(), &pipeline.estimate(&request)?).map_err(kernels::failure)?;
    drop(progress);

    let (recipe, timings) = (&generated.recipe, &generated.timings);
    let linears = meter.elapsed();
    let figures = Figures {
        model: pipeline.name().to_owned(),
        size: format!("{}x{}", recipe.width, recipe.height),
        steps: recipe.steps,
        threads: pipeline.cpu().threads(),
        isa: pipeline.cpu().isa().name(),
        isa_why: chosen::why(isa),
        precision: args.kernel.precision().name().to_owned(),
        kernels: chosen::kernels(isa, precision),
        load_s: load.as_secs_f64(),
        load_tokenizer_s: pipeline.tokenizer_load_time().as_secs_f64(),
        text_encode_s: timings.text_encode.as_secs_f64(),
        step_s: timings.steps.iter().map(Duration::as_secs_f64).collect(),
        vae_decode_s: timings.vae_decode.as_secs_f64(),
        total_s: total.as_secs_f64(),
        linear_gmacs: (!linears.is_zero()).then(|| meter.macs() as f64 / linears.as_secs_f64() / 1e9),
        roofline,
        peak_rss_bytes: peak,
    };
    if args.json { print::json(&figures) } else { print::stdout(&table(&figures)) }
}

fn table(f: &Figures) -> String {
    let gmacs = f.linear_gmacs.map_or("unknown".to_owned(), |v| format!("{v:.1} GMAC/s"));
    let steps: Vec<String> = f.step_s.iter().map(|s| format!("{s:.3}")).collect();
    let kernels: Vec<String> = f.kernels.iter().map(|c| format!("{} by {}", c.weights, c.kernel)).collect();
    let mean = f.step_s.iter().sum::<f64>() / f.step_s.len().max(1) as f64;
    let share = |took: f64, least: fn(&Roofline) -> f64| {
        let least = f.roofline.as_ref().map(least).filter(|_| took > 0.0);
        least.map_or_else(String::new, |least| format!(", {:.0} % of the roofline", 100.0 * least / took))
    };
    let roofline = f.roofline.as_ref().map_or("unknown".to_owned(), |r| {
        let Roofline { linear_ceiling, linear_gmacs, dot_ceiling, dot_gmacs, .. } = r;
        format!("{linear_gmacs:.0} GMAC/s for linears ({linear_ceiling}), {dot_gmacs:.0} for the rest ({dot_ceiling})")
    });
    [
        format!("model           {}", f.model),
        format!("picture         {}, {}", f.size, print::count(f.steps, "step")),
        format!("runs on         {}, {} ({})", print::count(f.threads, "thread"), f.isa, f.isa_why),
        format!("kernels         {}: {}", f.precision, kernels.join(", ")),
        format!("load            {:.3} s, of these {:.3} s for the tokenizer", f.load_s, f.load_tokenizer_s),
        format!("text encoder    {:.3} s{}", f.text_encode_s, share(f.text_encode_s, |r| r.text_encode_s)),
        format!("step            {mean:.3} s{} (each: {})", share(mean, |r| r.step_s), steps.join(", ")),
        format!("decode          {:.3} s{}", f.vae_decode_s, share(f.vae_decode_s, |r| r.vae_decode_s)),
        format!("prompt to image {:.3} s{}", f.total_s, share(f.total_s, |r| r.total_s)),
        format!("linears         {gmacs}"),
        format!("roofline        {roofline}"),
        format!("peak memory     {}", f.peak_rss_bytes.map_or("unknown".to_owned(), print::bytes)),
    ]
    .join("\n")
}
