//! Activations times weights, for every kind of weights: `y[M, N] = x[M, K] * w[N, K]^T`.

mod bit_kernel;
mod bit_rows;
mod codes;
mod driver;
mod epilogue;
mod f32_kernel;
mod few_rows;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod int16_lookup_kernel;
mod int_kernel;
#[cfg(target_arch = "x86_64")]
mod lookup_kernel;
mod microkernel;
mod precision;
pub mod reference;
mod rows;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod sign_codes;

pub use epilogue::Epilogue;
pub use precision::ActivationPrecision;

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::Cpu;
use crate::error::Result;
use crate::isa::{Isa, Vectors, dispatch};
use crate::weights::{Weights, each_kind};
use bit_kernel::BitKernel;
use bit_rows::{SignBits, TritBits};
use driver::PreparedRows;
use f32_kernel::F32Kernel;
use int_kernel::IntKernel;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use int16_lookup_kernel::Int16LookupKernel;
#[cfg(target_arch = "x86_64")]
use lookup_kernel::LookupKernel;
use microkernel::Microkernel;
use rows::{Bf16Rows, Int8Rows, Int16Rows, PlainRows, RowForm};

/// Rows of activations `[M, K]`, prepared once for all linears that read them: each form that some linear needs is made
/// when the first one asks for it.
pub struct Activations<'a> {
    x: ArrayView2<'a, f32>,
    isa: Isa,
    precision: ActivationPrecision,
    forms: Mutex<Vec<(&'static str, Arc<dyn Any + Send + Sync>)>>,
}

impl<'a> Activations<'a> {
    /// Rows of `x` `[M, K]`, each contiguous, for linears with the precision of `cpu`.
    pub fn new(cpu: &Cpu, x: ArrayView2<'a, f32>) -> Self {
        Self { x, isa: cpu.isa(), precision: cpu.precision(), forms: Mutex::default() }
    }

    /// `out = epilogue(self * weights^T)`, `out` `[M, N]` with contiguous rows.
    ///
    /// # Errors
    /// When a buffer can't be had, or the work was cancelled (`out` is then partly written).
    ///
    /// # Panics
    /// When the shapes don't fit, or `cpu` has another instruction set than these rows are for.
    pub fn matmul(
        &self,
        cpu: &Cpu,
        weights: &Weights,
        out: ArrayViewMut2<'_, f32>,
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        assert_eq!(self.isa, cpu.isa(), "activations are for another instruction set");
        assert_eq!(self.x.ncols(), weights.cols(), "inputs of a GEMM");
        match weights {
            Weights::Dense(w) if self.x.nrows() <= few_rows::MOST_ROWS => {
                return few_rows::multiply_dense(cpu, self.x, w, out, epilogue);
            }
            #[cfg(target_arch = "x86_64")]
            Weights::Binary(w) if few_rows::takes_signs(self.x.nrows(), w) => {
                if let (ActivationPrecision::Int16, Vectors::Avx512(t)) = (self.precision, self.isa.vectors())
                {
                    return few_rows::multiply_signs(cpu, t, self.x, w, out, epilogue);
                }
            }
            _ => {}
        }
        with_kernel!(self.isa, self.precision, weights, |kernel, w| {
            self.multiply(cpu, kernel, w, weights.rows(), out, epilogue)
        })
    }

    fn multiply<W: Sync, K: Microkernel<W>>(
        &self,
        cpu: &Cpu,
        kernel: K,
        weights: &W,
        columns: usize,
        out: ArrayViewMut2<'_, f32>,
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        let rows = self.form::<K::Rows>(cpu)?;
        driver::drive(cpu, kernel, &rows, weights, columns, out, epilogue)
    }

    fn form<F: RowForm>(&self, cpu: &Cpu) -> Result<Arc<PreparedRows<F>>> {
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        let known = forms.iter().find(|(name, _)| *name == F::NAME);
        if let Some(rows) = known.and_then(|(_, rows)| Arc::clone(rows).downcast().ok()) {
            return Ok(rows);
        }
        let cpu = cpu.clone().with_precision(self.precision);
        let rows = Arc::new(PreparedRows::<F>::new(&cpu, self.x)?);
        forms.push((F::NAME, Arc::clone(&rows) as _));
        Ok(rows)
    }
}

