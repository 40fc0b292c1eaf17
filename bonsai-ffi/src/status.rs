use std::ffi::{CStr, c_char};

use crate::guard::value;

/// What a function says of its work: BONSAI_OK or one of the negative BONSAI_E_... numbers. Later versions may add numbers;
/// none is ever used for something else.
pub type bonsai_status = i32;

/// Done.
pub const BONSAI_OK: bonsai_status = 0;
/// A pointer was NULL where something was expected.
pub const BONSAI_E_NULL_ARG: bonsai_status = -1;
/// A value is out of its range, or text is not UTF-8.
pub const BONSAI_E_INVALID_ARG: bonsai_status = -2;
/// The struct_size of a struct belongs to no version.
pub const BONSAI_E_INVALID_STRUCT: bonsai_status = -3;
/// This version knows no such thing; also a struct from a newer header with something set in its unknown part.
pub const BONSAI_E_UNSUPPORTED: bonsai_status = -4;
/// A file or folder is not there.
pub const BONSAI_E_NOT_FOUND: bonsai_status = -5;
/// The system, or a read callback, refused.
pub const BONSAI_E_IO: bonsai_status = -6;
/// A file's bytes are not what its format demands.
pub const BONSAI_E_MODEL_FORMAT: bonsai_status = -7;
/// The files are sound but do not make the model that their config describes.
pub const BONSAI_E_MODEL_MISMATCH: bonsai_status = -8;
/// The tokenizer's files are unusable.
pub const BONSAI_E_TOKENIZER: bonsai_status = -9;
/// A buffer could not be had.
pub const BONSAI_E_OUT_OF_MEMORY: bonsai_status = -10;
/// The work needs more memory than it was granted.
pub const BONSAI_E_MEMORY_BUDGET: bonsai_status = -11;
/// The cancel token was set, or a callback said stop. Finished pictures are kept.
pub const BONSAI_E_CANCELLED: bonsai_status = -12;
/// The work took longer than the request's timeout.
pub const BONSAI_E_TIMEOUT: bonsai_status = -13;
/// All runs of the pipeline are taken and fail_when_busy is set.
pub const BONSAI_E_BUSY: bonsai_status = -14;
/// NaN or infinity came out where numbers were expected.
pub const BONSAI_E_NUMERICAL: bonsai_status = -15;
/// A callback called a function that may not be called from one.
pub const BONSAI_E_REENTRANT: bonsai_status = -16;
/// The pipeline panicked before; it can only be asked about and freed.
pub const BONSAI_E_POISONED: bonsai_status = -17;
/// A fault of the library, caught. The pipeline is poisoned; the process is not.
pub const BONSAI_E_PANIC: bonsai_status = -18;
/// The buffer is too small; the length that is needed was written.
pub const BONSAI_E_BUFFER_TOO_SMALL: bonsai_status = -19;
/// A fault of the library.
pub const BONSAI_E_INTERNAL: bonsai_status = -20;

/// The name of a status, as "BONSAI_E_IO", or "BONSAI_E_UNKNOWN". Never NULL, never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_status_name(status: bonsai_status) -> *const c_char {
    const UNKNOWN: &CStr = c"BONSAI_E_UNKNOWN";
    value("bonsai_status_name", UNKNOWN.as_ptr(), || name_of(status).unwrap_or(UNKNOWN).as_ptr())
}

fn name_of(status: bonsai_status) -> Option<&'static CStr> {
    Some(match status {
        BONSAI_OK => c"BONSAI_OK",
        BONSAI_E_NULL_ARG => c"BONSAI_E_NULL_ARG",
        BONSAI_E_INVALID_ARG => c"BONSAI_E_INVALID_ARG",
        BONSAI_E_INVALID_STRUCT => c"BONSAI_E_INVALID_STRUCT",
        BONSAI_E_UNSUPPORTED => c"BONSAI_E_UNSUPPORTED",
        BONSAI_E_NOT_FOUND => c"BONSAI_E_NOT_FOUND",
        BONSAI_E_IO => c"BONSAI_E_IO",
        BONSAI_E_MODEL_FORMAT => c"BONSAI_E_MODEL_FORMAT",
        BONSAI_E_MODEL_MISMATCH => c"BONSAI_E_MODEL_MISMATCH",
        BONSAI_E_TOKENIZER => c"BONSAI_E_TOKENIZER",
        BONSAI_E_OUT_OF_MEMORY => c"BONSAI_E_OUT_OF_MEMORY",
        BONSAI_E_MEMORY_BUDGET => c"BONSAI_E_MEMORY_BUDGET",
        BONSAI_E_CANCELLED => c"BONSAI_E_CANCELLED",
        BONSAI_E_TIMEOUT => c"BONSAI_E_TIMEOUT",
        BONSAI_E_BUSY => c"BONSAI_E_BUSY",
        BONSAI_E_NUMERICAL => c"BONSAI_E_NUMERICAL",
        BONSAI_E_REENTRANT => c"BONSAI_E_REENTRANT",
        BONSAI_E_POISONED => c"BONSAI_E_POISONED",
        BONSAI_E_PANIC => c"BONSAI_E_PANIC",
        BONSAI_E_BUFFER_TOO_SMALL => c"BONSAI_E_BUFFER_TOO_SMALL",
        BONSAI_E_INTERNAL => c"BONSAI_E_INTERNAL",
        _ => return None,
    })
}
