//! Kernels that name instructions of x86-64.

mod bit_tile;
mod dot;
mod int16_byte_lookup;
mod int16_lookup;
mod int_tile;
mod lookup;
pub(crate) mod sign_dot;
mod tile;
