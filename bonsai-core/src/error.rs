//! [`Error`]: a kind for programs, a sentence for people, the cause where there is one.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use bonsai_kernels::KernelError;

/// What went wrong, for programs. The numbers of the C ABI mirror it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value of the request or an option is out of its range.
    InvalidArgument,
    /// The engine knows what this is and does not do it.
    Unsupported,
    /// A file or folder is not there.
    NotFound,
    /// The system refused to read or write.
    Io,
    /// A file's bytes are not what its format demands.
    ModelFormat,
    /// The files are sound but do not make the model that their config describes.
    ModelMismatch,
    /// The tokenizer's files are unusable.
    Tokenizer,
    /// A work buffer could not be had.
    OutOfMemory,
    /// The cancel token was set, or a callback said stop.
    Cancelled,
    /// NaN or infinity came out where numbers were expected.
    Numerical,
    /// A fault of the engine itself.
    Internal,
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[error("{message}{}", Cause(source.as_deref()))]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind; the message names the file, tensor or field and what was expected.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with its cause, which `source` returns and the message repeats.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts `context` in front of the message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A system error about a file: [`ErrorKind::NotFound`] or [`ErrorKind::Io`].
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("{}", path.display())).with_source(source)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ModelFormat, message)
    }

    pub(crate) fn mismatch(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ModelMismatch, message)
    }
}

/// The cause behind a message, for people.
struct Cause<'a>(Option<&'a (dyn StdError + Send + Sync)>);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        let kind = match error {
            KernelError::Cancelled => ErrorKind::Cancelled,
            KernelError::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<crate::scheduler::ScheduleError> for Error {
    fn from(error: crate::scheduler::ScheduleError) -> Self {
        Self::new(ErrorKind::InvalidArgument, error.to_string())
    }
}
