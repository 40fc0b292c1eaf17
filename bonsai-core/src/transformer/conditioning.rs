use std::sync::Arc;

use bonsai_kernels::activation;
use ndarray::ArrayView2;

use super::double_block::DoubleModulation;
use super::modulation::Modulation;
use super::{Flux2Transformer, expect};
use crate::context::Context;
use crate::error::Result;
use crate::nn::{Linear, TokenBuffer};

/// All that prompt and noise levels decide before denoising begins. The matrices that make it, most of a packed
/// model's 16-bit weights, are not read again until the next picture.
#[derive(Debug)]
pub struct Conditioning {
    /// The prompt on the residual stream, `[text tokens, hidden_size]`.
    pub(super) prompt: Arc<TokenBuffer>,
    /// One for each timestep.
    pub(super) steps: Vec<StepModulation>,
}

/// Modulations of all blocks at one timestep.
#[derive(Debug)]
pub(super) struct StepModulation {
    pub(super) double: DoubleModulation,
    pub(super) single: Modulation,
    pub(super) shift_out: Vec<f32>,
    pub(super) scale_out: Vec<f32>,
}

/// Matrices of the modulations.
const PARTS: usize = 4;

impl Conditioning {
    /// Text tokens.
    pub fn text_tokens(&self) -> usize {
        self.prompt.tokens()
    }

    /// Timesteps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }
}

impl Flux2Transformer {
    /// [`Flux2Transformer::project`], then [`Flux2Transformer::condition_projected`].
    ///
    /// # Errors
    /// As these.
    pub fn condition(
        &self,
        cx: &mut Context<'_>,
        prompt: ArrayView2<'_, f32>,
        timesteps: &[f32],
        guidance: Option<f32>,
    ) -> Result<Conditioning> {
        let prompt = self.project(cx, prompt)?;
        self.condition_projected(cx, Arc::new(prompt), timesteps, guidance)
    }

    /// Prompt embeddings `[text tokens, joint_attention_dim]` on the residual stream, `[text tokens, hidden_size]`. One
    /// part.
    ///
    /// # Errors
    /// When the embeddings have another width, the work was cancelled, or memory lacks.
    pub fn project(&self, cx: &mut Context<'_>, prompt: ArrayView2<'_, f32>) -> Result<TokenBuffer> {
        let c = &self.config;
        expect("width of the prompt embeddings", prompt.ncols(), c.joint_attention_dim)?;
        let mut projected = TokenBuffer::zeros(cx.cpu, prompt.nrows(), c.hidden_size())?;
        self.context_embedder.apply(cx.cpu, prompt, projected.view_mut())?;
        cx.tap(format_args!("context_embedder"), projected.view());
        cx.part_done(1, 1)?;
        Ok(projected)
    }

    /// A projected prompt with the modulations at each of `timesteps` (sigmas in 0..=1). A part is one matrix that is
    /// done with.
    ///
    /// # Errors
    /// When the prompt has another width, the model embeds a guidance and none is given, the work was cancelled, or
    /// memory lacks.
    pub fn condition_projected(
        &self,
        cx: &mut Context<'_>,
        prompt: Arc<TokenBuffer>,
        timesteps: &[f32],
        guidance: Option<f32>,
    ) -> Result<Conditioning> {
        let (cpu, hidden) = (cx.cpu, self.config.hidden_size());
        expect("width of the projected prompt", prompt.channels(), hidden)?;
        let mut embeddings = TokenBuffer::zeros(cpu, timesteps.len(), hidden)?;
        for (&timestep, mut row) in timesteps.iter().zip(embeddings.view_mut().rows_mut()) {
            let temb = self.timestep.forward(cx, timestep, guidance)?;
            row.iter_mut().zip(temb).for_each(|(x, t)| *x = t);
        }
        activation::silu(cpu, embeddings.as_mut_slice());
        let mut done = 0;
        let mut modulate = |linear: &Linear| -> Result<TokenBuffer> {
            let mut out = TokenBuffer::zeros(cpu, timesteps.len(), linear.out_features())?;
            linear.apply(cpu, embeddings.view(), out.view_mut())?;
            done += 1;
            cx.part_done(done, PARTS)?;
            Ok(out)
        };
        let (of_img, of_txt) = (modulate(&self.modulation_img)?, modulate(&self.modulation_txt)?);
        let (of_single, of_out) = (modulate(&self.modulation_single)?, modulate(&self.norm_out)?);
        let row =
            |values: &TokenBuffer, i: usize| values.rows(i..i + 1).iter().copied().collect::<Vec<f32>>();
        let mut steps = Vec::with_capacity(timesteps.len());
        for i in 0..timesteps.len() {
            let (img, txt, single) = (row(&of_img, i), row(&of_txt, i), row(&of_single, i));
            cx.tap_vector("double_stream_modulation_img", &img);
            cx.tap_vector("double_stream_modulation_txt", &txt);
            cx.tap_vector("single_stream_modulation", &single);
            // diffusers' order: scale, then shift
            let mut scale_out = row(&of_out, i);
            let shift_out = scale_out.split_off(hidden);
            let double = DoubleModulation {
                txt: Modulation::halves(&txt, hidden),
                img: Modulation::halves(&img, hidden),
            };
            let single = Modulation::of(&single, hidden);
            steps.push(StepModulation { double, single, shift_out, scale_out });
        }
        Ok(Conditioning { prompt, steps })
    }
}
