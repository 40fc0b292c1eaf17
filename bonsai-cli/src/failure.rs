//! Why the command ends without having done its work: an exit code for scripts, a sentence and a hint for people.

use std::process::ExitCode;

use bonsai_core::{Error, ErrorKind};

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Failed = 1,
    Usage = 2,
    Model = 3,
    Cancelled = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The same with a line that tells what to do.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error about files that were given: whatever is wrong with them is the fault of no option.
    pub fn in_files(error: &Error) -> Self {
        let code = match code_of(error.kind()) {
            Code::Usage => Code::Model,
            code => code,
        };
        Self::new(code, error.to_string())
    }

    /// An error in writing what was made.
    pub fn in_output(error: &Error) -> Self {
        Self::new(Code::Failed, error.to_string())
    }

    /// What is printed.
    pub fn lines(&self) -> Vec<String> {
        if self.code == Code::Cancelled {
            return vec!["cancelled".to_owned()];
        }
        let hint = self.hint.iter().map(|hint| format!("hint: {hint}"));
        std::iter::once(format!("error: {}", self.message)).chain(hint).collect()
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::Usage,
        ErrorKind::NotFound
        | ErrorKind::ModelFormat
        | ErrorKind::ModelMismatch
        | ErrorKind::Tokenizer
        | ErrorKind::Unsupported => Code::Model,
        ErrorKind::Cancelled => Code::Cancelled,
        _ => Code::Failed,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(code_of(error.kind()), error.to_string())
    }
}
