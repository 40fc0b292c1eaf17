use std::ops::Range;

use bonsai_kernels::Cpu;
use bonsai_kernels::activation::add_gated;
use bonsai_kernels::attention::{HeadNorms, Heads, Mask, Rotation, attention_rotated};
use bonsai_kernels::gemm::Activations;
use bonsai_kernels::norm::{layer_norm_modulate, rms_norm_heads};
use bonsai_kernels::rope::RopePairs;
use ndarray::ArrayViewMut2;

use super::modulation::Modulation;
use super::{Flux2Config, Rope, Scratch};
use crate::context::Context;
use crate::error::Result;
use crate::nn::Linear;
use crate::weights::Weights;

/// Text and image keep their own weights and meet in the attention.
#[derive(Debug)]
pub(super) struct DoubleStreamBlock {
    txt: Stream,
    img: Stream,
}

/// One stream's half of a block.
#[derive(Debug)]
struct Stream {
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    out: Linear,
    linear_in: Linear,
    linear_out: Linear,
    names: &'static StreamNames,
}

/// What diffusers calls the parts of a stream.
#[derive(Debug)]
struct StreamNames {
    stream: &'static str,
    qkv: [&'static str; 3],
    norms: [&'static str; 2],
    out: &'static str,
    ff: &'static str,
}

const IMG: StreamNames = StreamNames {
    stream: "img",
    qkv: ["to_q", "to_k", "to_v"],
    norms: ["norm_q", "norm_k"],
    out: "to_out.0",
    ff: "ff",
};

const TXT: StreamNames = StreamNames {
    stream: "txt",
    qkv: ["add_q_proj", "add_k_proj", "add_v_proj"],
    norms: ["norm_added_q", "norm_added_k"],
    out: "to_add_out",
    ff: "ff_context",
};

/// Modulations of attention and feed-forward part, for each stream.
#[derive(Debug)]
pub(super) struct DoubleModulation {
    pub(super) txt: Vec<Modulation>,
    pub(super) img: Vec<Modulation>,
}

impl Stream {
    fn load(w: &Weights, c: &Flux2Config, names: &'static StreamNames) -> Result<Self> {
        let (hidden, mlp) = (c.hidden_size(), c.mlp_size());
        let (attn, ff) = (w.at("attn"), w.at(names.ff));
        let square = |name| Linear::load(&attn, name, hidden, hidden);
        let norm = |name| attn.values(&format!("{name}.weight"), &[c.attention_head_dim]);
        Ok(Self {
            q: square(names.qkv[0])?,
            k: square(names.qkv[1])?,
            v: square(names.qkv[2])?,
            q_norm: norm(names.norms[0])?,
            k_norm: norm(names.norms[1])?,
            out: square(names.out)?,
            linear_in: Linear::load(&ff, "linear_in", 2 * mlp, hidden)?,
            linear_out: Linear::load(&ff, "linear_out", hidden, mlp)?,
            names,
        })
    }

    /// Normed rows of this stream to its rows of q, k and v, whose heads the attention norms; for who probes, they are normed here.
    fn project(
        &self,
        cx: &mut Context<'_>,
        c: &Flux2Config,
        s: &mut Scratch,
        rows: Range<usize>,
        modulation: &Modulation,
        block: usize,
    ) -> Result<()> {
        let cpu = cx.cpu;
        let Modulation { shift, scale, .. } = modulation;
        layer_norm_modulate(cpu, s.x.rows(rows.clone()), c.eps, shift, scale, s.norm.rows_mut(rows.clone()))?;
        let h = Activations::new(cpu, s.norm.rows(rows.clone()));
        self.q.forward(cpu, &h, s.q.rows_mut(rows.clone()))?;
        self.k.forward(cpu, &h, s.k.rows_mut(rows.clone()))?;
        self.v.forward(cpu, &h, s.v.rows_mut(rows.clone()))?;
        if cx.is_probed() {
            let norms = [(&mut s.q, &self.q_norm), (&mut s.k, &self.k_norm)];
            for ((x, weight), name) in norms.into_iter().zip(self.names.norms) {
                rms_norm_heads(cpu, x.rows_mut(rows.clone()), c.eps, weight)?;
                cx.tap(format_args!("transformer_blocks.{block}.attn.{name}"), x.rows(rows.clone()));
            }
        }
        Ok(())
    }

    /// Adds the attention's result and the feed-forward part to this stream's rows.
    fn finish(
        &self,
        cx: &mut Context<'_>,
        c: &Flux2Config,
        s: &mut Scratch,
        rows: Range<usize>,
        modulations: &[Modulation],
        block: usize,
    ) -> Result<()> {
        let cpu = cx.cpu;
        let [attn, mlp] = modulations else { unreachable!("a double block has two modulations") };
        let h = Activations::new(cpu, s.attn.rows(rows.clone()));
        let seen = cx.is_probed().then(|| s.norm.rows_mut(rows.clone()));
        add_product(cpu, &self.out, &h, &attn.gate, s.x.rows_mut(rows.clone()), seen)?;
        let stream = self.names.stream;
        cx.tap(format_args!("transformer_blocks.{block}.attn.{stream}"), s.norm.rows(rows.clone()));

        let Modulation { shift, scale, gate } = mlp;
        layer_norm_modulate(cpu, s.x.rows(rows.clone()), c.eps, shift, scale, s.norm.rows_mut(rows.clone()))?;
        for part in chunks(rows.clone(), s.mlp_rows()) {
            self.feed_forward(cx, s, part, gate)?;
        }
        cx.tap(format_args!("transformer_blocks.{block}.{}", self.names.ff), s.norm.rows(rows.clone()));
        cx.tap(format_args!("transformer_blocks.{block}.{stream}"), s.x.rows(rows));
        Ok(())
    }

    /// `x += gate * linear_out(swiglu(linear_in(norm)))` for some rows.
    fn feed_forward(
        &self,
        cx: &Context<'_>,
        s: &mut Scratch,
        rows: Range<usize>,
        gate: &[f32],
    ) -> Result<()> {
        let (cpu, n) = (cx.cpu, rows.len());
        self.linear_in.apply(cpu, s.norm.rows(rows.clone()), s.gate_up.rows_mut(0..n))?;
        let h = Activations::swiglu(cpu, s.gate_up.rows(0..n));
        let seen = cx.is_probed().then(|| s.norm.rows_mut(rows.clone()));
        add_product(cpu, &self.linear_out, &h, gate, s.x.rows_mut(rows), seen)
    }
}

/// `x += gate * linear(h)`; who probes finds the product in `seen`.
pub(super) fn add_product(
    cpu: &Cpu,
    linear: &Linear,
    h: &Activations<'_>,
    gate: &[f32],
    x: ArrayViewMut2<'_, f32>,
    seen: Option<ArrayViewMut2<'_, f32>>,
) -> Result<()> {
    let Some(mut seen) = seen else { return linear.forward_add_gated(cpu, h, gate, x) };
    linear.forward(cpu, h, seen.view_mut())?;
    Ok(add_gated(cpu, x, gate, seen.view())?)
}

/// `rows` in parts of at most `len`.
pub(super) fn chunks(rows: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    rows.clone().step_by(len).map(move |start| start..rows.end.min(start + len))
}

impl DoubleStreamBlock {
    pub(super) fn load(w: &Weights, c: &Flux2Config) -> Result<Self> {
        Ok(Self { txt: Stream::load(w, c, &TXT)?, img: Stream::load(w, c, &IMG)? })
    }

    /// Updates `s.x`, whose first `txt` rows are text.
    #[expect(clippy::too_many_arguments, reason = "the step of the loop over blocks")]
    pub(super) fn forward(
        &self,
        cx: &mut Context<'_>,
        c: &Flux2Config,
        s: &mut Scratch,
        txt: usize,
        modulation: &DoubleModulation,
        angles: &Rope,
        block: usize,
    ) -> Result<()> {
        let streams = [(&self.txt, 0..txt, &modulation.txt), (&self.img, txt..s.tokens(), &modulation.img)];
        for (stream, rows, modulations) in &streams {
            stream.project(cx, c, s, rows.clone(), &modulations[0], block)?;
        }
        let norms = streams.each_ref().map(|(stream, rows, _)| HeadNorms {
            from: rows.start,
            eps: c.eps,
            query: &stream.q_norm,
            key: &stream.k_norm,
        });
        let norms = if cx.is_probed() { &[] } else { &norms[..] };
        joint_attention(cx.cpu, c, s, 0..s.tokens(), angles, norms)?;
        for (stream, rows, modulations) in streams {
            stream.finish(cx, c, s, rows, modulations, block)?;
        }
        Ok(())
    }
}

/// `attn = softmax(q k^T / sqrt(head_dim)) v` over all tokens, q and k normed, if they are not yet, and rotated; for `rows` alone, the
/// last ones.
pub(super) fn joint_attention(
    cpu: &Cpu,
    c: &Flux2Config,
    s: &mut Scratch,
    rows: Range<usize>,
    angles: &Rope,
    norms: &[HeadNorms<'_>],
) -> Result<()> {
    let n = c.num_attention_heads;
    let heads = Heads { query: n, key_value: n, dim: c.attention_head_dim };
    let (cos, sin) = (angles.cos.view(), angles.sin.view());
    let rotation = Rotation { norms, cos, sin, pairs: RopePairs::Interleaved };
    let (q, k, v) = (s.q.rows(rows.clone()), s.k.view(), s.v.view());
    Ok(attention_rotated(cpu, q, k, v, heads, Mask::None, &rotation, s.attn.rows_mut(rows))?)
}
