use std::ops::Range;

use bonsai_kernels::Cpu;
use bonsai_kernels::gemm::{Activations, Epilogue};
use bonsai_kernels::weights::Weights as Matrix;
use ndarray::{ArrayView2, ArrayViewMut2};

use crate::error::Result;
use crate::weights::Weights;

/// `y = x W^T (+ bias)`, whatever `W` is stored as.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads `name.weight` `[out_features, in_features]`, or its packed form.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load(w: &Weights, name: &str, out_features: usize, in_features: usize) -> Result<Self> {
        Ok(Self { weights: w.matrix(name, out_features, in_features)?, bias: None })
    }

    /// The same with `name.bias`.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load_with_bias(w: &Weights, name: &str, out_features: usize, in_features: usize) -> Result<Self> {
        let bias = w.values(&format!("{name}.bias"), &[out_features])?;
        Ok(Self { bias: Some(bias), ..Self::load(w, name, out_features, in_features)? })
    }

    /// The linear that makes only these outputs; it shares the weights.
    #[must_use]
    pub fn outputs(&self, range: Range<usize>) -> Self {
        let bias = self.bias.as_ref().map(|b| b[range.clone()].to_vec());
        Self { weights: self.weights.slice_rows(range), bias }
    }

    /// Width of the result.
    pub fn out_features(&self) -> usize {
        self.weights.rows()
    }

    /// How the weights are stored.
    pub fn kind(&self) -> &'static str {
        self.weights.kind()
    }

    /// `out = self(x)` for rows that several linears read.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled.
    pub fn forward(&self, cpu: &Cpu, x: &Activations, out: ArrayViewMut2<'_, f32>) -> Result<()> {
        let epilogue = self.bias.as_deref().map_or(Epilogue::Store, Epilogue::Bias);
        Ok(x.matmul(cpu, &self.weights, out, epilogue)?)
    }

    /// `out += self(x)`, likewise.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_add(&self, cpu: &Cpu, x: &Activations, out: ArrayViewMut2<'_, f32>) -> Result<()> {
        let epilogue = self.bias.as_deref().map_or(Epilogue::Add, Epilogue::AddBias);
        Ok(x.matmul(cpu, &self.weights, out, epilogue)?)
    }

    /// `out += gate * self(x)`, likewise, with a factor for each output. There must be no bias.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_add_gated(
        &self,
        cpu: &Cpu,
        x: &Activations,
        gate: &[f32],
        out: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        assert!(self.bias.is_none(), "a gated linear has no bias");
        Ok(x.matmul(cpu, &self.weights, out, Epilogue::AddGated(gate))?)
    }

    /// `out = self(x)`.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled.
    pub fn apply(&self, cpu: &Cpu, x: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) -> Result<()> {
        self.forward(cpu, &Activations::new(cpu, x), out)
    }

    /// `out += self(x)`.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled.
    pub fn add(&self, cpu: &Cpu, x: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) -> Result<()> {
        self.forward_add(cpu, &Activations::new(cpu, x), out)
    }

    /// `self(x)` of one row.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled.
    pub fn apply_row(&self, cpu: &Cpu, x: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.out_features()];
        self.apply(cpu, row(x), row_mut(&mut out))?;
        Ok(out)
    }
}

fn row(x: &[f32]) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((1, x.len()), x).expect("a row is as long as it is")
}

fn row_mut(x: &mut [f32]) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((1, x.len()), x).expect("a row is as long as it is")
}
