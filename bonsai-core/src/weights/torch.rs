//! Checkpoints of `torch.save`: a zip file of a pickle and the bytes of its tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pickle::{self, Object, Pickle, Value};
use super::stored::{Attribute, StoredTensor};
use super::zip;
use crate::error::{Error, ErrorKind, Result};

/// Dicts of dicts; deeper than this is no checkpoint.
const MAX_DEPTH: usize = 8;
/// Lists of numbers beside the tensors are shapes and tables.
const MAX_INTS: usize = 64;
/// Bytes of names and values that a byte of a pickle may stand for.
const PATHS_PER_BYTE: usize = 8;
/// What a value counts beside its name.
const VALUE: usize = 32;

/// Tensors and plain values by their path through the dicts, joined by dots.
pub(super) fn read(bytes: &[u8]) -> Result<(BTreeMap<String, StoredTensor>, BTreeMap<String, Attribute>)> {
    let entries = zip::entries(bytes)?;
    let pickles: Vec<_> = entries.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
    let folder = match pickles.as_slice() {
        [folder] if folder.ends_with('/') => *folder,
        _ => {
            let expected = "expected a file of torch.save, which holds one NAME/data.pkl";
            return Err(Error::format(format!("{expected}; found {} of them", pickles.len())));
        }
    };
    let entry = |name: &str| entries.get(format!("{folder}{name}").as_str()).cloned();
    if let Some(order) = entry("byteorder").map(|range| &bytes[range])
        && order != b"little"
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a big-endian checkpoint; little-endian ones are read",
        ));
    }
    let range = entry("data.pkl").ok_or_else(|| Error::new(ErrorKind::Internal, "data.pkl"))?;
    // a value may stand in many places, but a path costs some bytes of the pickle in any honest file
    let mut budget = PATHS_PER_BYTE * range.len();
    let pickle = pickle::read(&bytes[range])?;
    if !matches!(pickle.object(pickle.root), Some(Object::Dict(_))) {
        return Err(Error::format("expected a checkpoint that is a dict of tensors"));
    }
    let mut flat = Flat { entry: &entry, tensors: BTreeMap::new(), attributes: BTreeMap::new() };
    flat.add(&pickle, pickle.root, String::new(), 0, &mut budget)?;
    Ok((flat.tensors, flat.attributes))
}

struct Flat<'a> {
    entry: &'a dyn Fn(&str) -> Option<Range<usize>>,
    tensors: BTreeMap<String, StoredTensor>,
    attributes: BTreeMap<String, Attribute>,
}

impl Flat<'_> {
    fn add(
        &mut self,
        pickle: &Pickle<'_>,
        value: Value<'_>,
        path: String,
        depth: usize,
        budget: &mut usize,
    ) -> Result<()> {
        let attribute = match value {
            Value::Bool(value) => Attribute::Bool(value),
            Value::Int(value) => Attribute::Int(value),
            Value::Float(value) => Attribute::Float(value),
            Value::Text(value) => Attribute::Text(value.to_owned()),
            Value::Dtype(name) => Attribute::Text(format!("torch.{name}")),
            Value::None | Value::Global(_) => return Ok(()),
            Value::Object(_) => match pickle.object(value) {
                Some(Object::Tensor(tensor)) => {
                    let stored = self.stored(tensor).map_err(|e| e.context(format_args!("tensor {path}")))?;
                    if self.tensors.contains_key(&path) {
                        return Err(Error::format(format!("tensor {path} is there twice")));
                    }
                    self.tensors.insert(path, stored);
                    return Ok(());
                }
                Some(Object::Dict(items)) => {
                    if depth == MAX_DEPTH {
                        return Err(Error::format(format!(
                            "{path}: dicts in dicts, deeper than {MAX_DEPTH}"
                        )));
                    }
                    for (key, value) in items {
                        let Value::Text(key) = key else {
                            return Err(Error::format(format!("{path:?}: a key that is no text")));
                        };
                        let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
                        *budget = budget.checked_sub(path.len() + VALUE).ok_or_else(too_many)?;
                        self.add(pickle, *value, path, depth + 1, budget)?;
                    }
                    return Ok(());
                }
                Some(Object::List(items)) => {
                    let int = |value: &Value<'_>| match value {
                        Value::Int(value) => Some(*value),
                        _ => None,
                    };
                    // other lists say nothing of tensors
                    match items.iter().take(MAX_INTS + 1).map(int).collect::<Option<Vec<i64>>>() {
                        Some(ints) if ints.len() <= MAX_INTS => Attribute::Ints(ints),
                        _ => return Ok(()),
                    }
                }
                Some(Object::Storage(_)) | None => return Ok(()),
            },
        };
        self.attributes.insert(path, attribute);
        Ok(())
    }

    fn stored(&self, tensor: &pickle::Tensor<'_>) -> Result<StoredTensor> {
        let key = tensor.storage.key;
        let bytes = (self.entry)(&format!("data/{key}"));
        let bytes = bytes.ok_or_else(|| Error::format(format!("its bytes, data/{key}, are missing")))?;
        let outside = || {
            Error::format(format!(
                "shape {:?} with strides {:?} from element {} lies outside its {} bytes",
                tensor.shape,
                tensor.strides,
                tensor.offset,
                bytes.len()
            ))
        };
        let extent = extent(&tensor.shape, &tensor.strides).ok_or_else(outside)?;
        let begin = tensor.offset.checked_mul(tensor.size).ok_or_else(outside)?;
        let len = extent.checked_mul(tensor.size).ok_or_else(outside)?;
        let end = begin.checked_add(len).filter(|&end| end <= bytes.len()).ok_or_else(outside)?;
        let range = bytes.start + begin..bytes.start + end;
        let contiguous = extent == 0 || is_contiguous(&tensor.shape, &tensor.strides);
        let strides = (!contiguous).then(|| tensor.strides.clone());
        Ok(StoredTensor { dtype: tensor.dtype.clone(), shape: tensor.shape.clone(), range, strides })
    }
}

fn too_many() -> Error {
    Error::format("more names than its pickle has bytes")
}

/// Elements from the first to the last, both included; `None` when there are more elements than places for them.
fn extent(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let (mut extent, mut count) = (1usize, 1usize);
    for (&n, &stride) in shape.iter().zip(strides) {
        extent = extent.checked_add((n - 1).checked_mul(stride)?)?;
        count = count.checked_mul(n)?;
    }
    (count <= extent).then_some(extent)
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        if n != 1 && stride != step {
            return false;
        }
        step *= n;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_views() {
        assert_eq!(extent(&[3, 4], &[4, 1]), Some(12));
        assert_eq!(extent(&[4, 3], &[1, 4]), Some(12));
        assert_eq!(extent(&[2, 2], &[8, 1]), Some(10));
        assert_eq!(extent(&[0, 5], &[5, 1]), Some(0));
        assert_eq!(extent(&[1000, 1000], &[0, 0]), None);
        assert_eq!(extent(&[usize::MAX, 2], &[usize::MAX, 1]), None);
        assert!(is_contiguous(&[3, 1, 4], &[4, 77, 1]));
        assert!(!is_contiguous(&[4, 3], &[1, 4]));
    }
}
