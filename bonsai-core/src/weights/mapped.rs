//! Files mapped into memory: the only unsafe file of this crate.
#![expect(unsafe_code, reason = "maps files")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bonsai_kernels::SharedBytes;
use memmap2::Mmap;

use crate::error::{Error, Result};

struct MappedFile(Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of a file, read from disk as they are touched. The file must not shrink while it is in use.
///
/// # Errors
/// When it can't be opened or mapped, or is empty.
pub fn map(path: &Path) -> Result<SharedBytes> {
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
    Ok(SharedBytes::new(Arc::new(MappedFile(map))))
}
