//! Reading JSON files of a model directory.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::model_source::ModelFiles;

/// No honest config is larger.
const MAX_BYTES: u64 = 16 << 20;

/// A JSON file as `T`; keys that `T` does not name are ignored.
pub(crate) fn read_json<T: DeserializeOwned>(files: &ModelFiles, path: &Path) -> Result<T> {
    let bytes = files
        .read(path, MAX_BYTES)?
        .map_err(|size| Error::format(format!("{size} bytes are no config")).in_file(path))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::format("expected UTF-8 JSON").with_source(e).in_file(path))?;
    serde_json::from_str(&text).map_err(|e| Error::format("config").with_source(e).in_file(path))
}

/// Fails with the name of the field when `ok` is false.
pub(crate) fn expect(ok: bool, field: &str, expected: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::mismatch(format!("config field {field}: expected {expected}"))) }
}
