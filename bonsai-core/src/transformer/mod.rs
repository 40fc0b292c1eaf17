//! The diffusion transformer: latents, prompt and sigma to velocity.

mod conditioning;
mod config;
mod double_block;
mod modulation;
mod rope;
mod scratch;
mod single_block;
mod timestep;

use bonsai_kernels::norm::layer_norm_modulate;
use ndarray::ArrayView2;

pub use conditioning::Conditioning;
pub use config::Flux2Config;
pub use rope::{Position, Rope, image_positions, text_positions};
pub use scratch::Scratch;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::nn::{Linear, TokenBuffer};
use crate::weights::Weights;
use double_block::DoubleStreamBlock;
use single_block::SingleStreamBlock;
use timestep::TimestepEmbedding;

/// Flux2Transformer2DModel.
#[derive(Debug)]
pub struct Flux2Transformer {
    config: Flux2Config,
    x_embedder: Linear,
    context_embedder: Linear,
    timestep: TimestepEmbedding,
    modulation_txt: Linear,
    modulation_img: Linear,
    modulation_single: Linear,
    double_blocks: Vec<DoubleStreamBlock>,
    single_blocks: Vec<SingleStreamBlock>,
    norm_out: Linear,
    proj_out: Linear,
}

/// What one forward pass reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Latent tokens, then those of reference images: `[image tokens, in_channels]`.
    pub latents: ArrayView2<'a, f32>,
    /// Prompt embeddings `[text tokens, joint_attention_dim]`, padding included.
    pub prompt: ArrayView2<'a, f32>,
    /// Positions of the text tokens.
    pub text_positions: &'a [Position],
    /// Positions of the image tokens.
    pub image_positions: &'a [Position],
    /// Sigma in 0..=1; the model multiplies by 1000 itself.
    pub timestep: f32,
    /// Guidance value, for models that embed one.
    pub guidance: Option<f32>,
}

impl Flux2Transformer {
    /// Builds the model.
    ///
    /// # Errors
    /// When the config is unsound or a tensor is missing, left over, or of another shape or dtype.
    pub fn load(w: &Weights, config: Flux2Config) -> Result<Self> {
        config.validate()?;
        let c = &config;
        let hidden = c.hidden_size();
        let double = |i| DoubleStreamBlock::load(&w.at("transformer_blocks").at(i), c);
        let single = |i| SingleStreamBlock::load(&w.at("single_transformer_blocks").at(i), c);
        let model = Self {
            x_embedder: Linear::load(w, "x_embedder", hidden, c.in_channels)?,
            context_embedder: Linear::load(w, "context_embedder", hidden, c.joint_attention_dim)?,
            timestep: TimestepEmbedding::load(w, c)?,
            modulation_txt: Linear::load(w, "double_stream_modulation_txt.linear", 6 * hidden, hidden)?,
            modulation_img: Linear::load(w, "double_stream_modulation_img.linear", 6 * hidden, hidden)?,
            modulation_single: Linear::load(w, "single_stream_modulation.linear", 3 * hidden, hidden)?,
            double_blocks: w.parts(c.num_layers, double)?,
            single_blocks: w.parts(c.num_single_layers, single)?,
            norm_out: Linear::load(w, "norm_out.linear", 2 * hidden, hidden)?,
            proj_out: Linear::load(w, "proj_out", c.out_channels(), hidden)?,
            config,
        };
        w.finish()?;
        Ok(model)
    }

    /// The config.
    pub fn config(&self) -> &Flux2Config {
        &self.config
    }

    /// Velocity `[image tokens, out_channels]`: noise minus clean latents.
    ///
    /// # Errors
    /// When an input's shape does not fit, the model embeds a guidance and none is given, the work was cancelled, or
    /// memory lacks.
    pub fn forward(&self, cx: &mut Context<'_>, inputs: Inputs<'_>, s: &mut Scratch) -> Result<TokenBuffer> {
        // parts are the blocks of the pass
        let mut inner = Context { cpu: cx.cpu, probe: cx.probe.take(), on_part: None };
        let conditioning = self.condition(&mut inner, inputs.prompt, &[inputs.timestep], inputs.guidance);
        cx.probe = inner.probe;
        let conditioning = conditioning?;
        let Inputs { latents, text_positions, image_positions, .. } = inputs;
        self.forward_conditioned(cx, latents, &conditioning, 0, text_positions, image_positions, s)
    }

    /// [`Flux2Transformer::forward`] at timestep `step` of a [`Conditioning`].
    ///
    /// # Errors
    /// As [`Flux2Transformer::forward`].
    ///
    /// # Panics
    /// When `conditioning` has no such step.
    #[expect(clippy::too_many_arguments, reason = "the fields of `Inputs`, some of them prepared")]
    pub fn forward_conditioned(
        &self,
        cx: &mut Context<'_>,
        latents: ArrayView2<'_, f32>,
        conditioning: &Conditioning,
        step: usize,
        text_positions: &[Position],
        image_positions: &[Position],
        s: &mut Scratch,
    ) -> Result<TokenBuffer> {
        let c = &self.config;
        let (txt, img) = (conditioning.prompt.tokens(), latents.nrows());
        expect("channels of the latents", latents.ncols(), c.in_channels)?;
        expect("positions of the text tokens", text_positions.len(), txt)?;
        expect("positions of the image tokens", image_positions.len(), img)?;
        if s.tokens() != txt + img {
            *s = Scratch::new(cx.cpu, c, txt + img)?;
        }
        let cpu = cx.cpu;
        let blocks = self.double_blocks.len() + self.single_blocks.len();
        let modulations = &conditioning.steps[step];

        s.x.rows_mut(0..txt).assign(&conditioning.prompt.view());
        self.x_embedder.apply(cpu, latents, s.x.rows_mut(txt..txt + img))?;
        cx.tap(format_args!("x_embedder"), s.x.rows(txt..txt + img));
        let angles = Rope::new(c, text_positions.iter().chain(image_positions));
        for (i, block) in self.double_blocks.iter().enumerate() {
            block.forward(cx, c, s, txt, &modulations.double, &angles, i)?;
            cx.part_done(i + 1, blocks)?;
        }
        for (i, block) in self.single_blocks.iter().enumerate() {
            // of the last block's text, nobody but a probe sees what becomes of it
            let all = i + 1 < self.single_blocks.len() || cx.is_probed();
            let rows = if all { 0..txt + img } else { txt..txt + img };
            block.forward(cx, c, s, rows, &modulations.single, &angles, i)?;
            cx.part_done(self.double_blocks.len() + i + 1, blocks)?;
        }

        let rows = txt..txt + img;
        let (shift, scale) = (&modulations.shift_out, &modulations.scale_out);
        layer_norm_modulate(cpu, s.x.rows(rows.clone()), c.eps, shift, scale, s.norm.rows_mut(rows.clone()))?;
        cx.tap(format_args!("norm_out"), s.norm.rows(rows.clone()));
        let mut velocity = TokenBuffer::zeros(cpu, img, c.out_channels())?;
        self.proj_out.apply(cpu, s.norm.rows(rows), velocity.view_mut())?;
        Ok(velocity)
    }
}

fn expect(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::invalid(format!("{what}: expected {expected}, found {found}")))
    }
}
