//! Checkpoint words to the names that the models ask for, which are those of diffusers and transformers.

mod text_encoder;
mod transformer;
mod vae;

use std::collections::BTreeMap;

use super::dtype::Dtype;
use super::stored::StoredTensor;
use crate::component_paths::FinalModulation;
use vae::VaeNaming;

/// Which part of a pipeline a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Flux2Transformer2DModel, in diffusers' or BFL's naming.
    Transformer,
    /// Qwen3, in transformers' or llama.cpp's naming.
    TextEncoder,
    /// AutoencoderKLFlux2, in diffusers' or BFL's naming, or TAEF2.
    Vae,
}

impl Component {
    /// What a file's tensors make by their names; `None` when they are nothing that is known.
    pub fn detect(tensors: &BTreeMap<String, StoredTensor>) -> Option<Self> {
        const MARKS: [(Component, &[&str]); 3] = [
            (
                Component::Transformer,
                &["single_transformer_blocks.0.", "single_blocks.0.", "double_blocks.0."],
            ),
            (Component::TextEncoder, &["layers.0.self_attn.q_proj.", "blk.0.attn_q."]),
            (Component::Vae, &["decoder.conv_in."]),
        ];
        if Self::is_tiny_vae(tensors) {
            return Some(Self::Vae);
        }
        MARKS
            .iter()
            .find(|(_, marks)| tensors.keys().any(|name| marks.iter().any(|mark| name.contains(mark))))
            .map(|(component, _)| *component)
    }

    /// Whether a file's tensors are (a half of) TAEF2.
    pub fn is_tiny_vae(tensors: &BTreeMap<String, StoredTensor>) -> bool {
        tensors.contains_key("3.conv.0.weight") || tensors.contains_key("decoder.3.conv.0.weight")
    }

    /// How model directories call it.
    pub fn role(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text_encoder",
            Self::Vae => "vae",
        }
    }
}

/// Which rows of a stored tensor a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All.
    All,
    /// The first, second or third third: q, k and v stand in one matrix.
    Third(usize),
    /// The second half, then the first: BFL's last modulation is (shift, scale), diffusers' (scale, shift).
    SwappedHalves,
}

/// How the tensors of one file are called.
#[derive(Debug, Clone, Copy)]
pub enum Naming {
    /// Tells by itself for each name; the order of the last modulation may be stated.
    Transformer(Option<FinalModulation>),
    /// Tells by itself for each name.
    TextEncoder,
    /// One for a whole file.
    Vae(VaeNaming),
}

impl Naming {
    /// Of a file that holds (a part of) a component.
    pub fn detect(
        component: Component,
        tensors: &BTreeMap<String, StoredTensor>,
        final_modulation: Option<FinalModulation>,
    ) -> Self {
        match component {
            Component::Transformer => Self::Transformer(final_modulation),
            Component::TextEncoder => Self::TextEncoder,
            Component::Vae => Self::Vae(VaeNaming::detect(tensors)),
        }
    }

    /// The names that a stored tensor serves, with the rows of each.
    pub fn canonical(self, stored: &str, dtype: Option<&Dtype>) -> Vec<(String, Rows)> {
        match self {
            Self::Transformer(order) => {
                transformer::canonical(stored, matches!(dtype, Some(Dtype::Block(_))), order)
            }
            Self::TextEncoder => vec![(text_encoder::canonical(stored), Rows::All)],
            Self::Vae(naming) => vec![(naming.canonical(stored), Rows::All)],
        }
    }
}

/// What GGUF files of other programs call a tensor of a component, and which rows of theirs it is: BFL's names for the
/// transformer, llama.cpp's for the text encoder. `None` for names that they do not know.
pub(crate) fn in_gguf(component: Component, name: &str) -> Option<(String, Rows)> {
    match component {
        Component::Transformer => transformer::to_bfl(name),
        Component::TextEncoder => Some((text_encoder::to_gguf(name)?, Rows::All)),
        Component::Vae => None,
    }
}

fn strip_prefix<'a>(name: &'a str, prefixes: &[&str]) -> &'a str {
    prefixes.iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name)
}
