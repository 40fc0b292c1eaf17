//! Files of weights, and the cursor that walks them as a model is built.
//!
//! [`Weights::open`] maps the files and translates names; a model then asks for what it needs, part by part, and
//! [`Weights::finish`] refuses tensors that nobody asked for.

mod blocks;
mod dtype;
mod file;
mod footprint;
mod gguf;
mod mapped;
mod matrix;
mod names;
mod native;
mod packs;
mod pickle;
mod quantized;
mod safetensors;
mod stored;
mod torch;
mod warnings;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bonsai_kernels::weights::{FloatType, Scales};
use bonsai_kernels::{CancelToken, Cpu, KernelError, SharedBytes};

pub use dtype::{BlockType, Dtype};
pub use file::TensorFile;
pub use footprint::Footprint;
pub use mapped::MappedFile;
pub use names::Component;
pub use stored::{Attribute, StoredTensor};

pub(crate) use gguf::{TokenizerKeys, tokenizer_keys};
pub(crate) use names::{Rows, in_gguf};
pub(crate) use safetensors::{metadata as safetensors_metadata, read as read_safetensors};

use crate::error::{Error, ErrorKind, Result};
use crate::model_source::ModelFiles;
use crate::native::{Item, Recorder};
use names::Naming;

/// How many names an error lists before it only counts.
const NAMES_IN_ERRORS: usize = 8;

/// A tensor under the name that the models use.
#[derive(Debug)]
struct Entry {
    file: usize,
    stored_name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes in the file; two pieces for swapped halves.
    pieces: Vec<Range<usize>>,
    /// As [`StoredTensor::strides`].
    strides: Option<Vec<usize>>,
}

#[derive(Debug)]
struct Catalog {
    files: Vec<TensorFile>,
    entries: BTreeMap<String, Entry>,
    attributes: BTreeMap<String, Attribute>,
    claimed: Mutex<BTreeSet<String>>,
    kinds: Mutex<BTreeMap<String, &'static str>>,
    recorder: OnceLock<Recorder>,
    cancel: CancelToken,
}

/// A place in the tree of a component's tensors.
#[derive(Debug, Clone)]
pub struct Weights {
    catalog: Arc<Catalog>,
    prefix: String,
    /// Whose threads prepare parts side by side; the caller's own without it.
    cpu: Option<Cpu>,
}

impl Weights {
    /// Maps files that together hold one component.
    ///
    /// # Errors
    /// When a file can't be read, its header is unsound, or two files hold the same tensor.
    pub fn open(paths: &[PathBuf], component: Component) -> Result<Self> {
        Self::open_from(&ModelFiles::disk(), paths, component)
    }

