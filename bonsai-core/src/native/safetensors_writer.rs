use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{FloatType, Weights as Matrix};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{ALIGN, floats};

/// The bytes of a tensor to be written.
pub(super) enum Data {
    Bytes(SharedBytes),
    /// Row by row in this type, which holds two bytes a value.
    Rows(Matrix, FloatType),
}

/// A tensor to be written.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

impl Tensor {
    pub(super) fn bytes(name: String, dtype: &'static str, shape: Vec<usize>, data: SharedBytes) -> Self {
        Self { name, dtype, shape, data: Data::Bytes(data) }
    }

    fn len(&self) -> usize {
        match &self.data {
            Data::Bytes(bytes) => bytes.len(),
            Data::Rows(matrix, _) => 2 * matrix.rows() * matrix.cols(),
        }
    }

    fn write(&self, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match &self.data {
            Data::Bytes(bytes) => put(bytes.as_slice()),
            Data::Rows(matrix, float_type) => {
                (0..matrix.rows()).try_for_each(|row| put(&floats::row(&matrix.row(row), *float_type)))
            }
        }
    }
}

pub(super) fn dtype_name(float_type: FloatType) -> &'static str {
    match float_type {
        FloatType::F16 => "F16",
        FloatType::Bf16 => "BF16",
        FloatType::F32 => "F32",
    }
}

/// Writes a file. Tensors begin at multiples of `align` bytes of the file, which divides [`ALIGN`]; what fills the gaps is a tensor too, as the
/// format knows no gaps. `digest_of` names the group that a tensor's bytes are digested in; the digests stand in the
/// metadata as `sha256:GROUP`.
pub(super) fn write<W: Write + Seek>(
    out: &mut W,
    tensors: &[Tensor],
    metadata: &BTreeMap<String, String>,
    digest_of: &dyn Fn(&str) -> Option<String>,
    align: usize,
) -> io::Result<()> {
    let mut digests: BTreeMap<String, Sha256> = BTreeMap::new();
    let mut metadata = metadata.clone();
    for group in tensors.iter().filter_map(|t| digest_of(&t.name)) {
        metadata.insert(format!("sha256:{group}"), "0".repeat(64));
        digests.entry(group).or_default();
    }
    let mut entries = Map::new();
    let mut end = 0;
    for tensor in tensors {
        let len = tensor.len();
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + len] });
        entries.insert(tensor.name.clone(), entry);
        end += len;
        let gap = end.next_multiple_of(align) - end;
        if gap > 0 {
            let entry = json!({ "dtype": "U8", "shape": [gap], "data_offsets": [end, end + gap] });
            entries.insert(format!("{}.~", tensor.name), entry);
            end += gap;
        }
    }
    let header = |metadata: &BTreeMap<String, String>| -> io::Result<Vec<u8>> {
        let mut all = entries.clone();
        all.insert("__metadata__".into(), Value::from_iter(metadata.clone()));
        let mut text = serde_json::to_vec(&all)?;
        text.resize((8 + text.len()).next_multiple_of(ALIGN) - 8, b' ');
        Ok(text)
    };
    let first = header(&metadata)?;
    out.write_all(&(first.len() as u64).to_le_bytes())?;
    out.write_all(&first)?;
    for tensor in tensors {
        let mut digest = digest_of(&tensor.name).and_then(|group| digests.get_mut(&group));
        tensor.write(&mut |bytes| {
            if let Some(digest) = &mut digest {
                digest.update(bytes);
            }
            out.write_all(bytes)
        })?;
        let len = tensor.len();
        out.write_all(&vec![0; len.next_multiple_of(align) - len])?;
    }
    for (group, digest) in digests {
        metadata.insert(format!("sha256:{group}"), hex(&digest.finalize()));
    }
    // as long as the first, whose digests were all zeros
    out.seek(SeekFrom::Start(8))?;
    out.write_all(&header(&metadata)?)?;
    out.seek(SeekFrom::End(0))?;
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
