use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bonsai_core::{CancelToken, Error, ErrorKind, Event, Observer, Preview};

use crate::callbacks::*;
use crate::guard::{Access, Failure, Outcome, call_out, status};
use crate::pipeline::Engine;
use crate::request::Wanted;
use crate::result::{Painted, bonsai_result};
use crate::{
    bonsai_cancel, bonsai_error, bonsai_image_view, bonsai_pipeline, bonsai_request, bonsai_status, handle,
    image, log, structs,
};

/// Paints. `callbacks` and `cancel` may be NULL. Returns when all pictures are finished or the run ended otherwise. `out`
/// receives the pictures that were finished: all of them, or, with BONSAI_E_CANCELLED and BONSAI_E_TIMEOUT, those so far, or
/// NULL when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_generate(
    pipeline: *const bonsai_pipeline,
    request: *const bonsai_request,
    callbacks: *const bonsai_callbacks,
    cancel: *const bonsai_cancel,
    out: *mut *mut bonsai_result,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or writable (the crate's contract).
        let out = unsafe { handle::handle_place(out, "out") }?;
        // SAFETY: null or a live handle (the crate's contract).
        let engine = Arc::clone(&unsafe { handle::reference(pipeline, "pipeline") }?.engine);
        // SAFETY: null or a live handle (the crate's contract).
        let cancel = unsafe { handle::optional(cancel, "cancel") }?;
        // SAFETY: null or structs of the size that they state (the crate's contract).
        let (request, callbacks) = unsafe {
            (structs::read(request, "request")?, structs::read_or_defaults(callbacks, "callbacks")?)
        };
        callbacks.check()?;
        let own_log = log::dispatch(callbacks.log, callbacks.user_data, callbacks.log_level)?;
        // SAFETY: its pointers are what its fields say (the crate's contract).
        let wanted = unsafe { request.to_core(engine.pipeline.defaults().size) }?;
        let log = own_log.as_ref().or(engine.log.as_ref());
        let mut finished = Vec::new();
        let outcome = log::heard_by(log, || run(&engine, &wanted, &callbacks, cancel, &mut finished));
        if !finished.is_empty() {
            *out = handle::give(bonsai_result::new(finished));
        }
        outcome
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_generate", Access::Work, error, body) }
}

fn run(
    engine: &Engine,
    wanted: &Wanted,
    callbacks: &bonsai_callbacks,
    cancel: Option<&bonsai_cancel>,
    finished: &mut Vec<Painted>,
) -> Outcome {
    let _antidote = engine.sound()?;
    let token = cancel.map_or_else(CancelToken::new, |cancel| cancel.now.clone());
    let mut watch = Watch::new(callbacks, wanted, &token);
    watch.tell(BONSAI_STAGE_QUEUED, 0, 0)?;
    let _slot = engine.slots.take(|| watch.go_on())?;
    let pipeline = engine.pipeline.with_cancel(token.clone());
    let mut request = wanted.request.clone();
    for index in 0..wanted.images {
        let after_image = || cancel.is_some_and(|cancel| cancel.after_image.load(Ordering::Relaxed));
        if index > 0 && after_image() {
            return Err(Failure::new(
                ErrorKind::Cancelled,
                "ended after a finished picture, as was asked for",
            ));
        }
        request.seed = wanted.request.seed.wrapping_add(index.into());
        watch.begin(index);
        let began = Instant::now();
        let painted = pipeline.generate_observed(&request, &mut watch);
        let generated = painted.map_err(|error| watch.failure(error))?;
        engine.took(&request, began.elapsed().as_secs_f64());
        finished.push(Painted::new(generated, watch.floats.take()));
        watch.tell(BONSAI_STAGE_DONE, 1, 1)?;
    }
    Ok(())
}

/// What a text encoder pass, a step and a decoder pass cost beside each other: seconds at 512x512, as in the README.
const COST: [f64; 3] = [15.0, 22.0, 11.0];

/// From core's events to the host's callbacks.
struct Watch<'a> {
    callbacks: &'a bonsai_callbacks,
    wanted: &'a Wanted,
    token: &'a CancelToken,
    began: Instant,
    image: u32,
    stage: &'static str,
    step: u32,
    steps: u32,
    fraction: f64,
    /// Why the work was broken off, where it was by us.
    broken: Option<ErrorKind>,
    floats: Option<Vec<f32>>,
}

impl<'a> Watch<'a> {
    fn new(callbacks: &'a bonsai_callbacks, wanted: &'a Wanted, token: &'a CancelToken) -> Self {
        Self {
            callbacks,
            wanted,
            token,
            began: Instant::now(),
            image: 0,
            stage: "queue",
            step: 0,
            // until the first step tells
            steps: wanted.request.steps.unwrap_or(4) as u32,
            fraction: 0.0,
            broken: None,
            floats: None,
        }
    }

    /// The next picture.
    fn begin(&mut self, image: u32) {
        (self.image, self.step, self.stage) = (image, 0, "text_encode");
    }

