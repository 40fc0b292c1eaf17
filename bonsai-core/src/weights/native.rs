//! Matrices of native packs: bound where they lie, without looking at the bytes.

use bonsai_kernels::weights::{
    BinaryWeights, DenseWeights, Int1Weights, Int2Weights, Int4Weights, Int8Weights, Scales, TernaryWeights,
    Weights as Matrix,
};

use super::dtype::Dtype;
use super::{Weights, expect_shape};
use crate::error::{Error, Result};
use crate::native::{Item, Recorder};

/// Last part of the name of a matrix's codes, and bits of a code.
const KINDS: [(&str, usize); 6] =
    [("binary", 1), ("ternary", 2), ("int1", 1), ("int2", 2), ("int4", 4), ("int8", 8)];

impl Weights {
    /// The same place, remembering what is asked of it.
    pub(crate) fn recording(self) -> Self {
        self.catalog.recorder.get_or_init(Recorder::default);
        self
    }

    /// What was asked since [`Weights::recording`].
    pub(crate) fn recorded(&self) -> Vec<(String, Item)> {
        self.catalog.recorder.get().map(Recorder::take).unwrap_or_default()
    }

    pub(super) fn record(&self, name: &str, item: impl FnOnce() -> Item) {
        if let Some(recorder) = self.catalog.recorder.get() {
            recorder.push(self.name(name), item());
        }
    }

    pub(super) fn is_native(&self) -> bool {
        self.catalog.files.iter().all(|f| f.container == "native")
    }

    pub(super) fn native(&self, name: &str, rows: usize, cols: usize) -> Result<Option<(Matrix, String)>> {
        if !self.is_native() {
            return Ok(None);
        }
        let weight = format!("{name}.weight");
        if self.has(&weight) {
            let (bytes, float_type, what) = self.floats(&weight, &[rows, cols])?;
            let dense = DenseWeights::new(rows, cols, float_type, bytes).map(Matrix::Dense);
            return Ok(Some((dense.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what)));
        }
        let stored = |kind: &str| format!("{name}.{kind}");
        let Some((kind, bits)) = KINDS.into_iter().find(|(kind, _)| self.has(&stored(kind))) else {
            return Ok(None);
        };
        let (entry, what) = self.claim(&stored(kind))?;
        expect_shape(&what, &entry.shape, &[rows, (cols * bits).div_ceil(8)])?;
        if entry.dtype != Dtype::U8 {
            return Err(Error::mismatch(format!("{what}: expected U8, found {}", entry.dtype)));
        }
        let codes = self.bytes(entry)?;
        let groups = match self.shape(&stored("scales")) {
            Some(&[n, groups]) if n == rows && groups > 0 && cols.is_multiple_of(groups) => groups,
            found => {
                let message = format!("{what}: scales {found:?} are none of [{rows}, a divisor of {cols}]");
                return Err(Error::mismatch(message));
            }
        };
        let values = |part: &str| -> Result<Scales> {
            let (bytes, float_type, _) = self.floats(&stored(part), &[rows, groups])?;
            Ok(Scales::new(bytes, float_type, 1.0))
        };
        let (group, scales) = (cols / groups, values("scales")?);
        let matrix = match kind {
            "binary" => BinaryWeights::new(rows, cols, group, codes, scales).map(Matrix::Binary),
            "ternary" => TernaryWeights::new(rows, cols, group, codes, scales).map(Matrix::Ternary),
            "int1" => Int1Weights::new(rows, cols, group, codes, scales, values("biases")?).map(Matrix::Int1),
            "int2" => Int2Weights::new(rows, cols, group, codes, scales, values("biases")?).map(Matrix::Int2),
            "int4" => Int4Weights::new(rows, cols, group, codes, scales, values("biases")?).map(Matrix::Int4),
            _ => Int8Weights::new(rows, cols, group, codes, scales, values("biases")?).map(Matrix::Int8),
        };
        Ok(Some((matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what)))
    }
}
