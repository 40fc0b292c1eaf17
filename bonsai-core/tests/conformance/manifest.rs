//! The golden directory: its manifest, its tensors, and the ledger of what was looked at.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use ndarray::{Array3, ArrayView2};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::Failure;

/// Names the golden directory, where it is not the one of this repository.
const VARIABLE: &str = "BONSAI_GOLDEN_DIR";
const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden");

#[derive(Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    case: Option<serde_json::Value>,
    #[serde(default)]
    tensors: Vec<TensorEntry>,
}

#[derive(Deserialize)]
struct TensorEntry {
    name: String,
    fp32_vs_fp64: Option<Spread>,
    bf16_vs_fp32: Option<Spread>,
}

/// How far the reference itself moves between two precisions.
#[derive(Deserialize)]
struct Spread {
    rms_rel: f64,
}

pub struct Golden {
    root: PathBuf,
    files: BTreeMap<String, Entry>,
    used_files: RefCell<BTreeSet<String>>,
    used_tensors: RefCell<BTreeSet<(String, String)>>,
}

impl Golden {
    pub fn open() -> Result<Self, Failure> {
        let root = std::env::var_os(VARIABLE).map_or_else(|| DEFAULT.into(), PathBuf::from);
        let text = std::fs::read(root.join("manifest.json"))
            .map_err(|e| format!("{}: {e}", root.join("manifest.json").display()))?;
        let Manifest { files } = serde_json::from_slice(&text)?;
        Ok(Self { root, files, used_files: RefCell::default(), used_tensors: RefCell::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every file that holds a case, with the case.
    pub fn cases(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.files.iter().filter_map(|(name, entry)| Some((name.as_str(), entry.case.as_ref()?)))
    }

    pub fn has(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// Where a file or folder of the directory lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.used_files.borrow_mut().insert(name.to_owned());
        self.root.join(name)
    }

    /// A file of tensors.
    pub fn tensors(&self, file: &str) -> Result<TensorSet<'_>, Failure> {
        let entry = self.files.get(file).ok_or_else(|| format!("{file} is not in the manifest"))?;
        let bytes = std::fs::read(self.path(file)).map_err(|e| format!("{file}: {e}"))?;
        let read = SafeTensors::deserialize(&bytes).map_err(|e| format!("{file}: {e}"))?;
        let listed = |name: &str| entry.tensors.iter().find(|t| t.name == name);
        let rms = |spread: &Option<Spread>| spread.as_ref().map(|s| s.rms_rel);
        let tensors = read
            .iter()
            .map(|(name, view)| {
                let tensor = Tensor {
                    name: name.to_owned(),
                    shape: view.shape().to_vec(),
                    dtype: view.dtype(),
                    bytes: view.data().to_vec(),
                    reference_error: listed(name).and_then(|t| rms(&t.fp32_vs_fp64)),
                    bf16_error: listed(name).and_then(|t| rms(&t.bf16_vs_fp32)),
                };
                (name.to_owned(), tensor)
            })
            .collect();
        Ok(TensorSet { golden: self, file: file.to_owned(), tensors })
    }

    /// `tensor` of this file; or `file:tensor`; or the tensor of a file beside it that has no case.
    pub fn resolve(&self, own: &TensorSet<'_>, reference: &str) -> Result<Tensor, Failure> {
        if let Some((file, name)) = reference.split_once(':') {
            return self.tensors(file)?.get(name).cloned();
        }
        if own.has(reference) {
            return own.get(reference).cloned();
        }
        let folder = |file: &str| Path::new(file).parent().map(Path::to_owned);
        let holds = |(file, entry): &(&String, &Entry)| {
            entry.case.is_none()
                && folder(file) == folder(&own.file)
                && entry.tensors.iter().any(|t| t.name == reference)
        };
        let (file, _) = self
            .files
            .iter()
            .find(holds)
            .ok_or_else(|| format!("{}: no source holds tensor {reference}", own.file))?;
        self.tensors(file)?.get(reference).cloned()
    }

    /// Files of tensors without a case in the folder of `file`: what its cases were made from.
    pub fn sources_beside(&self, file: &str) -> impl Iterator<Item = &str> {
        let folder = Path::new(file).parent().map(Path::to_owned);
        let is_source = move |(name, entry): &(&String, &Entry)| {
            entry.case.is_none() && !entry.tensors.is_empty() && Path::new(name).parent() == folder.as_deref()
        };
        self.files.iter().filter(is_source).map(|(name, _)| name.as_str())
    }

    fn look_at(&self, file: &str, tensor: &str) {
        self.used_tensors.borrow_mut().insert((file.to_owned(), tensor.to_owned()));
    }

    /// What nobody looked at: tensors of files with a case, and files that belong to no case and no model.
    pub fn unused(&self) -> Vec<String> {
        let models: Vec<String> = self
            .cases()
            .flat_map(|(_, case)| [case.get("model"), case.get("transformer")])
            .filter_map(|folder| Some(format!("{}/", folder?.as_str()?)))
            .collect();
        let used_files = self.used_files.borrow().clone();
        let mut unused = Vec::new();
        for (file, entry) in &self.files {
            let mut names: BTreeSet<String> = entry.tensors.iter().map(|t| t.name.clone()).collect();
            if entry.case.is_some() && file.ends_with(".safetensors") {
                match self.tensors(file) {
                    Ok(set) => names.extend(set.tensors.into_keys()),
                    Err(error) => unused.push(error.to_string()),
                }
                let used = self.used_tensors.borrow();
                let left = names.into_iter().filter(|name| !used.contains(&(file.clone(), name.clone())));
                unused.extend(left.map(|name| format!("{file}: tensor {name}")));
            }
            let in_model = models.iter().any(|folder| file.starts_with(folder));
            if !in_model && !used_files.contains(file) {
                unused.push(format!("{file}: no case uses it"));
            }
        }
        unused
    }
}

/// The tensors of one file.
pub struct TensorSet<'a> {
    golden: &'a Golden,
    file: String,
    tensors: BTreeMap<String, Tensor>,
}

impl TensorSet<'_> {
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor, which thereby counts as looked at.
    pub fn get(&self, name: &str) -> Result<&Tensor, Failure> {
        self.golden.look_at(&self.file, name);
        self.tensors.get(name).ok_or_else(|| format!("{}: tensor {name} is missing", self.file).into())
    }

