//! Kernels that name instructions of x86-64.

mod avx2;
mod avx512;
