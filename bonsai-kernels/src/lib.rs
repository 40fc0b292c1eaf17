//! Numbers on one machine: what a 1-bit diffusion transformer computes with, on whatever CPU there is.
//!
//! [`Cpu`] is the handle that every operation takes: the instruction set (chosen once, at run time), the threads, the
//! source of large buffers, and a token that cancels. [`weights`] says what stored bits mean; [`gemm`] multiplies
//! activations with them; [`attention`], [`conv2d`], [`norm`], [`rope`] and [`activation`] do the rest.
//!
//! ```
//! use bonsai_kernels::gemm::{Epilogue, matmul};
//! use bonsai_kernels::weights::{BinaryWeights, Scales, Weights};
//! use bonsai_kernels::{Cpu, Isa, SharedBytes};
//! use ndarray::Array2;
//!
//! // two outputs of 128 inputs each: all +0.5, and all -0.25
//! let bits = SharedBytes::from_vec([[0xff; 16], [0x00; 16]].concat());
//! let scales = Scales::from_f32(&[0.5, 0.25]);
//! let weights = Weights::Binary(BinaryWeights::new(2, 128, 128, bits, scales)?);
//!
//! let x = Array2::from_elem((3, 128), 1.0);
//! let mut y = Array2::zeros((3, 2));
//! matmul(&Cpu::new(Isa::best()), x.view(), &weights, y.view_mut(), Epilogue::Store)?;
//! assert_eq!(y.row(2).to_vec(), [64.0, -32.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Results never depend on the number of threads. Each kernel has a plain twin (`reference` in its module) that says in
//! f64 what it should compute; `tests/parity` holds them together on every instruction set of the machine.
#![deny(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod activation;
mod aligned;
pub mod attention;
mod bit_tile;
#[cfg(test)]
mod busy;
pub mod ceiling;
pub mod conv2d;
mod cpu;
#[macro_use]
mod dot;
mod error;
pub mod gemm;
mod int_tile;
mod isa;
mod math;
pub mod norm;
mod portable;
mod prefetch;
pub mod reference;
pub mod rope;
mod rows;
mod spare;
mod table;
mod threads;
mod tile;
pub mod weights;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use aligned::{ALIGN, AlignedBuf, Allocator, Element, SharedBytes, SystemAllocator};
pub use cpu::{CancelToken, Cpu, Meter};
pub use dot::DotPrecision;
pub use error::{KernelError, Result};
#[cfg(target_arch = "x86_64")]
pub use isa::{Amx, Avx2, Avx512, Avx512Bf16, Avx512Vnni, AvxVnni};
pub use isa::{Isa, OVERRIDE, Portable, Token, UnknownIsa, Work};
pub use threads::{ParallelFor, RayonThreads, Serial};
