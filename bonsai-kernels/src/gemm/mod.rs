//! Activations times weights, for every kind of weights: `y[M, N] = x[M, K] * w[N, K]^T`.

mod driver;
mod epilogue;
mod f32_kernel;
#[cfg(target_arch = "x86_64")]
mod lookup_kernel;
mod microkernel;
pub mod reference;

pub use epilogue::Epilogue;

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::Cpu;
use crate::error::Result;
use crate::isa::{Isa, dispatch};
use crate::weights::{Weights, each_kind};
use f32_kernel::F32Kernel;
#[cfg(target_arch = "x86_64")]
use lookup_kernel::LookupKernel;
use microkernel::Microkernel;

/// How activations enter a linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ActivationPrecision {
    /// As they are. The error of a result is that of an f32 sum.
    #[default]
    F32,
}

impl ActivationPrecision {
    /// All precisions.
    pub const ALL: &'static [Self] = &[Self::F32];

    /// `f32`
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }
}

/// Rows of activations `[M, K]`, prepared once for all linears that read them.
pub struct Activations {
    rows: driver::PreparedRows<f32>,
    isa: Isa,
}

impl Activations {
    /// Prepares `x` `[M, K]`, whose rows are contiguous.
    ///
    /// # Errors
    /// When the buffer can't be had, or the work was cancelled.
    pub fn prepare(cpu: &Cpu, x: ArrayView2<'_, f32>, precision: ActivationPrecision) -> Result<Self> {
        let isa = cpu.isa();
        match precision {
            ActivationPrecision::F32 => {
                // plain rows, which every kernel with f32 activations reads alike
                let rows = dispatch!(isa, t => {
                    driver::prepare::<crate::weights::DenseWeights, _>(cpu, F32Kernel(t), x)?
                });
                Ok(Self { rows, isa })
            }
        }
    }

    /// `out = epilogue(self * weights^T)`, `out` `[M, N]` with contiguous rows.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled (`out` is then partly written).
    ///
    /// # Panics
    /// When the shapes don't fit, or `cpu` has another instruction set than these rows were prepared for.
    pub fn matmul(
        &self,
        cpu: &Cpu,
        weights: &Weights,
        out: ArrayViewMut2<'_, f32>,
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        assert_eq!(self.isa, cpu.isa(), "activations were prepared for another instruction set");
        assert_eq!(self.rows.cols, weights.cols(), "inputs of a GEMM");
        with_kernel!(cpu.isa(), weights, |kernel, w| {
            driver::drive(cpu, kernel, &self.rows, w, weights.rows(), out, epilogue)
        })
    }
}

/// The one place that chooses: calls `$body` with `$kernel` bound to the microkernel for these weights on this
/// instruction set, and `$w` to the weights of whatever kind.
macro_rules! with_kernel {
    ($isa:expr, $weights:expr, |$kernel:ident, $w:ident| $body:expr) => {
        match ($isa, $weights) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(t), Weights::Binary($w)) if lookup_kernel::takes($w.group_size()) => {
                let $kernel = LookupKernel(t);
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(t), Weights::Ternary($w)) if lookup_kernel::takes($w.group_size()) => {
                let $kernel = LookupKernel(t);
                $body
            }
            (isa, weights) => dispatch!(isa, t => each_kind!(weights, $w => {
                let $kernel = F32Kernel(t);
                $body
            })),
        }
    };
}
use with_kernel;

/// `out = epilogue(x * weights^T)` for rows that only one linear reads; see [`Activations::matmul`].
///
/// # Errors
/// When a buffer can't be had, or the work was cancelled.
///
/// # Panics
/// When the shapes don't fit.
pub fn matmul(
    cpu: &Cpu,
    x: ArrayView2<'_, f32>,
    weights: &Weights,
    out: ArrayViewMut2<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    Activations::prepare(cpu, x, ActivationPrecision::F32)?.matmul(cpu, weights, out, epilogue)
}

/// Name of the kernel that multiplies these weights: instruction set, activations, method and tile.
pub fn kernel_name(isa: Isa, weights: &Weights) -> String {
    fn describe<W, K: Microkernel<W>>(isa: Isa, kernel: K, _: &W) -> String {
        format!("{}-{}-{}x{}", isa.name(), K::NAME, K::MR, kernel.width(usize::MAX))
    }
    with_kernel!(isa, weights, |kernel, w| describe(isa, kernel, w))
}
