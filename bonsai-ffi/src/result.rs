use std::ffi::c_char;
use std::sync::OnceLock;

use bonsai_core::image::encode_png;
use bonsai_core::{ErrorKind, Generated};

use crate::guard::{Access, Failure, Outcome, status, value};
use crate::options::expect_zero;
use crate::structs::{self, Versioned};
use crate::{bonsai_error, bonsai_image_view, bonsai_status, handle, image, text};

/// bonsai_result_encode_png: leave prompt and recipe out of the file.
pub const BONSAI_PNG_NO_METADATA: u32 = 1;

/// Finished pictures. For one thread at a time.
pub struct bonsai_result {
    images: Vec<Painted>,
}

/// A picture and what was made of it on request.
pub(crate) struct Painted {
    generated: Generated,
    floats: Option<Vec<f32>>,
    /// With metadata, and without.
    png: [OnceLock<Vec<u8>>; 2],
}

impl Painted {
    pub(crate) fn new(generated: Generated, floats: Option<Vec<f32>>) -> Self {
        Self { generated, floats, png: Default::default() }
    }
}

impl bonsai_result {
    pub(crate) fn new(images: Vec<Painted>) -> Self {
        Self { images }
    }
}

/// # Safety
/// `result` is null or a live handle.
unsafe fn painted<'a>(result: *const bonsai_result, index: usize) -> Outcome<&'a Painted> {
    // SAFETY: null or a live handle (contract).
    let images = &unsafe { handle::reference(result, "result") }?.images;
    images.get(index).ok_or_else(|| {
        Failure::invalid(format!(
            "index {index}: expected less than the {} pictures of this result",
            images.len()
        ))
    })
}

/// How long a picture took.
#[repr(C)]
pub struct bonsai_timings {
    /// Size of this struct in bytes; set it before you have one filled.
    pub struct_size: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Prompt to embeddings, in seconds.
    pub text_encode_seconds: f64,
    /// All denoising steps.
    pub denoise_seconds: f64,
    /// Latents to picture.
    pub decode_seconds: f64,
}

// SAFETY: `repr(C)`, no padding, all fields integers and floats.
unsafe impl Versioned for bonsai_timings {
    const NAME: &'static str = "bonsai_timings";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            steps: 0,
            text_encode_seconds: 0.0,
            denoise_seconds: 0.0,
            decode_seconds: 0.0,
        }
    }
}

/// Number of pictures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_image_count(
    result: *const bonsai_result,
    count: *mut usize,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle, null or writable (the crate's contract).
        *unsafe { handle::place(count, "count") }? =
            unsafe { handle::reference(result, "result") }?.images.len();
        Ok(())
    };
    // SAFETY: there is no error place.
    unsafe { status("bonsai_result_image_count", Access::Getter, std::ptr::null_mut(), body) }
}

