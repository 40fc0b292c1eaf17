use serde::{Deserialize, Serialize};

use crate::config::expect;
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{Attribute, Weights};

/// Sizes of a Qwen3 model, as `config.json` states them.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

fn default_eps() -> f32 {
    1e-6
}

fn default_positions() -> usize {
    40960
}

/// Of the encoder that FLUX.2 Klein was trained with.
const ROPE_THETA: f64 = 1e6;

impl Qwen3Config {
    /// The config that a file of weights without one must have: the keys of a GGUF file, and the shapes.
    ///
    /// # Errors
    /// When tensors that tell the sizes are missing, or the file says that it is another architecture.
    pub fn detect(w: &Weights) -> Result<Self> {
        let architecture = w.attribute("general.architecture").and_then(Attribute::as_text);
        if let Some(other) = architecture.filter(|name| *name != "qwen3") {
            let message =
                format!("a text encoder of the architecture {other}; qwen3 is what FLUX.2 Klein reads");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let missing =
            |name: &str| Error::mismatch(format!("no config.json, and no tensor {name} to tell sizes by"));
        let rows = |name: &str| w.matrix_shape(name).map(|(rows, _)| rows).ok_or_else(|| missing(name));
        let norm =
            |name: &str| w.shape(name).and_then(|shape| shape.first()).copied().ok_or_else(|| missing(name));
        let layer = |name: &str| format!("layers.0.{name}");
        let head_dim = norm(&layer("self_attn.q_norm.weight"))?;
        expect(head_dim > 0, "head_dim", "a positive size")?;
        let number = |key: &str| w.attribute(&format!("qwen3.{key}")).and_then(Attribute::as_float);
        Ok(Self {
            vocab_size: rows("embed_tokens")?,
            hidden_size: norm(&layer("input_layernorm.weight"))?,
            intermediate_size: rows(&layer("mlp.gate_proj"))?,
            num_hidden_layers: w.count("layers"),
            num_attention_heads: rows(&layer("self_attn.q_proj"))? / head_dim,
            num_key_value_heads: rows(&layer("self_attn.k_proj"))? / head_dim,
            head_dim,
            rms_norm_eps: number("attention.layer_norm_rms_epsilon")
                .map_or_else(default_eps, |eps| eps as f32),
            max_position_embeddings: number("context_length").map_or_else(default_positions, |n| n as usize),
            rope_theta: number("rope.freq_base"),
            rope_parameters: None,
            attention_bias: false,
            hidden_act: None,
        })
    }

    /// What sets it apart from the encoder of FLUX.2 Klein though every shape fits.
    pub fn warnings(&self) -> Vec<String> {
        if self.rope_theta() == ROPE_THETA {
            return Vec::new();
        }
        vec![format!(
            "the text encoder's rope_theta is {}, that of FLUX.2 Klein's is {ROPE_THETA}: perhaps another Qwen3 of the \
             same sizes (Qwen3-4B-Instruct-2507 is one), whose embeddings the transformer was not trained on",
            self.rope_theta()
        )]
    }

    /// Base of the rotary frequencies: 1,000,000 for the encoder of FLUX.2 Klein.
    pub fn rope_theta(&self) -> f64 {
        self.rope_parameters.as_ref().and_then(|p| p.rope_theta).or(self.rope_theta).unwrap_or(ROPE_THETA)
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
