use std::ffi::c_char;
use std::panic::RefUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bonsai_core::{ErrorKind, Pipeline, PipelineOptions, Request};
use tracing::Dispatch;

use crate::guard::{Access, Failure, Outcome, status, value};
use crate::slots::Slots;
use crate::{bonsai_error, bonsai_model_reader, bonsai_options, bonsai_status, handle, log, structs, text};

/// A loaded model. Any number of threads may use one; runs beyond max_concurrent_runs wait for each other.
pub struct bonsai_pipeline {
    pub(crate) engine: Arc<Engine>,
}

/// What a pipeline is made of. Runs hold on to it, so that freeing the handle takes nothing away from under them.
pub(crate) struct Engine {
    pub(crate) pipeline: Pipeline,
    pub(crate) slots: Slots,
    pub(crate) log: Option<Dispatch>,
    poisoned: AtomicBool,
    /// Bits of the seconds that a multiply-accumulate took in the last picture; 0 before the first.
    seconds_per_mac: AtomicU64,
}

impl RefUnwindSafe for Engine {}

/// Poisons an engine when a panic passes.
pub(crate) struct Antidote<'a>(&'a Engine);

impl Drop for Antidote<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Relaxed);
        }
    }
}

impl Engine {
    fn new(options: &bonsai_options, log: Option<Dispatch>, pipeline: Pipeline) -> Self {
        let slots = Slots::new(options.max_concurrent_runs, options.fail_when_busy == 1);
        Self { pipeline, slots, log, poisoned: AtomicBool::new(false), seconds_per_mac: AtomicU64::new(0) }
    }

    /// How fast the last picture was, if there was one.
    pub(crate) fn seconds_per_mac(&self) -> Option<f64> {
        match self.seconds_per_mac.load(Ordering::Relaxed) {
            0 => None,
            bits => Some(f64::from_bits(bits)),
        }
    }

    /// Keeps how fast a picture was.
    pub(crate) fn took(&self, request: &Request, seconds: f64) {
        if let Ok(estimate) = self.pipeline.estimate(request) {
            let rate = seconds / estimate.macs().max(1) as f64;
            self.seconds_per_mac.store(rate.to_bits(), Ordering::Relaxed);
        }
    }

    /// The way to work with it: fails once a panic has passed.
    pub(crate) fn sound(&self) -> Outcome<Antidote<'_>> {
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(Failure::new(ErrorKind::Poisoned, "the pipeline panicked before; open another"));
        }
        Ok(Antidote(self))
    }
}

/// The body of both ways to open.
///
/// # Safety
/// `options` is null or what it should be; `out` is null or may be written to.
unsafe fn open(
    options: *const bonsai_options,
    out: *mut *mut bonsai_pipeline,
    load: impl FnOnce(&PipelineOptions) -> Outcome<Pipeline>,
) -> Outcome {
    // SAFETY: null or writable (contract).
    let out = unsafe { handle::handle_place(out, "out") }?;
    // SAFETY: null or a struct of the size that it states (contract).
    let options = unsafe { structs::read_or_defaults(options, "options") }?;
    // SAFETY: its pointers are what its fields say (the crate's contract).
    let for_core = unsafe { options.to_core() }?;
    let log = log::dispatch(options.log, options.log_user_data, options.log_level)?;
    let pipeline = log::heard_by(log.as_ref(), || load(&for_core)).map_err(|f| f.stage("open"))?;
    *out = handle::give(bonsai_pipeline { engine: Arc::new(Engine::new(&options, log, pipeline)) });
    Ok(())
}

/// Opens a model directory. `options` may be NULL. Takes a while: tensors are checked, and weights are read as they are
/// needed. The files may not be changed or cut while the pipeline lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_pipeline_open(
    directory: *const c_char,
    directory_length: usize,
    options: *const bonsai_options,
    out: *mut *mut bonsai_pipeline,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: what the parameters say (the crate's contract).
        unsafe {
            open(options, out, |options| {
                let directory = text::text(directory, directory_length, "directory")?;
                Ok(Pipeline::open_with(directory, options)?)
            })
        }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_pipeline_open", Access::Work, error, body) }
}

/// Opens a model that the host keeps; `options` may be NULL. All files that are needed are read, whole, before this returns;
/// weights stay in memory, in buffers from options.alloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_pipeline_open_reader(
    reader: *const bonsai_model_reader,
    options: *const bonsai_options,
    out: *mut *mut bonsai_pipeline,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: what the parameters say (the crate's contract).
        unsafe {
            open(options, out, |options| {
                let source = structs::read(reader, "reader")?.to_core()?;
                Ok(Pipeline::open_source(Arc::new(source), options)?)
            })
        }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_pipeline_open_reader", Access::Work, error, body) }
}

/// What a pipeline is and does when a request does not say, as JSON: {"name", "isa", "precision", "threads", "width", "height", "steps",
/// "max_sequence_length", "guidance"}. `length` receives the bytes without the zero byte at the end, for which the buffer
/// needs room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_pipeline_info(
    pipeline: *const bonsai_pipeline,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle (the crate's contract).
        let pipeline = &unsafe { handle::reference(pipeline, "pipeline") }?.engine.pipeline;
        let defaults = pipeline.defaults();
        let json = serde_json::json!({
            "name": pipeline.name(),
            "isa": pipeline.cpu().isa().name(),
            "precision": pipeline.cpu().precision().name(),
            "threads": pipeline.cpu().threads(),
            "width": defaults.size.0,
            "height": defaults.size.1,
            "steps": defaults.steps,
            "max_sequence_length": defaults.max_sequence_length,
            "guidance": pipeline.transformer().config().guidance_embeds,
        });
        // SAFETY: null or writable (the crate's contract).
        unsafe { text::text_out(&json.to_string(), buffer, capacity, length) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_pipeline_info", Access::Getter, error, body) }
}

/// Frees a pipeline. Runs that are going on finish; results stay. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_pipeline_free(pipeline: *mut bonsai_pipeline) {
    value("bonsai_pipeline_free", (), || {
        // SAFETY: null, or made by `open` and not freed (the crate's contract).
        unsafe { handle::take_back(pipeline) }
    });
}
