//! A hint that memory will be read soon.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the instruction is an intrinsic"))]

/// Has the line at `offset` fetched into the caches, if the CPU can and the slice reaches so far.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8], offset: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(offset) {
        // SAFETY: every x86-64 CPU has the instruction; it changes nothing that a program can see.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>((byte as *const u8).cast())
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, offset);
}

/// The same for all lines of these values.
#[inline(always)]
pub(crate) fn prefetch_all(values: &[f32]) {
    const LINE: usize = 16;
    for i in (0..values.len()).step_by(LINE) {
        prefetch(bytemuck::must_cast_slice(values), i * size_of::<f32>());
    }
}
