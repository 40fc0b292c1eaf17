//! Layers with weights, and the buffers that pass between them.

mod buffer;
mod conv;
mod linear;

pub use buffer::{PictureBuffer, TokenBuffer};
pub use conv::Conv;
pub use linear::Linear;
