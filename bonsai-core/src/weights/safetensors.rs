//! The safetensors container. Its header is read as a stream, tensor by tensor, so that a long one takes no more memory
//! than its tensors do, and a name that occurs twice is seen.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::{Dtype as SafetensorsDtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::stored::StoredTensor;
use crate::error::{Error, Result};

/// The reference's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// No tensor of these models has more.
const MAX_AXES: usize = 8;
/// Names longer than this are none.
const MAX_NAME: usize = 1024;

#[derive(Deserialize)]
struct Info {
    dtype: SafetensorsDtype,
    #[serde(deserialize_with = "shape")]
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<usize>, D::Error> {
    struct Axes;
    impl<'de> Visitor<'de> for Axes {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a shape")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut axes: A) -> std::result::Result<Vec<usize>, A::Error> {
            let mut shape = Vec::with_capacity(4);
            while let Some(axis) = axes.next_element()? {
                if shape.len() == MAX_AXES {
                    return Err(A::Error::custom(format!("a shape of more than {MAX_AXES} axes")));
                }
                shape.push(axis);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(Axes)
}

pub(crate) fn read(bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>> {
    let expected = "expected a safetensors file (8 bytes of header length, a JSON header, tensor bytes)";
    let unsound = |what: String| Error::format(format!("{expected}: {what}"));
    let (len, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| unsound(format!("the file has {} bytes", bytes.len())))?;
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER || len > rest.len() as u64 {
        return Err(unsound(format!("a header of {len} bytes in a file of {}", bytes.len())));
    }
    let (header, data) = rest.split_at(len as usize);
    let mut parser = serde_json::Deserializer::from_slice(header);
    let tensors = parser.deserialize_map(Tensors { start: 8 + header.len() });
    let tensors = tensors.and_then(|tensors| parser.end().map(|()| tensors));
    let tensors = tensors.map_err(|e| Error::format(expected).with_source(e))?;
    expect_no_gaps(&tensors, 8 + header.len(), data.len())?;
    Ok(tensors)
}

/// The `__metadata__` of a file.
pub(crate) fn metadata(bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::format("expected a safetensors file").with_source(e))?;
    Ok(metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// Tensors must fill the data, side by side.
fn expect_no_gaps(tensors: &BTreeMap<String, StoredTensor>, start: usize, data: usize) -> Result<()> {
    let mut ranges: Vec<_> = tensors.iter().map(|(name, tensor)| (&tensor.range, name)).collect();
    ranges.sort_unstable_by_key(|(range, _)| (range.start, range.end));
    let mut at = start;
    for (range, name) in ranges {
        if range.start != at {
            let what = if range.start < at { "overlap those of another tensor" } else { "come after a gap" };
            return Err(Error::format(format!("tensor {name}: its bytes {range:?} {what}")));
        }
        at = range.end;
    }
    if at - start == data {
        return Ok(());
    }
    let tensors = at - start;
    Err(Error::format(format!("the tensors take {tensors} bytes, {data} bytes of them lie in the file")))
}

/// An object of texts, none of which is kept.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Metadata, A::Error> {
                while map.next_entry::<IgnoredAny, String>()?.is_some() {}
                Ok(Metadata)
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

/// Reads the header's object.
struct Tensors {
    /// Where offset 0 stands in the file.
    start: usize,
}

impl<'de> Visitor<'de> for Tensors {
    type Value = BTreeMap<String, StoredTensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                // MLX writes null where there is nothing to say
                map.next_value::<Option<Metadata>>()?;
                continue;
            }
            if name.len() > MAX_NAME {
                return Err(A::Error::custom(format!("a name of {} bytes", name.len())));
            }
            let info: Info = map.next_value()?;
            let tensor =
                self.tensor(info).map_err(|what| A::Error::custom(format!("tensor {name}: {what}")))?;
            if tensors.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor {name} is there twice")));
            }
            tensors.insert(name, tensor);
        }
        Ok(tensors)
    }
}

impl Tensors {
    fn tensor(&self, info: Info) -> std::result::Result<StoredTensor, String> {
        let [begin, end] = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        let len = end.checked_sub(begin);
        if bits.is_none() || bits != len.and_then(|len| len.checked_mul(8)) {
            let Info { dtype, shape, .. } = info;
            return Err(format!("bytes {begin}..{end} hold no {dtype:?} of shape {shape:?}"));
        }
        let place = |offset: usize| self.start.checked_add(offset).ok_or("an offset beyond any file");
        Ok(StoredTensor::new(info.dtype.into(), info.shape, place(begin)?..place(end)?))
    }
}
