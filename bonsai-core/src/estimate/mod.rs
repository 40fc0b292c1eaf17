//! What a picture will take: peak memory and work of each stage, known from sizes alone, and the plan that follows
//! from a budget.

mod sizes;
mod stages;

use std::path::Path;
use std::sync::Arc;

use bonsai_kernels::{Cpu, DotPrecision};

pub(crate) use sizes::{ModelSizes, Parts};

use crate::error::{Error, ErrorKind, Result};
use crate::model_dir::ModelDir;
use crate::model_source::{ModelFiles, ModelSource};
use crate::options::{PipelineOptions, all_threads};
use crate::prompt_cache::most_prompts;
use crate::request::{Request, token_grid};

/// Where a plan that nobody gave a budget begins to trade time for memory, in bytes.
const DEFAULT_BUDGET: u64 = 1_200_000_000;

/// A stage of a picture, in the order of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Prompt to embeddings.
    TextEncode,
    /// All denoising steps.
    Denoise,
    /// Latents to picture.
    Decode,
}

impl Stage {
    /// `text_encode`, `denoise` or `decode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncode => "text_encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}

/// What one stage takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageEstimate {
    /// Which.
    pub stage: Stage,
    /// The most memory of the whole process that is resident during it, in bytes; mapped pages are counted.
    pub peak_bytes: u64,
    /// Of these: weights in mapped files that are resident at one time.
    pub mapped_bytes: u64,
    /// Of these: activations and work buffers.
    pub activation_bytes: u64,
    /// Multiply-accumulates of linears, convolutions and attention.
    pub macs: u64,
    /// Of these: of linears.
    pub linear_macs: u64,
}

/// How a picture is made where there is a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Plan {
    /// Upsamplings of the decoder, finest first, that are made twice in strips instead of being held: the same picture
    /// in less memory and more time.
    pub strips: usize,
    /// Prompts whose embeddings are kept for further pictures, at most.
    pub prompts: usize,
    /// Whether mapped weights stay in memory once they were read. Otherwise they leave it after each layer and block,
    /// and come back from the system's file cache.
    pub keep_weights: bool,
}

/// What a picture will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// The plan that these figures are of.
    pub plan: Plan,
    /// Memory that stays as long as the model is loaded: the program, the tokenizer, weights that had to be copied.
    pub base_bytes: u64,
    /// Of these: weights that could not be used where they lie in the file. They are prepared once, when the model is
    /// opened, and kept for all pictures.
    pub copied_bytes: u64,
    /// The stages in order.
    pub stages: Vec<StageEstimate>,
}

impl Estimate {
    /// The most memory that is resident at any time, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        self.stages.iter().map(|s| s.peak_bytes).max().unwrap_or(self.base_bytes)
    }

    /// All multiply-accumulates.
    pub fn macs(&self) -> u64 {
        self.stages.iter().map(|s| s.macs).sum()
    }
}

/// What `request` will take of the model in `dir`, before anything of it is loaded: only headers and configs are read.
///
/// # Errors
/// When a file is missing or its header unsound, the request is out of range, or no plan keeps the budget of the
/// options ([`ErrorKind::MemoryBudget`]).
pub fn estimate(dir: impl AsRef<Path>, options: &PipelineOptions, request: &Request) -> Result<Estimate> {
    estimate_dir(&ModelDir::chosen(dir.as_ref(), &options.components)?, options, request)
}

/// [`estimate`] of a model whose files a host keeps.
///
/// # Errors
/// As [`estimate`]; also those of the source.
pub fn estimate_source(
    source: Arc<dyn ModelSource>,
    options: &PipelineOptions,
    request: &Request,
) -> Result<Estimate> {
    let files = ModelFiles::from_source(source, options.allocator());
    estimate_dir(&ModelDir::of_source(files), options, request)
}

fn estimate_dir(dir: &ModelDir, options: &PipelineOptions, request: &Request) -> Result<Estimate> {
    let sizes = ModelSizes::read(dir, options)?;
    let cpu = Cpu::new(options.isa()?).with_precision(options.precision);
    let mut setting = Setting::new(&cpu, &options.wishes());
    setting.threads = match &options.parallel_for {
        Some(threads) => threads.threads(),
        None => options.threads.unwrap_or_else(all_threads),
    };
    sizes.plan(request, &setting)
}

/// What the options say of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) max_memory: Option<u64>,
    /// Prompts that may be kept.
    pub(crate) prompts: usize,
    pub(crate) keep_weights: bool,
}

