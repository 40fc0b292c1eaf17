//! Where the components of a model are, when not in its directory's folders.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// Components that are given one by one, instead of those of a model directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComponentPaths {
    /// The transformer: a file of weights or a folder.
    pub transformer: Option<PathBuf>,
    /// The text encoder: a file of weights or a folder.
    pub text_encoder: Option<PathBuf>,
    /// The VAE.
    pub vae: Option<VaePath>,
    /// The tokenizer: `tokenizer.json`, a folder that holds it, or a GGUF text encoder. It is not needed where the text
    /// encoder brings one.
    pub tokenizer: Option<PathBuf>,
    /// How the transformer's file orders its last modulation, where that is not the order of its naming.
    pub final_modulation: Option<FinalModulation>,
}

/// Order of the halves of the transformer's last modulation (`norm_out.linear`, `final_layer.adaLN_modulation.1`).
/// Diffusers writes the scale first, BFL the shift; files that were renamed from one to the other and nothing else have
/// the other's order, and nothing in them says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalModulation {
    /// The order of diffusers.
    ScaleShift,
    /// The order of BFL.
    ShiftScale,
}

impl FinalModulation {
    /// Both, with the names by which options call them.
    pub const ALL: [(&'static str, Self); 2] =
        [("scale-shift", Self::ScaleShift), ("shift-scale", Self::ShiftScale)];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(own, _)| *own == name).map(|(_, order)| order)
    }
}

/// Which VAE is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaePath {
    /// A file of weights or a folder.
    Path(PathBuf),
    /// The TAEF2 that lies in the model directory.
    Tiny,
}

impl FromStr for VaePath {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(if text == "tiny" { Self::Tiny } else { Self::Path(text.into()) })
    }
}

impl ComponentPaths {
    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing is left for a model directory to hold.
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// Roles without a path of their own that a directory would have to hold.
    fn missing(&self) -> Vec<&'static str> {
        let brings_tokenizer = self
            .text_encoder
            .as_ref()
            .is_some_and(|path| path.is_dir() || path.extension().is_some_and(|ending| ending == "gguf"));
        ["transformer", "text_encoder", "vae", "tokenizer"]
            .into_iter()
            .filter(|role| self.of(role).is_none() && !(*role == "tokenizer" && brings_tokenizer))
            .collect()
    }

    /// The path that was given for a role.
    pub(crate) fn of(&self, role: &str) -> Option<&Path> {
        match role {
            "transformer" => self.transformer.as_deref(),
            "text_encoder" => self.text_encoder.as_deref(),
            "vae" => match &self.vae {
                Some(VaePath::Path(path)) => Some(path),
                _ => None,
            },
            _ => self.tokenizer.as_deref(),
        }
    }

    pub(crate) fn expect_complete(&self) -> Result<()> {
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("no model directory, and no path for {}", missing.join(", "))))
    }
}
