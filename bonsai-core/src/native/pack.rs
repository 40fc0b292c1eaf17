use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bonsai_kernels::SharedBytes;
use sha2::{Digest, Sha256};

use super::safetensors_writer::hex;
use super::{FORMAT, ROLES, TOKENIZER, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::model_source::ModelSource;
use crate::weights::{MappedFile, StoredTensor, TensorFile, read_safetensors, safetensors_metadata};

/// The file that stands for the weights of a component.
const WEIGHTS: &str = "native.safetensors";

/// An open native pack. To the loaders it looks like a directory whose files are its own: the small ones stand in its
/// metadata, and those of weights are views of its tensors.
pub(crate) struct NativePack {
    path: PathBuf,
    name: String,
    map: Arc<MappedFile>,
    bytes: SharedBytes,
    /// Where the bytes of each file stand that is not one of weights.
    small: BTreeMap<String, Small>,
    files: Vec<String>,
    components: BTreeMap<&'static str, BTreeMap<String, StoredTensor>>,
}

enum Small {
    Text(String),
    Part(Range<usize>),
}

impl NativePack {
    /// Opens a file; `None` when it is a safetensors file of another format.
    ///
    /// # Errors
    /// When it can't be read, its header is unsound, or it is of a version that is not known.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let map = MappedFile::open(path)?;
        let bytes = map.bytes();
        let named = |e: Error| e.in_file(path);
        let metadata = safetensors_metadata(bytes.as_slice()).map_err(named)?;
        if metadata.get("format").is_none_or(|format| format != FORMAT) {
            return Ok(None);
        }
        let version = metadata.get("version").map_or("", String::as_str);
        if version != VERSION {
            let message = format!("native pack of version {version:?}; version {VERSION} is read");
            return Err(named(Error::new(ErrorKind::Unsupported, message)));
        }
        let mut small: BTreeMap<String, Small> = metadata
            .iter()
            .filter_map(|(key, text)| {
                Some((key.strip_prefix("file:")?.to_owned(), Small::Text(text.clone())))
            })
            .collect();
        let mut components: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (name, tensor) in read_safetensors(bytes.as_slice()).map_err(named)? {
            if name == TOKENIZER {
                small.insert("tokenizer/tokenizer.tables".to_owned(), Small::Part(tensor.range));
            } else if let Some((role, name)) = split(&name).filter(|(_, name)| !name.ends_with(".~")) {
                components.entry(role).or_default().insert(name.to_owned(), tensor);
            }
        }
        let mut files: Vec<String> = small.keys().cloned().collect();
        files.extend(components.keys().map(|role| format!("{role}/{WEIGHTS}")));
        let name = metadata.get("name").cloned().unwrap_or_else(|| "model".to_owned());
        Ok(Some(Self { path: path.to_owned(), name, map, bytes, small, files, components }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors of a component, when `name` is its file of weights.
    pub(crate) fn tensors(&self, name: &str) -> Option<TensorFile> {
        let role = name.strip_suffix(WEIGHTS)?.strip_suffix('/')?;
        Some(TensorFile {
            path: self.path.clone(),
            map: Arc::clone(&self.map),
            bytes: self.bytes.clone(),
            tensors: self.components.get(role)?.clone(),
            attributes: BTreeMap::new(),
            container: "native",
        })
    }

    /// A small file that is a tensor, where it lies.
    pub(crate) fn part(&self, name: &str) -> Option<SharedBytes> {
        match self.small.get(name)? {
            Small::Text(_) => None,
            Small::Part(range) => self.bytes.slice(range.clone()),
        }
    }

    fn file(&self, name: &str) -> Option<&[u8]> {
        match self.small.get(name)? {
            Small::Text(text) => Some(text.as_bytes()),
            Small::Part(range) => self.bytes.as_slice().get(range.clone()),
        }
    }
}

/// Role and name of a tensor of a component.
fn split(name: &str) -> Option<(&'static str, &str)> {
    let (role, rest) = name.split_once('.')?;
    ROLES.into_iter().find(|known| *known == role).map(|role| (role, rest))
}

impl ModelSource for NativePack {
    fn name(&self) -> &str {
        &self.name
    }

    fn list(&self) -> &[String] {
        &self.files
    }

    fn len(&self, name: &str) -> Option<u64> {
        match self.file(name) {
            Some(bytes) => Some(bytes.len() as u64),
            None => self.files.iter().any(|f| f == name).then(|| self.bytes.len() as u64),
        }
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let part = self.file(name).and_then(|bytes| {
            let start = usize::try_from(offset).ok()?;
            bytes.get(start..start.checked_add(buffer.len())?)
        });
        let part =
            part.ok_or_else(|| Error::new(ErrorKind::Internal, format!("{name}: bytes at {offset}")))?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// What the header of a native pack says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackInfo {
    /// The version of the layout.
    pub version: String,
    /// What the model is called.
    pub name: String,
    /// SHA-256 of each component, in lower-case hexadecimal digits.
    pub digests: BTreeMap<String, String>,
}

impl PackInfo {
    /// Reads the header of a file; `None` when it is no native pack.
    ///
    /// # Errors
    /// When it can't be read, or is a native pack whose header is unsound or of a version that is not known.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        const LENGTH: usize = 8;
        // other formats are told by their first bytes
        if MappedFile::open(path)?.bytes().as_slice().get(LENGTH) != Some(&b'{') {
            return Ok(None);
        }
        let Some(pack) = NativePack::open(path)? else { return Ok(None) };
        let metadata = safetensors_metadata(pack.bytes.as_slice()).map_err(|e| e.in_file(path))?;
        let digests = metadata
            .iter()
            .filter_map(|(key, digest)| Some((key.strip_prefix("sha256:")?.to_owned(), digest.clone())));
        Ok(Some(Self { version: VERSION.to_owned(), name: pack.name.clone(), digests: digests.collect() }))
    }
}

/// Digests the components of a native pack: for each its name and whether its bytes are those that were written.
///
/// # Errors
/// When the file can't be read or is no native pack.
pub fn check_digests(path: &Path) -> Result<Vec<(String, bool)>> {
    check_digests_with(path, &mut |_| Ok(()))
}

/// [`check_digests`], where `step` is told of the bytes of each piece that was read, and may end the work.
///
/// # Errors
/// As [`check_digests`]; also those of `step`.
pub fn check_digests_with(
    path: &Path,
    step: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<(String, bool)>> {
    const PIECE: usize = 4 << 20;
    let Some(info) = PackInfo::read(path)? else {
        return Err(Error::format("expected a native pack").in_file(path));
    };
    let map = MappedFile::open(path)?;
    let bytes = map.bytes();
    let tensors = read_safetensors(bytes.as_slice()).map_err(|e| e.in_file(path))?;
    let mut ordered: Vec<_> = tensors.into_iter().filter(|(name, _)| !name.ends_with(".~")).collect();
    ordered.sort_by_key(|(_, tensor)| tensor.range.start);
    let mut checked = Vec::new();
    for (group, expected) in &info.digests {
        let mut digest = Sha256::new();
        let of_group = ordered.iter().filter(|(name, _)| name.split('.').next() == Some(group));
        for (_, tensor) in of_group {
            for piece in bytes.as_slice()[tensor.range.clone()].chunks(PIECE) {
                digest.update(piece);
                step(piece.len() as u64)?;
            }
            map.release();
        }
        checked.push((group.clone(), hex(&digest.finalize()) == *expected));
    }
    Ok(checked)
}