    /// The same from wherever the model's files come from.
    pub(crate) fn open_from(source: &ModelFiles, paths: &[PathBuf], component: Component) -> Result<Self> {
        let files = paths.iter().map(|p| TensorFile::open_from(source, p)).collect::<Result<Vec<_>>>()?;
        let mut entries = BTreeMap::new();
        let mut attributes = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            let naming = Naming::detect(component, &file.tensors, source.final_modulation());
            for (stored_name, attribute) in &file.attributes {
                for (name, _) in naming.canonical(stored_name, None) {
                    attributes.insert(name, attribute.clone());
                }
            }
            for (stored_name, tensor) in &file.tensors {
                for (name, rows) in naming.canonical(stored_name, Some(&tensor.dtype)) {
                    let (shape, pieces) = pick_rows(tensor, rows).ok_or_else(|| {
                        Error::mismatch(format!(
                            "{}: tensor {stored_name}: shape {:?} can't be cut into equal parts of rows",
                            file.path.display(),
                            tensor.shape
                        ))
                    })?;
                    let dtype = tensor.dtype.clone();
                    let (stored_name, strides) = (stored_name.clone(), tensor.strides.clone());
                    let entry = Entry { file: index, stored_name, dtype, shape, pieces, strides };
                    if let Some(other) = entries.insert(name.clone(), entry) {
                        let other = &files[other.file].path;
                        return Err(Error::mismatch(format!(
                            "tensor {name} is in {} and again in {}",
                            other.display(),
                            file.path.display()
                        )));
                    }
                }
            }
        }
        let (claimed, kinds) = (Mutex::default(), Mutex::default());
        let (recorder, cancel) = (OnceLock::new(), source.cancel().clone());
        let catalog = Catalog { files, entries, attributes, claimed, kinds, recorder, cancel };
        Ok(Self { catalog: Arc::new(catalog), prefix: String::new(), cpu: None })
    }

    /// The place `part` below this one.
    #[must_use]
    pub fn at(&self, part: impl Display) -> Self {
        Self { catalog: Arc::clone(&self.catalog), prefix: self.name(part), cpu: self.cpu.clone() }
    }

    /// The same, whose parts are prepared by all threads of `cpu`.
    #[must_use]
    pub fn on(self, cpu: &Cpu) -> Self {
        Self { cpu: Some(cpu.clone()), ..self }
    }

    /// What `load` makes of the parts 0 to `count - 1`, in their order.
    pub(crate) fn parts<T: Send>(
        &self,
        count: usize,
        load: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let Some(cpu) = &self.cpu else { return (0..count).map(load).collect() };
        let mut parts: Vec<Option<Result<T>>> = (0..count).map(|_| None).collect();
        let items = parts.iter_mut().enumerate().collect();
        cpu.for_each(
            items,
            || Ok(()),
            |(), (i, part): (usize, &mut Option<Result<T>>)| {
                *part = Some(load(i));
                Ok(())
            },
        )?;
        let lost = || Err(Error::new(ErrorKind::Internal, "a part that was not loaded"));
        parts.into_iter().map(|part| part.unwrap_or_else(lost)).collect()
    }

    fn name(&self, part: impl Display) -> String {
        if self.prefix.is_empty() { part.to_string() } else { format!("{}.{part}", self.prefix) }
    }

    /// Whether a tensor of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.catalog.entries.contains_key(&self.name(name))
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.catalog.entries.get(&self.name(name)).map(|e| e.shape.as_slice())
    }

    /// Rows of a matrix, and its columns where they are not packed, however it is stored.
    pub fn matrix_shape(&self, name: &str) -> Option<(usize, Option<usize>)> {
        for packed in ["orig_shape", "shape"] {
            if let Ok(Some(shape)) = self.ints(&format!("{name}.{packed}"))
                && let &[rows, cols] = shape.as_slice()
            {
                return Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()));
            }
        }
        let weight = self.catalog.entries.get(&self.name(format_args!("{name}.weight")))?;
        let cols = weight.shape.get(1).copied().filter(|_| weight.dtype != Dtype::U32);
        Some((*weight.shape.first()?, cols))
    }

    /// A plain value that stands beside the tensors: a key of GGUF, or what a pickle holds.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.catalog.attributes.get(&self.name(name))
    }

    /// How many parts `name.0`, `name.1`, .. there are.
    pub fn count(&self, name: &str) -> usize {
        let present = |index: usize| {
            let prefix = format!("{}.", self.name(format_args!("{name}.{index}")));
            self.catalog
                .entries
                .range(prefix.clone()..)
                .next()
                .is_some_and(|(key, _)| key.starts_with(&prefix))
        };
        (0..).take_while(|&i| present(i)).count()
    }

    /// `safetensors`, `gguf`, or both.
    pub fn containers(&self) -> String {
        let kinds: BTreeSet<_> = self.catalog.files.iter().map(|f| f.container).collect();
        kinds.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.catalog.files.iter().map(|f| f.path.as_path())
    }

    /// Stored tensors by element type.
    pub fn dtypes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for tensor in self.catalog.files.iter().flat_map(|f| f.tensors.values()) {
            *counts.entry(tensor.dtype.to_string()).or_default() += 1;
        }
        counts
    }

    /// Bytes of all stored tensors.
    pub fn stored_bytes(&self) -> u64 {
        self.catalog.files.iter().flat_map(|f| f.tensors.values()).map(|t| t.range.len() as u64).sum()
    }

    /// The mappings, to let their pages go when a stage is done with them.
    pub fn maps(&self) -> Vec<Arc<MappedFile>> {
        self.catalog.files.iter().map(|f| Arc::clone(&f.map)).collect()
    }

    /// Lets pages go that were touched for checking: they come back when their stage comes.
    fn release(&self) {
        self.catalog.files.iter().for_each(|f| f.map.release());
    }

    /// Kind of each matrix that was asked for so far, by name.
    pub fn kinds(&self) -> BTreeMap<String, &'static str> {
        self.catalog.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn claim(&self, name: &str) -> Result<(&Entry, String)> {
        // every tensor comes through here, as the model is checked
        if self.catalog.cancel.is_cancelled() {
            return Err(KernelError::Cancelled.into());
        }
        let full = self.name(name);
        let entry = self.catalog.entries.get(&full).ok_or_else(|| {
            let files: Vec<_> = self.paths().map(|p| p.display().to_string()).collect();
            Error::mismatch(format!("tensor {full} is missing in {}", files.join(", ")))
        })?;
        self.catalog.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(full.clone());
        let shown = if entry.stored_name == full {
            full
        } else {
            format!("{full} (stored as {})", entry.stored_name)
        };
        Ok((entry, format!("{}: tensor {shown}", self.catalog.files[entry.file].path.display())))
    }

    fn bytes(&self, entry: &Entry) -> Result<SharedBytes> {
        let all = &self.catalog.files[entry.file].bytes;
        let part = |range: &Range<usize>| {
            all.slice(range.clone())
                .ok_or_else(|| Error::new(ErrorKind::Internal, "a tensor outside its file"))
        };
        match entry.pieces.as_slice() {
            [piece] => match &entry.strides {
                Some(strides) => gather(part(piece)?.as_slice(), entry, strides),
                None => part(piece),
            },
            pieces => {
                let mut joined = Vec::new();
                for piece in pieces {
                    joined.extend_from_slice(part(piece)?.as_slice());
                }
                Ok(SharedBytes::from_vec(joined))
            }
        }
    }

    /// The bytes as they lie in the file, whatever their strides.
    fn contiguous(&self, entry: &Entry) -> Result<SharedBytes> {
        let range = entry.pieces.first().cloned().unwrap_or_default();
        let bytes = self.catalog.files[entry.file].bytes.slice(range);
        bytes.ok_or_else(|| Error::new(ErrorKind::Internal, "a tensor outside its file"))
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<(SharedBytes, FloatType, String)> {
        let (entry, what) = self.claim(name)?;
        expect_shape(&what, &entry.shape, shape)?;
        let Dtype::Float(float_type) = entry.dtype else {
            return Err(Error::mismatch(format!("{what}: expected F32, F16 or BF16, found {}", entry.dtype)));
        };
        Ok((self.bytes(entry)?, float_type, what))
    }

    /// The values of a tensor of floats of this shape, as f32.
    ///
    /// # Errors
    /// When it is missing, has another shape or dtype, or holds NaN or infinity.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (bytes, float_type, what) = self.floats(name, shape)?;
        self.record(name, || Item::Values(bytes.clone(), float_type, shape.to_vec()));
        let values: Vec<f32> = Scales::new(bytes, float_type, 1.0).iter().collect();
        if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(not_finite(&what)) }
    }

    /// Claims every tensor whose name begins with `prefix` without reading it: known, and not needed.
    pub fn skip(&self, prefix: &str) {
        let prefix = self.name(prefix);
        let names = self.catalog.entries.range(prefix.clone()..).map(|(name, _)| name);
        let mut claimed = self.catalog.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.extend(names.take_while(|n| n.starts_with(&prefix)).cloned());
    }

    /// Ends the walk.
    ///
    /// # Errors
    /// When there are tensors that nobody asked for; the message lists them.
    pub fn finish(&self) -> Result<()> {
        let claimed = self.catalog.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<_> = self.catalog.entries.iter().filter(|(name, _)| !claimed.contains(*name)).collect();
        let Some((_, first)) = left.first() else { return Ok(()) };
        let mut names: Vec<_> = left.iter().take(NAMES_IN_ERRORS).map(|(name, _)| name.as_str()).collect();
        if left.len() > NAMES_IN_ERRORS {
            names.push("..");
        }
        let file = self.catalog.files[first.file].path.display();
        let count = left.len();
        Err(Error::mismatch(format!(
            "{file}: {count} tensors belong to no part of the model: {}",
            names.join(", ")
        )))
    }
}

