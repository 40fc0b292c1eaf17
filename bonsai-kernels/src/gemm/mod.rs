//! Activations times weights, for every kind of weights: `y[M, N] = x[M, K] * w[N, K]^T`.

mod bit_kernel;
mod bit_rows;
mod codes;
mod driver;
mod epilogue;
mod f32_kernel;
mod few;
#[cfg(target_arch = "x86_64")]
mod few_permuted;
mod few_rows;
#[cfg(target_arch = "x86_64")]
mod few_signs;
mod int_kernel;
#[cfg(target_arch = "x86_64")]
mod matrix_kernel;
mod microkernel;
#[cfg(target_arch = "x86_64")]
mod permute_f32_kernel;
#[cfg(target_arch = "x86_64")]
mod permute_kernel;
mod precision;
pub mod reference;
mod rows;
mod source;
#[cfg(target_arch = "x86_64")]
mod split_rows;
mod table;
#[cfg(test)]
mod task_tests;

pub use epilogue::Epilogue;
pub use precision::ActivationPrecision;

use std::any::Any;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::Cpu;
use crate::error::Result;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Amx, Avx512Vnni};
use crate::isa::{Isa, Vectors, dispatch};
use crate::table::TableTile;
use crate::weights::Weights;
use bit_kernel::BitKernel;
use bit_rows::{SignBits, TritBits};
use driver::PreparedRows;
use f32_kernel::F32Kernel;
use few::Few;
use int_kernel::IntKernel;
#[cfg(target_arch = "x86_64")]
use matrix_kernel::{Bf16Codes, Int8Codes, Int16Codes, Int16Signs, MatrixKernel};
use microkernel::Microkernel;
#[cfg(target_arch = "x86_64")]
use permute_f32_kernel::PermuteF32Kernel;
#[cfg(target_arch = "x86_64")]
use permute_kernel::PermuteKernel;
#[cfg(target_arch = "x86_64")]
use rows::WideInt8Rows;
use rows::{Bf16Rows, Int8Rows, Int16Rows, PlainRows, RowForm};
use source::Source;
use table::{TableNumber, TableRows};

/// Rows of activations `[M, K]`, prepared once for all linears that read them: each form that some linear needs is made
/// when the first one asks for it.
pub struct Activations<'a> {
    rows: Source<'a>,
    isa: Isa,
    precision: ActivationPrecision,
    forms: Mutex<Forms>,
    /// Whether products of tiles outrun tables, which make the same bits, once somebody asked: for all linears, which so share a
    /// form.
    #[cfg(target_arch = "x86_64")]
    tiles_run: OnceLock<bool>,
}

