//! `bonsai bench --loads`: how long opening a model takes while its files are in memory.

use std::time::Duration;

use serde::Serialize;

use super::BenchArgs;
use crate::engine::Loaded;
use crate::failure::Failure;
use crate::print;
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    model: String,
    loads: u16,
    threads: usize,
    whole: Times,
    /// Of these: for the tokenizer.
    tokenizer: Times,
    /// And for all else: finding, mapping, checking and binding the weights.
    weights: Times,
}

/// Seconds of one opening. A first one, which may have read from disk, is not among them.
#[derive(Serialize)]
struct Times {
    best_s: f64,
    median_s: f64,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |i: usize| times.get(i).map_or(0.0, Duration::as_secs_f64);
        Self { best_s: at(0), median_s: at(times.len() / 2) }
    }
}

pub fn run(args: &BenchArgs, count: u16) -> Result<(), Failure> {
    let isa = args.kernel.isa()?;
    let choice = args.engine.choose()?;
    let mut progress = Progress::new(args.quiet, args.json);
    progress.stage("opening the model");
    let (mut whole, mut tokenizer, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    let mut about = (String::new(), 0);
    for index in 0..=count {
        let Loaded { pipeline, took } = args.engine.load(&choice, isa, args.kernel.precision(), None)?;
        about = (pipeline.name().to_owned(), pipeline.cpu().threads());
        if index > 0 {
            let of_tokenizer = pipeline.tokenizer_load_time();
            whole.push(took);
            tokenizer.push(of_tokenizer);
            weights.push(took.saturating_sub(of_tokenizer));
        }
        progress.fraction(f64::from(index + 1) / f64::from(count + 1), "opening the model");
    }
    drop(progress);
    let [whole, tokenizer, weights] = [whole, tokenizer, weights].map(Times::of);
    let (model, threads) = about;
    let report = Report { model, loads: count, threads, whole, tokenizer, weights };
    if args.json {
        return print::json(&report);
    }
    let line = |what: &str, times: &Times| {
        format!("{what:<10} best {:.4} s, median {:.4} s", times.best_s, times.median_s)
    };
    let lines = [
        format!("model      {}, opened {} times after once", report.model, report.loads),
        line("opening", &report.whole),
        line("tokenizer", &report.tokenizer),
        line("weights", &report.weights),
    ];
    print::stdout(&lines.join("\n"))
}
