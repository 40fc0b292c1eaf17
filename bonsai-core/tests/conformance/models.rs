//! Parts of a model directory, loaded as the pipeline loads them, and the probe that records their insides.

use std::collections::BTreeMap;
use std::path::Path;

use bonsai_core::Probe;
use bonsai_core::model_dir::{ComponentFiles, ModelDir};
use bonsai_core::text_encoder::{Qwen3, Qwen3Config};
use bonsai_core::tokenizer::Tokenizer;
use bonsai_core::transformer::{Flux2Config, Flux2Transformer};
use bonsai_core::vae::{Vae, VaeConfig};
use bonsai_core::weights::{Component, Weights};
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::compare::Report;
use crate::manifest::TensorSet;

fn config<T: DeserializeOwned>(files: &ComponentFiles) -> Result<T, Failure> {
    Ok(serde_json::from_slice(&std::fs::read(files.dir.join("config.json"))?)?)
}

pub fn tokenizer(model: &Path) -> Result<Tokenizer, Failure> {
    Ok(Tokenizer::open(&ModelDir::open(model)?.tokenizer()?)?)
}

/// With every layer, so that the last hidden state can be had.
pub fn text_encoder(model: &Path) -> Result<Qwen3, Failure> {
    let files = ModelDir::open(model)?.component("text_encoder")?;
    let config: Qwen3Config = config(&files)?;
    let layers = config.num_hidden_layers;
    Ok(Qwen3::load(&Weights::open(&files.weights, Component::TextEncoder)?, config, layers)?)
}

/// The transformer in this folder; a model directory may hold several.
pub fn transformer(folder: &Path) -> Result<Flux2Transformer, Failure> {
    let role = folder.file_name().and_then(|n| n.to_str()).ok_or("a folder without a name")?;
    let files = ModelDir::open(folder.parent().ok_or("a folder without a model")?)?.component(role)?;
    Ok(Flux2Transformer::load(
        &Weights::open(&files.weights, Component::Transformer)?,
        config::<Flux2Config>(&files)?,
    )?)
}

pub fn vae(model: &Path) -> Result<Vae, Failure> {
    let files = ModelDir::open(model)?.component("vae")?;
    Ok(Vae::load(&Weights::open(&files.weights, Component::Vae)?, config::<VaeConfig>(&files)?)?)
}

/// Remembers everything that a model shows.
#[derive(Default)]
pub struct Recorder(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Probe for Recorder {
    fn record(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.0.insert(name.to_owned(), (shape.to_vec(), values));
    }
}

impl Recorder {
    /// Compares every tensor `{prefix}tap.NAME` with what was recorded as NAME.
    pub fn compare(
        &self,
        file: &TensorSet<'_>,
        prefix: &str,
        floor: f64,
        report: &mut Report,
    ) -> Result<(), Failure> {
        /// The phase of the sinusoid, up to 1000 rad, is formed in f32.
        const SINUSOID: (&str, f64) = ("time_proj", 2e-4);
        let prefix = format!("{prefix}tap.");
        for name in file.below(&prefix) {
            let want = file.get(&format!("{prefix}{name}"))?;
            match self.0.get(name) {
                // heads of a token may stand on an axis of their own
                Some((shape, _)) if shape.len() > 1 && want.shape.get(1) != shape.first() => {
                    report.fail(&want.name, format!("shape {:?} expected, {shape:?} found", want.shape));
                }
                Some((_, values)) if name.ends_with(SINUSOID.0) => report.within(want, values, SINUSOID.1),
                Some((_, values)) => report.close(want, values, floor),
                None => report.fail(&want.name, "the model shows nothing of this name"),
            }
        }
        Ok(())
    }
}
