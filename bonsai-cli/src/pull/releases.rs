//! Names of published models.

/// A published model.
pub struct Release {
    pub name: &'static str,
    /// `owner/name` on the hub.
    pub repository: &'static str,
    pub about: &'static str,
}

const fn release(name: &'static str, repository: &'static str, about: &'static str) -> Release {
    Release { name, repository, about }
}

pub const RELEASES: [Release; 8] = [
    release("binary", "prism-ml/bonsai-image-binary-4B-mlx-1bit", "Bonsai Image 4B, 1 bit, MLX pack"),
    release("ternary", "prism-ml/bonsai-image-ternary-4B-mlx-2bit", "Bonsai Image 4B, ternary, MLX pack"),
    release(
        "binary-gemlite",
        "prism-ml/bonsai-image-binary-4B-gemlite-1bit",
        "Bonsai Image 4B, 1 bit, gemlite pack",
    ),
    release(
        "ternary-gemlite",
        "prism-ml/bonsai-image-ternary-4B-gemlite-2bit",
        "Bonsai Image 4B, ternary, gemlite pack",
    ),
    release(
        "binary-unpacked",
        "prism-ml/bonsai-image-binary-4B-unpacked",
        "Bonsai Image 4B, 1 bit in 16-bit numbers",
    ),
    release(
        "ternary-unpacked",
        "prism-ml/bonsai-image-ternary-4B-unpacked",
        "Bonsai Image 4B, ternary in 16-bit numbers",
    ),
    release(
        "klein-4b",
        "black-forest-labs/FLUX.2-klein-4B",
        "FLUX.2 Klein 4B, which Bonsai Image comes from",
    ),
    release("small-decoder", "black-forest-labs/FLUX.2-small-decoder", "a smaller decoder for all of them"),
];

/// The repository of a release's name, or `owner/name` itself.
pub fn repository(given: &str) -> Result<String, String> {
    if let Some(release) = RELEASES.iter().find(|release| release.name == given) {
        return Ok(release.repository.to_owned());
    }
    let names: Vec<_> = RELEASES.iter().map(|release| release.name).collect();
    let expected = || format!("expected OWNER/NAME or one of {}", names.join(", "));
    let (owner, name) = given.split_once('/').ok_or_else(expected)?;
    if [owner, name].into_iter().all(is_plain) { Ok(given.to_owned()) } else { Err(expected()) }
}

/// Whether a repository is one of the releases.
pub fn is_known(repository: &str) -> bool {
    RELEASES.iter().any(|release| release.repository == repository)
}

fn is_plain(word: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !word.is_empty()
        && word.len() <= 96
        && word.chars().all(known)
        && !word.starts_with('.')
        && !word.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_repositories() {
        assert_eq!(repository("binary").unwrap(), "prism-ml/bonsai-image-binary-4B-mlx-1bit");
        assert_eq!(repository("a-b/c.d_e").unwrap(), "a-b/c.d_e");
        assert!(RELEASES.iter().all(|release| repository(release.repository).is_ok()));
        for bad in ["", "bin", "a/", "/a", "a/b/c", "../a", "a/..", "a/b?c", "a b/c", "\u{e9}/a"] {
            assert!(repository(bad).unwrap_err().contains("ternary-gemlite"), "{bad}");
        }
    }
}