/// Forms of rows by their names.
type Forms = Vec<(&'static str, Arc<dyn Any + Send + Sync>)>;

impl<'a> Activations<'a> {
    /// Rows of `x` `[M, K]`, each contiguous, for linears with the precision of `cpu`.
    pub fn new(cpu: &Cpu, x: ArrayView2<'a, f32>) -> Self {
        Self::of(cpu, Source::plain(x))
    }

    /// Rows of `x` `[M, K - F]` and beside them what [`swiglu`](crate::activation::swiglu) makes of `gate_up` `[M, 2 F]`, for
    /// linears `[N, K]`. It is made while rows are prepared, and stands nowhere.
    ///
    /// # Panics
    /// When the shapes don't fit.
    pub fn with_swiglu(cpu: &Cpu, x: ArrayView2<'a, f32>, gate_up: ArrayView2<'a, f32>) -> Self {
        Self::of(cpu, Source::with_swiglu(x, gate_up))
    }

    /// [`Activations::with_swiglu`] with nothing beside it.
    ///
    /// # Panics
    /// When the shapes don't fit.
    pub fn swiglu(cpu: &Cpu, gate_up: ArrayView2<'a, f32>) -> Self {
        let nothing =
            ArrayView2::from_shape((gate_up.nrows(), 0), &[]).expect("nothing has any number of rows");
        Self::with_swiglu(cpu, nothing, gate_up)
    }

    fn of(cpu: &Cpu, rows: Source<'a>) -> Self {
        Self {
            rows,
            isa: cpu.isa(),
            precision: cpu.precision(),
            forms: Mutex::default(),
            #[cfg(target_arch = "x86_64")]
            tiles_run: OnceLock::new(),
        }
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
        assert_eq!(self.rows.ncols(), weights.cols(), "inputs of a GEMM");
        if let Some(few) = Few::of(self.isa, self.precision, weights, self.rows.nrows()) {
            // they read rows where they stand
            let Some(x) = self.rows.standing() else {
                let x = self.rows.made(cpu)?;
                return Activations::new(cpu, x.view()).matmul(cpu, weights, out, epilogue);
            };
            return match few {
                Few::Dense(w) => few_rows::multiply_dense(cpu, x, w, out, epilogue),
                #[cfg(target_arch = "x86_64")]
                Few::Permuted(t) => each_sign_kind!(weights, w => {
                    few_permuted::multiply(cpu, t, x, w, out, epilogue)
                }),
                #[cfg(target_arch = "x86_64")]
                Few::Signs(w) => few_signs::multiply(cpu, x, w, out, epilogue),
            };
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(t) = permuted(self.isa, self.precision, weights) {
            use ActivationPrecision as P;
            let columns = weights.rows();
            return match (self.precision, weights) {
                (P::F32, Weights::Binary(w)) => {
                    self.multiply(cpu, PermuteF32Kernel(t, PlainRows), w, columns, out, epilogue)
                }
                (P::Bf16, Weights::Binary(w)) => {
                    self.multiply(cpu, PermuteF32Kernel(t, Bf16Rows), w, columns, out, epilogue)
                }
                (P::Int16, _) => each_sign_kind!(weights, w => {
                    self.multiply(cpu, PermuteKernel::new(t, Int16Rows), w, columns, out, epilogue)
                }),
                _ => each_sign_kind!(weights, w => {
                    self.multiply(cpu, PermuteKernel::new(t, WideInt8Rows), w, columns, out, epilogue)
                }),
            };
        }
        #[cfg(target_arch = "x86_64")]
        if let Some((t, choice)) = Matrix::of(self.isa, self.precision, weights)
            && match choice {
                Matrix::Int16Signs => {
                    let macs = self.rows.nrows() * weights.cols() * weights.rows();
                    // asked without a lock, for threads are asked that may wait for one
                    let known = self.tiles_run.get().copied();
                    let runs = known.unwrap_or_else(|| t.runs_somewhere(cpu, macs));
                    *self.tiles_run.get_or_init(|| runs)
                }
                _ => true,
            }
        {
            return with_matrix!(t, choice, weights, |kernel, w| {
                self.multiply(cpu, kernel, w, weights.rows(), out, epilogue)
            });
        }
        if let Some((vectors, numbers)) = tables(self.isa, self.precision, weights) {
            return with_tables!(vectors, numbers, weights, |tile, Number, w| {
                let rows = self.table_rows::<Number, _>(cpu, tile)?;
                table::multiply(cpu, tile, &rows, w, out, epilogue)
            });
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
        self.prepared(cpu, F::NAME, |cpu| PreparedRows::<F>::new(cpu, self.rows))
    }

    fn table_rows<N: TableNumber, T: TableTile<N>>(&self, cpu: &Cpu, tile: T) -> Result<Arc<TableRows<N>>> {
        self.prepared(cpu, N::TILES, |cpu| TableRows::new(cpu, tile, self.rows))
    }

    /// What `prepare` makes, which is kept under its name for the next linear.
    fn prepared<P: Send + Sync + 'static>(
        &self,
        cpu: &Cpu,
        name: &'static str,
        prepare: impl FnOnce(&Cpu) -> Result<P>,
    ) -> Result<Arc<P>> {
        fn known<P: Send + Sync + 'static>(forms: &Forms, name: &str) -> Option<Arc<P>> {
            let (_, rows) = forms.iter().find(|(known, _)| *known == name)?;
            Arc::clone(rows).downcast().ok()
        }
        let forms = || self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = known(&forms(), name) {
            return Ok(rows);
        }
        // without the lock: a thread that works on it may be given another linear of these rows by its pool, and would wait for itself
        let rows = Arc::new(prepare(&cpu.clone().with_precision(self.precision))?);
        let mut forms = forms();
        // of two that came at once, the second made it in vain
        if let Some(first) = known(&forms, name) {
            return Ok(first);
        }
        forms.push((name, Arc::clone(&rows) as _));
        Ok(rows)
    }
}

/// How products of tiles multiply.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Matrix {
    Int16Signs,
    Int16Codes,
    Int8Signs,
    Int8Codes,
    Bf16Signs,
    Bf16Codes,
}

