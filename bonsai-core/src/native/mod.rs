//! Native packs: one safetensors file with all components in the layout that every kernel reads, mapped and used in
//! place; and the way there from any other form, and back.

mod convert;
mod floats;
mod gguf_names;
mod gguf_writer;
mod items;
mod pack;
mod safetensors_writer;

pub use convert::{Target, convert, convert_from};
pub(crate) use items::{Item, Recorder};
pub(crate) use pack::NativePack;
pub use pack::{PackInfo, check_digests, check_digests_with};

/// What `__metadata__` calls the format.
const FORMAT: &str = "bonsai";
/// Version of the layout.
const VERSION: &str = "1";
/// Every tensor begins at a multiple of this.
const ALIGN: usize = 64;
/// Components that have weights.
const ROLES: [&str; 3] = ["transformer", "text_encoder", "vae"];
/// The tokenizer's tables, as a tensor.
const TOKENIZER: &str = "tokenizer.tables";