/// The one place that chooses: calls `$body` with `$kernel` bound to the microkernel for these weights on this
/// instruction set with activations of this precision, and `$w` to the weights of whatever kind.
macro_rules! with_kernel {
    ($isa:expr, $precision:expr, $weights:expr, |$kernel:ident, $w:ident| $body:expr) => {{
        let (isa, weights): (Isa, &Weights) = ($isa, $weights);
        match Choice::of(isa, $precision, weights) {
            #[cfg(target_arch = "x86_64")]
            Choice::F32Lookup(t) => each_sign_kind!(weights, $w => {
                let $kernel = LookupKernel(t, PlainRows);
                $body
            }),
            #[cfg(target_arch = "x86_64")]
            Choice::Bf16Lookup(t) => each_sign_kind!(weights, $w => {
                let $kernel = LookupKernel(t, Bf16Rows);
                $body
            }),
            Choice::Bf16Fma => dispatch!(isa, t => each_code_kind!(weights, $w => {
                let $kernel = F32Kernel(t, Bf16Rows);
                $body
            })),
            #[cfg(target_arch = "x86_64")]
            Choice::Int16Lookup(t) => each_sign_kind!(weights, $w => {
                let $kernel = Int16LookupKernel(t);
                $body
            }),
            #[cfg(target_arch = "x86_64")]
            Choice::Int16WordLookup(t) => each_sign_kind!(weights, $w => {
                let $kernel = Int16LookupKernel(t);
                $body
            }),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Choice::Int16ByteLookup(t) => each_sign_kind!(weights, $w => {
                let $kernel = Int16LookupKernel(t);
                $body
            }),
            Choice::Int16Dot => with_int_kernel!(isa, weights, Int16Rows, |$kernel, $w| $body),
            Choice::Int8Dot => with_int_kernel!(isa, weights, Int8Rows::<false>, |$kernel, $w| $body),
            Choice::Int8RowDot => with_int_kernel!(isa, weights, Int8Rows::<true>, |$kernel, $w| $body),
            Choice::Int2Bits => with_bit_kernel!(isa, weights, TritBits, |$kernel, $w| $body),
            Choice::BinaryBits => with_bit_kernel!(isa, weights, SignBits, |$kernel, $w| $body),
            Choice::F32Fma => dispatch!(isa, t => each_kind!(weights, $w => {
                let $kernel = F32Kernel(t, PlainRows);
                $body
            })),
        }
    }};
}
use with_kernel;

/// Calls `$body` with `$w` bound to binary or ternary weights.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! each_sign_kind {
    ($weights:expr, $w:ident => $body:expr) => {
        match $weights {
            Weights::Binary($w) => $body,
            Weights::Ternary($w) => $body,
            _ => unreachable!("chosen for weights of signs"),
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use each_sign_kind;

/// Calls `$body` with the integer kernel of the best tile of `$isa`, and `$w` bound to weights of codes.
macro_rules! with_int_kernel {
    ($isa:expr, $weights:expr, $rows:expr, |$kernel:ident, $w:ident| $body:expr) => {
        match ($isa, $isa.vectors()) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Vnni(t), _) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16(t), _) => {
                each_code_kind!($weights, $w => { let $kernel = IntKernel(t.lower(), $rows); $body })
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::AvxVnni(t), _) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon(t), _) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            #[cfg(target_arch = "aarch64")]
            (Isa::DotProd(t), _) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            #[cfg(target_arch = "aarch64")]
            (Isa::I8mm(t), _) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            (_, Vectors::Portable(t)) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            #[cfg(target_arch = "x86_64")]
            (_, Vectors::Avx2(t)) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
            #[cfg(target_arch = "x86_64")]
            (_, Vectors::Avx512(t)) => each_code_kind!($weights, $w => { let $kernel = IntKernel(t, $rows); $body }),
        }
    };
}
use with_int_kernel;

/// Calls `$body` with the kernel of the best tile of bits of `$isa`, and `$w` bound to binary or ternary weights.
macro_rules! with_bit_kernel {
    ($isa:expr, $weights:expr, $rows:ident, |$kernel:ident, $w:ident| $body:expr) => {
        match ($isa, $isa.vectors()) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Vnni(t), _) => with_bit_tile!(t, $weights, $rows, |$kernel, $w| $body),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16(t), _) => with_bit_tile!(t.lower(), $weights, $rows, |$kernel, $w| $body),
            (_, Vectors::Portable(t)) => with_bit_tile!(t, $weights, $rows, |$kernel, $w| $body),
            #[cfg(target_arch = "x86_64")]
            (_, Vectors::Avx2(t)) => with_bit_tile!(t, $weights, $rows, |$kernel, $w| $body),
            #[cfg(target_arch = "x86_64")]
            (_, Vectors::Avx512(t)) => with_bit_tile!(t, $weights, $rows, |$kernel, $w| $body),
        }
    };
}
use with_bit_kernel;

/// The bits of activations stand in the order in which those of the weights do.
macro_rules! with_bit_tile {
    ($t:expr, $weights:expr, $rows:ident, |$kernel:ident, $w:ident| $body:expr) => {
        match $weights {
            Weights::Binary($w) => {
                let $kernel = BitKernel($t, $rows::<false>);
                $body
            }
            Weights::Ternary($w) => {
                let $kernel = BitKernel($t, $rows::<true>);
                $body
            }
            _ => unreachable!("chosen for weights of signs"),
        }
    };
}
use with_bit_tile;

