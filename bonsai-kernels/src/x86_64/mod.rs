//! Kernels that name instructions of x86-64.

mod lookup;
mod tile;
