use crate::error::Result;
use crate::model::{DEFAULT_MAX_SEQUENCE_LENGTH, DEFAULT_SIZE, DEFAULT_STEPS, default_taps};
use crate::model_dir::ModelDir;
use crate::options::PipelineOptions;
use crate::preview_decoder;
use crate::text_encoder::Qwen3Config;
use crate::transformer::Flux2Config;
use crate::vae::{VaeConfig, tiny_decoder_width};
use crate::weights::{Component, Footprint, Weights};

/// All that an estimate is made from.
#[derive(Debug, Clone)]
pub(crate) struct ModelSizes {
    pub(super) transformer: Flux2Config,
    pub(super) text_encoder: Qwen3Config,
    pub(super) vae: VaeConfig,
    /// TAEF2 for previews, and the channels of its decoder.
    pub(super) preview_decoder: Option<(VaeConfig, usize)>,
    /// Channels of the decoder, where it is that of TAEF2.
    pub(super) tiny_decoder: Option<usize>,
    pub(super) taps: Vec<usize>,
    pub(super) max_sequence_length: usize,
    pub(super) size: (usize, usize),
    pub(super) steps: usize,
    /// Whether the tokenizer's tables are made of other files.
    pub(super) tokenizer_is_parsed: bool,
    /// Copies of weights, all components together.
    pub(super) copied: u64,
    /// The largest that is mapped of one block of the transformer.
    pub(super) block: u64,
    /// The largest matrix outside of the blocks.
    pub(super) embedder: u64,
    /// The largest that is mapped of one layer of the text encoder.
    pub(super) layer: u64,
    /// All that is mapped: the transformer, the text encoder up to the last tap, the VAE.
    pub(super) mapped: u64,
}

/// A model's weights before they are loaded, and the defaults that its side file and the options make.
pub(crate) struct Parts<'a> {
    pub(crate) transformer: (&'a Weights, &'a Flux2Config),
    pub(crate) text_encoder: (&'a Weights, &'a Qwen3Config),
    pub(crate) vae: (&'a Weights, &'a VaeConfig),
    pub(crate) preview_decoder: Option<(&'a Weights, &'a VaeConfig)>,
    pub(crate) tokenizer_is_parsed: bool,
    pub(crate) taps: &'a [usize],
    pub(crate) max_sequence_length: usize,
    pub(crate) size: (usize, usize),
    pub(crate) steps: usize,
}

impl ModelSizes {
    /// From headers and configs.
    pub(super) fn read(dir: &ModelDir, options: &PipelineOptions) -> Result<Self> {
        let (source, side) = (dir.files(), dir.side_file()?);
        let files = dir.component("transformer")?;
        let transformer = Weights::open_from(source, &files.weights, Component::Transformer)?;
        let transformer_config = files.config(source, || Flux2Config::detect(&transformer))?;
        let files = dir.component("text_encoder")?;
        let text_encoder = Weights::open_from(source, &files.weights, Component::TextEncoder)?;
        let text_encoder_config = files.config(source, || Qwen3Config::detect(&text_encoder))?;
        let files = dir.component("vae")?;
        let vae = Weights::open_from(source, &files.weights, Component::Vae)?;
        let vae_config = match tiny_decoder_width(&vae) {
            // a config beside it is that of the VAE that it stands in for
            Some(_) => VaeConfig::detect(&vae)?,
            None => files.config(source, || VaeConfig::detect(&vae))?.fitted(&vae),
        };
        transformer_config.validate()?;
        text_encoder_config.validate()?;
        vae_config.validate()?;
        let preview = options.preview_decoder.as_ref();
        let preview = preview.map(|path| preview_decoder::open(dir, path, &vae_config)).transpose()?;
        let taps = options.text_encoder_out_layers.clone().or(side.text_encoder_out_layers);
        Ok(Self::of(&Parts {
            transformer: (&transformer, &transformer_config),
            text_encoder: (&text_encoder, &text_encoder_config),
            vae: (&vae, &vae_config),
            preview_decoder: preview.as_ref().map(|(weights, config)| (weights, config)),
            tokenizer_is_parsed: !dir.has_tokenizer_tables(),
            taps: &taps.unwrap_or_else(|| default_taps(&text_encoder_config)),
            max_sequence_length: options
                .max_sequence_length
                .or(side.max_sequence_length)
                .unwrap_or(DEFAULT_MAX_SEQUENCE_LENGTH),
            size: side.default_size.map_or(DEFAULT_SIZE, |[width, height]| (width, height)),
            steps: side.steps.unwrap_or(DEFAULT_STEPS),
        }))
    }

    pub(crate) fn of(parts: &Parts<'_>) -> Self {
        let ((dit, c), (text, t), (vae, v)) = (parts.transformer, parts.text_encoder, parts.vae);
        let mut all_mapped = 0;
        // what is mapped of the largest part, what is copied of all of them
        let mut parts_of = |weights: &Weights, name: &str, count: usize| {
            (0..count).map(|i| weights.footprint(&format!("{name}.{i}."))).fold(
                Footprint::default(),
                |sum, part| {
                    all_mapped += part.mapped;
                    Footprint { mapped: sum.mapped.max(part.mapped), copied: sum.copied + part.copied }
                },
            )
        };
        let double = parts_of(dit, "transformer_blocks", c.num_layers);
        let single = parts_of(dit, "single_transformer_blocks", c.num_single_layers);
        let outside = [
            "context_embedder.",
            "double_stream_modulation_img.",
            "double_stream_modulation_txt.",
            "single_stream_modulation.",
            "norm_out.",
            "time_guidance_embed.",
        ]
        .map(|name| dit.footprint(name));
        let layers = parts.taps.last().copied().unwrap_or(0);
        let layer = parts_of(text, "layers", layers);
        let preview = parts.preview_decoder.map(|(weights, _)| weights.footprint("")).unwrap_or_default();
        let whole_vae = vae.footprint("");
        let copied = [double, single, layer, text.footprint("embed_tokens."), whole_vae, preview];
        all_mapped += whole_vae.mapped + outside.iter().map(|f| f.mapped).sum::<u64>();
        Self {
            transformer: c.clone(),
            text_encoder: t.clone(),
            vae: v.clone(),
            preview_decoder: parts
                .preview_decoder
                .and_then(|(weights, config)| Some((config.clone(), tiny_decoder_width(weights)?))),
            tiny_decoder: tiny_decoder_width(vae),
            taps: parts.taps.to_vec(),
            max_sequence_length: parts.max_sequence_length,
            size: parts.size,
            steps: parts.steps,
            tokenizer_is_parsed: parts.tokenizer_is_parsed,
            copied: copied.iter().chain(&outside).map(|f| f.copied).sum(),
            block: double.mapped.max(single.mapped),
            embedder: outside.iter().map(|f| f.mapped).max().unwrap_or(0),
            layer: layer.mapped,
            mapped: all_mapped,
        }
    }
}
