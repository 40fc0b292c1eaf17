use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_core::CancelToken;

use crate::guard::{self, Access, status};
use crate::handle;
use crate::{BONSAI_E_INVALID_ARG, BONSAI_E_NULL_ARG, BONSAI_OK, bonsai_error, bonsai_status};

/// As soon as possible: within a fraction of a second whatever is being done.
pub const BONSAI_CANCEL_NOW: i32 = 0;
/// When the current picture of the request is finished.
pub const BONSAI_CANCEL_AFTER_CURRENT_IMAGE: i32 = 1;

/// A flag that ends a run, from any thread. It is counted: bonsai_cancel_retain adds an owner, bonsai_cancel_free takes one
/// away. It may outlive pipelines, and several runs may share one.
pub struct bonsai_cancel {
    pub(crate) now: CancelToken,
    pub(crate) after_image: AtomicBool,
}

/// Makes a token that is not set, with one owner.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cancel_new(
    out: *mut *mut bonsai_cancel,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or writable (the crate's contract).
        let out = unsafe { handle::handle_place(out, "out") }?;
        let token = bonsai_cancel { now: CancelToken::new(), after_image: AtomicBool::new(false) };
        *out = Arc::into_raw(Arc::new(token)).cast_mut();
        Ok(())
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_cancel_new", Access::Getter, error, body) }
}

/// Adds an owner.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cancel_retain(cancel: *const bonsai_cancel) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live token of ours (the crate's contract).
        unsafe { handle::reference(cancel, "cancel") }?;
        // SAFETY: it came from `Arc::into_raw` and has an owner still (the crate's contract).
        unsafe { Arc::increment_strong_count(cancel) };
        Ok(())
    };
    // SAFETY: there is no error place.
    unsafe { status("bonsai_cancel_retain", Access::Getter, std::ptr::null_mut(), body) }
}

/// Asks the runs of this token to end: BONSAI_CANCEL_NOW or BONSAI_CANCEL_AFTER_CURRENT_IMAGE. From any thread, from
/// callbacks, and from signal handlers: it sets a flag and does nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cancel_request(cancel: *const bonsai_cancel, mode: i32) -> bonsai_status {
    guard::bare("bonsai_cancel_request", || {
        if cancel.is_null() {
            return BONSAI_E_NULL_ARG;
        }
        if !cancel.is_aligned() {
            return BONSAI_E_INVALID_ARG;
        }
        // SAFETY: neither null nor misaligned (checked); a live token of ours (the crate's contract).
        let cancel = unsafe { &*cancel };
        match mode {
            BONSAI_CANCEL_NOW => cancel.now.cancel(),
            BONSAI_CANCEL_AFTER_CURRENT_IMAGE => cancel.after_image.store(true, Ordering::Relaxed),
            _ => return BONSAI_E_INVALID_ARG,
        }
        BONSAI_OK
    })
}

/// 1 when somebody asked, in either mode, 0 when not; a negative status for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cancel_is_requested(cancel: *const bonsai_cancel) -> i32 {
    let mut requested = false;
    let body = || {
        // SAFETY: null or a live token of ours (the crate's contract).
        let cancel = unsafe { handle::reference(cancel, "cancel") }?;
        requested = cancel.now.is_cancelled() || cancel.after_image.load(Ordering::Relaxed);
        Ok(())
    };
    // SAFETY: there is no error place.
    let status = unsafe { status("bonsai_cancel_is_requested", Access::Getter, std::ptr::null_mut(), body) };
    if status < 0 { status } else { i32::from(requested) }
}

/// Makes the token usable again. Not while a run that it ended is still on its way back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cancel_reset(cancel: *const bonsai_cancel) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live token of ours (the crate's contract).
        let cancel = unsafe { handle::reference(cancel, "cancel") }?;
        cancel.now.reset();
        cancel.after_image.store(false, Ordering::Relaxed);
        Ok(())
    };
    // SAFETY: there is no error place.
    unsafe { status("bonsai_cancel_reset", Access::Getter, std::ptr::null_mut(), body) }
}

/// Takes an owner away; with the last the token goes. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cancel_free(cancel: *mut bonsai_cancel) {
    guard::value("bonsai_cancel_free", (), || {
        if !cancel.is_null() {
            // SAFETY: it came from `Arc::into_raw`, and the caller gives one count up (the crate's contract).
            unsafe { Arc::decrement_strong_count(cancel.cast_const()) };
        }
    });
}
