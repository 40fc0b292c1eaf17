//! Files of weights, and the cursor that walks them as a model is built.
//!
//! [`Weights::open`] maps the files and translates names; a model then asks for what it needs, part by part, and
//! [`Weights::finish`] refuses tensors that nobody asked for.

mod dtype;
mod file;
mod gguf;
mod mapped;
mod names;
mod quantized;
mod safetensors;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bonsai_kernels::SharedBytes;
use bonsai_kernels::conv2d::ConvWeights;
use bonsai_kernels::weights::{DenseWeights, FloatType, Scales, Weights as Matrix};

pub use dtype::{BlockType, Dtype};
pub use file::TensorFile;
pub use mapped::MappedFile;
pub use names::Component;
pub use stored::StoredTensor;

use crate::error::{Error, ErrorKind, Result};
use crate::model_source::ModelFiles;
use names::Rows;
use quantized::MlxShape;

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
}

#[derive(Debug)]
struct Catalog {
    files: Vec<TensorFile>,
    entries: BTreeMap<String, Entry>,
    claimed: Mutex<BTreeSet<String>>,
    kinds: Mutex<BTreeMap<String, &'static str>>,
}

/// A place in the tree of a component's tensors.
#[derive(Debug, Clone)]
pub struct Weights {
    catalog: Arc<Catalog>,
    prefix: String,
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
        for (index, file) in files.iter().enumerate() {
            for (stored_name, tensor) in &file.tensors {
                for (name, rows) in names::canonical(component, stored_name) {
                    let (shape, pieces) = pick_rows(tensor, rows).ok_or_else(|| {
                        Error::mismatch(format!(
                            "{}: tensor {stored_name}: shape {:?} can't be cut into equal parts of rows",
                            file.path.display(),
                            tensor.shape
                        ))
                    })?;
                    let dtype = tensor.dtype.clone();
                    let entry = Entry { file: index, stored_name: stored_name.clone(), dtype, shape, pieces };
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
        let catalog = Catalog { files, entries, claimed: Mutex::default(), kinds: Mutex::default() };
        Ok(Self { catalog: Arc::new(catalog), prefix: String::new() })
    }

    /// The place `part` below this one.
    #[must_use]
    pub fn at(&self, part: impl Display) -> Self {
        Self { catalog: Arc::clone(&self.catalog), prefix: self.name(part) }
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

    /// The mappings, to let their pages go when a stage is done with them.
    pub fn maps(&self) -> Vec<Arc<MappedFile>> {
        self.catalog.files.iter().map(|f| Arc::clone(&f.map)).collect()
    }

    /// Kind of each matrix that was asked for so far, by name.
    pub fn kinds(&self) -> BTreeMap<String, &'static str> {
        self.catalog.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn claim(&self, name: &str) -> Result<(&Entry, String)> {
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
            [piece] => part(piece),
            pieces => {
                let mut joined = Vec::new();
                for piece in pieces {
                    joined.extend_from_slice(part(piece)?.as_slice());
                }
                Ok(SharedBytes::from_vec(joined))
            }
        }
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
        let values: Vec<f32> = Scales::new(bytes, float_type, 1.0).iter().collect();
        if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(not_finite(&what)) }
    }

    /// The matrix `[rows, cols]` of a linear or an embedding, however it is stored. `name` is that of the layer,
    /// without `.weight`.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape or dtype, or holds NaN or infinity.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let (matrix, what) = if self.has(&format!("{name}.scales")) {
            self.mlx(name, rows, cols)?
        } else {
            let weight = format!("{name}.weight");
            let (entry, what) = self.claim(&weight)?;
            expect_shape(&what, &entry.shape, &[rows, cols])?;
            let bytes = self.bytes(entry)?;
            let matrix = match &entry.dtype {
                Dtype::Float(float_type) => quantized::from_dense(rows, cols, *float_type, bytes),
                Dtype::Block(block) => quantized::from_blocks(rows, cols, *block, bytes.as_slice())
                    .ok_or_else(|| {
                        let message = format!(
                            "{what}: type {} is not supported; Q8_0, Q4_0, Q1_0, F16, BF16, F32 are",
                            block.name()
                        );
                        Error::new(ErrorKind::Unsupported, message)
                    })?,
                other => {
                    return Err(Error::mismatch(format!(
                        "{what}: expected the weights of a linear, found {other}"
                    )));
                }
            };
            (matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what)
        };
        if !matrix.is_finite() {
            return Err(not_finite(&what));
        }
        self.catalog
            .kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.name(name), matrix.kind());
        Ok(matrix)
    }

    fn mlx(&self, name: &str, rows: usize, cols: usize) -> Result<(Matrix, String)> {
        let (entry, what) = self.claim(&format!("{name}.weight"))?;
        if entry.dtype != Dtype::U32 {
            return Err(Error::mismatch(format!(
                "{what}: expected U32 beside its scales, found {}",
                entry.dtype
            )));
        }
        let scale_shape = self.shape(&format!("{name}.scales")).unwrap_or(&[]).to_vec();
        let shape = match (entry.shape.as_slice(), scale_shape.as_slice()) {
            (&[n, words], &[m, groups]) if n == rows && m == rows => MlxShape::detect(cols, words, groups),
            _ => None,
        };
        let shape = shape.ok_or_else(|| {
            Error::mismatch(format!(
                "{what}: words {:?} and scales {scale_shape:?} are no [{rows}, {cols}] matrix of 1, 2, 4 or 8 bits",
                entry.shape
            ))
        })?;
        let codes = self.bytes(entry)?;
        let (scales, scale_type, _) = self.floats(&format!("{name}.scales"), &scale_shape)?;
        let (biases, bias_type, _) = self.floats(&format!("{name}.biases"), &scale_shape)?;
        let matrix = quantized::from_mlx(rows, cols, shape, codes, (scales, scale_type), (biases, bias_type));
        Ok((matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what))
    }

    /// A convolution `[out_channels, in_channels, kernel, kernel]` with bias.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn conv(
        &self,
        name: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: usize,
    ) -> Result<ConvWeights> {
        let shape = [out_channels, in_channels, kernel, kernel];
        let (bytes, float_type, what) = self.floats(&format!("{name}.weight"), &shape)?;
        let dense = DenseWeights::new(out_channels, in_channels * kernel * kernel, float_type, bytes.clone());
        let dense = dense.map_err(|e| Error::mismatch(what.clone()).with_source(e))?;
        if !Matrix::Dense(dense).is_finite() {
            return Err(not_finite(&what));
        }
        let bias = self.values(&format!("{name}.bias"), &[out_channels])?;
        ConvWeights::new(out_channels, in_channels, kernel, float_type, bytes.as_slice(), bias)
            .map_err(|e| Error::mismatch(what).with_source(e))
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

/// Shape and bytes of the picked rows; `None` when the rows don't divide.
fn pick_rows(tensor: &StoredTensor, rows: Rows) -> Option<(Vec<usize>, Vec<Range<usize>>)> {
    let parts = match rows {
        Rows::All => return Some((tensor.shape.clone(), vec![tensor.range.clone()])),
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
