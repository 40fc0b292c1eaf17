use std::fmt;
use std::sync::Arc;

use bonsai_kernels::gemm::ActivationPrecision;
use bonsai_kernels::{Allocator, CancelToken, Cpu, Isa, Meter, ParallelFor, RayonThreads};

use crate::component_paths::{ComponentPaths, VaePath};
use crate::error::{Error, ErrorKind, Result};
use crate::estimate::Wishes;
use crate::page_allocator::PageAllocator;
use crate::prompt_cache::DEFAULT_PROMPTS;

/// How a pipeline runs. The default is the best instruction set of this CPU and as many threads as it offers.
#[derive(Clone, Default)]
pub struct PipelineOptions {
    /// Threads that work: the one that calls and those of a private pool; all that the system offers when `None`.
    pub threads: Option<usize>,
    /// Where work runs instead.
    pub parallel_for: Option<Arc<dyn ParallelFor>>,
    /// Where large buffers come from instead of mappings of their own.
    pub allocator: Option<Arc<dyn Allocator>>,
    /// The instruction set; `BONSAI_ISA`, or else the best, when `None`.
    pub isa: Option<Isa>,
    /// How activations enter the linears whose weights are packed codes.
    pub precision: ActivationPrecision,
    /// Hidden states of the text encoder that make the prompt embeddings, instead of the model's.
    pub text_encoder_out_layers: Option<Vec<usize>>,
    /// Tokens of a prompt, padding included, instead of the model's.
    pub max_sequence_length: Option<usize>,
    /// The most memory that this process may have resident while a picture is made, in bytes. The plan keeps it or the
    /// request is refused; without it, a plan is fast as long as it takes no more than 1.2 GB.
    pub max_memory: Option<u64>,
    /// Whether mapped weights stay in memory once they were read, where the budget allows it: a little faster, in as much
    /// more memory as the model is large. Without it they leave memory after each layer and block.
    pub keep_weights: bool,
    /// Prompts whose embeddings are kept for the next picture of the same words: at most so many, and at most 32 MiB of
    /// them; 4 when `None`, and none at all with 0. A plan that must save memory keeps none.
    pub cached_prompts: Option<usize>,
    /// Components that replace those of the model directory.
    pub components: ComponentPaths,
    /// A TAEF2 that paints previews, at the size of the picture; without one they are a linear map of the latents, a
    /// pixel for each of theirs.
    pub preview_decoder: Option<VaePath>,
    /// Ends the opening when it is set. Runs have theirs by [`Pipeline::with_cancel`](crate::Pipeline::with_cancel).
    pub cancel: Option<CancelToken>,
    /// Counts the work of the linears.
    pub meter: Option<Arc<Meter>>,
}

impl fmt::Debug for PipelineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineOptions")
            .field("threads", &self.threads)
            .field("isa", &self.isa)
            .field("precision", &self.precision.name())
            .finish_non_exhaustive()
    }
}

impl PipelineOptions {
    /// The same on the host's own rayon pool.
    #[must_use]
    pub fn pool(self, pool: Arc<rayon::ThreadPool>) -> Self {
        Self { parallel_for: Some(Arc::new(RayonThreads::shared(pool))), ..self }
    }

    pub(crate) fn wishes(&self) -> Wishes {
        Wishes {
            max_memory: self.max_memory,
            prompts: self.cached_prompts.unwrap_or(DEFAULT_PROMPTS),
            keep_weights: self.keep_weights,
        }
    }

    pub(crate) fn allocator(&self) -> Arc<dyn Allocator> {
        self.allocator.clone().unwrap_or_else(|| Arc::new(PageAllocator::default()))
    }

    pub(crate) fn isa(&self) -> Result<Isa> {
        match self.isa {
            Some(isa) => Ok(isa),
            None => Isa::from_env().map_err(|e| Error::invalid(e.to_string())),
        }
    }

    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let isa = self.isa()?;
        let threads: Arc<dyn ParallelFor> =
            match &self.parallel_for {
                Some(threads) => Arc::clone(threads),
                None => {
                    let pool = RayonThreads::new(self.threads.unwrap_or_else(all_threads));
                    Arc::new(pool.map_err(|e| {
                        Error::new(ErrorKind::Io, "threads could not be started").with_source(e)
                    })?)
                }
            };
        let mut cpu = Cpu::new(isa)
            .with_precision(self.precision)
            .with_threads(threads)
            .with_allocator(self.allocator());
        if let Some(meter) = &self.meter {
            cpu = cpu.with_meter(Arc::clone(meter));
        }
        Ok(cpu)
    }
}

/// All that the system offers.
pub(crate) fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
