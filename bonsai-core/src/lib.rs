//! Text to image on a plain CPU.

#![deny(unsafe_code)]

mod config;
mod context;
mod error;
pub mod image;
pub mod latents;
pub mod model_dir;
pub mod nn;
pub mod noise;
pub mod pipeline;
mod request;
pub mod scheduler;
pub mod text_encoder;
pub mod tokenizer;
pub mod transformer;
pub mod vae;
pub mod weights;

pub use bonsai_kernels as kernels;
pub use context::{Context, OnPart, Probe};
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use kernels::{CancelToken, Isa, Meter};
pub use latents::Latents;
pub use pipeline::{Defaults, Event, Generated, Pipeline, PipelineOptions, PromptEmbeds, Timings};
pub use request::{MAX_SIDE, Request, Schedule};