/// Looks at picture `index` (from 0): BONSAI_FORMAT_RGB8, borrowed until the result is freed. view->struct_size must be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_image_view(
    result: *const bonsai_result,
    index: usize,
    view: *mut bonsai_image_view,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle, null or a struct of the size that it states (the crate's contract).
        unsafe { structs::write(view, "view", image::view(&painted(result, index)?.generated.image)) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_result_image_view", Access::Getter, error, body) }
}

/// Copies picture `index` into memory of the caller's, as one of BONSAI_FORMAT_..., with `stride_bytes` from one row to the
/// next (0: rows without a gap). `length` receives the bytes that are needed; with NULL and capacity 0 that is all. Bytes
/// between rows are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_image_copy(
    result: *const bonsai_result,
    index: usize,
    format: i32,
    destination: *mut u8,
    capacity: usize,
    stride_bytes: usize,
    length: *mut usize,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle (the crate's contract).
        let painted = unsafe { painted(result, index) }?;
        let picture = &painted.generated.image;
        let row_bytes = picture.width() * image::pixel_bytes(format)?;
        let stride = if stride_bytes == 0 { row_bytes } else { stride_bytes };
        if stride < row_bytes {
            return Err(Failure::invalid(format!("stride_bytes {stride}: expected at least {row_bytes}")));
        }
        let needed = stride.checked_mul(picture.height() - 1).and_then(|bytes| bytes.checked_add(row_bytes));
        let needed = needed.ok_or_else(|| Failure::invalid(format!("stride_bytes {stride}: too large")))?;
        // SAFETY: null or writable (the crate's contract).
        *unsafe { handle::place(length, "length") }? = needed;
        if destination.is_null() && capacity == 0 {
            return Ok(());
        }
        if capacity < needed {
            let message = format!("capacity {capacity}: expected at least {needed}");
            return Err(Failure::new(ErrorKind::BufferTooSmall, message));
        }
        // SAFETY: null or `capacity` writable bytes (the crate's contract), of which `needed` are taken.
        let destination = unsafe { handle::buffer(destination, needed, "destination") }?;
        image::copy_rows(picture, painted.floats.as_deref(), format, destination, stride)
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_result_image_copy", Access::Getter, error, body) }
}

/// Picture `index` as a PNG file: the same bytes as the command `bonsai generate` writes. `flags`: 0 or
/// BONSAI_PNG_NO_METADATA. `length` receives its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_encode_png(
    result: *const bonsai_result,
    index: usize,
    flags: u32,
    buffer: *mut u8,
    capacity: usize,
    length: *mut usize,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle (the crate's contract).
        let painted = unsafe { painted(result, index) }?;
        expect_zero("flags", flags & !BONSAI_PNG_NO_METADATA)?;
        let bare = flags & BONSAI_PNG_NO_METADATA != 0;
        let cell = &painted.png[usize::from(bare)];
        // asking for the length and fetching the bytes is one encoding
        let png = match cell.get() {
            Some(png) => png,
            None => {
                let text = if bare { Vec::new() } else { painted.generated.recipe.to_png_text()? };
                let png = encode_png(&painted.generated.image, &text)?;
                cell.get_or_init(|| png)
            }
        };
        // SAFETY: null or writable (the crate's contract).
        unsafe { text::bytes_out(png, buffer, capacity, length) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_result_encode_png", Access::Work, error, body) }
}

/// All that it takes to paint picture `index` again, as one line of JSON: the text that PNG files carry as "bonsai". `length`
/// receives the bytes without the zero byte at the end, for which the buffer needs room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_metadata_json(
    result: *const bonsai_result,
    index: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle (the crate's contract).
        let json = unsafe { painted(result, index) }?.generated.recipe.to_json()?;
        // SAFETY: null or writable (the crate's contract).
        unsafe { text::text_out(&json, buffer, capacity, length) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_result_metadata_json", Access::Getter, error, body) }
}

/// How long picture `index` took. timings->struct_size must be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_timings(
    result: *const bonsai_result,
    index: usize,
    timings: *mut bonsai_timings,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle (the crate's contract).
        let took = &unsafe { painted(result, index) }?.generated.timings;
        let filled = bonsai_timings {
            steps: took.steps.len() as u32,
            text_encode_seconds: took.text_encode.as_secs_f64(),
            denoise_seconds: took.steps.iter().map(std::time::Duration::as_secs_f64).sum(),
            decode_seconds: took.vae_decode.as_secs_f64(),
            ..bonsai_timings::defaults()
        };
        // SAFETY: null or a struct of the size that it states (the crate's contract).
        unsafe { structs::write(timings, "timings", filled) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_result_timings", Access::Getter, error, body) }
}

/// Frees a result, and what was borrowed from it. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_result_free(result: *mut bonsai_result) {
    value("bonsai_result_free", (), || {
        // SAFETY: null, or made by `bonsai_generate` and not freed (the crate's contract).
        unsafe { handle::take_back(result) }
    });
}
