use bonsai_kernels::Cpu;

use super::Flux2Config;
use crate::error::Result;
use crate::nn::TokenBuffer;

/// Rows that pass through the wide middle of a block at one time.
const MLP_ROWS: usize = 384;

/// Buffers of the denoising loop, sized once from config and token count.
#[derive(Debug)]
pub struct Scratch {
    /// The residual stream: text rows, then image rows.
    pub(super) x: TokenBuffer,
    /// Normed rows, later what a block adds.
    pub(super) norm: TokenBuffer,
    pub(super) q: TokenBuffer,
    pub(super) k: TokenBuffer,
    pub(super) v: TokenBuffer,
    pub(super) attn: TokenBuffer,
    /// `[rows, 2 * mlp_size]`: gate and linear part of some rows.
    pub(super) gate_up: TokenBuffer,
}

impl Scratch {
    /// Buffers for `tokens` rows, text and image together.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn new(cpu: &Cpu, config: &Flux2Config, tokens: usize) -> Result<Self> {
        let (hidden, mlp) = (config.hidden_size(), config.mlp_size());
        let zeros = |rows, channels| TokenBuffer::zeros(cpu, rows, channels);
        let rows = Self::mlp_rows_of(tokens);
        Ok(Self {
            x: zeros(tokens, hidden)?,
            norm: zeros(tokens, hidden)?,
            q: zeros(tokens, hidden)?,
            k: zeros(tokens, hidden)?,
            v: zeros(tokens, hidden)?,
            attn: zeros(tokens, hidden)?,
            gate_up: zeros(rows, 2 * mlp)?,
        })
    }

    /// Floats of all buffers for `tokens` rows.
    pub(crate) fn floats(config: &Flux2Config, tokens: usize) -> usize {
        let (hidden, mlp) = (config.hidden_size(), config.mlp_size());
        6 * tokens * hidden + Self::mlp_rows_of(tokens) * 2 * mlp
    }

    /// Rows that pass through the wide middle of a block at one time.
    pub(crate) fn mlp_rows_of(tokens: usize) -> usize {
        MLP_ROWS.min(tokens)
    }

    pub(super) fn tokens(&self) -> usize {
        self.x.tokens()
    }

    /// Rows that `gate_up` holds.
    pub(super) fn mlp_rows(&self) -> usize {
        self.gate_up.tokens().max(1)
    }
}
