//! What `bonsai pull` notes beside the files that it fetched: where they come from, and their digests.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Code, Failure};

/// The note's name in the model directory.
pub const NAME: &str = "bonsai-pull.json";

/// No note is longer: some hundred bytes for each file.
const LONGEST: u64 = 16 << 20;

/// A model as it was fetched.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// `owner/name` on the hub.
    pub repository: String,
    /// The commit.
    pub revision: String,
    pub files: Vec<RecordedFile>,
}

/// A file of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Below the model directory, parts separated by `/`.
    pub path: String,
    pub bytes: u64,
    /// In lower-case hexadecimal digits.
    pub sha256: String,
}

impl Record {
    /// The note in this directory, if there is one.
    pub fn read(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(NAME);
        let broken = |what: String| Failure::new(Code::Model, format!("{}: {what}", path.display()));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(broken(e.to_string())),
        };
        let mut text = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut text).map_err(|e| broken(e.to_string()))?;
        if text.len() as u64 > LONGEST {
            return Err(broken(format!("longer than {LONGEST} bytes")));
        }
        let record: Self = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
        if let Some(odd) = record.files.iter().find(|file| inside(&file.path).is_none()) {
            return Err(broken(format!("{:?}: not a path below the directory", odd.path)));
        }
        Ok(Some(record))
    }
}

/// The path that a server or a note names, if it is a plain one that stays below its directory on every system.
pub fn inside(path: &str) -> Option<PathBuf> {
    let odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let plain = |part: &str| !part.is_empty() && !part.ends_with(['.', ' ']) && !part.contains(odd);
    let relative = PathBuf::from(path);
    let normal = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (path.len() <= 1024 && normal && path.split('/').all(plain)).then_some(relative)
}

/// The digest of a file; `step` is told of each piece of bytes read and may end it.
pub fn sha256(path: &Path, step: &mut dyn FnMut(u64) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut hasher = Sha256::new();
    each_piece(path, &mut |piece| {
        hasher.update(piece);
        step(piece.len() as u64)
    })?;
    Ok(hex(&hasher.finalize()))
}

/// Reads a file piece by piece.
pub fn each_piece(path: &Path, body: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new(Code::Failed, format!("{}: {e}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => body(&buffer[..count])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b.json", "transformer-packed-mflux/config.json", "a b/\u{e9}.txt", ".a/b"] {
            assert_eq!(inside(good), Some(PathBuf::from(good)), "{good}");
        }
        for bad in [
            "", ".", "..", "/a", "a/../b", "../a", "a//b", "a/", "a/.", "./a", "a\\b", "..\\a", "C:a",
            "C:/a", "a\0b", "a\nb", "a/..", "a. ", "con:", "a?", "a/b.",
        ] {
            assert_eq!(inside(bad), None, "{bad:?}");
        }
        assert_eq!(inside(&"a".repeat(1025)), None);
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let mut read = 0;
        let digest = sha256(&path, &mut |count| {
            read += count;
            Ok(())
        });
        // FIPS 180-2, appendix B.1
        assert_eq!(digest.unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(read, 3);
    }

    #[test]
    fn odd_notes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Record::read(dir.path()).unwrap().is_none());
        for text in [
            "",
            "[]",
            r#"{"repository": "a/b", "revision": "c"}"#,
            r#"{"repository": "a/b", "revision": "c", "files": [{"path": "../x", "bytes": 1, "sha256": ""}]}"#,
        ] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let failure = Record::read(dir.path()).unwrap_err();
            assert!(failure.code == Code::Model && failure.lines()[0].contains(NAME), "{failure:?}");
        }
    }
}
