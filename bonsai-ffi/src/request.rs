use std::ffi::c_char;
use std::time::Duration;

use bonsai_core::noise::NoiseSource;
use bonsai_core::{Request, Schedule};

use crate::guard::{Access, Failure, Outcome, status};
use crate::options::{expect_flag, expect_zero};
use crate::structs::{self, Versioned};
use crate::{bonsai_status, handle, text};

/// The noise of diffusers on a CPU.
pub const BONSAI_NOISE_TORCH_CPU: i32 = 0;
/// The noise of Apple's MLX.
pub const BONSAI_NOISE_MLX: i32 = 1;

/// The most pictures of one request.
pub const BONSAI_MAX_IMAGES: u32 = 1024;

/// What to paint. Fill it with bonsai_request_init, then set the prompt.
#[repr(C)]
pub struct bonsai_request {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// 0.
    pub reserved_flags: u32,
    /// Seed of the noise. Picture i of the request has seed + i, and is the same whatever else is painted.
    pub seed: u64,
    /// Width in pixels, a multiple of 16; 0: the model's.
    pub width: u32,
    /// Height in pixels, a multiple of 16; 0: the model's.
    pub height: u32,
    /// Denoising steps; 0: the model's.
    pub steps: u32,
    /// Pictures to paint, 1 at first.
    pub image_count: u32,
    /// One of BONSAI_NOISE_....
    pub noise_source: i32,
    /// Guidance value, for models that read one; below 0: the model's.
    pub guidance: f32,
    /// Tokens of the prompt, padding included; 0: the model's.
    pub max_sequence_length: u32,
    /// Longest time for the whole request in milliseconds, looked at after each block of the network; 0: no limit.
    pub timeout_ms: u32,
    /// 1: decode the picture in tiles. Less memory, slightly other tones.
    pub vae_tiling: u8,
    /// 1: keep the picture as it was before it was rounded to bytes, for BONSAI_FORMAT_RGB_F32.
    pub keep_float: u8,
    /// 0.
    pub reserved: [u8; 6],
    /// The prompt, UTF-8. It may be empty and may not be NULL.
    pub prompt: *const c_char,
    /// Its length in bytes, or BONSAI_NUL_TERMINATED.
    pub prompt_length: usize,
    /// Noise levels instead of those that follow from the steps, strictly descending; NULL as a rule.
    pub sigmas: *const f32,
    /// Their number.
    pub sigma_count: usize,
}

// SAFETY: `repr(C)`, explicit padding, all fields integers, floats and nullable pointers.
unsafe impl Versioned for bonsai_request {
    const NAME: &'static str = "bonsai_request";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved_flags: 0,
            seed: 0,
            width: 0,
            height: 0,
            steps: 0,
            image_count: 1,
            noise_source: BONSAI_NOISE_TORCH_CPU,
            guidance: -1.0,
            max_sequence_length: 0,
            timeout_ms: 0,
            vae_tiling: 0,
            keep_float: 0,
            reserved: [0; 6],
            prompt: std::ptr::null(),
            prompt_length: usize::MAX,
            sigmas: std::ptr::null(),
            sigma_count: 0,
        }
    }
}

/// Fills a request with the model's defaults, seed 0 and no prompt. `struct_size` is sizeof(bonsai_request).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_request_init(
    request: *mut bonsai_request,
    struct_size: usize,
) -> bonsai_status {
    // SAFETY: null or writable for its size (the crate's contract); there is no error place.
    unsafe {
        status("bonsai_request_init", Access::Getter, std::ptr::null_mut(), || {
            structs::init(request, struct_size, "request")
        })
    }
}

/// A request as core takes it, and what core does not know.
pub(crate) struct Wanted {
    pub(crate) request: Request,
    pub(crate) images: u32,
    pub(crate) timeout: Option<Duration>,
    pub(crate) keep_float: bool,
}

impl bonsai_request {
    /// # Safety
    /// The prompt and the sigmas are what the fields say.
    pub(crate) unsafe fn to_core(&self, default_size: (usize, usize)) -> Outcome<Wanted> {
        expect_zero("request.reserved_flags", self.reserved_flags)?;
        self.reserved.iter().try_for_each(|&byte| expect_zero("request.reserved", u32::from(byte)))?;
        expect_flag("request.vae_tiling", self.vae_tiling)?;
        expect_flag("request.keep_float", self.keep_float)?;
        if !(1..=BONSAI_MAX_IMAGES).contains(&self.image_count) {
            let found = self.image_count;
            return Err(Failure::invalid(format!(
                "request.image_count {found}: expected 1 to {BONSAI_MAX_IMAGES}"
            )));
        }
        if self.guidance.is_nan() {
            return Err(Failure::invalid("request.guidance: expected a number"));
        }
        let noise_source = match self.noise_source {
            BONSAI_NOISE_TORCH_CPU => NoiseSource::TorchCpu,
            BONSAI_NOISE_MLX => NoiseSource::Mlx,
            other => {
                return Err(Failure::invalid(format!(
                    "request.noise_source {other}: expected one of BONSAI_NOISE_..."
                )));
            }
        };
        // SAFETY: the contract of this function.
        let prompt = unsafe { text::text(self.prompt, self.prompt_length, "request.prompt") }?;
        // SAFETY: the contract of this function.
        let sigmas = unsafe { handle::elements(self.sigmas, self.sigma_count, "request.sigmas") }?;
        let given = |value: u32| (value > 0).then_some(value as usize);
        let size = match (given(self.width), given(self.height)) {
            (None, None) => None,
            (width, height) => Some((width.unwrap_or(default_size.0), height.unwrap_or(default_size.1))),
        };
        let request = Request {
            size,
            steps: given(self.steps),
            seed: self.seed,
            noise_source,
            schedule: if sigmas.is_empty() { Schedule::default() } else { Schedule::Sigmas(sigmas.to_vec()) },
            max_sequence_length: given(self.max_sequence_length),
            guidance: (self.guidance >= 0.0).then_some(self.guidance),
            vae_tiling: self.vae_tiling == 1,
            ..Request::new(prompt)
        };
        Ok(Wanted {
            request,
            images: self.image_count,
            timeout: (self.timeout_ms > 0).then(|| Duration::from_millis(self.timeout_ms.into())),
            keep_float: self.keep_float == 1,
        })
    }
}
