/// Why a kernel did not finish. Wrong shapes are bugs of the caller and panic instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The [`CancelToken`](crate::CancelToken) of the [`Cpu`](crate::Cpu) was set.
    #[error("cancelled")]
    Cancelled,
    /// The allocator had no room for a work buffer.
    #[error("out of memory: a buffer of {bytes} bytes could not be allocated")]
    OutOfMemory {
        /// Size of the refused buffer.
        bytes: usize,
    },
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, KernelError>;
