//! `bonsai info`: what a model directory, a native pack or a picture holds.

mod components;
mod picture;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bonsai_core::model_dir::ModelDir;
use bonsai_core::native::PackInfo;
use bonsai_core::{Defaults, Error, Isa, Pipeline, PipelineOptions};
use clap::Args;
use serde::Serialize;

use crate::engine::ComponentArgs;
use crate::failure::{Code, Failure};
use crate::print;
use components::Component;

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// A model directory, a native pack, or a PNG that bonsai wrote
    path: PathBuf,
    #[command(flatten)]
    components: ComponentArgs,
    /// Print it as one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &InfoArgs) -> Result<(), Failure> {
    let metadata = std::fs::metadata(&args.path);
    let metadata = metadata.map_err(|e| Failure::in_files(&Error::io(&args.path, e)))?;
    let pack = if metadata.is_dir() {
        None
    } else {
        let info = PackInfo::read(&args.path).map_err(|e| Failure::in_files(&e))?;
        match info {
            Some(info) => Some(info),
            None => return picture::run(&args.path, args.json),
        }
    };
    let dir = ModelDir::open(&args.path)?.with_components(args.components.paths());
    let report = ModelReport::new(&dir, pack.as_ref(), args);
    if args.json {
        print::json(&report)?;
    } else {
        print::stdout(&report.to_string())?;
    }
    let broken: Vec<_> = report.components.iter().filter(|c| c.error.is_some()).map(|c| c.role).collect();
    let path = args.path.display();
    match (&report.error, broken.as_slice()) {
        (_, [_, ..]) => Err(Failure::new(Code::Model, format!("{path}: unusable: {}", broken.join(", ")))),
        (Some(error), _) => Err(Failure::new(Code::Model, error.clone())),
        (None, []) => Ok(()),
    }
}

/// A model directory, or a native pack.
#[derive(Serialize)]
struct ModelReport {
    path: String,
    /// What the header of a native pack says.
    pack: Option<PackReport>,
    usable: bool,
    components: Vec<Component>,
    defaults: Option<DefaultsReport>,
    /// Why sound components make no model.
    error: Option<String>,
}

#[derive(Serialize)]
struct PackReport {
    name: String,
    version: String,
    /// SHA-256 of each component, as it was when it was written.
    sha256: BTreeMap<String, String>,
}

impl From<&PackInfo> for PackReport {
    fn from(info: &PackInfo) -> Self {
        let PackInfo { name, version, digests } = info.clone();
        Self { name, version, sha256: digests }
    }
}

#[derive(Serialize)]
struct DefaultsReport {
    text_encoder_out_layers: Vec<usize>,
    max_sequence_length: usize,
    width: usize,
    height: usize,
    steps: usize,
}

impl From<&Defaults> for DefaultsReport {
    fn from(d: &Defaults) -> Self {
        let (width, height) = d.size;
        Self {
            text_encoder_out_layers: d.text_encoder_out_layers.clone(),
            max_sequence_length: d.max_sequence_length,
            width,
            height,
            steps: d.steps,
        }
    }
}

impl ModelReport {
    fn new(dir: &ModelDir, pack: Option<&PackInfo>, args: &InfoArgs) -> Self {
        let components = components::all(dir);
        let replaced = args.components.paths();
        let mut defaults = None;
        let mut error = None;
        if components.iter().all(|c| c.error.is_none()) {
            // only the whole tells whether its parts fit
            let options = PipelineOptions {
                threads: Some(1),
                isa: Some(Isa::best()),
                components: replaced,
                ..PipelineOptions::default()
            };
            match Pipeline::open_with(&args.path, &options) {
                Ok(pipeline) => defaults = Some(pipeline.defaults().into()),
                Err(e) => error = Some(e.to_string()),
            }
        }
        Self {
            path: args.path.display().to_string(),
            pack: pack.map(PackReport::from),
            usable: defaults.is_some(),
            components,
            defaults,
            error,
        }
    }
}

impl std::fmt::Display for ModelReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.components.iter().flat_map(|c| &c.files).map(|file| file.bytes).sum();
        let verdict = if self.usable { "a usable model" } else { "not a usable model" };
        write!(f, "{}: {verdict}, {}", self.path, print::bytes(bytes))?;
        if let Some(PackReport { name, version, sha256 }) = &self.pack {
            write!(f, "\n\nnative pack of version {version}: {name}")?;
            for (component, digest) in sha256 {
                write!(f, "\n  sha256     {digest} {component}")?;
            }
            write!(f, "\n  note       these were written with it; `bonsai doctor -m` compares them")?;
        }
        for component in &self.components {
            write!(f, "\n\n{component}")?;
        }
        if let Some(d) = &self.defaults {
            let DefaultsReport { width, height, steps, max_sequence_length, .. } = d;
            write!(f, "\n\ndefaults")?;
            write!(f, "\n  picture    {width}x{height}, {}", print::count(*steps, "step"))?;
            write!(f, "\n  prompt     {max_sequence_length} tokens, taps {:?}", d.text_encoder_out_layers)?;
        }
        match &self.error {
            Some(error) => write!(f, "\n\nproblem: {error}"),
            None => Ok(()),
        }
    }
}
