use bonsai_kernels::Cpu;
use bonsai_kernels::attention::{HeadNorms, Heads, Mask, Rotation, attention_rotated};
use bonsai_kernels::gemm::Activations;
use bonsai_kernels::norm::rms_norm;
use bonsai_kernels::rope::RopePairs;
use bonsai_kernels::weights::Weights as Matrix;
use ndarray::Array2;

use super::Qwen3Config;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::nn::{Linear, TokenBuffer};
use crate::weights::Weights;

/// Qwen3 up to the last hidden state that is wanted.
#[derive(Debug)]
pub struct Qwen3 {
    config: Qwen3Config,
    embedding: Matrix,
    layers: Vec<DecoderLayer>,
    /// Loaded only when the last hidden state of all is wanted, which is the normed one.
    final_norm: Option<Vec<f32>>,
}

#[derive(Debug)]
struct DecoderLayer {
    input_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    o: Linear,
    post_attention_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl DecoderLayer {
    fn load(w: &Weights, c: &Qwen3Config) -> Result<Self> {
        let (attn, mlp) = (w.at("self_attn"), w.at("mlp"));
        let q_width = c.num_attention_heads * c.head_dim;
        let kv_width = c.num_key_value_heads * c.head_dim;
        Ok(Self {
            input_norm: w.values("input_layernorm.weight", &[c.hidden_size])?,
            q: Linear::load(&attn, "q_proj", q_width, c.hidden_size)?,
            k: Linear::load(&attn, "k_proj", kv_width, c.hidden_size)?,
            v: Linear::load(&attn, "v_proj", kv_width, c.hidden_size)?,
            q_norm: attn.values("q_norm.weight", &[c.head_dim])?,
            k_norm: attn.values("k_norm.weight", &[c.head_dim])?,
            o: Linear::load(&attn, "o_proj", c.hidden_size, q_width)?,
            post_attention_norm: w.values("post_attention_layernorm.weight", &[c.hidden_size])?,
            gate: Linear::load(&mlp, "gate_proj", c.intermediate_size, c.hidden_size)?,
            up: Linear::load(&mlp, "up_proj", c.intermediate_size, c.hidden_size)?,
            down: Linear::load(&mlp, "down_proj", c.hidden_size, c.intermediate_size)?,
        })
    }
}

/// Buffers of one pass.
struct Scratch {
    norm: TokenBuffer,
    q: TokenBuffer,
    k: TokenBuffer,
    v: TokenBuffer,
    attn: TokenBuffer,
    gate_up: TokenBuffer,
}

impl Scratch {
    fn new(cpu: &Cpu, tokens: usize, c: &Qwen3Config) -> Result<Self> {
        let zeros = |channels| TokenBuffer::zeros(cpu, tokens, channels);
        let q_width = c.num_attention_heads * c.head_dim;
        let kv_width = c.num_key_value_heads * c.head_dim;
        Ok(Self {
            norm: zeros(c.hidden_size)?,
            q: zeros(q_width)?,
            k: zeros(kv_width)?,
            v: zeros(kv_width)?,
            attn: zeros(q_width)?,
            gate_up: zeros(2 * c.intermediate_size)?,
        })
    }
}

impl Qwen3 {
    /// Loads the embedding and the layers that hidden state `last_hidden_state` needs (0 is the embedding, `n` the
    /// output of layer `n - 1`, the number of layers the normed output). What lies behind is claimed unread.
    ///
    /// # Errors
    /// When the config is unsound or a tensor is missing, left over, or of another shape or dtype.
    pub fn load(w: &Weights, config: Qwen3Config, last_hidden_state: usize) -> Result<Self> {
        config.validate()?;
        if last_hidden_state > config.num_hidden_layers {
            return Err(Error::invalid(format!(
                "hidden state {last_hidden_state} of a text encoder with {} layers",
                config.num_hidden_layers
            )));
        }
        let embedding = w.matrix("embed_tokens", config.vocab_size, config.hidden_size)?;
        let layer = |i| DecoderLayer::load(&w.at("layers").at(i), &config);
        let layers = w.parts(last_hidden_state, layer)?;
        let final_norm = if last_hidden_state == config.num_hidden_layers {
            Some(w.values("norm.weight", &[config.hidden_size])?)
        } else {
            w.skip("norm.");
            None
        };
        for layer in last_hidden_state..config.num_hidden_layers {
            w.skip(&format!("layers.{layer}."));
        }
        w.skip("lm_head.");
        w.finish()?;
        Ok(Self { config, embedding, layers, final_norm })
    }

    /// The config.
    pub fn config(&self) -> &Qwen3Config {
        &self.config
    }

