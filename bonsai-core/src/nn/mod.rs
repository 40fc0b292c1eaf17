//! Layers with weights, and the buffers that pass between them.

mod buffer;
mod linear;

pub use buffer::{PictureBuffer, TokenBuffer};
pub use linear::Linear;