#[cfg(target_arch = "x86_64")]
impl Matrix {
    /// If they do.
    fn of(isa: Isa, precision: ActivationPrecision, weights: &Weights) -> Option<(Amx, Self)> {
        use ActivationPrecision as P;
        let (Isa::Amx(t), Some(group_size)) = (isa, weights.group_size()) else { return None };
        let signs = matches!(weights, Weights::Binary(_) | Weights::Ternary(_));
        // whole steps make up a group
        let choice = match precision {
            _ if !table::takes(group_size) => return None,
            // tables are as fast where the unit runs freely, and faster where it is held back
            P::F32 => return None,
            P::Bf16 if signs => Self::Bf16Signs,
            P::Bf16 => Self::Bf16Codes,
            P::Int16 if signs => Self::Int16Signs,
            P::Int16 => Self::Int16Codes,
            // popcounts are faster
            P::Binary if signs => return None,
            _ if signs => Self::Int8Signs,
            _ => Self::Int8Codes,
        };
        Some((t, choice))
    }
}

/// Calls `$body` with `$kernel` bound to the kernel of tiles of this choice, and `$w` to the weights.
#[cfg(target_arch = "x86_64")]
macro_rules! with_matrix {
    ($t:expr, $choice:expr, $weights:expr, |$kernel:ident, $w:ident| $body:expr) => {
        match $choice {
            Matrix::Int16Signs => with_tiles!($t, Int16Signs, $weights, |$kernel, $w| $body),
            Matrix::Int16Codes => with_tiles!($t, Int16Codes, $weights, |$kernel, $w| $body),
            Matrix::Int8Signs => with_tiles!($t, Int8Codes::<false>, $weights, |$kernel, $w| $body),
            Matrix::Int8Codes => with_tiles!($t, Int8Codes::<true>, $weights, |$kernel, $w| $body),
            Matrix::Bf16Signs => with_tiles!($t, Bf16Codes::<false>, $weights, |$kernel, $w| $body),
            Matrix::Bf16Codes => with_tiles!($t, Bf16Codes::<true>, $weights, |$kernel, $w| $body),
        }
    };
}
#[cfg(target_arch = "x86_64")]
use with_matrix;

/// One arm of it.
#[cfg(target_arch = "x86_64")]
macro_rules! with_tiles {
    ($t:expr, $schedule:expr, $weights:expr, |$kernel:ident, $w:ident| $body:expr) => {{
        let ($kernel, $w) = (MatrixKernel($t, $schedule), $weights);
        $body
    }};
}
#[cfg(target_arch = "x86_64")]
use with_tiles;

