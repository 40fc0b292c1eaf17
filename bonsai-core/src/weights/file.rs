use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bonsai_kernels::SharedBytes;

use super::mapped::MappedFile;
use super::stored::{Attribute, StoredTensor};
use super::{gguf, safetensors, torch};
use crate::error::{Error, Result};
use crate::model_source::ModelFiles;

/// A mapped file of tensors, whatever its container.
#[derive(Debug, Clone)]
pub struct TensorFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its mapping.
    pub map: Arc<MappedFile>,
    /// All bytes.
    pub bytes: SharedBytes,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, StoredTensor>,
    /// Plain values that it holds beside them.
    pub attributes: BTreeMap<String, Attribute>,
    /// `safetensors`, `gguf` or `torch`.
    pub container: &'static str,
}

impl TensorFile {
    /// Opens a file; its container is known by its first bytes.
    ///
    /// # Errors
    /// When it can't be read or its header is unsound; the message names the file and the offending part.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_from(&ModelFiles::disk(), path)
    }

    /// The same from wherever the model's files come from.
    pub(crate) fn open_from(files: &ModelFiles, path: &Path) -> Result<Self> {
        if let Some(file) = files.native_tensors(path) {
            return Ok(file);
        }
        let map = files.open(path)?;
        let bytes = map.bytes();
        let named = |e: Error| e.in_file(path);
        let magic = bytes.as_slice().first_chunk::<4>();
        let (container, (tensors, attributes)) = match magic {
            Some(b"GGUF") => ("gguf", gguf::read(bytes.as_slice()).map_err(named)?),
            Some(b"PK\x03\x04") => ("torch", torch::read(bytes.as_slice()).map_err(named)?),
            _ => ("safetensors", (safetensors::read(bytes.as_slice()).map_err(named)?, BTreeMap::new())),
        };
        Ok(Self { path: path.to_owned(), map, bytes, tensors, attributes, container })
    }
}
