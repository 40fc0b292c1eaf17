//! Pictures: 8-bit RGB in memory, PNG on disk, and the arithmetic between pixels and model values.

mod metadata;
mod png;
mod resize;

use std::io;
use std::path::Path;

use ::image::{ImageError, ImageReader, Limits};

pub use metadata::{Recipe, RecipeModel};
pub use png::{encode_png, read_png_text, write_png};

use crate::{Error, ErrorKind, Result};

/// An RGB picture of 8 bits a channel, rows from the top, pixels from the left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// The longest side, in pixels, of a picture that is read or resized.
    pub const MAX_SIDE: usize = 16384;

    /// A picture of these pixels, `[height, width, 3]`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if a side is 0 or `rgb` is not `height * width * 3` long.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        if rgb_len(width, height) != Some(rgb.len()) {
            let len = rgb.len();
            return Err(Error::invalid(format!("image of {width} x {height} pixels: found {len} RGB bytes")));
        }
        Ok(Self { width, height, rgb })
    }

    /// A picture of decoder output `hwc`, `[height, width, 3]` in about [-1, 1]:
    /// `clamp(x/2 + 1/2, 0, 1) * 255`, rounded half to even as the reference pipeline does. NaN becomes 0.
    ///
    /// # Panics
    /// If a side is 0 or `hwc` is not `height * width * 3` long.
    pub fn from_decoded(width: usize, height: usize, hwc: &[f32]) -> Self {
        assert_eq!(rgb_len(width, height), Some(hwc.len()), "values of a {width} x {height} image");
        let quantize = |x: &f32| ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        Self { width, height, rgb: hwc.iter().map(quantize).collect() }
    }

    /// Reads a PNG file. Grey becomes RGB, alpha is dropped, 16 bits become 8.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Io`] from the system, [`ErrorKind::Unsupported`] for another
    /// file format or a side above [`MAX_SIDE`](Self::MAX_SIDE), [`ErrorKind::ModelFormat`] for a broken file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Room for the largest picture at 8 bits RGB; the default of the decoder is less.
        const MAX_ALLOC_BYTES: u64 = 1 << 30;
        let mut limits = Limits::default();
        limits.max_image_width = Some(Self::MAX_SIDE as u32);
        limits.max_image_height = Some(Self::MAX_SIDE as u32);
        limits.max_alloc = Some(MAX_ALLOC_BYTES);

        let open = || -> io::Result<_> { ImageReader::open(path)?.with_guessed_format() };
        let mut reader = open().map_err(|error| Error::io(path, error))?;
        reader.limits(limits);
        let decoded = reader.decode().map_err(|error| image_error(path, error))?.into_rgb8();
        let (width, height) = decoded.dimensions();
        Self::new(width as usize, height as usize, decoded.into_raw())
            .map_err(|error| error.context(path.display()))
    }

    /// Pixels from left to right.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels from top to bottom.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixels themselves, `[height, width, 3]`.
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// The values that the VAE encoder takes, `[height, width, 3]` in [-1, 1]: `2 * (x / 255) - 1`, rounded to
    /// f32 after every operation as diffusers' `VaeImageProcessor` does.
    pub fn to_signed_unit(&self) -> Vec<f32> {
        self.rgb.iter().map(|&x| 2.0 * (f32::from(x) / 255.0) - 1.0).collect()
    }

    /// The middle of the picture, each side cut to the largest multiple of `pixels` in it: of what a token takes
    /// ([`VaeConfig::pixels_per_token`](crate::vae::VaeConfig::pixels_per_token)).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `pixels` is 0 or a side is shorter.
    pub fn crop_to_multiple_of(&self, pixels: usize) -> Result<Self> {
        let cut = |side: usize| side - side.checked_rem(pixels).unwrap_or(side);
        let (width, height) = (cut(self.width), cut(self.height));
        if width == 0 || height == 0 {
            let (w, h) = (self.width, self.height);
            return Err(Error::invalid(format!(
                "image of {w} x {h} pixels: expected sides of at least {pixels}"
            )));
        }
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let rows = self.rgb.chunks_exact(3 * self.width).skip(top).take(height);
        let rgb = rows.flat_map(|row| &row[3 * left..3 * (left + width)]).copied().collect();
        Ok(Self { width, height, rgb })
    }

    /// Scales the picture down to about `max_area` pixels, keeping its shape: both sides times
    /// `sqrt(max_area / area)`, truncated to whole pixels. A picture that is not larger comes back as it is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if a side would shrink to nothing.
    pub fn resize_to_area(&self, max_area: usize) -> Result<Self> {
        let area = self.width * self.height;
        if area <= max_area {
            return Ok(self.clone());
        }
        let scale = (max_area as f64 / area as f64).sqrt();
        self.resize((self.width as f64 * scale) as usize, (self.height as f64 * scale) as usize)
    }

    /// Resamples to `width` x `height` with the Lanczos filter, equal to Pillow's byte for byte.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if a side is 0 or above [`MAX_SIDE`](Self::MAX_SIDE).
    pub fn resize(&self, width: usize, height: usize) -> Result<Self> {
        let sides = 1..=Self::MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            let max = Self::MAX_SIDE;
            return Err(Error::invalid(format!(
                "resize to {width} x {height} pixels: expected sides of 1 to {max}"
            )));
        }
        let rgb = resize::lanczos(&self.rgb, [self.width, self.height], [width, height]);
        Ok(Self { width, height, rgb })
    }
}

