//! The C interface of Bonsai. It holds no logic: convert, call, convert back.
//!
//! The contract of every export stands in the preamble of `include/bonsai.h`, which is made from this crate, and in
//! `docs/c-api.md`: pointers are valid for what the parameter says or null, handles came from this library and were not
//! freed. [`guard`] is the one way in: it catches panics, refuses re-entrance, and turns failures into statuses.
#![allow(non_camel_case_types, reason = "the names of the C header")]
#![allow(clippy::missing_safety_doc, reason = "one contract for all exports, above and in the header")]

mod about;
mod callbacks;
mod cancel;
mod error;
mod estimate;
mod float_mode;
mod generate;
mod guard;
mod handle;
mod host;
mod image;
#[cfg(feature = "inject-panics")]
mod inject;
mod log;
mod options;
mod pipeline;
mod reader;
mod request;
mod result;
mod slots;
mod status;
mod structs;
mod text;

pub use about::*;
pub use callbacks::*;
pub use cancel::*;
pub use error::*;
pub use estimate::*;
pub use generate::*;
pub use image::*;
#[cfg(feature = "inject-panics")]
pub use inject::*;
pub use log::*;
pub use options::*;
pub use pipeline::*;
pub use reader::*;
pub use request::*;
pub use result::*;
pub use status::*;
