//! Files of a model folder, written under a temporary name and renamed when whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bonsai_core::{Error, ErrorKind};
use serde::Serialize;
use serde_json::json;

use super::plan::TensorFile;
use super::random::{Generator, SplitMix64};

/// Pieces that tensors are made and written in.
const CHUNK_BYTES: usize = 1 << 20;

/// A model folder under construction.
pub(super) struct Output {
    root: PathBuf,
    /// Files and folders made so far, in order.
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Output {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: Vec::new(), folders: Vec::new() }
    }

    /// Removes what was written, as far as that works: it is for folders that are of no use anyway.
    pub(super) fn remove(&self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }

    /// Writes a value as JSON.
    pub(super) fn json(&mut self, path: &str, value: &impl Serialize) -> Result<(), Error> {
        self.file(path, |out| serde_json::to_writer(out, value).map_err(io::Error::from))
    }

    /// Writes a safetensors file; `progress` is told the bytes of each piece.
    pub(super) fn tensors(
        &mut self,
        plan: &TensorFile,
        seed: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let header = header(plan)?;
        self.file(plan.path, |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            let generator = Generator::new();
            let mut chunk = vec![0; CHUNK_BYTES];
            for tensor in plan.tensors.values() {
                let name = format!("{}/{}", plan.path, tensor.stream);
                let mut stream = generator.stream(tensor.fill, SplitMix64::named(seed, &name));
                let mut left = tensor.bytes();
                while left > 0 {
                    let bytes = left.min(CHUNK_BYTES as u64);
                    let piece = &mut chunk[..bytes as usize];
                    stream.fill(piece);
                    out.write_all(piece)?;
                    left -= bytes;
                    progress(bytes);
                }
            }
            Ok(())
        })
    }

    fn file(
        &mut self,
        path: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let path = self.root.join(path);
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::create_dir(folder).map_err(|e| Error::io(folder, e))?;
            self.folders.push(folder.to_owned());
        }
        let io = |e| Error::io(&path, e);
        let mut out = BufWriter::new(File::create(&partial).map_err(io)?);
        self.files.push(partial.clone());
        write(&mut out).map_err(io)?;
        out.into_inner().map_err(|e| io(e.into_error()))?;
        fs::rename(&partial, &path).map_err(io)?;
        self.files.pop();
        self.files.push(path);
        Ok(())
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'a str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

/// The JSON header, padded so that the data begins at a multiple of eight bytes.
pub(super) fn header(plan: &TensorFile) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::new(ErrorKind::Internal, format!("{}: header", plan.path)).with_source(e);
    let mut metadata = json!({ "format": "pt" });
    if let Some((bits, group_size)) = plan.quantization {
        let text = format!(r#"{{"mode": "affine", "bits": {bits}, "group_size": {group_size}}}"#);
        metadata["quantization"] = text.into();
    }
    let mut header = format!(r#"{{"__metadata__":{metadata}"#).into_bytes();
    let mut begin = 0;
    for (name, tensor) in &plan.tensors {
        let end = begin + tensor.bytes();
        header.push(b',');
        serde_json::to_writer(&mut header, name).map_err(failed)?;
        header.push(b':');
        let entry = Entry { dtype: tensor.dtype.name(), shape: &tensor.shape, data_offsets: [begin, end] };
        serde_json::to_writer(&mut header, &entry).map_err(failed)?;
        begin = end;
    }
    header.push(b'}');
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
