use crate::guard::{Access, status};
use crate::structs::{self, Versioned};
use crate::{bonsai_error, bonsai_pipeline, bonsai_request, bonsai_status, handle};

/// What a picture will take. Set struct_size before you have one filled.
#[repr(C)]
pub struct bonsai_estimated {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// Denoising steps that it counts.
    pub steps: u32,
    /// The most memory of the whole process that is resident at any time, in bytes; mapped weights are counted.
    pub peak_bytes: u64,
    /// Memory that stays as long as the pipeline lives.
    pub base_bytes: u64,
    /// The peak while the prompt is read.
    pub text_encode_bytes: u64,
    /// The peak while the noise is removed.
    pub denoise_bytes: u64,
    /// The peak while the picture is decoded.
    pub decode_bytes: u64,
    /// Multiply-accumulates of one picture.
    pub macs: u64,
    /// Seconds for all pictures of the request, at the speed of the picture that this pipeline finished last; negative while
    /// it has finished none.
    pub expected_seconds: f64,
}

// SAFETY: `repr(C)`, no padding, all fields integers and a float.
unsafe impl Versioned for bonsai_estimated {
    const NAME: &'static str = "bonsai_estimated";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            steps: 0,
            peak_bytes: 0,
            base_bytes: 0,
            text_encode_bytes: 0,
            denoise_bytes: 0,
            decode_bytes: 0,
            macs: 0,
            expected_seconds: -1.0,
        }
    }
}

/// What a request will take, without painting: memory by the plan that bonsai_generate would follow, and time. Fails as that
/// would when the request is out of range or no plan keeps options.max_memory_bytes. estimated->struct_size must be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_estimate(
    pipeline: *const bonsai_pipeline,
    request: *const bonsai_request,
    estimated: *mut bonsai_estimated,
    error: *mut *mut bonsai_error,
) -> bonsai_status {
    let body = || {
        // SAFETY: null or a live handle (the crate's contract).
        let engine = &unsafe { handle::reference(pipeline, "pipeline") }?.engine;
        // SAFETY: null or a struct of the size that it states (the crate's contract).
        let request = unsafe { structs::read(request, "request") }?;
        // SAFETY: its pointers are what its fields say (the crate's contract).
        let wanted = unsafe { request.to_core(engine.pipeline.defaults().size) }?;
        let estimate = engine.pipeline.estimate(&wanted.request)?;
        let peak = |name: &str| {
            estimate.stages.iter().filter(|s| s.stage.name() == name).map(|s| s.peak_bytes).max().unwrap_or(0)
        };
        let macs = estimate.macs();
        let filled = bonsai_estimated {
            steps: estimate.steps as u32,
            peak_bytes: estimate.peak_bytes(),
            base_bytes: estimate.base_bytes,
            text_encode_bytes: peak("text_encode"),
            denoise_bytes: peak("denoise"),
            decode_bytes: peak("decode"),
            macs,
            expected_seconds: engine
                .seconds_per_mac()
                .map_or(-1.0, |seconds| seconds * macs as f64 * f64::from(wanted.images)),
            ..bonsai_estimated::defaults()
        };
        // SAFETY: null or a struct of the size that it states (the crate's contract).
        unsafe { structs::write(estimated, "estimated", filled) }
    };
    // SAFETY: null or writable (the crate's contract).
    unsafe { status("bonsai_estimate", Access::Getter, error, body) }
}