/// The instructions by which tables in registers multiply these weights, if they do.
#[cfg(target_arch = "x86_64")]
fn permuted(isa: Isa, precision: ActivationPrecision, weights: &Weights) -> Option<Avx512Vnni> {
    let (Weights::Binary(_) | Weights::Ternary(_), Some(group_size)) = (weights, weights.group_size()) else {
        return None;
    };
    let any = weights.rows() > 0 && weights.cols() > 0;
    use ActivationPrecision as P;
    let takes =
        any && match precision {
            P::Int16 | P::Int8 | P::Int4 => true,
            // two steps of tables in memory take four inputs each
            P::F32 | P::Bf16 => matches!(weights, Weights::Binary(_)),
            _ => false,
        } && permute_kernel::takes(group_size);
    if takes { permute_kernel::fast_of(isa) } else { None }
}

/// What tables hold.
#[derive(Clone, Copy)]
enum Numbers {
    Integers,
    Floats,
}

/// The vectors and numbers of the tables that multiply these weights, if tables do.
fn tables(isa: Isa, precision: ActivationPrecision, weights: &Weights) -> Option<(Vectors, Numbers)> {
    use ActivationPrecision as P;
    let (Weights::Binary(_) | Weights::Ternary(_), Some(group_size)) = (weights, weights.group_size()) else {
        return None;
    };
    let numbers = match precision {
        P::F32 | P::Bf16 => Numbers::Floats,
        P::Int16 | P::Int8 | P::Int8Row | P::Int4 => Numbers::Integers,
        P::Int2 | P::Binary => return None,
    };
    let vectors = match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(t) if !t.holds_tables() => Vectors::Avx2(t.lower()),
        vectors => vectors,
    };
    // what has no weights has no tables either
    let any = weights.rows() > 0 && weights.cols() > 0;
    (any && table::takes(group_size)).then_some((vectors, numbers))
}

/// Calls `$body` with `$tile` bound to the token of these vectors, `$Number` to the type of these numbers, and `$w` to the
/// binary or ternary weights.
macro_rules! with_tables {
    ($vectors:expr, $numbers:expr, $weights:expr, |$tile:ident, $Number:ident, $w:ident| $body:expr) => {
        match $vectors {
            Vectors::Portable(t) => with_numbers!(t, $numbers, $weights, |$tile, $Number, $w| $body),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2(t) => with_numbers!(t, $numbers, $weights, |$tile, $Number, $w| $body),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512(t) => with_numbers!(t, $numbers, $weights, |$tile, $Number, $w| $body),
        }
    };
}
use with_tables;

/// Rows of a tile of such tables.
fn table_rows(vectors: Vectors, numbers: Numbers, weights: &Weights) -> usize {
    fn rows<N: TableNumber, T: TableTile<N>>(_: T) -> usize {
        T::ROWS
    }
    with_tables!(vectors, numbers, weights, |tile, Number, _w| rows::<Number, _>(tile))
}

/// The part of it behind the choice of vectors.
macro_rules! with_numbers {
    ($token:expr, $numbers:expr, $weights:expr, |$tile:ident, $Number:ident, $w:ident| $body:expr) => {{
        let $tile = $token;
        match $numbers {
            Numbers::Integers => {
                type $Number = i16;
                each_sign_kind!($weights, $w => $body)
            }
            Numbers::Floats => {
                type $Number = f32;
                each_sign_kind!($weights, $w => $body)
            }
        }
    }};
}
use with_numbers;

