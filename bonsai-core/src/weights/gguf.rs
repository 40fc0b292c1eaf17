//! The GGUF container, versions 2 and 3, little-endian. Every count and length is checked against what is left of the
//! file before anything is read or allocated.

use std::collections::BTreeMap;

use bonsai_kernels::weights::FloatType;

use super::dtype::{BlockType, Dtype};
use super::stored::{Attribute, StoredTensor};
use crate::error::{Error, ErrorKind, Result};

const DEFAULT_ALIGNMENT: u64 = 32;
/// Arrays may nest; deeper than this is no honest file.
const MAX_DEPTH: usize = 4;
/// Names are short; templates and licences are not needed.
const MAX_TEXT: usize = 256;
/// Names longer than this are none.
const MAX_NAME: usize = 1024;
/// Types whose blocks are understood.
pub(super) const SUPPORTED: &str = "Q1_0, Q2_0, TQ1_0, TQ2_0, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, \
                                    F16, BF16 and F32";

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let part = usize::try_from(n).ok().and_then(|n| left.get(..n)).ok_or_else(|| {
            Error::format(format!("GGUF {what} at byte {}: {n} bytes expected, {} left", self.at, left.len()))
                .at_byte(self.at as u64)
        })?;
        self.at += part.len();
        Ok(part)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.take(4, what).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.take(8, what).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    fn string(&mut self, what: &str) -> Result<&'a str> {
        let len = self.u64(what)?;
        let at = self.at;
        std::str::from_utf8(self.take(len, what)?).map_err(|e| {
            Error::format(format!("GGUF {what} at byte {at}: not UTF-8")).with_source(e).at_byte(at as u64)
        })
    }

    /// A text that is not too long to be a name.
    fn name(&mut self, what: &str) -> Result<&'a str> {
        let name = self.string(what)?;
        if name.len() > MAX_NAME {
            let message = format!("GGUF {what} of {} bytes at byte {}", name.len(), self.at);
            return Err(Error::format(message).at_byte(self.at as u64));
        }
        Ok(name)
    }

    /// Type and length of an array whose elements take `least` bytes or more.
    fn array(&mut self, least: usize) -> Result<(u32, usize)> {
        let (element, count) = (self.u32("array type")?, self.u64("array length")?);
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left / least => Ok((element, count)),
            _ => Err(Error::format(format!(
                "GGUF array of {count} elements in a file of {} bytes",
                self.bytes.len()
            ))),
        }
    }

    /// An array of texts.
    fn strings(&mut self) -> Result<Vec<&'a str>> {
        match self.array(8)? {
            (8, count) => (0..count).map(|_| self.string("array element")).collect(),
            (other, _) => Err(Error::format(format!("an array of type {other}, expected texts"))),
        }
    }

    /// An array of whole numbers.
    fn ints(&mut self) -> Result<Vec<i64>> {
        let (element, count) = self.array(1)?;
        let int = |_| {
            let value = self.value(element, MAX_DEPTH)?;
            let expected = || Error::format(format!("an array of type {element}, expected whole numbers"));
            value.and_then(|value| value.as_int()).ok_or_else(expected)
        };
        (0..count).map(int).collect()
    }

    /// Reads one value; long texts, and arrays, of which a tokenizer's are the largest thing before the tensors, are
    /// passed over.
    fn value(&mut self, kind: u32, depth: usize) -> Result<Option<Attribute>> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                let text = self.string("value")?;
                return Ok((text.len() <= MAX_TEXT).then(|| Attribute::Text(text.to_owned())));
            }
            9 if depth < MAX_DEPTH => {
                let (element, count) = self.array(1)?;
                for _ in 0..count {
                    self.value(element, depth + 1)?;
                }
                return Ok(None);
            }
            other => {
                let message = format!("GGUF value type {other} at byte {}", self.at);
                return Err(Error::format(message).at_byte(self.at as u64));
            }
        };
        let bytes = self.take(size, "value")?;
        let bits = bytes.iter().rev().fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
        Ok(Some(match kind {
            1 => Attribute::Int((bits as u8 as i8).into()),
            3 => Attribute::Int((bits as u16 as i16).into()),
            5 => Attribute::Int((bits as u32 as i32).into()),
            6 => Attribute::Float(f32::from_bits(bits as u32).into()),
            7 => Attribute::Bool(bits != 0),
            12 => Attribute::Float(f64::from_bits(bits)),
            _ => Attribute::Int(bits as i64),
        }))
    }
}