/// What a plan depends on besides model and request.
pub(crate) struct Setting<'a> {
    threads: usize,
    /// Bytes of a value in rows that are prepared for weights of signs, and of codes.
    sign_row_bytes: u64,
    code_row_bytes: u64,
    /// Factors of attention and convolutions.
    factors: DotPrecision,
    max_memory: Option<u64>,
    /// Prompts that may be kept.
    prompts: usize,
    /// Whether mapped weights may stay in memory.
    keep_weights: bool,
    /// Bytes of other prompts that stay beside one of so many bytes, when so many may be kept.
    pub(crate) prompts_beside: &'a dyn Fn(u64, usize) -> u64,
}

impl Setting<'_> {
    pub(crate) fn new(cpu: &Cpu, wishes: &Wishes) -> Self {
        let row_bytes = |signs| cpu.precision().row_bytes(cpu.isa(), signs) as u64;
        let factors = DotPrecision::chosen(cpu);
        let threads = cpu.threads();
        let Wishes { max_memory, prompts, keep_weights } = *wishes;
        Self {
            threads,
            sign_row_bytes: row_bytes(true),
            code_row_bytes: row_bytes(false),
            factors,
            max_memory,
            prompts,
            keep_weights,
            prompts_beside: &|_, _| 0,
        }
    }

    fn factor_bytes(&self) -> u64 {
        self.factors.bytes() as u64
    }
}

impl ModelSizes {
    /// The fastest plan within the budget.
    pub(crate) fn plan(&self, request: &Request, setting: &Setting<'_>) -> Result<Estimate> {
        let size = request.size.unwrap_or(self.size);
        token_grid(size.0, size.1, self.vae.pixels_per_token())?;
        let all = self.plans(request, size, setting);
        // whoever wants weights to stay has the room for them
        let default_budget = DEFAULT_BUDGET + if setting.keep_weights { self.mapped } else { 0 };
        let fits = |e: &&Estimate| e.peak_bytes() <= setting.max_memory.unwrap_or(default_budget);
        let leanest = all.iter().min_by_key(|e| e.peak_bytes()).expect("there is a plan without strips");
        match (all.iter().find(fits), setting.max_memory) {
            (Some(fastest), _) => Ok(fastest.clone()),
            (None, None) => {
                let kept = all.iter().filter(|e| e.plan.keep_weights).min_by_key(|e| e.peak_bytes());
                Ok(kept.unwrap_or(leanest).clone())
            }
            (None, Some(budget)) => Err(self.refuse(request, leanest, setting, budget)),
        }
    }

    /// All plans, fastest first: weights that come back from the file cache cost less than a prompt that is read again,
    /// and that less than a decoder in strips.
    fn plans(&self, request: &Request, size: (usize, usize), setting: &Setting<'_>) -> Vec<Estimate> {
        let in_one = request.vae_tiling || self.tiny_decoder.is_some();
        let most = if in_one { 0 } else { self.vae.decoder_channels().len() - 1 };
        let kept = most_prompts(setting.prompts, self.prompt_bytes(request));
        let plans =
            (0..=most).flat_map(|strips| {
                [(kept, setting.keep_weights), (kept, false), (0, false)]
                    .map(|(prompts, keep_weights)| Plan { strips, prompts, keep_weights })
            });
        let mut plans: Vec<Plan> = plans.collect();
        plans.dedup();
        plans.into_iter().map(|plan| self.estimate(request, size, setting, plan)).collect()
    }

    /// Says what would do, and the largest picture of the same shape that would fit.
    fn refuse(&self, request: &Request, leanest: &Estimate, setting: &Setting<'_>, budget: u64) -> Error {
        let (width, height) = (leanest.width, leanest.height);
        let pixels = self.vae.pixels_per_token();
        let smaller = |side: usize, longest: usize| {
            let scaled = side * longest / width.max(height);
            (scaled / pixels * pixels).max(pixels)
        };
        let fitting = (1..width.max(height) / pixels).rev().find_map(|tokens| {
            let longest = tokens * pixels;
            let size = (smaller(width, longest), smaller(height, longest));
            let fits = self.plans(request, size, setting).iter().any(|e| e.peak_bytes() <= budget);
            fits.then_some(size)
        });
        let advice = match fitting {
            Some((width, height)) => format!("; a picture of {width}x{height} would fit"),
            None => "; no picture would fit".to_owned(),
        };
        Error::new(
            ErrorKind::MemoryBudget,
            format!(
                "a picture of {width}x{height} takes at least {} bytes of memory, the budget is {budget}{advice}",
                leanest.peak_bytes()
            ),
        )
    }
}