    /// A tensor that not every file has.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.get(name).ok()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What stands behind `prefix` in the names that begin with it.
    pub fn below<'a>(&'a self, prefix: &str) -> Vec<&'a str> {
        self.names().filter_map(|name| name.strip_prefix(prefix)).collect()
    }

    /// What stands before `suffix` in the names that end with it.
    pub fn before<'a>(&'a self, suffix: &str) -> Vec<&'a str> {
        self.names().filter_map(|name| name.strip_suffix(suffix)).collect()
    }
}

/// One tensor of a golden file.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub bytes: Vec<u8>,
    /// Relative rms by which the reference moves between fp32 and fp64, where that was measured.
    pub reference_error: Option<f64>,
    /// The same between bf16 and fp32.
    pub bf16_error: Option<f64>,
}

impl Tensor {
    /// The values of a tensor of floats.
    pub fn floats(&self) -> Result<Vec<f32>, Failure> {
        let words = || self.bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        match self.dtype {
            Dtype::F32 => Ok(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Dtype::F16 => Ok(words().map(|w| f16::from_bits(w).to_f32()).collect()),
            Dtype::BF16 => Ok(words().map(|w| bf16::from_bits(w).to_f32()).collect()),
            other => Err(format!("tensor {}: expected floats, found {other:?}", self.name).into()),
        }
    }

    /// The values of a tensor of whole numbers.
    pub fn integers(&self) -> Result<Vec<i64>, Failure> {
        match self.dtype {
            Dtype::I64 => Ok(self.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            Dtype::I32 => {
                Ok(self.bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect())
            }
            Dtype::I8 => Ok(self.bytes.iter().map(|&b| (b as i8).into()).collect()),
            Dtype::U8 => Ok(self.bytes.iter().map(|&b| b.into()).collect()),
            other => Err(format!("tensor {}: expected integers, found {other:?}", self.name).into()),
        }
    }

    /// The same with only some of its values.
    pub fn with_values(&self, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { shape: vec![values.len()], dtype: Dtype::F32, bytes, ..self.clone() }
    }

    /// The same under another name.
    pub fn renamed(&self, name: String) -> Self {
        Self { name, ..self.clone() }
    }

    /// The only value of a tensor of floats.
    pub fn scalar(&self) -> Result<f32, Failure> {
        match self.floats()?.as_slice() {
            &[value] => Ok(value),
            values => Err(format!("tensor {}: expected one value, found {}", self.name, values.len()).into()),
        }
    }

    /// `[1, channels, height, width]` as `(channels, height, width)`.
    pub fn planes_shape(&self) -> Result<(usize, usize, usize), Failure> {
        match self.shape.as_slice() {
            &[1, channels, height, width] => Ok((channels, height, width)),
            shape => {
                Err(format!("tensor {}: expected [1, channels, height, width], found {shape:?}", self.name)
                    .into())
            }
        }
    }

    /// Planes `[1, channels, height, width]` as a picture `[height, width, channels]`.
    pub fn picture(&self) -> Result<Array3<f32>, Failure> {
        let planes = Array3::from_shape_vec(self.planes_shape()?, self.floats()?)?;
        Ok(planes.permuted_axes([1, 2, 0]).as_standard_layout().into_owned())
    }

    /// Rows and columns: the last axis, and all before it.
    pub fn rows_and_columns(&self) -> (usize, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        (self.shape.iter().rev().skip(1).product(), columns)
    }
}

/// Values as the rows of a matrix.
pub fn matrix(shape: (usize, usize), values: &[f32]) -> Result<ArrayView2<'_, f32>, Failure> {
    Ok(ArrayView2::from_shape(shape, values)?)
}
