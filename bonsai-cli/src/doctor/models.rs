//! The models that commands would find, whether they load, and whether their files are the published ones.

use std::fs;
use std::path::{Path, PathBuf};

use bonsai_core::native::{PackInfo, check_digests_with};
use bonsai_core::{CancelToken, Error, ErrorKind, Isa, Pipeline, PipelineOptions};
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::model::{self, Choice};
use crate::progress::Progress;
use crate::published;
use crate::record::{self, Record, RecordedFile};

/// A model directory, or a native pack.
#[derive(Serialize)]
pub struct Model {
    pub path: String,
    /// Whether it is one file, whose components are checked instead of files.
    pub is_pack: bool,
    /// What led to it.
    pub found: String,
    /// Where it was fetched from: repository and commit.
    pub source: Option<String>,
    /// Whether it loads; nothing where that was not tried.
    pub usable: Option<bool>,
    pub problems: Vec<String>,
    pub files: Vec<CheckedFile>,
}

/// A file of a model, or a component of a native pack.
#[derive(Serialize)]
pub struct CheckedFile {
    pub path: String,
    /// Its size; 0 for a component.
    pub bytes: u64,
    pub digest: Verdict,
}

/// What is known of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// They have the digest that they should.
    Matches,
    /// They have another one.
    Differs,
    /// The file is not there.
    Missing,
    /// Nobody told their digest.
    Unknown,
    /// They were not read.
    Unread,
}

/// Directories of models, each once, and how they were found.
pub fn find(given: Option<&Path>, models: &Path) -> Vec<(PathBuf, String)> {
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    let mut add = |dir: PathBuf, how: String| {
        let same = |other: &Path| {
            other == dir || matches!((other.canonicalize(), dir.canonicalize()), (Ok(a), Ok(b)) if a == b)
        };
        if !found.iter().any(|(other, _)| same(other)) {
            found.push((dir, how));
        }
    };
    if let Ok(Choice::Dir(dir)) = model::choose(given) {
        let how = if given.is_some() { "named" } else { "named by BONSAI_MODEL" };
        add(dir, how.to_owned());
    }
    let mut folders: Vec<_> =
        fs::read_dir(models).into_iter().flatten().flatten().map(|e| e.path()).collect();
    folders.sort();
    for dir in folders.into_iter().filter(|dir| looks_like_a_model(dir)) {
        add(dir, format!("in {}", models.display()));
    }
    found
}

fn looks_like_a_model(dir: &Path) -> bool {
    if dir.is_file() {
        let ending = dir.extension().is_some_and(|ending| ending == "safetensors");
        // one that is damaged is worth a look too
        return ending && !matches!(PackInfo::read(dir), Ok(None));
    }
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| {
        let name = name.to_string_lossy();
        name == record::NAME || name == "model_index.json" || name.starts_with("transformer")
    })
}

/// Looks at a model; `quick` neither loads it nor reads its files.
pub fn examine(
    dir: &Path,
    found: String,
    isa: Isa,
    quick: bool,
    cancel: &CancelToken,
    progress: &Progress,
) -> Result<Model, Failure> {
    let mut problems = Vec::new();
    let (source, files) = if dir.is_file() {
        (None, components_of(dir, quick, cancel, progress, &mut problems)?)
    } else {
        files_of(dir, quick, cancel, progress, &mut problems)?
    };
    let mut usable = None;
    if !quick {
        let options = PipelineOptions { threads: Some(1), isa: Some(isa), ..PipelineOptions::default() };
        let loaded = Pipeline::open_with(dir, &options);
        usable = Some(loaded.is_ok());
        problems.extend(loaded.err().map(|error| error.to_string()));
    }
    let (path, is_pack) = (dir.display().to_string(), dir.is_file());
    Ok(Model { path, is_pack, found, source, usable, problems, files })
}

