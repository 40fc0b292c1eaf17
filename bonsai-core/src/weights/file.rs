use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bonsai_kernels::SharedBytes;

use super::mapped::MappedFile;
use super::stored::StoredTensor;
use super::{gguf, safetensors};
use crate::error::{Error, Result};

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
        let mut magic = [0; 4];
        let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let is_gguf = file.read_exact(&mut magic).is_ok() && &magic == b"GGUF";
        drop(file);
        let map = MappedFile::open(path)?;
        let bytes = map.bytes();
        let named = |e: Error| e.context(path.display());
        let (container, tensors) = if is_gguf {
            ("gguf", gguf::read(bytes.as_slice()).map_err(named)?)
        } else {
            ("safetensors", safetensors::read(bytes.as_slice()).map_err(named)?)
        };
        Ok(Self { path: path.to_owned(), map, bytes, tensors, container })
    }
}
