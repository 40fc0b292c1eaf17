//! `bonsai pull`: a published model from the Hugging Face hub.

mod fetch;
mod hub;
mod releases;
mod tls;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bonsai_core::CancelToken;
use clap::Args;
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::model;
use crate::print;
use crate::progress::Progress;
use crate::published;
use crate::record::{self, Record, RecordedFile};
use fetch::Fetcher;
use hub::{Hub, Problem, RemoteDigest, RemoteFile};

const EXAMPLES: &str = "\
Examples:
  bonsai pull binary              the 1-bit model to models/bonsai-image-binary-4B-mlx-1bit
  bonsai pull ternary --to /data  another, elsewhere
  bonsai pull --list              the names that are known
  bonsai pull somebody/their-model --revision v2

A file that is there and has the published digest is not fetched again; one that came in part is continued.
HF_TOKEN is sent for gated repositories. Proxies come from the usual variables (HTTPS_PROXY, NO_PROXY).";

/// Where the hub is.
const ENDPOINT: &str = "https://huggingface.co";
/// The branch that is fetched when none is named.
const NEWEST: &str = "main";
/// Environment variable with the token for gated repositories.
const TOKEN: &str = "HF_TOKEN";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PullArgs {
    /// A release by name, or OWNER/NAME of any repository on the hub
    #[arg(value_name = "RELEASE", required_unless_present = "list", value_parser = releases::repository)]
    repository: Option<String>,
    /// Print the names of the releases
    #[arg(long, conflicts_with = "repository")]
    list: bool,
    /// Models directory; the model becomes a folder in it [default: $BONSAI_MODELS, else ./models]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME", default_value = NEWEST)]
    revision: String,
    /// Another hub that speaks the same language
    #[arg(long, value_name = "URL", default_value = ENDPOINT)]
    endpoint: String,
    /// Every file of the repository, also the pictures and the copies of the weights that are not needed
    #[arg(long)]
    all: bool,
    /// Attempts in a row that may bring nothing
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report {
    repository: String,
    revision: String,
    path: String,
    files: Vec<RecordedFile>,
    received_bytes: u64,
    total_s: f64,
}

pub fn run(args: &PullArgs) -> Result<(), Failure> {
    let Some(repository) = &args.repository else { return list(args.json) };
    let began = Instant::now();
    let token =
        std::env::var(TOKEN).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    let hub = Hub::new(&args.endpoint, token)?;
    let name = repository.split_once('/').map_or(repository.as_str(), |(_, name)| name);
    let root = model::models_dir(args.to.as_deref()).join(name);
    let interrupt = Interrupt::install()?;
    let mut progress = Progress::new(args.quiet, args.json);
    progress.stage("file list");
    let cancel = &interrupt.token;
    let commit = patiently(args.retries, cancel, || hub.commit(repository, &args.revision))?;
    let listed = patiently(args.retries, cancel, || hub.files(repository, &commit))?;
    let wanted: Vec<RemoteFile> =
        listed.iter().filter(|file| args.all || is_needed(file, &listed)).cloned().collect();
    if wanted.is_empty() {
        let message = format!("{repository}: holds no model files");
        return Err(Failure::new(Code::Failed, message).hint("--all fetches every file"));
    }
    if releases::is_known(repository) && args.revision == NEWEST {
        expect_published(repository, &wanted)?;
    }
    progress.done("file list");
    interrupt.orderly();
    let fetcher =
        Fetcher { hub: &hub, repository, commit: &commit, root: &root, retries: args.retries, cancel };
    let mut report = Report {
        repository: repository.clone(),
        revision: commit.clone(),
        path: root.display().to_string(),
        files: Vec::new(),
        received_bytes: 0,
        total_s: 0.0,
    };
    fetch_all(&fetcher, &wanted, &mut progress, &mut report)?;
    drop(progress);
    write_record(&root, &report)?;
    report.total_s = began.elapsed().as_secs_f64();
    if args.json {
        return print::json(&report);
    }
    let total: u64 = report.files.iter().map(|file| file.bytes).sum();
    print::stdout(&format!(
        "{}: {}, {}, all digests right; {} came in {:.1} s",
        report.path,
        print::count(report.files.len(), "file"),
        print::bytes(total),
        print::bytes(report.received_bytes),
        report.total_s
    ))
}

/// Compares the digests that a hub lists for a release with those that are known.
fn expect_published(repository: &str, files: &[RemoteFile]) -> Result<(), Failure> {
    for file in files {
        let (Some(known), RemoteDigest::Sha256(listed)) = (published::of_size(file.bytes), &file.digest)
        else {
            continue;
        };
        if listed != known.sha256 {
            let message = format!(
                "{repository}: {}: the hub lists the digest {listed}; that of {} is {}",
                file.path, known.what, known.sha256
            );
            let hint = "where the publisher has replaced it, name the commit that you mean with --revision";
            return Err(Failure::new(Code::Failed, message).hint(hint));
        }
    }
    Ok(())
}

/// Asks again where the next answer may be another.
fn patiently<T>(
    retries: u32,
    cancel: &CancelToken,
    mut ask: impl FnMut() -> Result<T, Problem>,
) -> Result<T, Failure> {
    for attempt in 1..=retries {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(Problem::Lasting(failure)) => return Err(failure),
            Err(Problem::Passing(_)) => fetch::pause(attempt, cancel)?,
        }
    }
    Ok(ask()?)
}

