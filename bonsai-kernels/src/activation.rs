//! SiLU, SwiGLU and the gated residual.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::Cpu;
use crate::error::Result;
use crate::isa::{Isa, Token, dispatch};
use crate::math;
use crate::rows::{for_each_row_block, row_of, row_of_mut};

/// `x / (1 + e^-x)` of every element, in place. Within 4 ULP of the exact value.
pub fn silu(cpu: &Cpu, x: &mut [f32]) {
    dispatch!(cpu.isa(), t => t.run(|| silu_all(t, x)));
}

#[inline(always)]
pub(crate) fn silu_all<T: Token>(_: T, x: &mut [f32]) {
    for v in x {
        *v = math::silu::<T>(*v);
    }
}

/// `out = silu(gate) * linear`, where a row of `x` `[tokens, 2 F]` holds gate and linear part side by side and `out`
/// is `[tokens, F]`.
///
/// # Errors
/// When the work was cancelled.
pub fn swiglu(cpu: &Cpu, x: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) -> Result<()> {
    assert_eq!((x.nrows(), x.ncols()), (out.nrows(), 2 * out.ncols()), "shapes of a SwiGLU");
    for_each_row_block(cpu, out, |first, mut rows| {
        for i in 0..rows.nrows() {
            swiglu_to(cpu.isa(), row_of(&x, first + i), row_of_mut(&mut rows, i));
        }
    })
}

/// [`swiglu`] of one row.
pub(crate) fn swiglu_to(isa: Isa, x: &[f32], out: &mut [f32]) {
    let (gate, linear) = x.split_at(out.len());
    dispatch!(isa, t => t.run(|| swiglu_row(t, gate, linear, out)));
}

#[inline(always)]
fn swiglu_row<T: Token>(_: T, gate: &[f32], linear: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (gate, linear) = (&gate[..n], &linear[..n]);
    for i in 0..n {
        out[i] = math::silu::<T>(gate[i]) * linear[i];
    }
}

/// `x += gate * y`: `x`, `y` `[tokens, channels]`, `gate` `[channels]`.
///
/// # Errors
/// When the work was cancelled.
pub fn add_gated(cpu: &Cpu, x: ArrayViewMut2<'_, f32>, gate: &[f32], y: ArrayView2<'_, f32>) -> Result<()> {
    assert_eq!(x.dim(), y.dim(), "shapes of a gated residual");
    assert_eq!(gate.len(), x.ncols(), "length of a gate");
    for_each_row_block(cpu, x, |first, mut rows| {
        for i in 0..rows.nrows() {
            let y = row_of(&y, first + i);
            for ((x, g), y) in row_of_mut(&mut rows, i).iter_mut().zip(gate).zip(y) {
                *x += g * y;
            }
        }
    })
}
