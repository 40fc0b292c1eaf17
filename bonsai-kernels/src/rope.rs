//! Rotary position embedding, in both pairings.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::Cpu;
use crate::error::Result;
use crate::isa::{Token, dispatch};
use crate::rows::{for_each_row_block, row_of, row_of_mut};

/// Which two channels of a head make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `(2i, 2i + 1)`, as the diffusion transformer has it.
    Interleaved,
    /// `(i, i + head_dim / 2)`, as Qwen3 has it.
    HalfSplit,
}

/// Rotates every pair of every head by its angle, in place:
/// `(a, b) -> (a cos - b sin, b cos + a sin)`.
///
/// `x`: `[tokens, heads * head_dim]`; `cos`, `sin`: `[tokens, head_dim / 2]`, one angle a pair.
///
/// # Errors
/// When the work was cancelled.
pub fn rope(
    cpu: &Cpu,
    x: ArrayViewMut2<'_, f32>,
    cos: ArrayView2<'_, f32>,
    sin: ArrayView2<'_, f32>,
    pairs: RopePairs,
) -> Result<()> {
    let head_dim = 2 * cos.ncols();
    assert!(cos.dim() == sin.dim() && cos.nrows() == x.nrows(), "angles of a rotary embedding");
    assert!(
        head_dim > 0 && x.ncols().is_multiple_of(head_dim),
        "{} channels in heads of {head_dim}",
        x.ncols()
    );
    for_each_row_block(cpu, x, |first, mut rows| {
        for i in 0..rows.nrows() {
            let (cos, sin) = (row_of(&cos, first + i), row_of(&sin, first + i));
            for head in row_of_mut(&mut rows, i).chunks_exact_mut(head_dim) {
                dispatch!(cpu.isa(), t => t.run(|| rotate(head, cos, sin, pairs)));
            }
        }
    })
}

/// Every pair of one head.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopePairs) {
    match pairs {
        RopePairs::Interleaved => interleaved(head, cos, sin),
        RopePairs::HalfSplit => half_split(head, cos, sin),
    }
}

#[inline(always)]
fn interleaved(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = head.as_chunks_mut::<2>();
    for ((pair, c), s) in pairs.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * c - b * s, b * c + a * s];
    }
}

#[inline(always)]
fn half_split(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}