/// What a file says of its tokenizer; texts in the order of their ids and ranks.
#[derive(Debug, Default)]
pub(crate) struct TokenizerKeys<'a> {
    pub(crate) model: Option<&'a str>,
    pub(crate) pre: Option<&'a str>,
    pub(crate) tokens: Vec<&'a str>,
    pub(crate) types: Vec<i64>,
    pub(crate) merges: Vec<&'a str>,
    pub(crate) padding: Option<i64>,
}

/// The keys of a file, or of so much of its beginning as holds them, that describe its tokenizer.
///
/// # Errors
/// When it is no GGUF file, or a key is not what the format demands.
pub(crate) fn tokenizer_keys(bytes: &[u8]) -> Result<TokenizerKeys<'_>> {
    if !bytes.starts_with(b"GGUF") {
        return Err(Error::format("expected a GGUF file"));
    }
    let mut r = Reader { bytes, at: 4 };
    version(&mut r)?;
    r.u64("tensor count")?;
    let mut found = TokenizerKeys::default();
    for _ in 0..r.u64("pair count")? {
        let key = r.name("key")?;
        let kind = r.u32("value type")?;
        let context = |e: Error| e.context(format_args!("key {key}"));
        match (key, kind) {
            ("tokenizer.ggml.model", 8) => found.model = Some(r.string("value")?),
            ("tokenizer.ggml.pre", 8) => found.pre = Some(r.string("value")?),
            ("tokenizer.ggml.tokens", 9) => found.tokens = r.strings().map_err(context)?,
            ("tokenizer.ggml.merges", 9) => found.merges = r.strings().map_err(context)?,
            ("tokenizer.ggml.token_type", 9) => found.types = r.ints().map_err(context)?,
            ("tokenizer.ggml.padding_token_id", _) => {
                let value = r.value(kind, 0).map_err(context)?;
                found.padding = value.and_then(|value| value.as_int());
            }
            _ => {
                r.value(kind, 0).map_err(context)?;
            }
        }
    }
    Ok(found)
}

fn version(r: &mut Reader<'_>) -> Result<()> {
    match r.u32("version")? {
        2 | 3 => Ok(()),
        0x0200_0000 | 0x0300_0000 => {
            Err(Error::new(ErrorKind::Unsupported, "a big-endian GGUF file; little-endian ones are read"))
        }
        version => {
            Err(Error::new(ErrorKind::Unsupported, format!("GGUF version {version}; 2 and 3 are read")))
        }
    }
}

/// Tensors and keys.
pub(super) fn read(bytes: &[u8]) -> Result<(BTreeMap<String, StoredTensor>, BTreeMap<String, Attribute>)> {
    let mut r = Reader { bytes, at: 4 };
    version(&mut r)?;
    let (tensors, pairs) = (r.u64("tensor count")?, r.u64("pair count")?);
    // an entry takes at least 12 bytes, so that absurd counts end here
    let limit = bytes.len() as u64 / 12;
    if tensors > limit || pairs > limit {
        return Err(Error::format(format!(
            "GGUF: {tensors} tensors and {pairs} pairs in a file of {} bytes",
            bytes.len()
        )));
    }
    let mut attributes = BTreeMap::new();
    for _ in 0..pairs {
        let key = r.name("key")?;
        let kind = r.u32("value type")?;
        let value = r.value(kind, 0).map_err(|e| e.context(format_args!("key {key}")))?;
        if let Some(value) = value {
            attributes.insert(key.to_owned(), value);
        }
    }
    let alignment = match attributes.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(value) => {
            let power =
                value.as_int().and_then(|value| u32::try_from(value).ok()).filter(|v| v.is_power_of_two());
            power.map(u64::from).ok_or_else(|| {
                Error::format(format!("GGUF general.alignment is {value:?}, expected a power of two"))
            })?
        }
    };
    // that project's files give another meaning to type 42
    let own_ternary =
        attributes.get("general.architecture").and_then(Attribute::as_text) == Some("bonsai-image");
    // once without their places, which follow from where the last of them ends
    let first = r.at;
    for _ in 0..tensors {
        let name = r.name("tensor name")?;
        tensor_info(&mut r, own_ternary).map_err(|e| e.context(format_args!("tensor {name}")))?;
    }
    let start = (r.at as u64).next_multiple_of(alignment);
    r.at = first;
    let mut found = BTreeMap::new();
    for _ in 0..tensors {
        let name = r.name("tensor name")?;
        let (dtype, shape, len, offset) = tensor_info(&mut r, own_ternary)?;
        let range = start
            .checked_add(offset)
            .and_then(|begin| Some((begin, begin.checked_add(len)?)))
            .filter(|&(_, end)| end <= bytes.len() as u64)
            .map(|(begin, end)| begin as usize..end as usize);
        let range = range.ok_or_else(|| {
            Error::format(format!(
                "tensor {name}: {len} bytes at offset {offset} lie outside the file of {}",
                bytes.len()
            ))
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::format(format!(
                "tensor {name}: offset {offset} is no multiple of the alignment {alignment}"
            )));
        }
        if found.insert(name.to_owned(), StoredTensor::new(dtype, shape, range)).is_some() {
            return Err(Error::format(format!("tensor {name} is there twice")));
        }
    }
    refuse_overlap(&found)?;
    Ok((found, attributes))
}

