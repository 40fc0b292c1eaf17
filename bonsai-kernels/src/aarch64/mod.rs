//! Kernels that name instructions of aarch64.

mod int16_byte_lookup;
mod int_tile;
mod matrix_tile;
