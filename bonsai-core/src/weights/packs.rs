//! Linears as the packers of the GPU runtimes store them: gemlite's, and HQQ's.

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{DenseWeights, FloatType, Scales, Weights as Matrix};

use super::dtype::Dtype;
use super::quantized::{self, CodeShape, ROUNDED};
use super::stored::Attribute;
use super::{Entry, Weights, expect_shape};
use crate::error::{Error, ErrorKind, Result};

/// What gemlite's `metadata` lists, by index.
mod gemlite {
    pub const LEN: usize = 12;
    pub const BITS: usize = 1;
    pub const GROUP_SIZE: usize = 2;
    pub const CHANNEL_SCALE_MODE: usize = 9;
    pub const GROUP_MODE: usize = 10;
}

/// Values beside an HQQ matrix that say nothing of its weights.
const HQQ_REST: [&str; 8] = [
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
    "unpack_view_dtype",
];

fn unsupported(what: &str, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what}: {message}"))
}

impl Weights {
    /// Whole numbers that a file holds as plain values, or as a small tensor.
    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        const LONGEST: usize = 64;
        if let Some(attribute) = self.attribute(name) {
            let ints = match attribute {
                Attribute::Ints(ints) => Some(ints.clone()),
                other => other.as_int().map(|value| vec![value]),
            };
            return Ok(ints);
        }
        if !self.has(name) {
            return Ok(None);
        }
        let (entry, what) = self.claim(name)?;
        let count = entry.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(size), Some(0..=LONGEST)) = (entry.dtype.size(), count) else {
            return Err(Error::mismatch(format!(
                "{what}: expected a few whole numbers, found {:?}",
                entry.shape
            )));
        };
        let bytes = self.bytes(entry)?;
        let unsigned = |b: &[u8]| b.iter().rev().fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
        let value = |b: &[u8]| match entry.dtype {
            Dtype::I32 => i64::from(unsigned(b) as u32 as i32),
            _ => unsigned(b) as i64,
        };
        match entry.dtype {
            Dtype::U8 | Dtype::U32 | Dtype::I32 | Dtype::I64 => {
                Ok(Some(bytes.as_slice().chunks_exact(size).map(value).collect()))
            }
            _ => Err(Error::mismatch(format!("{what}: expected whole numbers, found {}", entry.dtype))),
        }
    }

    fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.ints(name)?.and_then(|ints| ints.first().copied()))
    }

    /// Claims a tensor that may be there and is not read.
    fn pass(&self, name: &str) {
        if self.has(name) {
            // known to be there
            let _ = self.claim(name);
        }
    }

    /// Codes `W_q` `[cols * bits / container, rows]`, `scales` and `zeros` `[groups, rows]`: all transposed.
    pub(super) fn gemlite(&self, name: &str, rows: usize, cols: usize) -> Result<(Matrix, String)> {
        let (entry, what) = self.claim(&format!("{name}.W_q"))?;
        let metadata = self.ints(&format!("{name}.metadata"))?.unwrap_or_default();
        if metadata.len() < gemlite::LEN {
            let found = metadata.len();
            return Err(Error::mismatch(format!(
                "{what}: metadata: expected {} numbers, found {found}",
                gemlite::LEN
            )));
        }
        if let Some(shape) = self.ints(&format!("{name}.orig_shape"))?
            && shape != [rows as i64, cols as i64]
        {
            return Err(Error::mismatch(format!("{what}: expected shape [{rows}, {cols}], found {shape:?}")));
        }
        self.pass(&format!("{name}.meta_scale"));
        if metadata[gemlite::CHANNEL_SCALE_MODE] != 0 {
            return Err(unsupported(&what, "a gemlite pack whose scales apply to whole channels"));
        }
        let bits = u32::try_from(metadata[gemlite::BITS]).ok().filter(|b| matches!(b, 1 | 2 | 4 | 8));
        let bits = bits.ok_or_else(|| {
            unsupported(&what, format_args!("{} bits; 1, 2, 4 and 8 are read", metadata[1]))
        })?;
        let scale_shape = self.shape(&format!("{name}.scales")).unwrap_or(&[]).to_vec();
        let groups = match scale_shape.as_slice() {
            &[groups, n] if n == rows && groups > 0 && cols.is_multiple_of(groups) => groups,
            _ => {
                return Err(Error::mismatch(format!(
                    "{what}: scales {scale_shape:?} fit no [{rows}, {cols}] matrix"
                )));
            }
        };
        let group_size = cols / groups;
        if metadata[gemlite::GROUP_SIZE] != group_size as i64 {
            return Err(Error::mismatch(format!(
                "{what}: metadata says groups of {}, the scales of {group_size}",
                metadata[gemlite::GROUP_SIZE]
            )));
        }
        let container = match entry.dtype {
            Dtype::U8 => 1,
            Dtype::I32 | Dtype::U32 => 4,
            _ => return Err(Error::mismatch(format!("{what}: expected U8 or I32, found {}", entry.dtype))),
        };
        let row_bytes = cols * bits as usize / 8;
        if !(cols * bits as usize).is_multiple_of(8 * container) {
            return Err(Error::mismatch(format!(
                "{what}: {cols} inputs of {bits} bits fill no whole containers"
            )));
        }
        expect_shape(&what, &entry.shape, &[row_bytes / container, rows])?;
        let codes = self.transposed(entry, container)?;

        let scales_at = |part: &str| -> Result<(SharedBytes, FloatType)> {
            let (entry, _) = self.claim(&format!("{name}.{part}"))?;
            let (_, float_type, _) = self.floats(&format!("{name}.{part}"), &scale_shape)?;
            Ok((self.transposed(entry, float_type.size())?, float_type))
        };
        let scales = scales_at("scales")?;
        let mode = metadata[gemlite::GROUP_MODE];
        let bias = match mode {
            2 => {
                self.pass(&format!("{name}.zeros"));
                Scales::from_f32(&vec![0.0; rows * groups])
            }
            3 => {
                let (zeros, zero_type) = scales_at("zeros")?;
                let scale = Scales::new(scales.0.clone(), scales.1, 1.0);
                let zeros = Scales::new(zeros, zero_type, 1.0);
                Scales::from_f32(&scale.iter().zip(zeros.iter()).map(|(s, z)| -s * z).collect::<Vec<_>>())
            }
            4 => {
                let (zeros, zero_type) = scales_at("zeros")?;
                Scales::new(zeros, zero_type, 1.0)
            }
            other => {
                return Err(unsupported(
                    &what,
                    format_args!("gemlite group mode {other}; 2, 3 and 4 are read"),
                ));
            }
        };
        let shape = CodeShape { bits, group_size };
        let matrix = quantized::from_affine(rows, cols, shape, codes, scales, bias, ROUNDED);
        Ok((matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what))
    }

    /// The bytes of a matrix with rows and columns exchanged, elements of `size` bytes: where they lie, if that is how
    /// they were stored.
    fn transposed(&self, entry: &Entry, size: usize) -> Result<SharedBytes> {
        let &[height, width] = entry.shape.as_slice() else {
            return Err(Error::mismatch(format!("{}: expected a matrix", entry.stored_name)));
        };
        if entry.strides.as_deref() == Some(&[1, height]) {
            return self.contiguous(entry);
        }
        let bytes = self.bytes(entry)?;
        let from = bytes.as_slice();
        let mut to = vec![0; height * width * size];
        // blocks keep both sides in the cache
        const BLOCK: usize = 64;
        for top in (0..height).step_by(BLOCK) {
            for left in (0..width).step_by(BLOCK) {
                for y in top..height.min(top + BLOCK) {
                    for x in left..width.min(left + BLOCK) {
                        let (a, b) = ((y * width + x) * size, (x * height + y) * size);
                        to[b..b + size].copy_from_slice(&from[a..a + size]);
                    }
                }
            }
        }
        Ok(SharedBytes::from_vec(to))
    }

    /// `(code - zero) * scale` for each group of the flattened matrix.
    pub(super) fn hqq(&self, name: &str, rows: usize, cols: usize) -> Result<(Matrix, String)> {
        let (entry, what) = self.claim(&format!("{name}.W_q"))?;
        let part = |part: &str| format!("{name}.{part}");
        let required = |field: &str| {
            self.int(&part(field))?.ok_or_else(|| Error::mismatch(format!("{what}: no {field} beside it")))
        };
        let bits = required("nbits")?;
        let bits = u32::try_from(bits).ok().filter(|b| matches!(b, 1 | 2 | 4 | 8)).ok_or_else(|| {
            unsupported(&what, format_args!("{bits} bits in HQQ's packing; 1, 2, 4 and 8 are read"))
        })?;
        if let Some(shape) = self.ints(&part("shape"))?
            && shape != [rows as i64, cols as i64]
        {
            return Err(Error::mismatch(format!("{what}: expected shape [{rows}, {cols}], found {shape:?}")));
        }
        for field in ["quant_scale", "quant_zero"] {
            if self.int(&part(field))?.is_some_and(|value| value != 0) {
                return Err(unsupported(&what, "HQQ scales that are quantised themselves"));
            }
        }
        let packing = match self.attribute(&part("packing")) {
            Some(attribute) => attribute.as_text().map(str::to_owned),
            None => self
                .ints(&part("packing"))?
                .map(|text| text.iter().map(|&c| u8::try_from(c).map_or('?', char::from)).collect()),
        };
        if let Some(packing) = packing.filter(|packing| *packing != format!("{bits}bit_u8")) {
            return Err(unsupported(&what, format_args!("HQQ packing {packing}")));
        }
        // a matrix that is stored as floats has the same bytes
        self.pass(&part("view_as_float"));
        HQQ_REST.iter().for_each(|rest| self.pass(&part(rest)));

        let count = rows * cols;
        let group = match self.int(&part("group_size"))? {
            Some(group) => usize::try_from(group).ok().filter(|&g| g > 0 && count.is_multiple_of(g)),
            None => Some(cols),
        };
        let group =
            group.ok_or_else(|| Error::mismatch(format!("{what}: group_size fits no [{rows}, {cols}]")))?;
        let groups = count / group;
        let codes = Packed { bytes: self.bytes(entry)?, bits };
        let expected = count * bits as usize / 8;
        if codes.bytes.len() != expected {
            let found = codes.bytes.len();
            return Err(Error::mismatch(format!(
                "{what}: expected {expected} bytes of codes, found {found}"
            )));
        }
        let axis = required("axis")?;
        let scale_shape = match axis {
            0 => [1, groups],
            1 => [groups, 1],
            other => return Err(Error::mismatch(format!("{what}: axis {other}, expected 0 or 1"))),
        };
        let (scales, scale_type, _) = self.floats(&part("scale"), &scale_shape)?;
        let (zeros, zero_type, _) = self.floats(&part("zero"), &scale_shape)?;
        let scale = Scales::new(scales.clone(), scale_type, 1.0);
        let zero = Scales::new(zeros, zero_type, 1.0);
        let parts = 8 / bits as usize;
        let whole = group.is_multiple_of(parts) && groups.is_multiple_of(parts);
        let matrix = if axis == 1 && cols.is_multiple_of(group) && whole {
            let bias: Vec<f32> = scale.iter().zip(zero.iter()).map(|(s, z)| -(s * z)).collect();
            let codes = SharedBytes::from_vec(codes.row_major());
            let shape = CodeShape { bits, group_size: group };
            quantized::from_affine(
                rows,
                cols,
                shape,
                codes,
                (scales, scale_type),
                Scales::from_f32(&bias),
                0.0,
            )
        } else if axis == 0 && group.is_multiple_of(parts) {
            // a group has one weight of each row: nothing but the weights themselves says that
            let value =
                |(i, code): (usize, u8)| (f32::from(code) - zero.get(i % groups)) * scale.get(i % groups);
            let values: Vec<f32> = codes.iter().enumerate().map(value).collect();
            DenseWeights::from_f32(rows, cols, &values).map(Matrix::Dense)
        } else {
            return Err(unsupported(&what, format_args!("HQQ groups of {group} in rows of {cols}")));
        };
        Ok((matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what))
    }
}

/// HQQ's codes: each byte holds one code of each of `8 / bits` equal parts of the matrix, the first part highest.
struct Packed {
    bytes: SharedBytes,
    bits: u32,
}

impl Packed {
    fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        let mask = u8::MAX >> (8 - self.bits);
        let shifts = (0..8 / self.bits).map(|part| 8 - (part + 1) * self.bits);
        shifts.flat_map(move |shift| self.bytes.as_slice().iter().map(move |byte| byte >> shift & mask))
    }

    /// The codes in the order of the matrix, the first in the lowest bits. The bytes are a multiple of the parts.
    fn row_major(&self) -> Vec<u8> {
        let mask = u8::MAX >> (8 - self.bits);
        let per_byte = (8 / self.bits) as usize;
        let mut packed = Vec::with_capacity(self.bytes.len());
        for part in 1..=8 / self.bits {
            let code = |byte: u8| byte >> (8 - part * self.bits) & mask;
            packed.extend(self.bytes.as_slice().chunks_exact(per_byte).map(|bytes| {
                bytes.iter().rev().fold(0, |all: u8, &byte| all.unbounded_shl(self.bits) | code(byte))
            }));
        }
        packed
    }
}
