/// Shift, scale and gate of one half of a block: `y = (1 + scale) LN(x) + shift`, `x += gate * f(y)`.
#[derive(Debug, Clone)]
pub(super) struct Modulation {
    pub(super) shift: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) gate: Vec<f32>,
}

impl Modulation {
    /// From `[3 * hidden_size]` values of `linear(silu(temb))`, in the order shift, scale, gate.
    pub(super) fn of(values: &[f32], hidden_size: usize) -> Self {
        let part = |i: usize| values[i * hidden_size..(i + 1) * hidden_size].to_vec();
        Self { shift: part(0), scale: part(1), gate: part(2) }
    }

    /// The modulations of both halves of a double block, one behind the other.
    pub(super) fn halves(values: &[f32], hidden_size: usize) -> Vec<Self> {
        values.chunks_exact(3 * hidden_size).map(|half| Self::of(half, hidden_size)).collect()
    }
}
