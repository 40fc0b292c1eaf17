use serde::{Deserialize, Serialize};

use crate::config::expect;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// Sizes of a Flux2Transformer2DModel, as `config.json` states them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flux2Config {
    /// Double-stream blocks.
    pub num_layers: usize,
    /// Single-stream blocks.
    pub num_single_layers: usize,
    /// Heads of the attention.
    pub num_attention_heads: usize,
    /// Channels of one head.
    #[serde(default = "default_head_dim")]
    pub attention_head_dim: usize,
    /// Width of the prompt embeddings.
    pub joint_attention_dim: usize,
    /// Channels of a latent token.
    #[serde(default = "default_channels")]
    pub in_channels: usize,
    out_channels: Option<usize>,
    /// Width of the feed-forward part over that of the stream.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Channels of a head that each of the axes (t, h, w, l) rotates.
    #[serde(default = "default_axes")]
    pub axes_dims_rope: [usize; 4],
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Width of the timestep sinusoid.
    #[serde(default = "default_timestep_channels")]
    pub timestep_guidance_channels: usize,
    /// Epsilon of every norm.
    #[serde(default = "default_eps")]
    pub eps: f32,
    /// Whether there is a second embedder, for the guidance.
    #[serde(default)]
    pub guidance_embeds: bool,
    #[serde(default = "default_patch_size")]
    patch_size: usize,
}

fn default_head_dim() -> usize {
    128
}
fn default_channels() -> usize {
    128
}
fn default_mlp_ratio() -> f64 {
    3.0
}
fn default_axes() -> [usize; 4] {
    [32; 4]
}
fn default_theta() -> f64 {
    2000.0
}
fn default_timestep_channels() -> usize {
    256
}
fn default_eps() -> f32 {
    1e-6
}
fn default_patch_size() -> usize {
    1
}

impl Flux2Config {
    /// The config that a file of weights without one must have, from its shapes.
    ///
    /// # Errors
    /// When tensors that tell the sizes are missing.
    pub fn detect(w: &Weights) -> Result<Self> {
        let shape = |name: &str| {
            w.shape(name).ok_or_else(|| {
                Error::mismatch(format!("no config.json, and no tensor {name} to tell sizes by"))
            })
        };
        let size = |name: &str, axis: usize| {
            shape(name)?
                .get(axis)
                .copied()
                .ok_or_else(|| Error::mismatch(format!("tensor {name} is no matrix")))
        };
        let hidden = size("x_embedder.weight", 0)?;
        let norm =
            ["single_transformer_blocks.0.attn.norm_q.weight", "transformer_blocks.0.attn.norm_q.weight"];
        let head_dim = norm.iter().find_map(|n| w.shape(n)).and_then(|s| s.first().copied()).unwrap_or(0);
        expect(
            head_dim > 0 && head_dim.is_multiple_of(8) && hidden.is_multiple_of(head_dim),
            "attention_head_dim",
            "a divisor of the hidden size",
        )?;
        // F rows of linear_out's input, whatever the packing: linear_in has 2 F rows
        let rows = |name: &str| w.matrix_shape(name).map(|(rows, _)| rows);
        let fused = "single_transformer_blocks.0.attn.to_qkv_mlp_proj";
        let wide = rows("transformer_blocks.0.ff.linear_in")
            .or_else(|| rows(fused).map(|rows| rows.saturating_sub(3 * hidden)))
            .ok_or_else(|| {
                Error::mismatch(format!("no config.json, and no tensor {fused} to tell sizes by"))
            })?;
        Ok(Self {
            num_layers: w.count("transformer_blocks"),
            num_single_layers: w.count("single_transformer_blocks"),
            num_attention_heads: hidden / head_dim,
            attention_head_dim: head_dim,
            joint_attention_dim: size("context_embedder.weight", 1)?,
            in_channels: size("x_embedder.weight", 1)?,
            out_channels: Some(size("proj_out.weight", 0)?),
            mlp_ratio: wide as f64 / (2 * hidden) as f64,
            axes_dims_rope: [head_dim / 4; 4],
            rope_theta: default_theta(),
            timestep_guidance_channels: size("time_guidance_embed.timestep_embedder.linear_1.weight", 1)?,
            eps: default_eps(),
            guidance_embeds: w.has("time_guidance_embed.guidance_embedder.linear_1.weight"),
            patch_size: 1,
        })
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Width of the feed-forward part.
    pub fn mlp_size(&self) -> usize {
        (self.hidden_size() as f64 * self.mlp_ratio) as usize
    }

    /// Channels of a predicted token.
    pub fn out_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        expect((1..1 << 10).contains(&self.num_attention_heads), "num_attention_heads", "1 to 1023")?;
        expect((2..1 << 12).contains(&self.attention_head_dim), "attention_head_dim", "2 to 4095")?;
        expect(self.num_layers < 1 << 10, "num_layers", "fewer than 1024")?;
        expect(self.num_single_layers < 1 << 10, "num_single_layers", "fewer than 1024")?;
        expect((1..1 << 20).contains(&self.joint_attention_dim), "joint_attention_dim", "a positive size")?;
        expect((1..1 << 16).contains(&self.in_channels), "in_channels", "a positive size")?;
        expect((1..1 << 16).contains(&self.out_channels()), "out_channels", "a positive size")?;
        expect(self.mlp_ratio > 0.0 && self.mlp_ratio < 64.0, "mlp_ratio", "a number in 0..64")?;
        let rotated: usize = self.axes_dims_rope.iter().map(|&d| d.min(1 << 12)).sum();
        let even = self.axes_dims_rope.iter().all(|d| d.is_multiple_of(2));
        expect(
            even && rotated == self.attention_head_dim,
            "axes_dims_rope",
            "even sizes that add up to attention_head_dim",
        )?;
        expect(self.rope_theta > 1.0 && self.rope_theta.is_finite(), "rope_theta", "a number above 1")?;
        let channels = self.timestep_guidance_channels;
        expect(
            channels.is_multiple_of(2) && (2..1 << 16).contains(&channels),
            "timestep_guidance_channels",
            "an even size",
        )?;
        expect(self.eps > 0.0 && self.eps < 1.0, "eps", "a small positive number")?;
        expect(self.patch_size == 1, "patch_size", "1")
    }
}
