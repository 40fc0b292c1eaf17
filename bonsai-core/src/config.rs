//! Reading JSON files of a model directory.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// No honest config is larger.
const MAX_BYTES: u64 = 16 << 20;

/// A JSON file as `T`; keys that `T` does not name are ignored.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let io = |e| Error::io(path, e);
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_BYTES {
        return Err(Error::format(format!("{}: {size} bytes are no config", path.display())));
    }
    let text = String::from_utf8(std::fs::read(path).map_err(io)?)
        .map_err(|e| Error::format(format!("{}: expected UTF-8 JSON", path.display())).with_source(e))?;
    serde_json::from_str(&text).map_err(|e| Error::format(format!("{}", path.display())).with_source(e))
}

/// Fails with the name of the field when `ok` is false.
pub(crate) fn expect(ok: bool, field: &str, expected: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::mismatch(format!("config field {field}: expected {expected}"))) }
}
