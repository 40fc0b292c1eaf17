//! The floating-point mode of the caller's thread: hosts of sound and games flush tiny numbers to zero, which would change
//! our bytes. Work runs in the mode that every thread starts with, and the caller's comes back when it ends.

/// Restores the mode of this thread when dropped.
pub(crate) struct FloatMode {
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(dead_code))]
    saved: u64,
    /// The mode belongs to a thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl FloatMode {
    /// Round to nearest, no flushing, no traps.
    pub(crate) fn plain() -> Self {
        let saved = arch::get();
        arch::set(arch::PLAIN);
        Self { saved, _thread: std::marker::PhantomData }
    }
}

impl Drop for FloatMode {
    fn drop(&mut self) {
        arch::set(self.saved);
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::asm;

    /// MXCSR with every exception masked.
    pub(super) const PLAIN: u64 = 0x1f80;

    pub(super) fn get() -> u64 {
        let mut mode = 0u32;
        // SAFETY: stores the control register, which every x86-64 has, in these four bytes.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack, preserves_flags)) };
        u64::from(mode)
    }

    pub(super) fn set(mode: u64) {
        let mode = mode as u32;
        // SAFETY: loads a value that was stored by `get`, or `PLAIN`: no reserved bit is set. What Rust assumes of the
        // mode is what `PLAIN` is; the caller's own comes back only when we leave.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const mode, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use std::arch::asm;

    pub(super) const PLAIN: u64 = 0;

    pub(super) fn get() -> u64 {
        let mode: u64;
        // SAFETY: reads the control register of this thread.
        unsafe { asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags)) };
        mode
    }

    pub(super) fn set(mode: u64) {
        // SAFETY: writes a value that `get` read, or the one that threads start with.
        unsafe { asm!("msr fpcr, {}", in(reg) mode, options(nomem, nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arch {
    pub(super) const PLAIN: u64 = 0;

    pub(super) fn get() -> u64 {
        PLAIN
    }

    pub(super) fn set(_: u64) {}
}
