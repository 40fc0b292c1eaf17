use serde::{Deserialize, Serialize};

use super::tiny;
use crate::config::expect;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// Channels and levels of TAEF2.
const TINY_CHANNELS: usize = 64;
const TINY_LEVELS: usize = 4;

/// Sizes of an AutoencoderKLFlux2, as `config.json` states them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of a picture.
    #[serde(default = "default_picture_channels")]
    pub in_channels: usize,
    /// Channels of a decoded picture.
    #[serde(default = "default_picture_channels")]
    pub out_channels: usize,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// The decoder's, where they differ.
    pub decoder_block_out_channels: Option<Vec<usize>>,
    /// Residual blocks of an encoder level; the decoder has one more.
    #[serde(default = "default_layers")]
    pub layers_per_block: usize,
    /// Channels of a latent.
    #[serde(default = "default_latent_channels")]
    pub latent_channels: usize,
    /// Groups of every group norm.
    #[serde(default = "default_groups")]
    pub norm_num_groups: usize,
    /// Side of a tile in pixels.
    #[serde(default = "default_sample_size")]
    pub sample_size: usize,
    /// Whether there is a 1x1 convolution behind the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether there is a 1x1 convolution before the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks attend.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Epsilon beside the latent variances.
    #[serde(default = "default_batch_norm_eps")]
    pub batch_norm_eps: f32,
    /// Latent pixels of one transformer token.
    #[serde(default = "default_patch_size")]
    pub patch_size: [usize; 2],
}

fn default_picture_channels() -> usize {
    3
}
fn default_layers() -> usize {
    2
}
fn default_latent_channels() -> usize {
    32
}
fn default_groups() -> usize {
    32
}
fn default_sample_size() -> usize {
    1024
}
fn size(w: &Weights, tensor: &str, axis: usize) -> Option<usize> {
    w.shape(tensor)?.get(axis).copied()
}

/// Channels of each level of the decoder, finest first.
fn decoder_channels(w: &Weights) -> Option<Vec<usize>> {
    let levels = w.count("decoder.up_blocks");
    let channels =
        (0..levels).rev().map(|i| size(w, &format!("decoder.up_blocks.{i}.resnets.0.conv1.weight"), 0));
    channels.collect::<Option<Vec<_>>>().filter(|channels| !channels.is_empty())
}

fn yes() -> bool {
    true
}
fn default_batch_norm_eps() -> f32 {
    1e-4
}
fn default_patch_size() -> [usize; 2] {
    [2, 2]
}

impl VaeConfig {
    /// The config that a file of weights without one must have, from its shapes.
    ///
    /// # Errors
    /// When tensors that tell the sizes are missing.
    pub fn detect(w: &Weights) -> Result<Self> {
        if tiny::is_tiny(w) {
            return Ok(Self::with_channels(vec![TINY_CHANNELS; TINY_LEVELS], tiny::latent_channels(w)?));
        }
        let missing =
            |name: &str| Error::mismatch(format!("no config.json, and no tensor {name} to tell sizes by"));
        let decoder =
            decoder_channels(w).ok_or_else(|| missing("decoder.up_blocks.0.resnets.0.conv1.weight"))?;
        let encoder: Option<Vec<usize>> = (0..w.count("encoder.down_blocks"))
            .map(|i| size(w, &format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0))
            .collect();
        let encoder = encoder.filter(|channels| !channels.is_empty());
        let conv_in = "decoder.conv_in.weight";
        let latent = size(w, conv_in, 1).ok_or_else(|| missing(conv_in))?;
        Ok(Self {
            layers_per_block: w.count("decoder.up_blocks.0.resnets").saturating_sub(1),
            use_quant_conv: w.has("quant_conv.weight"),
            use_post_quant_conv: w.has("post_quant_conv.weight"),
            mid_block_add_attention: w.count("decoder.mid_block.attentions") > 0,
            decoder_block_out_channels: Some(decoder.clone()),
            ..Self::with_channels(encoder.unwrap_or(decoder), latent)
        })
    }

    fn with_channels(block_out_channels: Vec<usize>, latent_channels: usize) -> Self {
        Self {
            in_channels: default_picture_channels(),
            out_channels: default_picture_channels(),
            block_out_channels,
            decoder_block_out_channels: None,
            layers_per_block: default_layers(),
            latent_channels,
            norm_num_groups: default_groups(),
            sample_size: default_sample_size(),
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            batch_norm_eps: default_batch_norm_eps(),
            patch_size: default_patch_size(),
        }
    }

    /// The same with the decoder's channels as the file has them: configs of small decoders do not always say.
    pub(crate) fn fitted(self, w: &Weights) -> Self {
        let decoder_block_out_channels = decoder_channels(w).or(self.decoder_block_out_channels);
        Self { decoder_block_out_channels, ..self }
    }

    /// Channels of each decoder level, finest first.
    pub fn decoder_channels(&self) -> &[usize] {
        self.decoder_block_out_channels.as_deref().unwrap_or(&self.block_out_channels)
    }

    /// Pixels of a picture for each token, in one direction: 16 with the four levels of FLUX.2.
    pub fn pixels_per_token(&self) -> usize {
        self.patch_size[0] << (self.block_out_channels.len() - 1)
    }

    /// Channels of one transformer token.
    pub fn token_channels(&self) -> usize {
        self.latent_channels * self.patch_size[0] * self.patch_size[1]
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let groups = self.norm_num_groups;
        expect((1..1 << 12).contains(&groups), "norm_num_groups", "a positive number")?;
        let sound = |channels: &[usize]| {
            (1..=8).contains(&channels.len())
                && channels.iter().all(|&c| (1..1 << 14).contains(&c) && c.is_multiple_of(groups))
        };
        expect(sound(&self.block_out_channels), "block_out_channels", "1 to 8 multiples of norm_num_groups")?;
        let decoder = self.decoder_channels();
        expect(sound(decoder), "decoder_block_out_channels", "1 to 8 multiples of norm_num_groups")?;
        let same = decoder.len() == self.block_out_channels.len();
        expect(same, "decoder_block_out_channels", "as many levels as block_out_channels")?;
        expect((1..=16).contains(&self.layers_per_block), "layers_per_block", "1 to 16")?;
        expect((1..1 << 10).contains(&self.latent_channels), "latent_channels", "1 to 1023")?;
        expect((1..=16).contains(&self.in_channels), "in_channels", "1 to 16")?;
        expect(self.out_channels == 3, "out_channels", "3")?;
        expect((1..1 << 16).contains(&self.sample_size), "sample_size", "a positive size")?;
        expect(self.patch_size == [2, 2], "patch_size", "[2, 2]")?;
        expect(self.batch_norm_eps >= 0.0 && self.batch_norm_eps < 1.0, "batch_norm_eps", "a small number")
    }
}
