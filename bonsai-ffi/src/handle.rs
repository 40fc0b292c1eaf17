//! From pointers of C to references and back.

use bonsai_core::ErrorKind;

use crate::guard::{Failure, Outcome};

/// What a pointer points to.
///
/// # Safety
/// It is null, or points to a `T` that lives and is not changed during `'a`.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, parameter: &str) -> Outcome<&'a T> {
    check(pointer, parameter)?;
    // SAFETY: neither null nor misaligned (checked); the rest is the contract of this function.
    Ok(unsafe { &*pointer })
}

/// What a pointer points to, where it may be null.
///
/// # Safety
/// As [`reference`].
pub(crate) unsafe fn optional<'a, T>(pointer: *const T, parameter: &str) -> Outcome<Option<&'a T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the contract of this function.
    unsafe { reference(pointer, parameter) }.map(Some)
}

/// The place that a result is written to.
///
/// # Safety
/// It is null, or may be written to during `'a` by nobody else; the `T` there is valid.
pub(crate) unsafe fn place<'a, T>(pointer: *mut T, parameter: &str) -> Outcome<&'a mut T> {
    check(pointer, parameter)?;
    // SAFETY: neither null nor misaligned (checked); the rest is the contract of this function.
    Ok(unsafe { &mut *pointer })
}

/// The place of a handle that a function makes; holds null until then.
///
/// # Safety
/// It is null, or may be written to during `'a` by nobody else.
pub(crate) unsafe fn handle_place<'a, T>(pointer: *mut *mut T, parameter: &str) -> Outcome<&'a mut *mut T> {
    check(pointer, parameter)?;
    // SAFETY: neither null nor misaligned (checked), and writable; every bit pattern is a raw pointer.
    let place = unsafe {
        pointer.write(std::ptr::null_mut());
        &mut *pointer
    };
    Ok(place)
}

/// Gives a value to C.
pub(crate) fn give<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes a value back from C and drops it.
///
/// # Safety
/// The pointer is null or came from [`give`] and was not taken back.
pub(crate) unsafe fn take_back<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: the contract of this function.
        drop(unsafe { Box::from_raw(pointer) });
    }
}

/// `count` elements.
///
/// # Safety
/// The pointer is null or points to `count` elements that live and are not changed during `'a`.
pub(crate) unsafe fn elements<'a, T>(pointer: *const T, count: usize, parameter: &str) -> Outcome<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, parameter)?;
    check_length::<T>(count, parameter)?;
    // SAFETY: neither null nor misaligned, and not too long (checked); the rest is the contract of this function.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A buffer of the caller of `length` bytes.
///
/// # Safety
/// The pointer is null or points to `length` bytes that may be written to during `'a` by nobody else, and that hold
/// something, whatever it is.
pub(crate) unsafe fn buffer<'a>(pointer: *mut u8, length: usize, parameter: &str) -> Outcome<&'a mut [u8]> {
    if length == 0 {
        return Ok(&mut []);
    }
    check(pointer, parameter)?;
    check_length::<u8>(length, parameter)?;
    // SAFETY: not null, not too long (checked); the rest is the contract of this function.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

fn check<T>(pointer: *const T, parameter: &str) -> Outcome {
    if pointer.is_null() {
        return Err(Failure::new(ErrorKind::NullArgument, format!("{parameter} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::invalid(format!(
            "{parameter}: expected a pointer to a multiple of {} bytes",
            align_of::<T>()
        )));
    }
    Ok(())
}

fn check_length<T>(count: usize, parameter: &str) -> Outcome {
    match count.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Failure::invalid(format!(
            "{parameter}: {count} elements do not fit the memory of any machine"
        ))),
    }
}
