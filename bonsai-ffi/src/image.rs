use bonsai_core::ErrorKind;

use crate::guard::{Failure, Outcome};
use crate::structs::Versioned;

/// Three bytes a pixel: red, green, blue.
pub const BONSAI_FORMAT_RGB8: i32 = 0;
/// Four bytes a pixel: red, green, blue, 255.
pub const BONSAI_FORMAT_RGBA8: i32 = 1;
/// Three floats a pixel, 0 to 1, before they were rounded. Only for requests with keep_float.
pub const BONSAI_FORMAT_RGB_F32: i32 = 2;

/// A picture in memory: rows from the top, pixels from the left. Set struct_size before you have one filled.
#[repr(C)]
pub struct bonsai_image_view {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// 0.
    pub reserved_flags: u32,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Values of a pixel.
    pub channels: u32,
    /// One of BONSAI_FORMAT_....
    pub format: i32,
    /// Bytes from one row to the next.
    pub stride_bytes: u64,
    /// Bytes in all.
    pub length: u64,
    /// The pixels. Borrowed: from a result until it is freed, in a preview until the callback returns.
    pub data: *const u8,
}

// SAFETY: `repr(C)`, no padding, all fields integers and a nullable pointer.
unsafe impl Versioned for bonsai_image_view {
    const NAME: &'static str = "bonsai_image_view";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved_flags: 0,
            width: 0,
            height: 0,
            channels: 0,
            format: BONSAI_FORMAT_RGB8,
            stride_bytes: 0,
            length: 0,
            data: std::ptr::null(),
        }
    }
}

/// Looks at a picture of bytes.
pub(crate) fn view(image: &bonsai_core::Image) -> bonsai_image_view {
    bonsai_image_view {
        // a picture that we made has sides of at most 2048
        width: image.width() as u32,
        height: image.height() as u32,
        channels: 3,
        stride_bytes: 3 * image.width() as u64,
        length: image.rgb().len() as u64,
        data: image.rgb().as_ptr(),
        ..bonsai_image_view::defaults()
    }
}

/// Bytes of a pixel.
pub(crate) fn pixel_bytes(format: i32) -> Outcome<usize> {
    match format {
        BONSAI_FORMAT_RGB8 => Ok(3),
        BONSAI_FORMAT_RGBA8 => Ok(4),
        BONSAI_FORMAT_RGB_F32 => Ok(12),
        other => Err(Failure::invalid(format!("format {other}: expected one of BONSAI_FORMAT_..."))),
    }
}

/// Writes the rows of `image` to `destination`, each `stride` bytes after the one before. `floats` are the values before
/// they were rounded.
pub(crate) fn copy_rows(
    image: &bonsai_core::Image,
    floats: Option<&[f32]>,
    format: i32,
    destination: &mut [u8],
    stride: usize,
) -> Outcome {
    let rows = destination.chunks_mut(stride);
    match format {
        BONSAI_FORMAT_RGB8 => {
            let row_bytes = 3 * image.width();
            for (row, pixels) in rows.zip(image.rgb().chunks_exact(row_bytes)) {
                row[..row_bytes].copy_from_slice(pixels);
            }
        }
        BONSAI_FORMAT_RGBA8 => {
            for (row, pixels) in rows.zip(image.rgb().chunks_exact(3 * image.width())) {
                for (to, &[r, g, b]) in row.as_chunks_mut::<4>().0.iter_mut().zip(pixels.as_chunks::<3>().0) {
                    *to = [r, g, b, 255];
                }
            }
        }
        _ => {
            let floats = floats.ok_or_else(|| {
                Failure::new(
                    ErrorKind::Unsupported,
                    "floats were not kept; set request.keep_float before painting",
                )
            })?;
            for (row, values) in rows.zip(floats.chunks_exact(3 * image.width())) {
                for (to, value) in row.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *to = value.to_ne_bytes();
                }
            }
        }
    }
    Ok(())
}
