//! Which model is meant.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
#[cfg(feature = "mini")]
use std::sync::Arc;

use bonsai_core::{Estimate, PipelineOptions, Request};

use crate::failure::Failure;

/// Environment variable that names the model directory when `-m` does not.
const VARIABLE: &str = "BONSAI_MODEL";

/// Environment variable that names the directory of models.
const MODELS: &str = "BONSAI_MODELS";

/// The directory whose folders are models: the given one, else that of the environment, else `models` right here.
pub fn models_dir(given: Option<&Path>) -> PathBuf {
    let named = || std::env::var_os(MODELS).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(named).unwrap_or_else(|| PathBuf::from("models"))
}

/// A model and where it is.
#[derive(Debug)]
pub enum Choice {
    /// A directory, or one file that holds it all.
    Dir(PathBuf),
    /// Nothing but the components that the options name.
    Components,
    /// The small model that is part of this program.
    #[cfg(feature = "mini")]
    Mini,
}

impl Choice {
    /// What a picture will take of it.
    pub fn estimate(&self, options: &PipelineOptions, request: &Request) -> bonsai_core::Result<Estimate> {
        match self {
            Self::Dir(dir) => bonsai_core::estimate(dir, options, request),
            Self::Components => bonsai_core::estimate("", options, request),
            #[cfg(feature = "mini")]
            Self::Mini => {
                bonsai_core::estimate_source(Arc::new(bonsai_mini::BonsaiMini::new()), options, request)
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => dir.display().fmt(f),
            Self::Components => f.write_str("the components named"),
            #[cfg(feature = "mini")]
            Self::Mini => f.write_str(bonsai_mini::NAME),
        }
    }
}

/// The directory that was given, else that of the environment, else the model inside.
pub fn choose(given: Option<&Path>) -> Result<Choice, Failure> {
    if let Some(dir) = given {
        return Ok(Choice::Dir(dir.to_owned()));
    }
    if let Some(dir) = std::env::var_os(VARIABLE).filter(|dir: &OsString| !dir.is_empty()) {
        return Ok(Choice::Dir(dir.into()));
    }
    inside()
}

#[cfg(feature = "mini")]
fn inside() -> Result<Choice, Failure> {
    Ok(Choice::Mini)
}

#[cfg(not(feature = "mini"))]
fn inside() -> Result<Choice, Failure> {
    let message =
        format!("no model: -m was not given, {VARIABLE} is not set, and this program has none inside");
    Err(Failure::new(crate::failure::Code::Model, message)
        .hint("name a model directory with -m DIR; `bonsai synth --preset tiny --out DIR` makes one to try"))
}
