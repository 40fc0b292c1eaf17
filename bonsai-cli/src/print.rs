//! Printing that never panics: a reader who left early, as `head` does, is no fault.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::failure::{Code, Failure};

/// A line for the user's eyes; nothing depends on whether it arrives.
pub fn stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line of the result.
pub fn stdout(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Failed, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The result as one JSON object on one line.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::new(Code::Failed, format!("JSON: {e}")))?;
    stdout(&text)
}

/// `1 step`, `2 steps`.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Bytes in the unit that suits them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        let shown = [0, 999, 1000, 10_049, 999_499, 999_500, 3_449_000_000].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "10.0 kB", "999 kB", "1.00 MB", "3.45 GB"]);
    }
}
