//! Text to image on a plain CPU.

#![deny(unsafe_code)]

mod error;

pub use error::{Error, ErrorKind, Result};
