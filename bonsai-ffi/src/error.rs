use std::ffi::{CString, c_char};

use crate::guard::{Failure, value};
use crate::handle;
use crate::status::{BONSAI_E_NULL_ARG, BONSAI_E_PANIC, bonsai_status};

/// Why a call failed, in full. It belongs to whoever received it.
pub struct bonsai_error {
    status: i32,
    message: CString,
    stage: CString,
    file: Option<CString>,
    offset: i64,
}

fn c_string(text: &str) -> CString {
    // a zero byte, which only a name of a file can smuggle in, would cut the text off
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

impl bonsai_error {
    /// # Safety
    /// The pointer is null or may be written to.
    pub(crate) unsafe fn clear(error: *mut *mut Self) {
        if !error.is_null() {
            // SAFETY: not null and writable (contract); whatever was there is not ours to free.
            unsafe { error.write_unaligned(std::ptr::null_mut()) }
        }
    }

    /// # Safety
    /// The pointer is null or may be written to.
    pub(crate) unsafe fn hand_out(error: *mut *mut Self, failure: Failure, function: &'static str) {
        if error.is_null() {
            return;
        }
        let made = Self {
            status: failure.kind.status(),
            message: c_string(&failure.message),
            stage: c_string(failure.stage.unwrap_or(function)),
            file: failure.file.as_deref().map(c_string),
            offset: failure.offset.and_then(|offset| offset.try_into().ok()).unwrap_or(-1),
        };
        // SAFETY: not null and writable (contract).
        unsafe { error.write_unaligned(handle::give(made)) }
    }
}

/// The status that the failed call returned; BONSAI_E_NULL_ARG for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_error_status(error: *const bonsai_error) -> bonsai_status {
    value("bonsai_error_status", BONSAI_E_PANIC, || {
        // SAFETY: null or a live error of ours (the crate's contract).
        unsafe { handle::reference(error, "error") }.map_or(BONSAI_E_NULL_ARG, |e| e.status)
    })
}

/// A sentence for people, in UTF-8: names the file, tensor or field and what was expected. It lives as long as the error.
/// NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_error_message(error: *const bonsai_error) -> *const c_char {
    value("bonsai_error_message", std::ptr::null(), || {
        // SAFETY: null or a live error of ours (the crate's contract).
        unsafe { handle::reference(error, "error") }.map_or(std::ptr::null(), |e| e.message.as_ptr())
    })
}

/// What was being done: "open", "text_encode", "denoise", "decode", or the name of the function. It lives as long as the
/// error. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_error_stage(error: *const bonsai_error) -> *const c_char {
    value("bonsai_error_stage", std::ptr::null(), || {
        // SAFETY: null or a live error of ours (the crate's contract).
        unsafe { handle::reference(error, "error") }.map_or(std::ptr::null(), |e| e.stage.as_ptr())
    })
}

/// The file that it is about, or NULL where it is about none. It lives as long as the error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_error_file(error: *const bonsai_error) -> *const c_char {
    value("bonsai_error_file", std::ptr::null(), || {
        // SAFETY: null or a live error of ours (the crate's contract).
        let error = unsafe { handle::reference(error, "error") };
        error.ok().and_then(|e| e.file.as_ref()).map_or(std::ptr::null(), |file| file.as_ptr())
    })
}

/// The byte of that file, from its start, that it is about; -1 where it is about none, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_error_offset(error: *const bonsai_error) -> i64 {
    value("bonsai_error_offset", -1, || {
        // SAFETY: null or a live error of ours (the crate's contract).
        unsafe { handle::reference(error, "error") }.map_or(-1, |e| e.offset)
    })
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_error_free(error: *mut bonsai_error) {
    value("bonsai_error_free", (), || {
        // SAFETY: null, or given out by `hand_out` and not freed (the crate's contract).
        unsafe { handle::take_back(error) }
    });
}
