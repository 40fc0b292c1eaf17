//! Text to image on a plain CPU: FLUX.2 Klein and 1-bit Bonsai Image, without GPU, Python or cloud.
//!
//! ```no_run
//! use bonsai_core::{Pipeline, Request};
//!
//! # fn main() -> Result<(), bonsai_core::Error> {
//! let pipeline = Pipeline::open("models/bonsai-image-4b-binary")?;
//! let request = Request::new("a bonsai in a glass jar").size(512, 512).steps(4).seed(42);
//! let picture = pipeline.generate(&request)?;
//! picture.save_png("bonsai.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Pipeline::generate`] hides nothing: the same steps are public, one by one.
//!
//! ```no_run
//! use bonsai_core::noise::NoiseSource;
//! use bonsai_core::scheduler::FlowMatchEuler;
//! use bonsai_core::{Latents, Pipeline};
//!
//! # fn main() -> Result<(), bonsai_core::Error> {
//! let pipeline = Pipeline::open("models/bonsai-image-4b-binary")?;
//! let prompt = pipeline.encode_prompt("a bonsai in a glass jar")?; // [512, 7680]
//! let mut latents = Latents::noise(NoiseSource::TorchCpu, 42, 32, 32, 128)?; // [1024, 128]
//! for step in &FlowMatchEuler::new(4, latents.tokens())? {
//!     let velocity = pipeline.velocity(&latents, &prompt, step.sigma)?;
//!     latents.advance(&velocity, step.delta())?;
//! }
//! let image = pipeline.decode(&latents)?;
//! # Ok(())
//! # }
//! ```
//!
//! The parts, in the order in which the data meets them: [`tokenizer`], [`text_encoder`], [`noise`], [`latents`],
//! [`transformer`], [`scheduler`], [`vae`], [`image`]; [`weights`] reads files, [`pipeline`] tells the story.
//! A library of this kind is a guest: it keeps no global state, prints nothing, and reads no environment variable but
//! `BONSAI_ISA`, which may lower the instruction set.

#![deny(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod component_paths;
mod config;
mod context;
mod error;
mod estimate;
pub mod image;
pub mod latents;
mod model;
pub mod model_dir;
mod model_source;
pub mod native;
pub mod nn;
pub mod noise;
mod observer;
mod options;
mod page_allocator;
pub mod pipeline;
mod preview;
mod preview_decoder;
mod prompt_cache;
mod request;
pub mod scheduler;
pub mod text_encoder;
pub mod tokenizer;
pub mod transformer;
pub mod vae;
pub mod weights;

pub use bonsai_kernels as kernels;
pub use component_paths::{ComponentPaths, FinalModulation, VaePath};
pub use context::{Context, OnPart, Probe};
pub use error::{Error, ErrorKind, Result};
pub use estimate::{Estimate, Plan, Stage, StageEstimate, estimate, estimate_source};
pub use image::Image;
pub use kernels::gemm::ActivationPrecision;
pub use kernels::{CancelToken, Isa, Meter};
pub use latents::Latents;
pub use model::Defaults;
pub use model_source::ModelSource;
pub use observer::{Observer, Preview};
pub use options::PipelineOptions;
pub use page_allocator::PageAllocator;
pub use pipeline::{Event, Generated, Pipeline, PromptEmbeds, Timings};
pub use preview::LatentRgb;
pub use request::{MAX_SIDE, Request, Schedule};
