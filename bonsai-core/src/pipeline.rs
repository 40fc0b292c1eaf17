//! From a prompt to a picture: the story, no arithmetic.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bonsai_kernels::{CancelToken, Cpu};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::estimate::{Estimate, Plan, Setting, Wishes};
use crate::image::{Image, Recipe, RecipeModel};
use crate::latents::Latents;
use crate::model::{Defaults, Model, check_length, check_taps};
use crate::model_dir::ModelDir;
use crate::model_source::{ModelFiles, ModelSource};
use crate::nn::{PictureBuffer, TokenBuffer};
use crate::observer::{Observer, Preview};
use crate::options::PipelineOptions;
use crate::preview::LatentRgb;
use crate::prompt_cache::{PromptCache, PromptKey, ReadPrompt};
use crate::request::{Request, token_grid};
use crate::text_encoder::Qwen3;
use crate::tokenizer::Tokenizer;
use crate::transformer::{Conditioning, Flux2Transformer, Scratch, image_positions, text_positions};
use crate::vae::{Tiling, Vae};

/// A loaded model, ready to paint. Cheap to clone; clones share the weights, and several threads may use one.
#[derive(Debug, Clone)]
pub struct Pipeline {
    model: Arc<Model>,
    cpu: Cpu,
    wishes: Wishes,
    prompts: Arc<PromptCache>,
}

/// A prompt as the transformer reads it.
#[derive(Debug)]
pub struct PromptEmbeds {
    /// `[max_sequence_length, taps * hidden_size]`, padding included.
    pub embeds: TokenBuffer,
    /// Tokens before the padding.
    pub tokens: usize,
    /// Tokens of the prompt that did not fit.
    pub cut: usize,
}

/// What happens while a picture is made.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The prompt was too long.
    PromptCut {
        /// Tokens that fit.
        kept: usize,
        /// Tokens that did not.
        cut: usize,
    },
    /// Layers of the text encoder are done. There are none for a prompt that is still kept from an earlier picture.
    TextEncode {
        /// So many.
        layer: usize,
        /// Of so many.
        layers: usize,
    },
    /// Blocks of a denoising step are done.
    Step {
        /// The step, from 0.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// Blocks done in this step.
        block: usize,
        /// Blocks of one step.
        blocks: usize,
    },
    /// Parts of the decoder are done.
    Decode {
        /// So many.
        part: usize,
        /// Of so many.
        parts: usize,
    },
}

/// Wall time of the stages of one picture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timings {
    /// Prompt to embeddings.
    pub text_encode: Duration,
    /// Each denoising step.
    pub steps: Vec<Duration>,
    /// Latents to picture.
    pub vae_decode: Duration,
}

/// A painted picture and how it came about.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The picture.
    pub image: Image,
    /// All that it takes to paint it again.
    pub recipe: Recipe,
    /// How long it took.
    pub timings: Timings,
    /// Tokens of the prompt that did not fit.
    pub cut: usize,
}

impl Generated {
    /// Writes a PNG with the recipe in its text. The file appears whole or not at all.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<()> {
        crate::image::write_png(path.as_ref(), &self.image, &self.recipe.to_png_text()?)
    }
}

