//! Which model directory is meant.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure};

/// Environment variable that names the model directory when `-m` does not.
const VARIABLE: &str = "BONSAI_MODEL";
/// The small model that the tests of this project run on.
const SMALL: &str = "golden/model";

/// Environment variable that names the directory of models.
const MODELS: &str = "BONSAI_MODELS";

/// The directory whose folders are models: the given one, else that of the environment, else `models` right here.
pub fn models_dir(given: Option<&Path>) -> PathBuf {
    let named = || std::env::var_os(MODELS).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(named).unwrap_or_else(|| PathBuf::from("models"))
}

/// A model directory and how it was found.
#[derive(Debug)]
pub struct Choice {
    pub dir: PathBuf,
    /// Whether nobody named it and the small test model has to do.
    pub is_fallback: bool,
}

impl Choice {
    /// What to say of a picture by the fallback.
    pub fn note(&self) -> Option<String> {
        let dir = self.dir.display();
        self.is_fallback.then(|| {
            format!(
                "note: no model named, so this is the small test model in {dir}: its pictures look like noise.\n\
                 note: name a real one with -m DIR or {VARIABLE}=DIR"
            )
        })
    }
}

/// The directory that was given, else that of the environment, else the small model of the project around us.
pub fn choose(given: Option<&Path>) -> Result<Choice, Failure> {
    if let Some(dir) = given {
        return Ok(Choice { dir: dir.to_owned(), is_fallback: false });
    }
    if let Some(dir) = std::env::var_os(VARIABLE).filter(|dir: &OsString| !dir.is_empty()) {
        return Ok(Choice { dir: dir.into(), is_fallback: false });
    }
    let here =
        std::env::current_dir().map_err(|e| Failure::new(Code::Failed, format!("current folder: {e}")))?;
    let found = here.ancestors().map(|folder| folder.join(SMALL)).find(|dir| dir.is_dir());
    let missing = || {
        Failure::new(Code::Model, format!("no model: -m was not given and {VARIABLE} is not set")).hint(
            "name a model directory with -m DIR; `bonsai synth --preset tiny --out DIR` makes one to try",
        )
    };
    let dir = found.ok_or_else(missing)?;
    // a short name reads better than the way up from the root
    let dir = dir.strip_prefix(&here).map_or(dir.clone(), Path::to_owned);
    Ok(Choice { dir, is_fallback: true })
}
