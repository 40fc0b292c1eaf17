//! Files mapped into memory: the only unsafe file of this crate.
#![expect(unsafe_code, reason = "maps files")]

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bonsai_kernels::{AlignedBuf, SharedBytes};
use memmap2::Mmap;

use crate::error::{Error, Result};

/// The bytes of a file, read from disk as they are touched. The file must not shrink while it is in use.
///
/// Where a host's read callbacks stand in for the disk there is nothing to map: the bytes are then held in a buffer.
pub struct MappedFile(Bytes);

enum Bytes {
    Mapped(Mmap),
    Owned(AlignedBuf<u8>),
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Owned(buffer) => buffer,
        }
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({} bytes)", self.as_ref().len())
    }
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// When it can't be opened or mapped, or is empty.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let io = |e| Error::io(path, e);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(Error::format(format!(
                "{}: expected a file of weights, found nothing in it",
                path.display()
            )));
        }
        // SAFETY: the mapping is read-only and private to this process; that nobody shrinks a model file while it is
        // loaded is a documented demand on the user, as for every program that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Arc::new(Self(Bytes::Mapped(map))))
    }

    /// A file that is already in memory; [`MappedFile::release`] then does nothing.
    pub(crate) fn owned(buffer: AlignedBuf<u8>) -> Arc<Self> {
        Arc::new(Self(Bytes::Owned(buffer)))
    }

    /// All bytes.
    pub fn bytes(self: &Arc<Self>) -> SharedBytes {
        SharedBytes::new(Arc::clone(self) as _)
    }

    /// Whether it is mapped and no buffer.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.0, Bytes::Mapped(_))
    }

    /// Lets the pages leave memory; whoever touches them again reads them from the file.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.0 {
            // SAFETY: the mapping is of a file and never written, so that a dropped page comes back with the same bytes.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            if let Err(error) = advised {
                // advice only: the pages then stay where they are
                tracing::debug!(%error, "pages could not be released");
            }
        }
    }
}