impl Pipeline {
    /// Opens a model directory with the default options.
    ///
    /// # Errors
    /// When a file is missing or unsound; the message names it and what was expected.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &PipelineOptions::default())
    }

    /// Opens a model directory.
    ///
    /// # Errors
    /// As [`Pipeline::open`]; also when an option is out of its range or `BONSAI_ISA` names no instruction set.
    pub fn open_with(dir: impl AsRef<Path>, options: &PipelineOptions) -> Result<Self> {
        Self::load(options, || ModelDir::chosen(dir.as_ref(), &options.components))
    }

    fn load(options: &PipelineOptions, dir: impl FnOnce() -> Result<ModelDir>) -> Result<Self> {
        let cpu = options.cpu()?;
        let dir = dir()?.with_cancel(options.cancel.clone());
        let model = Arc::new(Model::load(&dir, options, &cpu)?);
        Ok(Self { model, cpu, wishes: options.wishes(), prompts: Arc::default() })
    }

    /// Opens a model whose files a host keeps. Weights are read into buffers of the host's allocator, whole.
    ///
    /// # Errors
    /// As [`Pipeline::open_with`]; also those of the source.
    pub fn open_source(source: Arc<dyn ModelSource>, options: &PipelineOptions) -> Result<Self> {
        Self::load(options, || Ok(ModelDir::of_source(ModelFiles::from_source(source, options.allocator()))))
    }

    /// Opens a model whose components all stand in the options, each a file or a folder of its own.
    ///
    /// # Errors
    /// When one of them is not named; also as [`Pipeline::open_with`].
    pub fn open_components(options: &PipelineOptions) -> Result<Self> {
        Self::load(options, || ModelDir::of_components(options.components.clone()))
    }

    /// The same pipeline, whose work ends soon after the token is set.
    #[must_use]
    pub fn with_cancel(&self, cancel: CancelToken) -> Self {
        Self { cpu: self.cpu.clone().with_cancel(cancel), ..self.clone() }
    }

    /// The same pipeline, which reads each prompt anew and keeps none.
    #[must_use]
    pub fn without_prompt_cache(&self) -> Self {
        let wishes = Wishes { prompts: 0, ..self.wishes };
        Self { prompts: Arc::default(), wishes, ..self.clone() }
    }

    /// What a picture will take, by the plan that [`Pipeline::generate`] will follow. The work of the text encoder is
    /// counted though there is none for a prompt that is kept.
    ///
    /// # Errors
    /// When the size is out of range, or no plan keeps the budget ([`ErrorKind::MemoryBudget`]).
    pub fn estimate(&self, request: &Request) -> Result<Estimate> {
        let key = self.prompt_key(request);
        let beside = |bytes, most| self.prompts.bytes_beside(&key, bytes, most);
        let mut setting = Setting::new(&self.cpu, &self.wishes);
        setting.prompts_beside = &beside;
        self.model.sizes.plan(request, &setting)
    }

    fn prompt_key(&self, request: &Request) -> PromptKey {
        let d = self.defaults();
        let taps = request.text_encoder_out_layers.as_ref().unwrap_or(&d.text_encoder_out_layers);
        PromptKey {
            prompt: request.prompt.clone(),
            taps: taps.clone(),
            max_sequence_length: request.max_sequence_length.unwrap_or(d.max_sequence_length),
        }
    }

    /// What it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Name of the model's directory.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// What is wrong with the model's files though they can be run: other weights than the published ones, mostly.
    pub fn warnings(&self) -> &[String] {
        &self.model.warnings
    }

    /// What the model does when a request does not say.
    pub fn defaults(&self) -> &Defaults {
        &self.model.defaults
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    /// How long opening the tokenizer took, which is part of opening the model.
    pub fn tokenizer_load_time(&self) -> Duration {
        self.model.tokenizer_load
    }

    /// The text encoder.
    pub fn text_encoder(&self) -> &Qwen3 {
        &self.model.text_encoder
    }

    /// The diffusion transformer.
    pub fn transformer(&self) -> &Flux2Transformer {
        &self.model.transformer
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae {
        &self.model.vae
    }

    /// The embeddings of a prompt, with the model's own taps and length.
    ///
    /// # Errors
    /// When the work was cancelled or memory lacks.
    pub fn encode_prompt(&self, prompt: &str) -> Result<PromptEmbeds> {
        let d = self.defaults();
        self.encode_prompt_with(prompt, &d.text_encoder_out_layers, d.max_sequence_length)
    }

    /// The embeddings of a prompt: hidden states `taps` of `max_sequence_length` tokens, side by side.
    ///
    /// # Errors
    /// When a tap lies beyond the loaded layers or the length is out of range; also as [`Pipeline::encode_prompt`].
    pub fn encode_prompt_with(
        &self,
        prompt: &str,
        taps: &[usize],
        max_sequence_length: usize,
    ) -> Result<PromptEmbeds> {
        self.embed(prompt, taps, max_sequence_length, Plan::default(), &mut |_| Ok(()))
    }

    fn embed(
        &self,
        prompt: &str,
        taps: &[usize],
        max_sequence_length: usize,
        plan: Plan,
        notify: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<PromptEmbeds> {
        check_length(max_sequence_length, self.text_encoder().config())?;
        check_taps(taps, self.text_encoder().config(), self.transformer().config())?;
        let tokens = self.tokenizer().encode_prompt(prompt, max_sequence_length)?;
        let used = tokens.mask.iter().filter(|&&m| m).count();
        tell_cut(used, tokens.cut, notify)?;
        let _buffers = Buffers(&self.cpu);
        // each layer is read once for each prompt, so that it need not stay
        let [text_encoder_pages, ..] = &self.model.pages;
        let mut on_part = |layer, layers| {
            text_encoder_pages.release_by(plan);
            notify(Event::TextEncode { layer, layers })
        };
        let mut cx = Context::new(&self.cpu).with_progress(&mut on_part);
        let embeds = self.text_encoder().hidden_states(&mut cx, &tokens.ids, &tokens.mask, taps)?;
        expect_finite("prompt embeddings", embeds.as_slice())?;
        Ok(PromptEmbeds { embeds, tokens: used, cut: tokens.cut })
    }

    /// Seeded noise for a picture of this size.
    ///
    /// # Errors
    /// When a side is no multiple of the pixels of a token or out of range.
    pub fn noise(&self, request: &Request) -> Result<Latents> {
        let (width, height) = request.size.unwrap_or(self.defaults().size);
        let (rows, columns) = token_grid(width, height, self.vae().config().pixels_per_token())?;
        let channels = self.transformer().config().in_channels;
        Latents::noise(request.noise_source, request.seed, rows, columns, channels)
    }

    /// Where the latents should move, at noise level `sigma`.
    ///
    /// # Errors
    /// When shapes do not fit, the result is not finite, the work was cancelled, or memory lacks.
    pub fn velocity(&self, latents: &Latents, prompt: &PromptEmbeds, sigma: f32) -> Result<Latents> {
        self.velocity_with(latents, &[], prompt, sigma, None)
    }

    /// [`Pipeline::velocity`] beside reference images (from [`Pipeline::encode_image`]), and with a guidance value for
    /// models that embed one.
    ///
    /// # Errors
    /// As [`Pipeline::velocity`].
    pub fn velocity_with(
        &self,
        latents: &Latents,
        references: &[Latents],
        prompt: &PromptEmbeds,
        sigma: f32,
        guidance: Option<f32>,
    ) -> Result<Latents> {
        let _buffers = Buffers(&self.cpu);
        let tokens = latents.tokens() + references.iter().map(Latents::tokens).sum::<usize>();
        let mut scratch =
            Scratch::new(&self.cpu, self.transformer().config(), prompt.embeds.tokens() + tokens)?;
        let mut cx = Context::new(&self.cpu);
        let projected = Arc::new(self.transformer().project(&mut cx, prompt.embeds.view())?);
        let conditioning = self.condition(&mut cx, projected, &[sigma], guidance)?;
        self.predict(&mut cx, latents, references, &conditioning, 0, &mut scratch)
    }

    fn condition(
        &self,
        cx: &mut Context<'_>,
        projected: Arc<TokenBuffer>,
        sigmas: &[f32],
        guidance: Option<f32>,
    ) -> Result<Conditioning> {
        // the reference hands over sigma * 1000 / 1000, which f32 does not always undo
        let timesteps: Vec<f32> = sigmas.iter().map(|sigma| sigma * 1000.0 / 1000.0).collect();
        self.transformer().condition_projected(cx, projected, &timesteps, guidance)
    }

    fn predict(
        &self,
        cx: &mut Context<'_>,
        latents: &Latents,
        references: &[Latents],
        conditioning: &Conditioning,
        step: usize,
        scratch: &mut Scratch,
    ) -> Result<Latents> {
        let (height, width) = (latents.height(), latents.width());
        let mut positions = image_positions(0, height, width);
        let mut joined = Vec::new();
        for (r, reference) in references.iter().enumerate() {
            if reference.channels() != latents.channels() {
                let (found, expected) = (reference.channels(), latents.channels());
                return Err(Error::invalid(format!(
                    "channels of reference {r}: expected {expected}, found {found}"
                )));
            }
            positions.extend(image_positions(10 + 10 * r as i32, reference.height(), reference.width()));
        }
        let view = if references.is_empty() {
            latents.view()
        } else {
            joined.extend_from_slice(latents.as_slice());
            references.iter().for_each(|r| joined.extend_from_slice(r.as_slice()));
            let shape = (positions.len(), latents.channels());
            ndarray::ArrayView2::from_shape(shape, &joined)
                .map_err(|e| Error::new(ErrorKind::Internal, "joined latents").with_source(e))?
        };
        let text = text_positions(conditioning.text_tokens());
        let model = self.transformer();
        let velocity = model.forward_conditioned(cx, view, conditioning, step, &text, &positions, scratch)?;
        let own = &velocity.as_slice()[..latents.tokens() * velocity.channels()];
        expect_finite("velocity", own)?;
        Latents::new(height, width, velocity.channels(), own.to_vec())
    }

    /// The latent picture `[2 rows, 2 columns, latent channels]` that the decoder reads.
    ///
    /// # Errors
    /// When memory lacks or the channels are not the VAE's.
    pub fn denormalise(&self, latents: &Latents) -> Result<PictureBuffer> {
        self.denormalise_for(self.vae(), latents)
    }

    fn denormalise_for(&self, vae: &Vae, latents: &Latents) -> Result<PictureBuffer> {
        let expected = vae.config().token_channels();
        if latents.channels() != expected {
            return Err(Error::invalid(format!(
                "channels of the latents: expected {expected}, found {}",
                latents.channels()
            )));
        }
        let mut denormalised = latents.clone();
        vae.latent_norm().denormalise(denormalised.as_mut_slice());
        denormalised.unpatchify(&self.cpu)
    }

    /// The decoded picture `[height, width, 3]`, about -1 to 1.
    ///
    /// # Errors
    /// When the work was cancelled or memory lacks.
    pub fn decode_picture(&self, latents: &Latents, tiling: Option<&Tiling>) -> Result<PictureBuffer> {
        self.decode_with(&mut Context::new(&self.cpu), latents, tiling, Plan::default())
    }

    fn decode_with(
        &self,
        cx: &mut Context<'_>,
        latents: &Latents,
        tiling: Option<&Tiling>,
        plan: Plan,
    ) -> Result<PictureBuffer> {
        let _buffers = Buffers(&self.cpu);
        let latent = self.denormalise(latents)?;
        let picture = match tiling {
            Some(tiling) => self.vae().decode_tiled(cx, latent.view(), tiling)?,
            None => self.vae().decode_in_strips(cx, latent.view(), plan.strips)?,
        };
        expect_finite("decoded picture", picture.as_slice())?;
        Ok(picture)
    }

    /// The picture of finished latents.
    ///
    /// # Errors
    /// As [`Pipeline::decode_picture`].
    pub fn decode(&self, latents: &Latents) -> Result<Image> {
        let picture = self.decode_picture(latents, None)?;
        let (height, width, _) = picture.dim();
        Ok(Image::from_decoded(width, height, picture.as_slice()))
    }

    /// The latents of a picture whose sides are multiples of the pixels of a token: a reference for
    /// [`Pipeline::velocity_with`], or the start of image-to-image.
    ///
    /// # Errors
    /// When the VAE has no encoder, a side is no such multiple, the work was cancelled, or memory lacks.
    pub fn encode_image(&self, image: &Image) -> Result<Latents> {
        token_grid(image.width(), image.height(), self.vae().config().pixels_per_token())?;
        let pixels = image.to_signed_unit();
        let shape = (image.height(), image.width(), 3);
        let view = ndarray::ArrayView3::from_shape(shape, &pixels)
            .map_err(|e| Error::new(ErrorKind::Internal, "pixels of an image").with_source(e))?;
        let latent = self.vae().encode(&mut Context::new(&self.cpu), view)?;
        let mut latents = Latents::patchify(&latent)?;
        self.vae().latent_norm().normalise(latents.as_mut_slice());
        Ok(latents)
    }

    /// The map from latents to the colours of previews: the model's own, or else fitted once to its decoder.
    ///
    /// # Errors
    /// When it must be fitted and the work was cancelled or memory lacks.
    pub fn latent_rgb(&self) -> Result<&LatentRgb> {
        if let Some(map) = self.model.latent_rgb.get() {
            return Ok(map);
        }
        let map = LatentRgb::fit_decoder(&self.cpu, self.vae(), LatentRgb::DEFAULT_FIT)?;
        Ok(self.model.latent_rgb.get_or_init(|| map))
    }

    /// The preview decoder, where the options name one.
    pub fn preview_decoder(&self) -> Option<&Vae> {
        self.model.preview_decoder.as_ref()
    }

    /// A rough picture of clean latents, which are `latents - sigma * velocity` while the noise level is `sigma`: by the
    /// preview decoder, where there is one; else one pixel for each pixel of the latent.
    ///
    /// # Errors
    /// As [`Pipeline::denormalise`] and [`Pipeline::latent_rgb`].
    pub fn preview(&self, clean: &Latents) -> Result<Image> {
        if let Some(decoder) = self.preview_decoder() {
            let latent = self.denormalise_for(decoder, clean)?;
            let picture = decoder.decode(&mut Context::new(&self.cpu), latent.view())?;
            let (height, width, _) = picture.dim();
            return Ok(Image::from_decoded(width, height, picture.as_slice()));
        }
        let map = self.latent_rgb()?;
        map.image(self.denormalise(clean)?.view())
    }

    /// Paints one picture.
    ///
    /// # Errors
    /// When the request is out of range, the cancel token was set, the result is not finite, or memory lacks.
    pub fn generate(&self, request: &Request) -> Result<Generated> {
        self.generate_with(request, &mut |_| ControlFlow::Continue(()))
    }

    /// Paints one picture and tells how it goes on; `observer` may end the work by `ControlFlow::Break`.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn generate_with(
        &self,
        request: &Request,
        mut observer: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generated> {
        self.generate_observed(request, &mut observer)
    }

    /// Paints one picture for an observer that may see more than events. What it asks to see never changes a byte of
    /// the picture.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn generate_observed(&self, request: &Request, observer: &mut dyn Observer) -> Result<Generated> {
        let d = self.defaults();
        let (width, height) = request.size.unwrap_or(d.size);
        let steps = request.steps.unwrap_or(d.steps);
        // what can be wrong is found before work begins
        let mut latents = self.noise(request)?;
        let schedule = request.schedule.sigmas(steps, latents.tokens())?;
        tracing::debug!(width, height, steps, seed = request.seed, cpu = ?self.cpu, "generate");
        let guidance = self.guidance(request)?;
        let plan = self.estimate(request)?.plan;
        let mut timings = Timings::default();

        let started = Instant::now();
        let key = self.prompt_key(request);
        let ReadPrompt { projected, tokens: tokens_used, cut } = self.read_prompt(&key, plan, observer)?;
        timings.text_encode = started.elapsed();
        let [_, transformer_pages, vae_pages] = &self.model.pages;

        let steps = schedule.steps().len();
        let mut started = Instant::now();
        let sigmas: Vec<f32> = schedule.steps().map(|step| step.sigma).collect();
        let mut on_part = |_, _| {
            transformer_pages.release_by(plan);
            Ok(())
        };
        let mut cx = Context::new(&self.cpu).with_progress(&mut on_part);
        let buffers = Buffers(&self.cpu);
        let conditioning = self.condition(&mut cx, projected, &sigmas, guidance)?;
        let tokens = conditioning.text_tokens() + latents.tokens();
        let mut scratch = Scratch::new(&self.cpu, self.transformer().config(), tokens)?;
        for step in &schedule {
            let mut on_part = |block, blocks| {
                // each block is read once a step, so that it need not stay
                transformer_pages.release_by(plan);
                notify(observer, Event::Step { step: step.index, steps, block, blocks })
            };
            let mut cx = Context::new(&self.cpu).with_progress(&mut on_part);
            let velocity = self.predict(&mut cx, &latents, &[], &conditioning, step.index, &mut scratch)?;
            latents.advance(&velocity, step.delta())?;
            timings.steps.push(started.elapsed());
            if observer.wants_preview(step.index, steps) {
                let mut clean = latents.clone();
                clean.advance(&velocity, -(step.sigma + step.delta()))?;
                let image = self.preview(&clean)?;
                go_on(observer.preview(&Preview { step: step.index, steps, image }))?;
            }
            started = Instant::now();
        }
        drop((scratch, conditioning, buffers));
        transformer_pages.release_by(plan);

        let started = Instant::now();
        let tiling = request.vae_tiling.then(|| self.vae().default_tiling());
        let mut on_part = |part, parts| {
            vae_pages.release_by(plan);
            notify(observer, Event::Decode { part, parts })
        };
        let mut cx = Context::new(&self.cpu).with_progress(&mut on_part);
        let picture = self.decode_with(&mut cx, &latents, tiling.as_ref(), plan)?;
        observer.decoded(picture.view());
        let image = Image::from_decoded(width, height, picture.as_slice());
        timings.vae_decode = started.elapsed();
        vae_pages.release_by(plan);

        let recipe = Recipe {
            schema: Recipe::SCHEMA,
            engine: Recipe::ENGINE.to_owned(),
            model: RecipeModel { name: self.model.name.clone(), ..RecipeModel::default() },
            prompt: request.prompt.clone(),
            tokens_used,
            truncated: cut > 0,
            seed: request.seed,
            noise_source: request.noise_source,
            steps,
            sigmas: schedule.sigmas().to_vec(),
            width,
            height,
            guidance,
            isa_class: self.cpu.isa().name().to_owned(),
            precision: self.cpu.precision().name().to_owned(),
            max_sequence_length: key.max_sequence_length,
            text_encoder_out_layers: key.taps,
            vae_tiling: request.vae_tiling,
        };
        Ok(Generated { image, recipe, timings, cut })
    }

    /// The prompt on the transformer's residual stream: a kept one, or else read and then kept.
    fn read_prompt(&self, key: &PromptKey, plan: Plan, observer: &mut dyn Observer) -> Result<ReadPrompt> {
        let mut notify = |event| notify(observer, event);
        let bytes = 4 * (key.max_sequence_length * self.transformer().config().hidden_size()) as u64;
        self.prompts.make_room(key, bytes, plan.prompts);
        if let Some(prompt) = self.prompts.get(key) {
            tell_cut(prompt.tokens, prompt.cut, &mut notify)?;
            return Ok(prompt);
        }
        let PromptEmbeds { embeds, tokens, cut } =
            self.embed(&key.prompt, &key.taps, key.max_sequence_length, plan, &mut notify)?;
        let [_, transformer_pages, _] = &self.model.pages;
        let projected = self.transformer().project(&mut Context::new(&self.cpu), embeds.view())?;
        transformer_pages.release_by(plan);
        let prompt = ReadPrompt { projected: Arc::new(projected), tokens, cut };
        self.prompts.put(key.clone(), prompt.clone(), plan.prompts);
        Ok(prompt)
    }

    /// The guidance value that the model embeds, if it embeds one.
    fn guidance(&self, request: &Request) -> Result<Option<f32>> {
        const DEFAULT: f32 = 4.0;
        if !self.transformer().config().guidance_embeds {
            return Ok(None);
        }
        let guidance = request.guidance.unwrap_or(DEFAULT);
        if (0.0..=100.0).contains(&guidance) {
            Ok(Some(guidance))
        } else {
            Err(Error::invalid(format!("guidance {guidance}: expected 0 to 100")))
        }
    }
}

fn tell_cut(kept: usize, cut: usize, notify: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
    if cut == 0 {
        return Ok(());
    }
    tracing::warn!(kept, cut, "the prompt is too long");
    notify(Event::PromptCut { kept, cut })
}

fn notify(observer: &mut dyn Observer, event: Event) -> Result<()> {
    go_on(observer.event(event))
}

fn go_on(answer: ControlFlow<()>) -> Result<()> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(ErrorKind::Cancelled, "stopped by the observer")),
    }
}

fn expect_finite(what: &str, values: &[f32]) -> Result<()> {
    if values.iter().fold(true, |ok, v| ok & v.is_finite()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Numerical,
        format!("{what}: NaN or infinity; the weights are damaged or belong to another model"),
    ))
}

/// Gives back what the operations of a stage left to each other, however the stage ends.
struct Buffers<'a>(&'a Cpu);

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        self.0.release_buffers();
    }
}
