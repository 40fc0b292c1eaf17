//! Matrices and convolutions from the tensors of a checkpoint.

use std::sync::PoisonError;

use bonsai_kernels::weights::{DenseWeights, Scales, Weights as Matrix};

use super::blocks::from_blocks;
use super::dtype::Dtype;
use super::quantized::{self, CodeShape, PART_BYTES, ROUNDED};
use super::{Weights, expect_shape, gguf, not_finite};
use crate::error::{Error, ErrorKind, Result};
use crate::native::Item;
use crate::nn::Conv;

impl Weights {
    /// The matrix `[rows, cols]` of a linear or an embedding, however it is stored. `name` is that of the layer,
    /// without `.weight`.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape or dtype, or holds NaN or infinity.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let scaled = self.has(&format!("{name}.scales"));
        let native = self.native(name, rows, cols)?;
        let is_native = native.is_some();
        let (matrix, what) = if let Some(native) = native {
            native
        } else if self.has(&format!("{name}.W_q")) {
            if scaled { self.gemlite(name, rows, cols)? } else { self.hqq(name, rows, cols)? }
        } else if scaled {
            self.mlx(name, rows, cols)?
        } else {
            self.plain(name, rows, cols)?
        };
        // a native pack was checked when it was written
        if !is_native && !self.is_finite(&matrix) {
            return Err(not_finite(&what));
        }
        self.record(name, || Item::Matrix(matrix.clone()));
        self.catalog
            .kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.name(name), matrix.kind());
        if !is_native {
            self.release();
        }
        Ok(matrix)
    }

    /// As [`Matrix::is_finite`]; of what lies in the file, a part at a time is in memory.
    fn is_finite(&self, matrix: &Matrix) -> bool {
        let Matrix::Dense(dense) = matrix else { return matrix.is_finite() };
        let (stored, float_type) = (dense.stored(), dense.float_type());
        let size = stored.len() / (dense.rows() * dense.cols()).max(1);
        (0..stored.len()).step_by(PART_BYTES).all(|begin| {
            let part = begin..stored.len().min(begin + PART_BYTES);
            let values = part.len() / size.max(1);
            let part = stored.slice(part).map(|bytes| DenseWeights::new(1, values, float_type, bytes));
            let is_finite = matches!(part, Some(Ok(part)) if Matrix::Dense(part.clone()).is_finite());
            self.release();
            is_finite
        })
    }

    /// Floats, or ggml blocks.
    fn plain(&self, name: &str, rows: usize, cols: usize) -> Result<(Matrix, String)> {
        let (entry, what) = self.claim(&format!("{name}.weight"))?;
        // a 1x1 convolution is a matrix
        let is_matrix = matches!(entry.shape.as_slice(), [r, c, 1, 1] if (*r, *c) == (rows, cols));
        if !is_matrix {
            expect_shape(&what, &entry.shape, &[rows, cols])?;
        }
        let bytes = self.bytes(entry)?;
        let matrix = match &entry.dtype {
            Dtype::Float(float_type) => {
                quantized::from_dense(rows, cols, *float_type, bytes, &|| self.release())
            }
            Dtype::Block(block) => from_blocks(rows, cols, *block, bytes.as_slice(), &|| self.release())
                .ok_or_else(|| {
                    let message =
                        format!("{what}: type {} is not supported; {} are", block.name(), gguf::SUPPORTED);
                    Error::new(ErrorKind::Unsupported, message)
                })?,
            other => {
                let message = format!("{what}: expected the weights of a linear, found {other}");
                return Err(Error::mismatch(message));
            }
        };
        Ok((matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what))
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
            (&[n, words], &[m, groups]) if n == rows && m == rows => CodeShape::detect(cols, words, groups),
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
        let bias = Scales::new(biases, bias_type, 1.0);
        let matrix = quantized::from_affine(rows, cols, shape, codes, (scales, scale_type), bias, ROUNDED);
        Ok((matrix.map_err(|e| Error::mismatch(what.clone()).with_source(e))?, what))
    }

    /// A convolution `[out_channels, in_channels, kernel, kernel]` with bias.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn conv(&self, name: &str, out_channels: usize, in_channels: usize, kernel: usize) -> Result<Conv> {
        let bias = self.values(&format!("{name}.bias"), &[out_channels])?;
        self.conv_with(name, out_channels, in_channels, kernel, bias)
    }

    /// A convolution without bias.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn conv_without_bias(
        &self,
        name: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: usize,
    ) -> Result<Conv> {
        self.conv_with(name, out_channels, in_channels, kernel, vec![0.0; out_channels])
    }

    fn conv_with(
        &self,
        name: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: usize,
        bias: Vec<f32>,
    ) -> Result<Conv> {
        let shape = [out_channels, in_channels, kernel, kernel];
        let (bytes, float_type, what) = self.floats(&format!("{name}.weight"), &shape)?;
        let dense = DenseWeights::new(out_channels, in_channels * kernel * kernel, float_type, bytes.clone());
        let dense = dense.map_err(|e| Error::mismatch(what.clone()).with_source(e))?;
        if !Matrix::Dense(dense).is_finite() {
            return Err(not_finite(&what));
        }
        self.release();
        let conv = Conv { values: bytes, float_type, bias, in_channels, kernel };
        self.record(name, || Item::Conv(conv.clone()));
        Ok(conv)
    }
}
