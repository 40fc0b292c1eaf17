use serde::Deserialize;

use crate::config::expect;
use crate::error::Result;

/// Sizes of a Qwen3 model, as `config.json` states them.
#[derive(Debug, Clone, Deserialize)]
pub struct Qwen3Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between gate and down projection.
    pub intermediate_size: usize,
    /// Layers of the whole model.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// Epsilon of every norm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f32,
    /// Positions that the model was made for.
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    attention_bias: bool,
    hidden_act: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

fn default_eps() -> f32 {
    1e-6
}

fn default_positions() -> usize {
    40960
}

impl Qwen3Config {
    /// Base of the rotary frequencies: 1,000,000 for the encoder of FLUX.2 Klein.
    pub fn rope_theta(&self) -> f64 {
        self.rope_parameters.as_ref().and_then(|p| p.rope_theta).or(self.rope_theta).unwrap_or(1e6)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
        ];
        for (field, size) in sizes {
            expect((1..1 << 24).contains(&size), field, "a positive size")?;
        }
        expect(self.num_hidden_layers < 1 << 12, "num_hidden_layers", "fewer than 4096 layers")?;
        expect(self.num_attention_heads < 1 << 12, "num_attention_heads", "fewer than 4096 heads")?;
        let grouped = self.num_attention_heads.is_multiple_of(self.num_key_value_heads);
        expect(grouped, "num_key_value_heads", "a divisor of num_attention_heads")?;
        let even = self.head_dim > 0 && self.head_dim.is_multiple_of(2) && self.head_dim <= 1 << 12;
        expect(even, "head_dim", "an even size of at most 4096")?;
        expect(
            self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0,
            "rms_norm_eps",
            "a small positive number",
        )?;
        expect(self.rope_theta() > 1.0 && self.rope_theta().is_finite(), "rope_theta", "a number above 1")?;
        expect(!self.attention_bias, "attention_bias", "false")?;
        let act = self.hidden_act.as_deref().unwrap_or("silu");
        expect(act == "silu", "hidden_act", "silu")
    }
}
