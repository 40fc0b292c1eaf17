//! Numbers on one machine.
#![deny(unsafe_code)]

mod aligned;
mod cpu;
mod error;
mod isa;
mod threads;

pub use aligned::{ALIGN, AlignedBuf, Allocator, Element, SharedBytes, SystemAllocator};
pub use cpu::{CancelToken, Cpu, Meter};
pub use error::{KernelError, Result};
pub use isa::{Isa, OVERRIDE, Portable, Token, UnknownIsa};
#[cfg(target_arch = "x86_64")]
pub use isa::{Avx2, Avx512};
pub use threads::{ParallelFor, RayonThreads, Serial};