fn not_finite(what: &str) -> Error {
    Error::format(format!("{what}: holds NaN or infinity"))
}

fn expect_shape(what: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::mismatch(format!("{what}: expected shape {expected:?}, found {found:?}")))
    }
}

/// A copy in row-major order.
fn gather(bytes: &[u8], entry: &Entry, strides: &[usize]) -> Result<SharedBytes> {
    let unreadable = || Error::mismatch(format!("a view of {} elements that are not read", entry.dtype));
    let size = entry.dtype.size().ok_or_else(unreadable)?;
    let count: usize = entry.shape.iter().product();
    let mut copy = Vec::with_capacity(count * size);
    let mut index = vec![0; entry.shape.len()];
    for _ in 0..count {
        let at = size * index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        // the reader of the file proved that the last one lies inside
        copy.extend_from_slice(&bytes[at..at + size]);
        for (i, &n) in index.iter_mut().zip(&entry.shape).rev() {
            *i += 1;
            if *i < n {
                break;
            }
            *i = 0;
        }
    }
    Ok(SharedBytes::from_vec(copy))
}

/// Shape and bytes of the picked rows; `None` when the rows don't divide.
fn pick_rows(tensor: &StoredTensor, rows: Rows) -> Option<(Vec<usize>, Vec<Range<usize>>)> {
    let parts = match rows {
        Rows::All => return Some((tensor.shape.clone(), vec![tensor.range.clone()])),
        _ if tensor.strides.is_some() => return None,
        Rows::Third(_) => 3,
        Rows::SwappedHalves => 2,
    };
    let total = *tensor.shape.first()?;
    let bytes = tensor.range.len();
    if !total.is_multiple_of(parts) || !bytes.is_multiple_of(parts) {
        return None;
    }
    let len = bytes / parts;
    let part = |i: usize| tensor.range.start + i * len..tensor.range.start + (i + 1) * len;
    let mut shape = tensor.shape.clone();
    match rows {
        Rows::Third(i) => {
            shape[0] = total / 3;
            Some((shape, vec![part(i)]))
        }
        _ => Some((shape, vec![part(1), part(0)])),
    }
}
