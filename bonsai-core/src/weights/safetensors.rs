//! The safetensors container. The `safetensors` crate parses and validates the header; this file adds what it leaves
//! open: duplicate names, and messages that say what a file should be.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use safetensors::SafeTensors;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::stored::StoredTensor;
use crate::error::{Error, Result};

pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>> {
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        Error::format("expected a safetensors file (8 bytes of header length, a JSON header, tensor bytes)")
            .with_source(e)
    })?;
    let start = header_len + 8;
    refuse_duplicates(&bytes[8..start])?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (begin, end) = info.data_offsets;
        let range = start + begin..start + end;
        if begin > end || range.end > bytes.len() {
            return Err(Error::format(format!(
                "tensor {name}: its bytes {begin}..{end} lie outside the file"
            )));
        }
        tensors.insert(name, StoredTensor::new(info.dtype.into(), info.shape.clone(), range));
    }
    Ok(tensors)
}

/// JSON readers keep the last of two equal keys; which tensor was meant is not ours to guess.
fn refuse_duplicates(header: &[u8]) -> Result<()> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            let mut twice = None;
            while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(key.clone()) {
                    twice.get_or_insert(key);
                }
            }
            Ok(twice)
        }
    }
    let twice = serde_json::Deserializer::from_slice(header)
        .deserialize_map(Keys)
        .map_err(|e| Error::format("header of a safetensors file").with_source(e))?;
    match twice {
        Some(name) => Err(Error::format(format!("tensor {name} is there twice"))),
        None => Ok(()),
    }
}