    /// Whether nobody asked to stop and there is time left.
    fn go_on(&mut self) -> Outcome {
        if self.token.is_cancelled() {
            return Err(Failure::new(ErrorKind::Cancelled, "cancelled").stage(self.stage));
        }
        let late = self.wanted.timeout.is_some_and(|timeout| self.began.elapsed() >= timeout);
        if late {
            self.broken = Some(ErrorKind::Timeout);
            let timeout = self.wanted.timeout.unwrap_or_default().as_millis();
            return Err(
                Failure::new(ErrorKind::Timeout, format!("took longer than {timeout} ms")).stage(self.stage)
            );
        }
        Ok(())
    }

    /// Tells the host how far the run is.
    fn tell(&mut self, stage: i32, done: usize, total: usize) -> Outcome {
        let part = if total > 0 { done as f64 / total as f64 } else { 0.0 };
        let [text, step, decode] = COST;
        let all = text + step * f64::from(self.steps) + decode;
        let spent = match stage {
            BONSAI_STAGE_TEXT_ENCODE => text * part,
            BONSAI_STAGE_DENOISE => text + step * (f64::from(self.step) + part),
            BONSAI_STAGE_DECODE => all - decode * (1.0 - part),
            BONSAI_STAGE_DONE => all,
            _ => 0.0,
        };
        let fraction = (f64::from(self.image) + spent / all) / f64::from(self.wanted.images);
        self.fraction = self.fraction.max(fraction.min(1.0));
        let Some(progress) = self.callbacks.progress else { return Ok(()) };
        let told = bonsai_progress {
            struct_size: size_of::<bonsai_progress>() as u32,
            stage,
            done: done as u32,
            total: total as u32,
            step: if stage == BONSAI_STAGE_DENOISE { self.step } else { 0 },
            steps: self.steps,
            image: self.image,
            images: self.wanted.images,
            fraction: self.fraction,
            seconds: self.began.elapsed().as_secs_f64(),
        };
        // SAFETY: the host's function, with a struct that lives during the call.
        let answer = call_out(|| unsafe { progress(self.callbacks.user_data, &raw const told) });
        self.answered(answer, "progress")
    }

    fn answered(&mut self, answer: i32, callback: &str) -> Outcome {
        if answer == 0 {
            return Ok(());
        }
        self.broken = Some(ErrorKind::Cancelled);
        Err(Failure::new(ErrorKind::Cancelled, format!("the {callback} callback returned {answer}"))
            .stage(self.stage))
    }

    /// What core's error means for the host.
    fn failure(&self, error: Error) -> Failure {
        let failure = match self.broken {
            Some(ErrorKind::Timeout) if error.kind() == ErrorKind::Cancelled => {
                let timeout = self.wanted.timeout.unwrap_or_default().as_millis();
                Failure::new(ErrorKind::Timeout, format!("took longer than {timeout} ms"))
            }
            _ => Failure::from(error),
        };
        failure.stage(self.stage)
    }
}

fn flow(outcome: Outcome) -> ControlFlow<()> {
    if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        #[cfg(feature = "inject-panics")]
        crate::inject::in_run();
        let told = match event {
            Event::TextEncode { layer, layers } => {
                let told = self.tell(BONSAI_STAGE_TEXT_ENCODE, layer, layers);
                if layer == layers {
                    self.stage = "denoise";
                }
                told
            }
            Event::Step { step, steps, block, blocks } => {
                (self.step, self.steps) = (step as u32, steps as u32);
                let told = self.tell(BONSAI_STAGE_DENOISE, block, blocks);
                if step + 1 == steps && block == blocks {
                    self.stage = "decode";
                }
                told
            }
            Event::Decode { part, parts } => self.tell(BONSAI_STAGE_DECODE, part, parts),
            _ => Ok(()),
        };
        flow(told.and_then(|()| self.go_on()))
    }

    fn wants_preview(&self, step: usize, steps: usize) -> bool {
        let interval = self.callbacks.preview_interval as usize;
        self.callbacks.preview.is_some() && ((step + 1).is_multiple_of(interval) || step + 1 == steps)
    }

    fn preview(&mut self, preview: &Preview) -> ControlFlow<()> {
        let Some(callback) = self.callbacks.preview else { return ControlFlow::Continue(()) };
        let view: bonsai_image_view = image::view(&preview.image);
        let (step, steps) = (preview.step as u32, preview.steps as u32);
        // SAFETY: the host's function, with a picture that lives during the call.
        let answer = call_out(|| unsafe {
            callback(self.callbacks.user_data, &raw const view, self.image, step, steps)
        });
        flow(self.answered(answer, "preview"))
    }

    fn decoded(&mut self, picture: ndarray::ArrayView3<'_, f32>) {
        if self.wanted.keep_float {
            // NaN would have been refused before
            self.floats = Some(picture.iter().map(|v| (v * 0.5 + 0.5).clamp(0.0, 1.0)).collect());
        }
    }
}