fn refuse_overlap(tensors: &BTreeMap<String, StoredTensor>) -> Result<()> {
    let mut ranges: Vec<_> = tensors.iter().map(|(name, tensor)| (&tensor.range, name)).collect();
    ranges.retain(|(range, _)| !range.is_empty());
    ranges.sort_unstable_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(Error::format(format!("tensors {} and {} overlap", pair[0].1, pair[1].1))),
        None => Ok(()),
    }
}

fn tensor_info(r: &mut Reader<'_>, own_ternary: bool) -> Result<(Dtype, Vec<usize>, u64, u64)> {
    let dims = r.u32("dimensions")?;
    if dims > 4 {
        return Err(Error::format(format!("{dims} dimensions, expected at most 4")));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let n = r.u64("dimension")?;
        shape.push(usize::try_from(n).map_err(|_| Error::format(format!("a dimension of {n}")))?);
    }
    let (id, offset) = (r.u32("tensor type")?, r.u64("offset")?);
    // GGUF lists the contiguous axis first
    let innermost = shape.first().copied().unwrap_or(1);
    let (dtype, weights, bytes) = match id {
        0 => (Dtype::Float(FloatType::F32), 1, 4),
        1 => (Dtype::Float(FloatType::F16), 1, 2),
        30 => (Dtype::Float(FloatType::Bf16), 1, 2),
        24 => (Dtype::Other("I8".into()), 1, 1),
        25 => (Dtype::Other("I16".into()), 1, 2),
        26 => (Dtype::Other("I32".into()), 1, 4),
        27 => (Dtype::I64, 1, 8),
        28 => (Dtype::Other("F64".into()), 1, 8),
        42 if own_ternary => (Dtype::Block(BlockType::TQ2_0_G128), 128, 34),
        _ => {
            let block = BlockType::from_id(id).filter(|&b| b != BlockType::TQ2_0_G128).ok_or_else(|| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("ggml type {} is not supported; {SUPPORTED} are", unknown_type(id)),
                )
            })?;
            (Dtype::Block(block), block.weights(), block.bytes())
        }
    };
    if !innermost.is_multiple_of(weights) {
        return Err(Error::format(format!(
            "a row of {innermost} weights is no whole number of {dtype} blocks of {weights}"
        )));
    }
    let rows = shape.iter().skip(1).try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let len = rows
        .and_then(|rows| rows.checked_mul((innermost / weights) as u64)?.checked_mul(bytes as u64))
        .ok_or_else(|| Error::format(format!("a shape of {shape:?}")))?;
    shape.reverse();
    Ok((dtype, shape, len, offset))
}

fn unknown_type(id: u32) -> String {
    let name = match id {
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        29 => "IQ1_M",
        _ => return format!("{id}"),
    };
    format!("{name} ({id})")
}
