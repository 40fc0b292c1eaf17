use std::ops::Range;

use bonsai_kernels::attention::HeadNorms;
use bonsai_kernels::gemm::Activations;
use bonsai_kernels::norm::{layer_norm_modulate, rms_norm_heads};

use super::double_block::{add_product, chunks, joint_attention};
use super::modulation::Modulation;
use super::{Flux2Config, Rope, Scratch};
use crate::context::Context;
use crate::error::Result;
use crate::nn::Linear;
use crate::weights::Weights;

/// Text and image as one sequence; attention and feed-forward part side by side.
#[derive(Debug)]
pub(super) struct SingleStreamBlock {
    // four parts of one stored matrix
    q: Linear,
    k: Linear,
    v: Linear,
    mlp: Linear,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    out: Linear,
}

impl SingleStreamBlock {
    pub(super) fn load(w: &Weights, c: &Flux2Config) -> Result<Self> {
        let (hidden, mlp) = (c.hidden_size(), c.mlp_size());
        let w = w.at("attn");
        let fused = Linear::load(&w, "to_qkv_mlp_proj", 3 * hidden + 2 * mlp, hidden)?;
        Ok(Self {
            q: fused.outputs(0..hidden),
            k: fused.outputs(hidden..2 * hidden),
            v: fused.outputs(2 * hidden..3 * hidden),
            mlp: fused.outputs(3 * hidden..3 * hidden + 2 * mlp),
            q_norm: w.values("norm_q.weight", &[c.attention_head_dim])?,
            k_norm: w.values("norm_k.weight", &[c.attention_head_dim])?,
            out: Linear::load(&w, "to_out", hidden, hidden + mlp)?,
        })
    }

    /// Updates `rows` of `s.x`, the last ones; the others, which still are keys and values, stay what they were.
    #[expect(clippy::too_many_arguments, reason = "the step of the loop over blocks")]
    pub(super) fn forward(
        &self,
        cx: &mut Context<'_>,
        c: &Flux2Config,
        s: &mut Scratch,
        rows: Range<usize>,
        modulation: &Modulation,
        angles: &Rope,
        block: usize,
    ) -> Result<()> {
        let cpu = cx.cpu;
        let Modulation { shift, scale, gate } = modulation;
        layer_norm_modulate(cpu, s.x.view(), c.eps, shift, scale, s.norm.view_mut())?;
        let h = Activations::new(cpu, s.norm.view());
        let all = rows.len() == s.tokens();
        if all {
            self.q.forward(cpu, &h, s.q.view_mut())?;
        }
        self.k.forward(cpu, &h, s.k.view_mut())?;
        self.v.forward(cpu, &h, s.v.view_mut())?;
        drop(h);
        if !all {
            self.q.apply(cpu, s.norm.rows(rows.clone()), s.q.rows_mut(rows.clone()))?;
        }
        let mut norms = &[HeadNorms { from: 0, eps: c.eps, query: &self.q_norm, key: &self.k_norm }][..];
        if cx.is_probed() {
            norms = &[];
            for (x, weight, name) in [(&mut s.q, &self.q_norm, "norm_q"), (&mut s.k, &self.k_norm, "norm_k")]
            {
                rms_norm_heads(cpu, x.view_mut(), c.eps, weight)?;
                cx.tap(format_args!("single_transformer_blocks.{block}.attn.{name}"), x.view());
            }
        }
        joint_attention(cpu, c, s, rows.clone(), angles, norms)?;

        // the wide part is made and used up in blocks of rows
        for rows in chunks(rows, s.mlp_rows()) {
            let n = rows.len();
            self.mlp.apply(cpu, s.norm.rows(rows.clone()), s.gate_up.rows_mut(0..n))?;
            let h = Activations::with_swiglu(cpu, s.attn.rows(rows.clone()), s.gate_up.rows(0..n));
            let seen = cx.is_probed().then(|| s.norm.rows_mut(rows.clone()));
            add_product(cpu, &self.out, &h, gate, s.x.rows_mut(rows), seen)?;
        }
        cx.tap(format_args!("single_transformer_blocks.{block}.attn"), s.norm.view());
        cx.tap(format_args!("single_transformer_blocks.{block}"), s.x.view());
        Ok(())
    }
}
