//! Where the prompt comes from: an argument, a file, or standard input.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;

/// More than this is no prompt but a mistake.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// What to paint; `-` reads it from standard input
    #[arg(value_name = "PROMPT")]
    words: Option<String>,
    /// What to paint, as an option
    #[arg(short, long, value_name = "PROMPT")]
    prompt: Option<String>,
    /// A UTF-8 text file with the prompt
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    pub fn read(&self) -> Result<String, Failure> {
        if let Some(path) = &self.prompt_file {
            let file = std::fs::File::open(path)
                .map_err(|e| Failure::usage(format!("prompt file {}: {e}", path.display())))?;
            return text(file, &format!("prompt file {}", path.display()));
        }
        match self.words.as_ref().or(self.prompt.as_ref()) {
            Some(dash) if dash == "-" => text(std::io::stdin().lock(), "standard input"),
            Some(prompt) => Ok(prompt.clone()),
            // the parser demands one of the three
            None => Ok(String::new()),
        }
    }
}

/// The text without the line end that editors and `echo` add.
fn text(source: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Failure::usage(format!("{name}: {e}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("{name}: more than {MAX_BYTES} bytes are no prompt")));
    }
    let mut text =
        String::from_utf8(bytes).map_err(|e| Failure::usage(format!("{name}: expected UTF-8 text: {e}")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
