use bonsai_kernels::Cpu;

use crate::error::Result;
use crate::nn::Linear;

/// Shift, scale and gate of one half of a block: `y = (1 + scale) LN(x) + shift`, `x += gate * f(y)`.
#[derive(Debug, Clone)]
pub(super) struct Modulation {
    pub(super) shift: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) gate: Vec<f32>,
}

impl Modulation {
    /// Chunks of `linear(silu(temb))`, in the order shift, scale, gate for each half.
    pub(super) fn halves(values: &[f32], hidden_size: usize) -> Vec<Self> {
        values
            .chunks_exact(3 * hidden_size)
            .map(|half| Self {
                shift: half[..hidden_size].to_vec(),
                scale: half[hidden_size..2 * hidden_size].to_vec(),
                gate: half[2 * hidden_size..].to_vec(),
            })
            .collect()
    }
}

/// The modulation of one stream of all double blocks, or of all single blocks.
pub(super) fn modulate(cpu: &Cpu, linear: &Linear, silu_temb: &[f32]) -> Result<Vec<f32>> {
    linear.apply_row(cpu, silu_temb)
}