/// The components of a native pack, by the digests in its header.
fn components_of(
    path: &Path,
    quick: bool,
    cancel: &CancelToken,
    progress: &Progress,
    problems: &mut Vec<String>,
) -> Result<Vec<CheckedFile>, Failure> {
    let total = path.metadata().map_or(0, |metadata| metadata.len());
    let names = match PackInfo::read(path) {
        Ok(Some(info)) => info.digests.into_keys().collect::<Vec<_>>(),
        // why it is none is told when it is loaded
        _ => return Ok(Vec::new()),
    };
    let component = |path, digest| CheckedFile { path, bytes: 0, digest };
    if quick {
        return Ok(names.into_iter().map(|name| component(name, Verdict::Unread)).collect());
    }
    let mut read = 0;
    let checked = check_digests_with(path, &mut |count| {
        read += count;
        progress.fraction(read as f64 / total.max(1) as f64, &path.display().to_string());
        if cancel.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, "cancelled")) } else { Ok(()) }
    })?;
    let verdict = |(name, sound): (String, bool)| {
        if !sound {
            problems.push(format!("{name}: its bytes are not those that were written"));
        }
        component(name, if sound { Verdict::Matches } else { Verdict::Differs })
    };
    Ok(checked.into_iter().map(verdict).collect())
}

/// Where a model directory was fetched from, and its files.
fn files_of(
    dir: &Path,
    quick: bool,
    cancel: &CancelToken,
    progress: &Progress,
    problems: &mut Vec<String>,
) -> Result<(Option<String>, Vec<CheckedFile>), Failure> {
    let record = Record::read(dir).unwrap_or_else(|failure| {
        problems.extend(failure.lines());
        None
    });
    let source = record.as_ref().map(|record| format!("{} at {}", record.repository, record.revision));
    let expected = match &record {
        Some(record) => record.files.iter().map(|file| (clone(file), Some(file.sha256.as_str()))).collect(),
        None => unrecorded(dir),
    };
    let total: u64 = expected.iter().map(|(file, _)| file.bytes).sum();
    let mut done = 0;
    let mut files = Vec::new();
    for (file, digest) in expected {
        let mut at = done;
        let mut step = |count: u64| {
            at += count;
            progress.fraction(at as f64 / total.max(1) as f64, &format!("{}: {}", dir.display(), file.path));
            if cancel.is_cancelled() { Err(Failure::new(Code::Cancelled, "cancelled")) } else { Ok(()) }
        };
        let verdict = verdict(&dir.join(&file.path), &file, digest, quick, &mut step)?;
        done += file.bytes;
        match verdict {
            Verdict::Differs => problems.push(format!("{}: its bytes are not the published ones", file.path)),
            Verdict::Missing => problems.push(format!("{}: is not there", file.path)),
            _ => {}
        }
        files.push(CheckedFile { path: file.path, bytes: file.bytes, digest: verdict });
    }
    Ok((source, files))
}

fn clone(file: &RecordedFile) -> RecordedFile {
    RecordedFile { path: file.path.clone(), bytes: file.bytes, sha256: file.sha256.clone() }
}

/// The weights of a model that nobody left a note about; the digest of those that are known by their size.
fn unrecorded(dir: &Path) -> Vec<(RecordedFile, Option<&'static str>)> {
    let list =
        |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let mut paths = list(dir);
    let inner: Vec<_> = paths.iter().filter(|path| path.is_dir()).flat_map(|path| list(path)).collect();
    paths.extend(inner);
    paths.sort();
    let weights = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
        path.is_file() && ["safetensors", "gguf", "pt", "pth"].contains(&ending)
    };
    let files = paths.into_iter().filter(weights).filter_map(|path| {
        let bytes = path.metadata().ok()?.len();
        let name = path.strip_prefix(dir).ok()?.to_string_lossy().replace('\\', "/");
        let known = published::of_size(bytes).map(|file| file.sha256);
        Some((RecordedFile { path: name, bytes, sha256: String::new() }, known))
    });
    files.collect()
}

fn verdict(
    path: &Path,
    file: &RecordedFile,
    digest: Option<&str>,
    quick: bool,
    step: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<Verdict, Failure> {
    let Ok(metadata) = path.metadata() else { return Ok(Verdict::Missing) };
    let Some(expected) = digest else { return Ok(Verdict::Unknown) };
    if metadata.len() != file.bytes {
        return Ok(Verdict::Differs);
    }
    if quick {
        return Ok(Verdict::Unread);
    }
    Ok(if record::sha256(path, step)? == expected { Verdict::Matches } else { Verdict::Differs })
}
