//! Loading: from a model directory to components that fit together.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bonsai_kernels::Cpu;

use crate::config::read_json;
use crate::error::{Error, Result};
use crate::estimate::{ModelSizes, Parts, Plan};
use crate::model_dir::ModelDir;
use crate::options::PipelineOptions;
use crate::preview::LatentRgb;
use crate::preview_decoder;
use crate::request::{Schedule, token_grid};
use crate::text_encoder::{Qwen3, Qwen3Config};
use crate::tokenizer::Tokenizer;
use crate::transformer::{Flux2Config, Flux2Transformer};
use crate::vae::{Vae, VaeConfig};
use crate::weights::{Component, MappedFile, Weights};

pub(crate) const DEFAULT_MAX_SEQUENCE_LENGTH: usize = 512;
pub(crate) const DEFAULT_SIZE: (usize, usize) = (512, 512);
pub(crate) const DEFAULT_STEPS: usize = 4;

/// What a model does when a request does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Hidden states of the text encoder that make the prompt embeddings.
    pub text_encoder_out_layers: Vec<usize>,
    /// Tokens of a prompt, padding included.
    pub max_sequence_length: usize,
    /// Width and height of a picture.
    pub size: (usize, usize),
    /// Steps of a picture.
    pub steps: usize,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) defaults: Defaults,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) tokenizer_load: Duration,
    pub(crate) text_encoder: Qwen3,
    pub(crate) transformer: Flux2Transformer,
    pub(crate) vae: Vae,
    /// Stored beside the VAE, or else fitted when the first preview is asked for.
    pub(crate) latent_rgb: OnceLock<LatentRgb>,
    /// Paints previews instead of that.
    pub(crate) preview_decoder: Option<Vae>,
    /// What estimates are made from.
    pub(crate) sizes: ModelSizes,
    /// What is wrong with the files though they make a model.
    pub(crate) warnings: Vec<String>,
    /// Mapped files of text encoder, transformer and VAE.
    pub(crate) pages: [Pages; 3],
}

/// Mapped files of one component.
#[derive(Debug)]
pub(crate) struct Pages(Vec<Arc<MappedFile>>);

impl Pages {
    /// Lets them leave memory until the next picture.
    pub(crate) fn release(&self) {
        self.0.iter().for_each(|map| map.release());
    }

    /// The same, unless the plan is that they stay.
    pub(crate) fn release_by(&self, plan: Plan) {
        if !plan.keep_weights {
            self.release();
        }
    }
}

