//! Text and bytes, in and out.

use std::ffi::{CStr, c_char};

use bonsai_core::ErrorKind;

use crate::guard::{Failure, Outcome};
use crate::handle;

/// Text of the caller.
///
/// # Safety
/// The pointer is null, or points to `length` bytes that live and do not change during `'a`, or, where `length` is
/// `SIZE_MAX`, to bytes that end with a zero.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, length: usize, parameter: &str) -> Outcome<&'a str> {
    if pointer.is_null() {
        return Err(Failure::new(ErrorKind::NullArgument, format!("{parameter} is NULL")));
    }
    let bytes = if length == usize::MAX {
        // SAFETY: not null (checked) and ends with a zero (contract).
        unsafe { CStr::from_ptr(pointer) }.to_bytes()
    } else {
        // SAFETY: `length` bytes (contract).
        unsafe { handle::elements(pointer.cast::<u8>(), length, parameter) }?
    };
    std::str::from_utf8(bytes)
        .map_err(|e| Failure::invalid(format!("{parameter}: not UTF-8 from byte {} on", e.valid_up_to())))
}

/// Writes text with a zero byte behind it; `length` receives its bytes without that.
///
/// # Safety
/// As [`bytes_out`].
pub(crate) unsafe fn text_out(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Outcome {
    let mut bytes = text.as_bytes().to_vec();
    // text of ours holds no zero byte, but a prompt in metadata might: JSON escapes it
    bytes.push(0);
    // SAFETY: the contract of this function.
    unsafe { out(&bytes, text.len(), buffer.cast(), capacity, length) }
}

/// Writes bytes; `length` receives their number. With a null buffer and capacity 0 that is all.
///
/// # Safety
/// `buffer` is null or points to `capacity` writable bytes, `length` is null or may be written to; nobody else writes there.
pub(crate) unsafe fn bytes_out(
    bytes: &[u8],
    buffer: *mut u8,
    capacity: usize,
    length: *mut usize,
) -> Outcome {
    // SAFETY: the contract of this function.
    unsafe { out(bytes, bytes.len(), buffer, capacity, length) }
}

/// # Safety
/// As [`bytes_out`].
unsafe fn out(bytes: &[u8], shown: usize, buffer: *mut u8, capacity: usize, length: *mut usize) -> Outcome {
    // SAFETY: null or writable (contract).
    *unsafe { handle::place(length, "length") }? = shown;
    if buffer.is_null() && capacity == 0 {
        return Ok(());
    }
    if buffer.is_null() {
        return Err(Failure::new(ErrorKind::NullArgument, "buffer is NULL and its capacity is not 0"));
    }
    if capacity < bytes.len() {
        let needed = bytes.len();
        return Err(Failure::new(
            ErrorKind::BufferTooSmall,
            format!("capacity {capacity}: expected at least {needed}"),
        ));
    }
    // SAFETY: `capacity` writable bytes (contract), of which no more than there are, are taken.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len()) };
    Ok(())
}
