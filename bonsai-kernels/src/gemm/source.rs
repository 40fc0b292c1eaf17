//! Rows that a linear reads: as they stand, or made while they are read.

use ndarray::{Array2, ArrayView2, s};

use crate::Cpu;
use crate::activation::{swiglu, swiglu_to};
use crate::error::Result;
use crate::isa::Isa;
use crate::rows::row_of;

/// Rows `[M, K]`: those of `x` and, beside them, if there is `gate_up` `[M, 2 F]`, its SwiGLU `[M, F]`.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    x: ArrayView2<'a, f32>,
    gate_up: Option<ArrayView2<'a, f32>>,
}

impl<'a> Source<'a> {
    pub(super) fn plain(x: ArrayView2<'a, f32>) -> Self {
        Self { x, gate_up: None }
    }

    pub(super) fn with_swiglu(x: ArrayView2<'a, f32>, gate_up: ArrayView2<'a, f32>) -> Self {
        assert_eq!(x.nrows(), gate_up.nrows(), "rows beside a SwiGLU");
        assert!(gate_up.ncols().is_multiple_of(2), "gate and linear part of a SwiGLU");
        Self { x, gate_up: Some(gate_up) }
    }

    pub(crate) fn nrows(&self) -> usize {
        self.x.nrows()
    }

    pub(crate) fn ncols(&self) -> usize {
        self.x.ncols() + self.gate_up.map_or(0, |gate_up| gate_up.ncols() / 2)
    }

    /// All rows where they stand, if they stand somewhere.
    pub(super) fn standing(&self) -> Option<ArrayView2<'a, f32>> {
        self.gate_up.is_none().then_some(self.x)
    }

    /// Row `row`, in `spare` if it has to be made.
    ///
    /// # Panics
    /// When it is not contiguous.
    pub(crate) fn row<'b>(&'b self, isa: Isa, row: usize, spare: &'b mut Vec<f32>) -> &'b [f32] {
        let x = row_of(&self.x, row);
        let Some(gate_up) = &self.gate_up else { return x };
        spare.resize(self.ncols(), 0.0);
        let (left, right) = spare.split_at_mut(x.len());
        left.copy_from_slice(x);
        swiglu_to(isa, row_of(gate_up, row), right);
        spare
    }

    /// All rows, made.
    ///
    /// # Errors
    /// When the work was cancelled.
    pub(super) fn made(&self, cpu: &Cpu) -> Result<Array2<f32>> {
        let mut all = Array2::zeros((self.nrows(), self.ncols()));
        let beside = self.x.ncols();
        all.slice_mut(s![.., ..beside]).assign(&self.x);
        if let Some(gate_up) = self.gate_up {
            swiglu(cpu, gate_up, all.slice_mut(s![.., beside..]))?;
        }
        Ok(all)
    }
}