/// Chooses where tables do not: calls `$body` with `$kernel` bound to the microkernel for these weights on this
/// instruction set with activations of this precision, and `$w` to the weights of whatever kind.
macro_rules! with_kernel {
    ($isa:expr, $precision:expr, $weights:expr, |$kernel:ident, $w:ident| $body:expr) => {{
        let (isa, weights): (Isa, &Weights) = ($isa, $weights);
        match Choice::of($precision, weights) {
            Choice::Bf16Fma => dispatch!(isa, t => {
                let ($kernel, $w) = (F32Kernel(t, Bf16Rows), weights);
                $body
            }),
            Choice::Int16Dot => with_int_kernel!(isa, weights, Int16Rows, |$kernel, $w| $body),
            Choice::Int8Dot => with_int_kernel!(isa, weights, Int8Rows::<false>, |$kernel, $w| $body),
            Choice::Int8RowDot => with_int_kernel!(isa, weights, Int8Rows::<true>, |$kernel, $w| $body),
            Choice::Int2Bits => with_bit_kernel!(isa, weights, TritBits, |$kernel, $w| $body),
            Choice::BinaryBits => with_bit_kernel!(isa, weights, SignBits, |$kernel, $w| $body),
            Choice::F32Fma => dispatch!(isa, t => {
                let ($kernel, $w) = (F32Kernel(t, PlainRows), weights);
                $body
            }),
        }
    }};
}
use with_kernel;

/// Calls `$body` with `$w` bound to binary or ternary weights.
macro_rules! each_sign_kind {
    ($weights:expr, $w:ident => $body:expr) => {
        match $weights {
            Weights::Binary($w) => $body,
            Weights::Ternary($w) => $body,
            _ => unreachable!("chosen for weights of signs"),
        }
    };
}
use each_sign_kind;

/// Calls `$body` with the integer kernel of the best tile of `$isa`, and `$w` bound to weights of codes.
macro_rules! with_int_kernel {
    ($isa:expr, $weights:expr, $rows:expr, |$kernel:ident, $w:ident| $body:expr) => {
        match ($isa, $isa.vectors()) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Vnni(t), _) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16(t), _) => {
                let ($kernel, $w) = (IntKernel(t.lower(), $rows), $weights);
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx(t), _) => {
                let ($kernel, $w) = (IntKernel(t.lower().lower(), $rows), $weights);
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::AvxVnni(t), _) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon(t), _) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            #[cfg(target_arch = "aarch64")]
            (Isa::DotProd(t), _) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            #[cfg(target_arch = "aarch64")]
            (Isa::I8mm(t), _) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            (_, Vectors::Portable(t)) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (_, Vectors::Avx2(t)) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (_, Vectors::Avx512(t)) => {
                let ($kernel, $w) = (IntKernel(t, $rows), $weights);
                $body
            }
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
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx(t), _) => with_bit_tile!(t.lower().lower(), $weights, $rows, |$kernel, $w| $body),
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

/// The kernels of the driver.
enum Choice {
    Int16Dot,
    Int8Dot,
    Int8RowDot,
    Int2Bits,
    BinaryBits,
    Bf16Fma,
    F32Fma,
}