    /// Layers that are loaded.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Hidden states `taps` (strictly ascending) side by side for each token: `[tokens, taps * hidden_size]`.
    ///
    /// Positions are 0, 1, .. whatever `mask` says; a token sees earlier ones whose `mask` is true.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, a tap outside the loaded layers, the work was cancelled, or memory lacks.
    ///
    /// # Panics
    /// When `ids` and `mask` differ in length.
    pub fn hidden_states(
        &self,
        cx: &mut Context<'_>,
        ids: &[u32],
        mask: &[bool],
        taps: &[usize],
    ) -> Result<TokenBuffer> {
        assert_eq!(ids.len(), mask.len(), "ids and mask");
        let c = &self.config;
        if taps.iter().any(|&tap| tap > self.layers.len()) || !taps.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid(format!(
                "hidden states {taps:?}: expected ascending numbers up to {}, the layers that are loaded",
                self.layers.len()
            )));
        }
        let mut x = TokenBuffer::zeros(cx.cpu, ids.len(), c.hidden_size)?;
        for (&id, mut row) in ids.iter().zip(x.view_mut().rows_mut()) {
            if id as usize >= c.vocab_size {
                return Err(Error::mismatch(format!(
                    "token id {id}, but the embedding has {} rows",
                    c.vocab_size
                )));
            }
            for (x, e) in row.iter_mut().zip(self.embedding.row(id as usize)) {
                *x = e;
            }
        }
        let mut states = TokenBuffer::zeros(cx.cpu, ids.len(), taps.len() * c.hidden_size)?;
        let mut keep = |state: usize, x: &TokenBuffer| {
            if let Some(i) = taps.iter().position(|&tap| tap == state) {
                let columns = i * c.hidden_size..(i + 1) * c.hidden_size;
                states.block_mut(0..ids.len(), columns).assign(&x.view());
            }
        };
        keep(0, &x);
        let (cos, sin) = rotary_angles(ids.len(), c.head_dim, c.rope_theta());
        let mut scratch = Scratch::new(cx.cpu, ids.len(), c)?;
        let needed = taps.last().copied().unwrap_or(0);
        for (i, layer) in self.layers.iter().take(needed).enumerate() {
            layer.forward(cx.cpu, c, &mut x, mask, &cos, &sin, &mut scratch)?;
            if let (true, Some(norm)) = (i + 1 == c.num_hidden_layers, &self.final_norm) {
                rms_norm(cx.cpu, x.view(), c.rms_norm_eps, norm, scratch.norm.view_mut())?;
                std::mem::swap(&mut x, &mut scratch.norm);
            }
            keep(i + 1, &x);
            cx.part_done(i + 1, needed)?;
        }
        Ok(states)
    }
}

impl DecoderLayer {
    #[expect(clippy::too_many_arguments, reason = "what one layer of the loop above needs")]
    fn forward(
        &self,
        cpu: &Cpu,
        c: &Qwen3Config,
        x: &mut TokenBuffer,
        mask: &[bool],
        cos: &Array2<f32>,
        sin: &Array2<f32>,
        s: &mut Scratch,
    ) -> Result<()> {
        rms_norm(cpu, x.view(), c.rms_norm_eps, &self.input_norm, s.norm.view_mut())?;
        let h = Activations::new(cpu, s.norm.view());
        self.q.forward(cpu, &h, s.q.view_mut())?;
        self.k.forward(cpu, &h, s.k.view_mut())?;
        self.v.forward(cpu, &h, s.v.view_mut())?;
        let heads = Heads { query: c.num_attention_heads, key_value: c.num_key_value_heads, dim: c.head_dim };
        let causal = Mask::Causal { keys: mask };
        let norms = [HeadNorms { from: 0, eps: c.rms_norm_eps, query: &self.q_norm, key: &self.k_norm }];
        let rotation =
            Rotation { norms: &norms, cos: cos.view(), sin: sin.view(), pairs: RopePairs::HalfSplit };
        let (q, k, v) = (s.q.view(), s.k.view(), s.v.view());
        attention_rotated(cpu, q, k, v, heads, causal, &rotation, s.attn.view_mut())?;
        self.o.add(cpu, s.attn.view(), x.view_mut())?;

        rms_norm(cpu, x.view(), c.rms_norm_eps, &self.post_attention_norm, s.norm.view_mut())?;
        let h = Activations::new(cpu, s.norm.view());
        let (tokens, width) = (x.tokens(), c.intermediate_size);
        self.gate.forward(cpu, &h, s.gate_up.block_mut(0..tokens, 0..width))?;
        self.up.forward(cpu, &h, s.gate_up.block_mut(0..tokens, width..2 * width))?;
        drop(h);
        self.down.forward_add(cpu, &Activations::swiglu(cpu, s.gate_up.view()), x.view_mut())
    }
}

/// Cosine and sine `[tokens, head_dim / 2]` of `position * theta^(-2i / head_dim)`. Frequency and angle are formed in
/// f32, as the reference does: at position 500 that is worth 1e-5.
fn rotary_angles(tokens: usize, head_dim: usize, theta: f64) -> (Array2<f32>, Array2<f32>) {
    let angle = |(position, i): (usize, usize)| {
        let exponent = (2 * i) as f32 / head_dim as f32;
        let frequency = 1.0 / (theta.powf(exponent.into()) as f32);
        f64::from(position as f32 * frequency)
    };
    let shape = (tokens, head_dim / 2);
    (
        Array2::from_shape_fn(shape, |at| angle(at).cos() as f32),
        Array2::from_shape_fn(shape, |at| angle(at).sin() as f32),
    )
}
