//! Numbers on one machine.
#![deny(unsafe_code)]

pub mod activation;
mod aligned;
pub mod attention;
pub mod conv2d;
mod cpu;
mod error;
pub mod gemm;
mod isa;
mod math;
pub mod norm;
mod portable;
pub mod rope;
mod rows;
mod threads;
mod tile;
pub mod weights;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use aligned::{ALIGN, AlignedBuf, Allocator, Element, SharedBytes, SystemAllocator};
pub use cpu::{CancelToken, Cpu, Meter};
pub use error::{KernelError, Result};
pub use isa::{Isa, OVERRIDE, Portable, Token, UnknownIsa};
#[cfg(target_arch = "x86_64")]
pub use isa::{Avx2, Avx512};
pub use threads::{ParallelFor, RayonThreads, Serial};
