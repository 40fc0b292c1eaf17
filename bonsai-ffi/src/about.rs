use std::ffi::{CStr, c_char};

use bonsai_core::Isa;

use crate::guard::{Access, status, value};
use crate::{bonsai_error, bonsai_status, text};

/// The version of this interface: libraries with the same number are interchangeable.
pub const BONSAI_ABI_VERSION: u32 = 0;

/// BONSAI_ABI_VERSION of the library, to compare with that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_abi_version() -> u32 {
    value("bonsai_abi_version", u32::MAX, || BONSAI_ABI_VERSION)
}

/// The version of the engine, as "0.1.0". Never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_version_string() -> *const c_char {
    const VERSION: &[u8] = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();
    value("bonsai_version_string", c"".as_ptr(), || {
        CStr::from_bytes_with_nul(VERSION).map_or(c"".as_ptr(), CStr::as_ptr)
    })
}

/// What this build can do besides its functions.
const FEATURES: [&str; 5] = ["gguf", "safetensors", "preview", "preview_decoder", "model_reader"];

/// 1 when this build has the feature of that name ("gguf", "preview", ...; zero byte at its end), 0 when not or not known, a
/// negative status for NULL or bytes that are not UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_has_feature(name: *const c_char) -> i32 {
    let mut has = false;
    let body = || {
        // SAFETY: null or ends with a zero (the crate's contract).
        let name = unsafe { text::text(name, usize::MAX, "name") }?;
        has = FEATURES.contains(&name);
        Ok(())
    };
    // SAFETY: there is no error place.
    let status = unsafe { status("bonsai_has_feature", Access::Getter, std::ptr::null_mut(), body) };
    if status < 0 { status } else { i32::from(has) }
}

/// What this CPU offers, as JSON: {"isa": "avx2", "available": ["portable", "avx2"], "threads": 8}. `length` receives the
/// bytes without the zero byte at the end, for which the buffer needs room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_cpu_features(
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let json = serde_json::json!({ "isa": Isa::best().name(), "available": names, "threads": threads });
        // SAFETY: null or writable (the crate's contract).
        unsafe { text::text_out(&json.to_string(), buffer, capacity, length) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_cpu_features", Access::Getter, error, body) }
}
