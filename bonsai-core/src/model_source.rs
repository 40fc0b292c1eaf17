//! Where the files of a model come from: the disk, or the read callbacks of a host that packs them with its own assets.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bonsai_kernels::{AlignedBuf, Allocator, CancelToken, KernelError, SharedBytes, SystemAllocator};

use crate::component_paths::FinalModulation;
use crate::error::{Error, ErrorKind, Result};
use crate::native::NativePack;
use crate::weights::{MappedFile, TensorFile};

/// A host asked for more at once would need a buffer of that size of its own.
const CHUNK_BYTES: usize = 8 << 20;

/// The files of a model that lie somewhere else than in a directory. Names are relative to the model and separated by
/// `/`, for example `transformer/config.json`.
pub trait ModelSource: Send + Sync {
    /// What the model is called in metadata.
    fn name(&self) -> &str;
    /// The names of all files.
    fn list(&self) -> &[String];
    /// Size of a file in bytes; `None` when there is no such file.
    fn len(&self, name: &str) -> Option<u64>;
    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they can't be had, all of them.
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// The files of one model, wherever they are.
#[derive(Clone)]
pub(crate) struct ModelFiles {
    source: Option<Arc<dyn ModelSource>>,
    native: Option<Arc<NativePack>>,
    allocator: Arc<dyn Allocator>,
    cancel: CancelToken,
    final_modulation: Option<FinalModulation>,
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.source.is_some() { "ModelFiles(source)" } else { "ModelFiles(disk)" })
    }
}

impl ModelFiles {
    pub(crate) fn disk() -> Self {
        Self {
            source: None,
            native: None,
            allocator: Arc::new(SystemAllocator),
            cancel: CancelToken::new(),
            final_modulation: None,
        }
    }

    /// Files of weights go to buffers of this allocator.
    pub(crate) fn from_source(source: Arc<dyn ModelSource>, allocator: Arc<dyn Allocator>) -> Self {
        Self { source: Some(source), allocator, ..Self::disk() }
    }

    pub(crate) fn from_native(pack: NativePack) -> Self {
        let pack = Arc::new(pack);
        Self { source: Some(pack.clone()), native: Some(pack), ..Self::disk() }
    }

    /// The same, whose reading ends soon after the token is set.
    pub(crate) fn with_cancel(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }

    /// The same with transformers whose last modulation has this order, whatever their naming is.
    pub(crate) fn with_final_modulation(self, order: Option<FinalModulation>) -> Self {
        Self { final_modulation: order, ..self }
    }

    pub(crate) fn final_modulation(&self) -> Option<FinalModulation> {
        self.final_modulation
    }