impl Model {
    /// Weights that must be prepared are, by the threads of `cpu`.
    pub(crate) fn load(dir: &ModelDir, options: &PipelineOptions, cpu: &Cpu) -> Result<Self> {
        let source = dir.files();
        let mut warnings = dir.index_warnings()?;
        let side = dir.side_file()?;
        let side_path = dir.root().join("bonsai.json");
        // only what stands in the file is blamed on it
        let in_side_file = |stated: bool| {
            let path = side_path.display().to_string();
            move |e: Error| if stated { Error::mismatch(e.to_string()).context(path) } else { e }
        };

        let files = dir.component("transformer")?;
        let weights = Weights::open_from(source, &files.weights, Component::Transformer)?.on(cpu);
        let config = files.config(source, || Flux2Config::detect(&weights))?;
        let transformer = Flux2Transformer::load(&weights, config).map_err(|e| e.context("transformer"))?;
        trace_component("transformer", &weights);
        warnings.extend(weights.warnings());
        let transformer_files = files;
        let (transformer_pages, transformer_weights) = (Pages(weights.maps()), weights);

        let files = dir.component("text_encoder")?;
        let weights = Weights::open_from(source, &files.weights, Component::TextEncoder)?.on(cpu);
        let config = files.config(source, || Qwen3Config::detect(&weights))?;
        config.validate().map_err(|e| files.blamed(e))?;
        warnings.extend(config.warnings());
        let stated = options.text_encoder_out_layers.is_none() && side.text_encoder_out_layers.is_some();
        let taps = options.text_encoder_out_layers.clone().or(side.text_encoder_out_layers);
        let taps = taps.unwrap_or_else(|| default_taps(&config));
        check_taps(&taps, &config, transformer.config()).map_err(in_side_file(stated))?;
        let stated = options.max_sequence_length.is_none() && side.max_sequence_length.is_some();
        let max_sequence_length = options.max_sequence_length.or(side.max_sequence_length);
        let max_sequence_length = max_sequence_length.unwrap_or(DEFAULT_MAX_SEQUENCE_LENGTH);
        check_length(max_sequence_length, &config).map_err(in_side_file(stated))?;
        let last = taps.last().copied().unwrap_or(0);
        let text_encoder = Qwen3::load(&weights, config, last).map_err(|e| e.context("text encoder"))?;
        trace_component("text encoder", &weights);
        let (text_encoder_pages, text_encoder_weights) = (Pages(weights.maps()), weights);

        let files = dir.component("vae")?;
        let weights = Weights::open_from(source, &files.weights, Component::Vae)?.on(cpu);
        let config = files.config(source, || VaeConfig::detect(&weights))?;
        let vae = Vae::load(&weights, config).map_err(|e| match &files.config {
            Some(_) => e.context("vae"),
            // which would have said what shapes do not
            None => e.context(format_args!("vae, without a {}", files.dir.join("config.json").display())),
        })?;
        trace_component("vae", &weights);
        let latent_rgb = OnceLock::new();
        let path = files.dir.join(LatentRgb::FILE);
        if source.exists(&path) {
            let map: LatentRgb = read_json(source, &path)?;
            map.validate(vae.config().latent_channels).map_err(|e| e.in_file(&path))?;
            // nobody else has seen the cell yet
            let _ = latent_rgb.set(map);
        }
        let vae_pages = Pages(weights.maps());
        let preview = options.preview_decoder.as_ref();
        let preview = preview.map(|path| preview_decoder::load(dir, path, vae.config())).transpose()?;
        let (produced, read) = (transformer.config().out_channels(), vae.config().token_channels());
        if produced != read || transformer.config().in_channels != read {
            return Err(Error::mismatch(format!(
                "{}: the transformer's tokens have {produced} channels, the VAE's {read}",
                dir.root().display()
            )));
        }

        source.go_on()?;
        let started = Instant::now();
        let tokenizer = Tokenizer::open_from(source, &dir.tokenizer()?)?;
        let tokenizer_load = started.elapsed();
        let (vocab, rows) = (tokenizer.vocab_size(), text_encoder.config().vocab_size);
        if vocab > rows {
            return Err(Error::mismatch(format!(
                "{}: the tokenizer has {vocab} tokens, the text encoder's embedding {rows} rows",
                dir.root().display()
            )));
        }
        let size = side.default_size.map_or(DEFAULT_SIZE, |[width, height]| (width, height));
        let grid = token_grid(size.0, size.1, vae.config().pixels_per_token())
            .map_err(|e| e.context("default_size"))
            .map_err(in_side_file(true))?;
        let steps = side.steps.unwrap_or(DEFAULT_STEPS);
        Schedule::EmpiricalMu.sigmas(steps, grid.0 * grid.1).map_err(in_side_file(true))?;
        let sizes = ModelSizes::of(&Parts {
            transformer: (&transformer_weights, transformer.config()),
            text_encoder: (&text_encoder_weights, text_encoder.config()),
            vae: (&weights, vae.config()),
            preview_decoder: preview.as_ref().map(|(weights, decoder)| (weights, decoder.config())),
            tokenizer_is_parsed: !dir.has_tokenizer_tables(),
            taps: &taps,
            max_sequence_length,
            size,
            steps,
        });
        let defaults = Defaults { text_encoder_out_layers: taps, max_sequence_length, size, steps };
        let canonical = dir.root().canonicalize().unwrap_or_else(|_| dir.root().to_owned());
        let folder = || canonical.file_name().map(|n| n.to_string_lossy().into_owned());
        // a model of single files is called after its transformer
        let file = || {
            let path = transformer_files.weights.first().filter(|_| dir.root().as_os_str().is_empty());
            path.and_then(|path| path.file_stem()).map(|n| n.to_string_lossy().into_owned())
        };
        let name = source.source_name().map(str::to_owned).or_else(file).or_else(folder);
        let name = name.unwrap_or_else(|| "model".into());
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let pages = [text_encoder_pages, transformer_pages, vae_pages];
        // what was touched for checking need not stay until its stage comes
        pages.iter().for_each(Pages::release);
        Ok(Self {
            name,
            defaults,
            tokenizer,
            tokenizer_load,
            text_encoder,
            transformer,
            vae,
            latent_rgb,
            preview_decoder: preview.map(|(_, decoder)| decoder),
            warnings,
            pages,
            sizes,
        })
    }
}

/// A quarter, a half and three quarters of the layers.
pub(crate) fn default_taps(text_encoder: &Qwen3Config) -> Vec<usize> {
    (1..=3).map(|quarter| text_encoder.num_hidden_layers * quarter / 4).collect()
}

fn trace_component(component: &str, weights: &Weights) {
    let mut kinds = std::collections::BTreeMap::<_, usize>::new();
    weights.kinds().into_values().for_each(|kind| *kinds.entry(kind).or_default() += 1);
    tracing::debug!(component, ?kinds, containers = weights.containers(), "loaded");
}

pub(crate) fn check_taps(
    taps: &[usize],
    text_encoder: &Qwen3Config,
    transformer: &Flux2Config,
) -> Result<()> {
    let layers = text_encoder.num_hidden_layers;
    if taps.is_empty() || !taps.is_sorted_by(|a, b| a < b) || taps.iter().any(|&t| t > layers) {
        return Err(Error::invalid(format!(
            "text_encoder_out_layers {taps:?}: expected ascending numbers from 0 to {layers}"
        )));
    }
    let (found, expected) = (taps.len() * text_encoder.hidden_size, transformer.joint_attention_dim);
    if found == expected {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "text_encoder_out_layers {taps:?} of a text encoder {} wide make {found} channels, the transformer reads {expected}",
        text_encoder.hidden_size
    )))
}

pub(crate) fn check_length(max_sequence_length: usize, text_encoder: &Qwen3Config) -> Result<()> {
    const LONGEST: usize = 4096;
    let longest = LONGEST.min(text_encoder.max_position_embeddings);
    if (1..=longest).contains(&max_sequence_length) {
        return Ok(());
    }
    Err(Error::invalid(format!("max_sequence_length {max_sequence_length}: expected 1 to {longest}")))
}
