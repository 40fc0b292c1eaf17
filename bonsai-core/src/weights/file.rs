use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bonsai_kernels::SharedBytes;

use super::mapped::MappedFile;
use super::stored::StoredTensor;
use super::{gguf, safetensors};
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
    /// `safetensors` or `gguf`.
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
        let map = files.open(path)?;
        let bytes = map.bytes();
        let named = |e: Error| e.in_file(path);
        let (container, tensors) = if bytes.as_slice().starts_with(b"GGUF") {
            ("gguf", gguf::read(bytes.as_slice()).map_err(named)?)
        } else {
            ("safetensors", safetensors::read(bytes.as_slice()).map_err(named)?)
        };
        Ok(Self { path: path.to_owned(), map, bytes, tensors, container })
    }
}
