//! Structs that begin with their size, so that old programs and new libraries, and the other way round, understand each
//! other.

use std::ptr;

use bonsai_core::ErrorKind;

use crate::guard::{Failure, Outcome};

/// No struct will ever be larger; who says so passed something else.
const LARGEST: usize = 4096;

/// A struct of the interface.
///
/// # Safety
/// It is `repr(C)` without padding, begins with `struct_size: u32`, and every pattern of bits is a value of it.
pub(crate) unsafe trait Versioned: Sized {
    /// Its name in C.
    const NAME: &'static str;
    /// Its size in the first version that was released. Until there is one: its size.
    const FIRST_SIZE: usize = size_of::<Self>();
    /// What `_init` writes.
    fn defaults() -> Self;
}

/// Reads a struct of the caller, whatever version it was compiled for: fields that it lacks take their defaults, fields
/// that this library lacks must be zero.
///
/// # Safety
/// The pointer is null, or points to as many readable bytes as its `struct_size` says.
pub(crate) unsafe fn read<T: Versioned>(pointer: *const T, parameter: &str) -> Outcome<T> {
    // SAFETY: the contract of this function; every struct has its size in its first four bytes.
    let size = unsafe { size_of_callers(pointer, parameter) }?;
    let mut value = T::defaults();
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are readable (contract) and fit `value`, for which every pattern of bits is good (trait).
    unsafe { ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast::<u8>(), known) };
    // SAFETY: the caller's struct has `size` bytes (contract), of which these are beyond what this library knows.
    let tail = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if tail.iter().any(|&byte| byte != 0) {
        let (name, own) = (T::NAME, size_of::<T>());
        return Err(Failure::new(
            ErrorKind::Unsupported,
            format!(
                "{parameter}: a {name} of {size} bytes has something set beyond the {own} that this version knows"
            ),
        ));
    }
    Ok(value)
}

/// Reads an optional struct: its defaults when the pointer is null.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_or_defaults<T: Versioned>(pointer: *const T, parameter: &str) -> Outcome<T> {
    if pointer.is_null() {
        return Ok(T::defaults());
    }
    // SAFETY: the contract of this function.
    unsafe { read(pointer, parameter) }
}

/// Writes a result into a struct of the caller, which has set its `struct_size`: as many fields as it has room for.
///
/// # Safety
/// The pointer is null, or points to as many writable bytes as its `struct_size` says.
pub(crate) unsafe fn write<T: Versioned>(pointer: *mut T, parameter: &str, value: T) -> Outcome {
    // SAFETY: the contract of this function.
    let size = unsafe { size_of_callers(pointer, parameter) }?;
    // SAFETY: as above.
    unsafe { fill(pointer, size, value) };
    Ok(())
}

/// The body of an `_init` function.
///
/// # Safety
/// The pointer is null, or points to `size` writable bytes.
pub(crate) unsafe fn init<T: Versioned>(pointer: *mut T, size: usize, parameter: &str) -> Outcome {
    check::<T>(pointer, size, parameter)?;
    // SAFETY: the contract of this function, and neither null nor misaligned (checked).
    unsafe { fill(pointer, size, T::defaults()) };
    Ok(())
}

/// # Safety
/// `size` bytes, at least four, may be written to.
unsafe fn fill<T: Versioned>(pointer: *mut T, size: usize, value: T) {
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes of both; the rest of the caller's are cleared; the size is the caller's own again.
    unsafe {
        ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), pointer.cast::<u8>(), known);
        ptr::write_bytes(pointer.cast::<u8>().add(known), 0, size - known);
        pointer.cast::<u32>().write(size as u32);
    }
}

/// # Safety
/// The pointer is null or points to four readable bytes.
unsafe fn size_of_callers<T: Versioned>(pointer: *const T, parameter: &str) -> Outcome<usize> {
    if pointer.is_null() || !pointer.is_aligned() {
        check::<T>(pointer, T::FIRST_SIZE, parameter)?;
    }
    // SAFETY: neither null nor misaligned (checked); four readable bytes (contract).
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    check::<T>(pointer, size, parameter)?;
    Ok(size)
}

fn check<T: Versioned>(pointer: *const T, size: usize, parameter: &str) -> Outcome {
    if pointer.is_null() {
        return Err(Failure::new(ErrorKind::NullArgument, format!("{parameter} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::invalid(format!(
            "{parameter}: expected a pointer to a multiple of {} bytes",
            align_of::<T>()
        )));
    }
    if (T::FIRST_SIZE..=LARGEST).contains(&size) && size.is_multiple_of(align_of::<u32>()) {
        return Ok(());
    }
    let (name, first) = (T::NAME, T::FIRST_SIZE);
    Err(Failure::new(
        ErrorKind::InvalidStruct,
        format!(
            "{parameter}: struct_size {size} of a {name}: expected at least {first}; was it initialised?"
        ),
    ))
}
