use std::ffi::c_void;

use bonsai_core::ErrorKind;

use crate::guard::{Access, Failure, Outcome, status};
use crate::options::expect_zero;
use crate::structs::{self, Versioned};
use crate::{BONSAI_LOG_WARN, bonsai_image_view, bonsai_log_fn, bonsai_status};

/// The run waits until its turn comes.
pub const BONSAI_STAGE_QUEUED: i32 = 0;
/// The prompt is read, layer by layer.
pub const BONSAI_STAGE_TEXT_ENCODE: i32 = 1;
/// The noise is removed, step by step and block by block.
pub const BONSAI_STAGE_DENOISE: i32 = 2;
/// The picture is decoded, part by part.
pub const BONSAI_STAGE_DECODE: i32 = 3;
/// A picture is finished.
pub const BONSAI_STAGE_DONE: i32 = 4;

/// How far a run is. Valid during the call.
#[repr(C)]
pub struct bonsai_progress {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// One of BONSAI_STAGE_.... Later versions may add stages.
    pub stage: i32,
    /// Layers, blocks or parts of the stage, or of its current step, that are done.
    pub done: u32,
    /// Of so many.
    pub total: u32,
    /// The denoising step, from 0; 0 in other stages.
    pub step: u32,
    /// Denoising steps in all.
    pub steps: u32,
    /// The picture, from 0.
    pub image: u32,
    /// Pictures of the request.
    pub images: u32,
    /// Of the whole request, 0 to 1, never less than before.
    pub fraction: f64,
    /// Since the run began.
    pub seconds: f64,
}

/// Told now and then how far a run is. 0 goes on; anything else ends the run with BONSAI_E_CANCELLED.
pub type bonsai_progress_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, progress: *const bonsai_progress) -> i32>;

/// Shown a rough picture (RGB8; a pixel for each of the latent, which is an eighth of the sides; or as large as
/// the picture with options.preview_decoder) after step `step` (from 0) of `steps` of a picture. 0 goes on;
/// anything else ends the run with BONSAI_E_CANCELLED. Never changes what is painted.
pub type bonsai_preview_fn = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        preview: *const bonsai_image_view,
        image: u32,
        step: u32,
        steps: u32,
    ) -> i32,
>;

/// Who watches a run: its own callbacks and nobody else's. They are called on the thread that called bonsai_generate, in
/// order, and never after it returned. Fill it with bonsai_callbacks_init.
#[repr(C)]
pub struct bonsai_callbacks {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// 0.
    pub reserved_flags: u32,
    /// A preview after every so many steps, and after the last; 1 at first.
    pub preview_interval: u32,
    /// The least important of the messages that log receives: one of BONSAI_LOG_....
    pub log_level: i32,
    /// May be NULL.
    pub progress: bonsai_progress_fn,
    /// May be NULL.
    pub preview: bonsai_preview_fn,
    /// Messages of this run; NULL: they go to the log of the pipeline.
    pub log: bonsai_log_fn,
    /// Handed to all three.
    pub user_data: *mut c_void,
}

// SAFETY: `repr(C)`, no padding, all fields integers and nullable pointers.
unsafe impl Versioned for bonsai_callbacks {
    const NAME: &'static str = "bonsai_callbacks";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved_flags: 0,
            preview_interval: 1,
            log_level: BONSAI_LOG_WARN,
            progress: None,
            preview: None,
            log: None,
            user_data: std::ptr::null_mut(),
        }
    }
}

/// Fills callbacks with none. `struct_size` is sizeof(bonsai_callbacks).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_callbacks_init(
    callbacks: *mut bonsai_callbacks,
    struct_size: usize,
) -> bonsai_status {
    // SAFETY: null or writable for its size (the crate's contract); there is no error place.
    unsafe {
        status("bonsai_callbacks_init", Access::Getter, std::ptr::null_mut(), || {
            structs::init(callbacks, struct_size, "callbacks")
        })
    }
}

impl bonsai_callbacks {
    pub(crate) fn check(&self) -> Outcome {
        expect_zero("callbacks.reserved_flags", self.reserved_flags)?;
        if self.preview_interval == 0 {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                "callbacks.preview_interval 0: expected at least 1",
            ));
        }
        Ok(())
    }
}
