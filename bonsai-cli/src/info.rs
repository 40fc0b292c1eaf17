//! `bonsai info`: what a model directory or a picture holds.

mod components;
mod picture;

use std::path::PathBuf;

use bonsai_core::model_dir::ModelDir;
use bonsai_core::{Defaults, Error, ErrorKind, Isa, Pipeline, PipelineOptions};
use clap::Args;
use serde::Serialize;

use crate::engine::ComponentArgs;
use crate::failure::{Code, Failure};
use crate::print;
use components::Component;

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// A model directory, or a PNG that bonsai wrote
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
    if !metadata.is_dir() {
        return picture::run(&args.path, args.json);
    }
    let dir = ModelDir::open(&args.path)?.with_components(args.components.paths());
    let report = ModelReport::new(&dir, args);
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

/// A model directory.
#[derive(Serialize)]
struct ModelReport {
    path: String,
    usable: bool,
    components: Vec<Component>,
    defaults: Option<DefaultsReport>,
    /// Why sound components make no model.
    error: Option<String>,
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
    fn new(dir: &ModelDir, args: &InfoArgs) -> Self {
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
            match Pipeline::open_with(dir.root(), &options) {
                Ok(pipeline) => defaults = Some(pipeline.defaults().into()),
                Err(e) => error = Some(e.to_string()),
            }
        }
        Self {
            path: dir.root().display().to_string(),
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

/// A JSON file as `T`, for files that the engine reads only as part of a model.
fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(ErrorKind::ModelFormat, format!("{}", path.display())).with_source(e))
}
