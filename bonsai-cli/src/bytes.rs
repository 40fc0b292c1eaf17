//! Amounts of memory as people give them: `800M`, `1.5G`, `1GiB`.

pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes such as 800M, 1.5G or 1GiB".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(parse("800M"), Ok(800_000_000));
        assert_eq!(parse("1.5g"), Ok(1_500_000_000));
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        assert_eq!(parse("4096"), Ok(4096));
        for text in ["", "G", "-1G", "0", "1X", "1.2.3M", "1e9", "99999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