fn list(json: bool) -> Result<(), Failure> {
    if json {
        let rows: Vec<_> = releases::RELEASES
            .iter()
            .map(|r| serde_json::json!({ "name": r.name, "repository": r.repository, "about": r.about }))
            .collect();
        return print::json(&rows);
    }
    let rows = releases::RELEASES.iter().map(|r| format!("{:<17} {:<47} {}", r.name, r.repository, r.about));
    print::stdout(&rows.collect::<Vec<_>>().join("\n"))
}

/// What a model consists of: configs and licence, the folders of its components, and weights at the top level where no
/// `model_index.json` says that the folders hold them.
fn is_needed(file: &RemoteFile, all: &[RemoteFile]) -> bool {
    let ends =
        |endings: &[&str]| endings.iter().any(|ending| file.path.to_ascii_lowercase().ends_with(ending));
    if ends(&[".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg", ".mp4", ".pdf"]) {
        return false;
    }
    match file.path.split_once('/') {
        Some((folder, _)) => !folder.starts_with('.') && folder != "assets",
        None if ends(&[".safetensors", ".gguf", ".pt", ".pth"]) => {
            all.iter().all(|other| other.path != "model_index.json")
        }
        None => ends(&[".json"]) || file.path.to_ascii_lowercase().starts_with("licen"),
    }
}

fn fetch_all(
    fetcher: &Fetcher<'_>,
    wanted: &[RemoteFile],
    progress: &mut Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    let total: u64 = wanted.iter().map(|file| file.bytes).sum();
    let mut done = 0;
    for file in wanted {
        if file.path == record::NAME {
            let message = format!("{}: a file of this name would be overwritten", file.path);
            return Err(Failure::new(Code::Failed, message));
        }
        progress.stage(&file.path);
        let shown = &*progress;
        let fetched = fetcher.fetch(file, &mut |bytes| {
            let at = done + bytes;
            let what = format!("{}, {} of {}", file.path, print::bytes(at), print::bytes(total));
            shown.fraction(at as f64 / total.max(1) as f64, &what);
        })?;
        done += file.bytes;
        report.received_bytes += fetched.received;
        let how = if fetched.received == 0 && file.bytes > 0 { "was there" } else { "fetched" };
        progress.done(&format!("{}, {}, {how}", file.path, print::bytes(file.bytes)));
        report.files.push(RecordedFile {
            path: file.path.clone(),
            bytes: file.bytes,
            sha256: fetched.sha256,
        });
    }
    Ok(())
}

fn write_record(root: &Path, report: &Report) -> Result<(), Failure> {
    let path = root.join(record::NAME);
    let failed = |e: std::io::Error| Failure::new(Code::Failed, format!("{}: {e}", path.display()));
    let files = report.files.iter().map(|file| RecordedFile {
        path: file.path.clone(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
    });
    let record = Record {
        repository: report.repository.clone(),
        revision: report.revision.clone(),
        files: files.collect(),
    };
    let text = serde_json::to_string_pretty(&record).map_err(|e| failed(e.into()))?;
    let part = path.with_extension("json.part");
    fs::write(&part, text + "\n").map_err(failed)?;
    fs::rename(&part, &path).map_err(failed)
}
