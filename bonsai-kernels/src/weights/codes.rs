use std::ops::Range;

use super::SizeError;
use crate::SharedBytes;

/// Packed codes of a matrix: `bits` bits a weight, least significant first, each row starting at a whole byte.
#[derive(Debug, Clone)]
pub struct CodeRows {
    bytes: SharedBytes,
    rows: usize,
    cols: usize,
    bits: u32,
    row_bytes: usize,
}

impl CodeRows {
    /// `rows` rows of `ceil(cols * bits / 8)` bytes. `bits` is 1, 2, 4, 8, 16 or 32.
    ///
    /// # Errors
    /// When `bytes` has another length.
    pub fn new(bytes: SharedBytes, rows: usize, cols: usize, bits: u32) -> Result<Self, SizeError> {
        assert!(matches!(bits, 1 | 2 | 4 | 8 | 16 | 32), "{bits} bits a code");
        let row_bytes = cols.saturating_mul(bits as usize).div_ceil(8);
        let expected = rows.saturating_mul(row_bytes);
        if bytes.len() != expected {
            return Err(SizeError { what: "codes", expected, found: bytes.len() });
        }
        Ok(Self { bytes, rows, cols, bits, row_bytes })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn bytes(&self) -> SharedBytes {
        self.bytes.clone()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The bytes of one row; empty beyond the last row.
    #[inline(always)]
    pub(crate) fn row_bytes(&self, row: usize) -> &[u8] {
        if row < self.rows { &self.bytes.as_slice()[row * self.row_bytes..][..self.row_bytes] } else { &[] }
    }

    /// Code of one weight.
    pub fn code(&self, row: usize, col: usize) -> u32 {
        let per_word = (32 / self.bits) as usize;
        let mask = if self.bits == 32 { u32::MAX } else { (1 << self.bits) - 1 };
        word(self.row_bytes(row), col / per_word) >> ((col % per_word) as u32 * self.bits) & mask
    }

    pub(crate) fn slice_rows(&self, range: Range<usize>) -> Self {
        let bytes = self.bytes.slice(range.start * self.row_bytes..range.end * self.row_bytes);
        Self {
            bytes: bytes.expect("rows were checked against the matrix"),
            rows: range.len(),
            ..self.clone()
        }
    }
}

/// Little-endian word `index` of a row; bytes beyond its end read as 0.
#[inline(always)]
pub(crate) fn word(row: &[u8], index: usize) -> u32 {
    match row.get(4 * index..4 * index + 4) {
        Some(b) => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        None => {
            let tail = row.get(4 * index..).unwrap_or(&[]);
            tail.iter().enumerate().fold(0, |word, (i, &b)| word | u32::from(b) << (8 * i))
        }
    }
}