    pub(crate) fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// Fails when opening the model was cancelled.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(KernelError::Cancelled.into()) } else { Ok(()) }
    }

    /// The tensors of a component, where the model is a native pack.
    pub(crate) fn native_tensors(&self, path: &Path) -> Option<TensorFile> {
        self.native.as_ref()?.tensors(&source_name(path)?)
    }

    /// The file that is the model, where it is a native pack.
    pub(crate) fn pack(&self) -> Option<&Path> {
        self.native.as_deref().map(NativePack::path)
    }

    /// What the model is called where its directory has no name.
    pub(crate) fn source_name(&self) -> Option<&str> {
        self.source.as_ref().map(|s| s.name())
    }

    pub(crate) fn is_file(&self, path: &Path) -> bool {
        match &self.source {
            None => path.is_file(),
            Some(source) => source_name(path).is_some_and(|name| source.len(&name).is_some()),
        }
    }

    /// Whether anything has this name; reading it tells what.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        if self.source.is_some() { self.is_file(path) } else { path.exists() }
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        match &self.source {
            None => path.is_dir(),
            Some(source) => folder_prefix(path)
                .is_some_and(|prefix| source.list().iter().any(|name| name.starts_with(&prefix))),
        }
    }

    /// What lies in a folder, sorted.
    pub(crate) fn entries(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut entries: Vec<PathBuf> = match &self.source {
            None => {
                let entries = fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
                entries.flatten().map(|e| e.path()).collect()
            }
            Some(source) => {
                let prefix = folder_prefix(dir).unwrap_or_default();
                let inside = source.list().iter().filter_map(|name| name.strip_prefix(&prefix));
                let names: BTreeSet<&str> =
                    inside.filter_map(|rest| rest.split('/').next()).filter(|n| !n.is_empty()).collect();
                names.into_iter().map(|name| dir.join(name)).collect()
            }
        };
        entries.sort();
        Ok(entries)
    }

    /// A small file; the inner error is the size of one that has more than `max_bytes`.
    pub(crate) fn read(&self, path: &Path, max_bytes: u64) -> Result<std::result::Result<Vec<u8>, u64>> {
        self.go_on()?;
        match &self.source {
            None => {
                let io = |e| Error::io(path, e);
                let file = fs::File::open(path).map_err(io)?;
                let len = file.metadata().map_err(io)?.len().min(max_bytes);
                // one more byte tells that the file has ended
                let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
                // the size in the directory may be that of another moment, or of no file at all
                file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
                let size = bytes.len() as u64;
                Ok(if size > max_bytes { Err(size) } else { Ok(bytes) })
            }
            Some(source) => {
                let (name, size) = find(source.as_ref(), path)?;
                let len = usize::try_from(size).ok().filter(|_| size <= max_bytes);
                let Some(len) = len else { return Ok(Err(size)) };
                let mut bytes = vec![0; len];
                source.read_at(&name, 0, &mut bytes).map_err(|e| e.in_file(path))?;
                Ok(Ok(bytes))
            }
        }
    }

    /// The first bytes of a file: all of one that is mapped or a part of a native pack, at most `max_bytes` of one that a
    /// host keeps.
    pub(crate) fn head(&self, path: &Path, max_bytes: u64) -> Result<SharedBytes> {
        let Some(source) = &self.source else { return Ok(MappedFile::open(path)?.bytes()) };
        let part = |native: &Arc<NativePack>| native.part(&source_name(path)?);
        if let Some(part) = self.native.as_ref().and_then(part) {
            return Ok(part);
        }
        let (name, size) = find(source.as_ref(), path)?;
        let mut bytes = vec![0; usize::try_from(size.min(max_bytes)).unwrap_or(0)];
        source.read_at(&name, 0, &mut bytes).map_err(|e| e.in_file(path))?;
        Ok(SharedBytes::from_vec(bytes))
    }

    /// A file of weights: mapped from disk, or read into a buffer.
    pub(crate) fn open(&self, path: &Path) -> Result<Arc<MappedFile>> {
        self.go_on()?;
        let Some(source) = &self.source else { return MappedFile::open(path) };
        let (name, size) = find(source.as_ref(), path)?;
        if size == 0 {
            return Err(Error::format("expected a file of weights, found nothing in it").in_file(path));
        }
        let len = usize::try_from(size).map_err(|_| {
            Error::new(ErrorKind::OutOfMemory, format!("{size} bytes do not fit this machine")).in_file(path)
        })?;
        let mut buffer =
            AlignedBuf::<u8>::zeroed(&self.allocator, len).map_err(|e| Error::from(e).in_file(path))?;
        for (index, chunk) in buffer.chunks_mut(CHUNK_BYTES).enumerate() {
            self.go_on()?;
            let offset = (index * CHUNK_BYTES) as u64;
            source.read_at(&name, offset, chunk).map_err(|e| e.in_file(path))?;
        }
        Ok(MappedFile::owned(buffer))
    }
}

fn find(source: &dyn ModelSource, path: &Path) -> Result<(String, u64)> {
    let found = source_name(path).and_then(|name| source.len(&name).map(|size| (name, size)));
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file in the model").in_file(path))
}

/// A path as sources name it; `None` for one that leads out of the model.
fn source_name(path: &Path) -> Option<String> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let parts: Option<Vec<&str>> = parts
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    Some(parts?.join("/"))
}

/// How the names of all files in a folder begin.
fn folder_prefix(dir: &Path) -> Option<String> {
    let name = source_name(dir)?;
    Some(if name.is_empty() { name } else { name + "/" })
}
