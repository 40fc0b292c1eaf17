//! [`Error`]: a kind for programs, a sentence for people, the cause where there is one.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use bonsai_kernels::KernelError;

/// What went wrong, for programs. The status numbers of the C ABI are [`ErrorKind::status`], one for each kind; kinds
/// that only a foreign caller can meet are here so that neither side knows one that the other lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum ErrorKind {
    /// A pointer was null where something was expected (C ABI).
    NullArgument = -1,
    /// A value of the request or an option is out of its range.
    InvalidArgument = -2,
    /// The size of a struct belongs to no version (C ABI).
    InvalidStruct = -3,
    /// The engine knows what this is and does not do it.
    Unsupported = -4,
    /// A file or folder is not there.
    NotFound = -5,
    /// The system refused to read or write.
    Io = -6,
    /// A file's bytes are not what its format demands.
    ModelFormat = -7,
    /// The files are sound but do not make the model that their config describes.
    ModelMismatch = -8,
    /// The tokenizer's files are unusable.
    Tokenizer = -9,
    /// A work buffer could not be had.
    OutOfMemory = -10,
    /// The work needs more memory than it was granted.
    MemoryBudget = -11,
    /// The cancel token was set, or a callback said stop.
    Cancelled = -12,
    /// The work took longer than it was granted.
    Timeout = -13,
    /// Somebody else is being served.
    Busy = -14,
    /// NaN or infinity came out where numbers were expected.
    Numerical = -15,
    /// A callback called a function that may not be called from one (C ABI).
    Reentrant = -16,
    /// The engine panicked before; it can only be freed (C ABI).
    Poisoned = -17,
    /// The engine panicked: a fault of its own (C ABI).
    Panic = -18,
    /// The caller's buffer is too small (C ABI).
    BufferTooSmall = -19,
    /// A fault of the engine itself.
    Internal = -20,
}

impl ErrorKind {
    /// The number that the C ABI gives this kind: negative, and never changed once released.
    pub const fn status(self) -> i32 {
        self as i32
    }
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[error("{message}{}", Cause(source.as_deref()))]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    file: Option<PathBuf>,
    offset: Option<u64>,
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind; the message names the file, tensor or field and what was expected.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, file: None, offset: None }
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

    /// Puts the file that it is about in front of the message and keeps its path for [`Error::file`].
    pub fn in_file(mut self, path: &Path) -> Self {
        self.file.get_or_insert_with(|| path.to_owned());
        self.context(path.display())
    }

    /// The file that it is about, where the error knows it as more than words.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Keeps the byte of the file that it is about for [`Error::offset`]; the message is left alone.
    pub fn at_byte(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// The byte, from the start of the file, that it is about, where the error knows it as more than words.
    pub fn offset(&self) -> Option<u64> {
        self.offset
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
        let error = Self::new(kind, format!("{}", path.display())).with_source(source);
        Self { file: Some(path.to_owned()), ..error }
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
