//! Kernels that name instructions of x86-64.

pub(crate) mod amx;
mod amx_columns;
mod amx_dot;
pub(crate) mod amx_int16;
mod bit_tile;
pub(crate) mod columns;
mod dot;
mod int_tile;
mod lanes;
pub(crate) mod nibble;
pub(crate) mod permute;
pub(crate) mod permute_f32;
pub(crate) mod sign_dot;
mod table;
mod tile;
