//! Kernels that name instructions of aarch64.

mod int_tile;
mod matrix_tile;