/// Calls `$body` with `$w` bound to weights of codes.
macro_rules! each_code_kind {
    ($weights:expr, $w:ident => $body:expr) => {
        match $weights {
            Weights::Binary($w) => $body,
            Weights::Ternary($w) => $body,
            Weights::Int1($w) => $body,
            Weights::Int2($w) => $body,
            Weights::Int4($w) => $body,
            Weights::Int8($w) => $body,
            _ => unreachable!("chosen for weights of codes"),
        }
    };
}
use each_code_kind;

/// The kernels that there are.
enum Choice {
    #[cfg(target_arch = "x86_64")]
    F32Lookup(crate::isa::Avx512),
    #[cfg(target_arch = "x86_64")]
    Bf16Lookup(crate::isa::Avx512),
    #[cfg(target_arch = "x86_64")]
    Int16Lookup(crate::isa::Avx512Vnni),
    #[cfg(target_arch = "x86_64")]
    Int16WordLookup(crate::isa::Avx512),
    #[cfg(target_arch = "x86_64")]
    Int16ByteLookup(crate::isa::Avx2),
    #[cfg(target_arch = "aarch64")]
    Int16ByteLookup(crate::isa::Neon),
    Int16Dot,
    Int8Dot,
    Int8RowDot,
    Int2Bits,
    BinaryBits,
    Bf16Fma,
    F32Fma,
}

impl Choice {
    fn of(isa: Isa, precision: ActivationPrecision, weights: &Weights) -> Self {
        use ActivationPrecision as P;
        let Some(group_size) = weights.group_size() else { return Self::F32Fma };
        #[cfg(target_arch = "x86_64")]
        if matches!(weights, Weights::Binary(_) | Weights::Ternary(_)) {
            match (precision, isa, isa.vectors()) {
                (P::F32, _, Vectors::Avx512(t)) if lookup_kernel::takes(group_size) => {
                    return Self::F32Lookup(t);
                }
                // looking sums up outruns even dot products of bf16
                (P::Bf16, _, Vectors::Avx512(t)) if lookup_kernel::takes(group_size) => {
                    return Self::Bf16Lookup(t);
                }
                (P::Int16, Isa::Avx512Vnni(t), _) if int16_lookup_kernel::takes(group_size) => {
                    return Self::Int16Lookup(t);
                }
                (P::Int16, Isa::Avx512Bf16(t), _) if int16_lookup_kernel::takes(group_size) => {
                    return Self::Int16Lookup(t.lower());
                }
                (P::Int16, Isa::Avx512(t), _) if int16_lookup_kernel::takes(group_size) => {
                    return Self::Int16WordLookup(t);
                }
                (P::Int16, _, Vectors::Avx2(t)) if int16_lookup_kernel::takes(group_size) => {
                    return Self::Int16ByteLookup(t);
                }
                _ => {}
            }
        }
        #[cfg(target_arch = "aarch64")]
        if matches!(weights, Weights::Binary(_) | Weights::Ternary(_))
            && let (P::Int16, Some(t)) = (precision, isa.neon())
            && int16_lookup_kernel::takes(group_size)
        {
            return Self::Int16ByteLookup(t);
        }
        let signs = matches!(weights, Weights::Binary(_) | Weights::Ternary(_));
        match precision {
            P::Bf16 => Self::Bf16Fma,
            _ if !codes::takes(group_size) => Self::F32Fma,
            P::Int16 => Self::Int16Dot,
            P::Int8 => Self::Int8Dot,
            P::Int8Row => Self::Int8RowDot,
            P::Int2 if signs => Self::Int2Bits,
            P::Binary if signs => Self::BinaryBits,
            // the integers of fewer bits, as bytes
            P::Int4 | P::Int2 | P::Binary => Self::Int8Dot,
            P::F32 => Self::F32Fma,
        }
    }
}

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
    Activations::new(cpu, x).matmul(cpu, weights, out, epilogue)
}

/// Name of the kernel that multiplies these weights: instruction set, activations, method and tile.
pub fn kernel_name(isa: Isa, precision: ActivationPrecision, weights: &Weights) -> String {
    fn describe<W, K: Microkernel<W>>(isa: Isa, precision: ActivationPrecision, kernel: K, _: &W) -> String {
        // integers of fewer bits go as bytes
        let name = match K::NAME.strip_prefix("int8-") {
            Some(method) if precision != ActivationPrecision::Int8Row => {
                format!("{}-{method}", precision.name())
            }
            _ => K::NAME.to_owned(),
        };
        format!("{}-{name}-{}x{}", isa.name(), K::MR, kernel.width(usize::MAX))
    }
    with_kernel!(isa, precision, weights, |kernel, w| describe(isa, precision, kernel, w))
}
