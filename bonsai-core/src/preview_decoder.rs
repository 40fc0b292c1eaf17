//! TAEF2 beside the model's own VAE, for previews as large as the picture.

use crate::component_paths::VaePath;
use crate::error::{Error, Result};
use crate::model_dir::ModelDir;
use crate::vae::{Vae, VaeConfig, is_tiny};
use crate::weights::{Component, Weights};

/// Its weights, and its config.
///
/// # Errors
/// When it is missing or unsound, is no TAEF2, or reads other latents than `vae` or makes another size of them.
pub(crate) fn open(dir: &ModelDir, path: &VaePath, vae: &VaeConfig) -> Result<(Weights, VaeConfig)> {
    let opened = || {
        let files = dir.preview_decoder(path)?;
        let weights = Weights::open_from(dir.files(), &files.weights, Component::Vae)?;
        let wrong = |message: String| match files.weights.first() {
            Some(path) => Error::mismatch(message).in_file(path),
            None => Error::mismatch(message),
        };
        if !is_tiny(&weights) {
            return Err(wrong("expected the decoder of TAEF2, found none of its tensors".to_owned()));
        }
        let config = VaeConfig::detect(&weights)?;
        let (found, expected) = (config.latent_channels, vae.latent_channels);
        if found != expected {
            return Err(wrong(format!(
                "expected {expected} latent channels, as the VAE has them, found {found}"
            )));
        }
        let (found, expected) = (config.pixels_per_token(), vae.pixels_per_token());
        if found != expected {
            return Err(wrong(format!(
                "expected tokens of {expected} pixels, as the VAE has them, found {found}"
            )));
        }
        Ok((weights, config))
    };
    opened().map_err(|e| e.context("preview decoder"))
}

/// The same, loaded.
///
/// # Errors
/// As [`open`]; also when a tensor is missing, left over, or of another shape.
pub(crate) fn load(dir: &ModelDir, path: &VaePath, vae: &VaeConfig) -> Result<(Weights, Vae)> {
    let (weights, config) = open(dir, path, vae)?;
    let decoder = Vae::load(&weights, config).map_err(|e| e.context("preview decoder"))?;
    Ok((weights, decoder))
}
