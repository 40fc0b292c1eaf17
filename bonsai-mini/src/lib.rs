//! bonsai-mini: a small text-to-image model, really trained, with 1-bit weights in the linears that 1-bit Bonsai
//! binarises. Its files are part of the program, so it paints with no download:
//!
//! ```
//! # fn main() -> Result<(), bonsai_core::Error> {
//! let pipeline = bonsai_mini::open(&bonsai_core::PipelineOptions::default())?;
//! let request = bonsai_core::Request::new("a red maple bonsai in a blue pot at night");
//! let picture = pipeline.generate(&request)?;
//! # assert_eq!((picture.image.width(), picture.image.height()), pipeline.defaults().size);
//! # Ok(())
//! # }
//! ```
//!
//! It knows bonsai trees and little else. What it was trained on and how well it does stands in the project's
//! `models/bonsai-mini/README.md`.

#![forbid(unsafe_code)]

use std::sync::Arc;

use bonsai_core::{Error, ErrorKind, ModelSource, Pipeline, PipelineOptions, Result};

/// What the model is called in metadata.
pub const NAME: &str = "bonsai-mini";

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../model/", $name)).as_slice())),*]
    };
}

static FILES: [(&str, &[u8]); 12] = embed![
    "bonsai.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/latent_rgb.json",
];

/// The files of the model directory: name relative to it, and bytes.
pub fn files() -> &'static [(&'static str, &'static [u8])] {
    &FILES
}

/// Opens the model.
///
/// # Errors
/// When an option is out of its range, `BONSAI_ISA` names no instruction set, or memory is short.
pub fn open(options: &PipelineOptions) -> Result<Pipeline> {
    Pipeline::open_source(Arc::new(BonsaiMini::new()), options)
}

/// The embedded files as the engine reads them.
#[derive(Debug)]
pub struct BonsaiMini {
    names: Vec<String>,
}

impl BonsaiMini {
    /// The files of this crate.
    pub fn new() -> Self {
        Self { names: FILES.iter().map(|(name, _)| (*name).to_owned()).collect() }
    }
}

impl Default for BonsaiMini {
    fn default() -> Self {
        Self::new()
    }
}

fn find(name: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

impl ModelSource for BonsaiMini {
    fn name(&self) -> &str {
        NAME
    }

    fn list(&self) -> &[String] {
        &self.names
    }

    fn len(&self, name: &str) -> Option<u64> {
        find(name).map(|bytes| bytes.len() as u64)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes =
            find(name).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{NAME}: no file {name}")))?;
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(buffer.len())?))
            .ok_or_else(|| {
                let (size, length) = (bytes.len(), buffer.len());
                let what = format!("{name}: {length} bytes from {offset} of a file of {size}");
                Error::new(ErrorKind::InvalidArgument, what)
            })?;
        buffer.copy_from_slice(wanted);
        Ok(())
    }
}