/// Samples of a picture, if it has any.
fn rgb_len(width: usize, height: usize) -> Option<usize> {
    if width == 0 || height == 0 { None } else { width.checked_mul(height)?.checked_mul(3) }
}

fn image_error(path: &Path, error: ImageError) -> Error {
    let kind = match error {
        ImageError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return Error::io(path, error);
        }
        ImageError::Unsupported(_) | ImageError::Limits(_) => ErrorKind::Unsupported,
        _ => ErrorKind::ModelFormat,
    };
    Error::new(kind, format!("{}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    use safetensors::SafeTensors;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/pipeline/");

    fn load(name: &str) -> Image {
        Image::load(format!("{GOLDEN}{name}")).unwrap()
    }

    /// A tensor `[1, 3, H, W]` of a golden file as (W, H, `[H, W, 3]`).
    fn hwc(file: &str, name: &str) -> (usize, usize, Vec<f32>) {
        let bytes = std::fs::read(format!("{GOLDEN}{file}")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let &[1, 3, height, width] = tensor.shape() else { panic!("{:?}", tensor.shape()) };
        let planes = tensor.data().as_chunks::<4>().0;
        let pixels = height * width;
        let value = |i: usize| f32::from_le_bytes(planes[(i % 3) * pixels + i / 3]);
        (width, height, (0..3 * pixels).map(value).collect())
    }

    #[test]
    fn decoded_values_become_the_recorded_pictures() {
        for case in ["t2i_96x64", "t2i_80x112", "edit1_80x64", "edit2_80x64", "inpaint_96x64"] {
            let (width, height, values) = hwc(&format!("{case}.safetensors"), "vae_output");
            assert!(Image::from_decoded(width, height, &values) == load(&format!("{case}.png")), "{case}");
        }
    }

    #[test]
    fn decoded_values_are_clamped_and_ties_go_to_even() {
        let tie = |level: f32| (level / 255.0 - 0.5) * 2.0;
        let image = Image::from_decoded(2, 1, &[-1.5, -1.0, 1.0, 7.0, f32::NAN, tie(127.5)]);
        assert_eq!(image.rgb(), [0, 0, 255, 255, 0, 128]);
    }

    #[test]
    fn references_are_cropped_and_scaled_as_recorded() {
        let (width, height, want) = hwc("edit2_80x64.safetensors", "ref0.preprocessed");
        let image = load("ref0.png").crop_to_multiple_of(16).unwrap();
        assert_eq!((image.width(), image.height()), (width, height));
        assert!(image.to_signed_unit() == want);
    }

    #[test]
    fn resize_equals_the_recorded_one() {
        assert!(load("resize_in.png").resize_to_area(4096).unwrap() == load("resize_out.png"));
    }

    #[test]
    fn small_pictures_keep_their_size() {
        let image = load("ref0.png");
        assert!(image.resize_to_area(72 * 100).unwrap() == image);
        assert!(image.resize(72, 100).unwrap() == image);
    }

    #[test]
    fn grey_files_become_rgb() {
        let mask = load("inpaint_mask.png");
        assert_eq!((mask.width(), mask.height()), (96, 64));
        assert!(mask.rgb().as_chunks::<3>().0.iter().all(|[r, g, b]| r == g && g == b));
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for (width, height, len) in [(0, 4, 0), (4, 0, 0), (2, 2, 11), (usize::MAX, 2, 6)] {
            let error = Image::new(width, height, vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let line = Image::new(1000, 1, vec![7; 3000]).unwrap();
        assert!(line.resize_to_area(10).is_err());
        assert!(line.crop_to_multiple_of(16).is_err());
        assert!(line.resize(0, 1).is_err());
        assert!(line.resize(1, usize::MAX).is_err());
    }

    #[test]
    fn bad_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = Image::load(&path).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            error.kind()
        };
        let whole = std::fs::read(format!("{GOLDEN}ref0.png")).unwrap();
        assert_eq!(kind("cut.png", &whole[..whole.len() / 2]), ErrorKind::ModelFormat);
        assert_eq!(kind("text.png", b"hello"), ErrorKind::ModelFormat);
        assert_eq!(kind("picture.gif", b"GIF89a\x01\x00\x01\x00"), ErrorKind::Unsupported);
        let wide = Image::new(Image::MAX_SIDE + 1, 1, vec![0; 3 * (Image::MAX_SIDE + 1)]).unwrap();
        assert_eq!(kind("wide.png", &encode_png(&wide, &[]).unwrap()), ErrorKind::Unsupported);
        assert_eq!(Image::load(folder.path().join("none.png")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