impl Choice {
    fn of(precision: ActivationPrecision, weights: &Weights) -> Self {
        use ActivationPrecision as P;
        let Some(group_size) = weights.group_size() else { return Self::F32Fma };
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

/// Name of the kernel that multiplies these weights with so many rows, as [`kernel_name`] says it of many.
pub fn kernel_name_for(isa: Isa, precision: ActivationPrecision, weights: &Weights, rows: usize) -> String {
    match Few::of(isa, precision, weights, rows) {
        Some(few) => few.name(isa),
        None => kernel_name(isa, precision, weights),
    }
}

/// Name of the kernel that multiplies these weights with many rows: instruction set, activations, method and tile. Where tiles
/// (AMX) are named for binary or ternary weights, tables multiply those of [`ActivationPrecision::Int16`], with the same result,
/// while the CPU holds the tile unit back.
pub fn kernel_name(isa: Isa, precision: ActivationPrecision, weights: &Weights) -> String {
    fn describe<W, K: Microkernel<W>>(isa: Isa, precision: ActivationPrecision, kernel: K, _: &W) -> String {
        // integers of fewer bits go as bytes
        let of_bytes = K::NAME.strip_prefix("int8-row-").or(K::NAME.strip_prefix("int8-"));
        let name = of_bytes.map_or(K::NAME.to_owned(), |method| format!("{}-{method}", precision.name()));
        format!("{}-{name}-{}x{}", isa.name(), K::MR, kernel.width(usize::MAX))
    }
    #[cfg(target_arch = "x86_64")]
    if let Some((t, choice)) = Matrix::of(isa, precision, weights) {
        return with_matrix!(t, choice, weights, |kernel, w| describe(isa, precision, kernel, w));
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(t) = permuted(isa, precision, weights) {
        return each_sign_kind!(weights, w => match precision {
            ActivationPrecision::F32 => describe(isa, precision, PermuteF32Kernel(t, PlainRows), w),
            ActivationPrecision::Bf16 => describe(isa, precision, PermuteF32Kernel(t, Bf16Rows), w),
            ActivationPrecision::Int16 => describe(isa, precision, PermuteKernel::new(t, Int16Rows), w),
            _ => describe(isa, precision, PermuteKernel::new(t, WideInt8Rows), w),
        });
    }
    if let Some((vectors, numbers)) = tables(isa, precision, weights) {
        let rows = table_rows(vectors, numbers, weights);
        return format!("{}-{}-tables-{rows}", isa.name(), precision.name());
    }
    with_kernel!(isa, precision, weights, |kernel, w| describe(isa, precision, kernel, w))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::sync::OnceLock;

    use ndarray::Array2;

    use super::{ActivationPrecision, Activations, Epilogue};
    use crate::weights::{BinaryWeights, Int4Weights, Scales, TernaryWeights, Weights};
    use crate::{Cpu, Isa, SharedBytes};

    /// Sums of 16-bit activations over a group are exact and scaled in one order, whichever kernel runs. An outlier among the
    /// inputs makes codes that do not fit joined bytes.
    #[test]
    fn tiles_make_the_bits_of_what_runs_instead() {
        let [Ok(tiles), Ok(others)] = ["amx", "avx512bf16"].map(Isa::named) else {
            println!("skipped: this CPU has no products of tiles, or may not use them");
            return;
        };
        let [cpu, without_tiles] =
            [tiles, others].map(|isa| Cpu::new(isa).with_precision(ActivationPrecision::Int16));
        for (m, n, k) in [(3, 5, 64), (33, 70, 1000), (70, 133, 6400), (230, 40, 128)] {
            let bits =
                |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
            let mut x =
                Array2::from_shape_fn((m, k), |(i, j)| bits(i * k + j) as f32 / u32::MAX as f32 - 0.4);
            x[[m / 2, k / 3]] = 200.0;
            let scales = || {
                Scales::from_f32(
                    &(0..n * k.div_ceil(128)).map(|i| bits(i) as f32 * 1e-10).collect::<Vec<_>>(),
                )
            };
            let bytes = |len: usize, mask: u8| {
                SharedBytes::from_vec((0..len).map(|i| (bits(i) >> 9) as u8 & mask).collect())
            };
            let binary = BinaryWeights::new(n, k, 128, bytes(n * k.div_ceil(8), 0xff), scales()).unwrap();
            // codes 0 and 1 in all places, and 2 in some
            let ternary = TernaryWeights::new(n, k, 128, bytes(n * k.div_ceil(4), 0x95), scales()).unwrap();
            let int4 =
                Int4Weights::new(n, k, 128, bytes(n * k.div_ceil(2), 0xff), scales(), scales()).unwrap();
            for weights in [Weights::Binary(binary), Weights::Ternary(ternary), Weights::Int4(int4)] {
                let product = |cpu: &Cpu| {
                    let mut activations = Activations::new(cpu, x.view());
                    activations.tiles_run = OnceLock::from(true);
                    let mut y = Array2::zeros((m, n));
                    activations.matmul(cpu, &weights, y.view_mut(), Epilogue::Store).unwrap();
                    y
                };
                let [tiles, others] = [&cpu, &without_tiles].map(product);
                assert_eq!(tiles, others, "{} {m}x{n}x{k}", weights.kind());
            }
        }
    }
}
