//! One file: to a name of its own until it is whole and right, then to its place.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bonsai_core::CancelToken;
use sha1::{Digest, Sha1};

use super::hub::{Hub, Problem, RemoteDigest, RemoteFile};
use crate::failure::{Code, Failure};
use crate::record::{each_piece, hex, sha256};

/// A whole file is fetched so often before its bytes are given up.
const WHOLE_ATTEMPTS: usize = 2;

/// Where files come from and go to.
pub struct Fetcher<'a> {
    pub hub: &'a Hub,
    pub repository: &'a str,
    pub commit: &'a str,
    /// The model directory.
    pub root: &'a Path,
    /// Attempts in a row that may bring nothing.
    pub retries: u32,
    pub cancel: &'a CancelToken,
}

/// A file that is in its place and right.
pub struct Fetched {
    pub sha256: String,
    /// Bytes that came over the network.
    pub received: u64,
}

impl Fetcher<'_> {
    /// Brings a file to its place, unless it is there already; `progress` is told how many of its bytes are.
    pub fn fetch(&self, file: &RemoteFile, progress: &mut dyn FnMut(u64)) -> Result<Fetched, Failure> {
        let target = self.root.join(&file.path);
        let failed = |e: std::io::Error| Failure::new(Code::Failed, format!("{}: {e}", target.display()));
        if let Ok(found) = target.symlink_metadata() {
            if !found.is_file() {
                return Err(Failure::new(
                    Code::Failed,
                    format!("{}: is there and is no file", target.display()),
                ));
            }
            if found.len() == file.bytes
                && let Ok(sha256) = self.check(&target, file)?
            {
                progress(file.bytes);
                return Ok(Fetched { sha256, received: 0 });
            }
        }
        let part = part_name(&target, &file.digest);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut received = 0;
        let mut found = String::new();
        for _ in 0..WHOLE_ATTEMPTS {
            received += self.receive(&part, file, progress)?;
            match self.check(&part, file)? {
                Ok(sha256) => {
                    fs::rename(&part, &target).map_err(failed)?;
                    return Ok(Fetched { sha256, received });
                }
                Err(digest) => found = digest,
            }
            // something in it is wrong, and nobody knows what
            fs::remove_file(&part).map_err(failed)?;
        }
        let expected = match &file.digest {
            RemoteDigest::Sha256(digest) | RemoteDigest::GitBlob(digest) => digest,
        };
        Err(Failure::new(
            Code::Failed,
            format!(
                "{}: the bytes that came are not the published ones: digest {found}, expected {expected}",
                file.path
            ),
        ))
    }

    /// The file's SHA-256 if the bytes on disk are the published ones, else the digest that they have.
    fn check(&self, path: &Path, file: &RemoteFile) -> Result<Result<String, String>, Failure> {
        let mut git = Sha1::new();
        git.update(format!("blob {}\0", file.bytes));
        let sha256 = sha256(path, &mut |_| go_on(self.cancel))?;
        match &file.digest {
            RemoteDigest::Sha256(expected) if *expected == sha256 => Ok(Ok(sha256)),
            RemoteDigest::Sha256(_) => Ok(Err(sha256)),
            RemoteDigest::GitBlob(expected) => {
                each_piece(path, &mut |piece| {
                    git.update(piece);
                    go_on(self.cancel)
                })?;
                let digest = hex(&git.finalize());
                Ok(if *expected == digest { Ok(sha256) } else { Err(digest) })
            }
        }
    }

    /// Makes `part` as long as the file is, from wherever it ends now. Returns the bytes that came.
    fn receive(&self, part: &Path, file: &RemoteFile, progress: &mut dyn FnMut(u64)) -> Result<u64, Failure> {
        let failed = |e: std::io::Error| Failure::new(Code::Failed, format!("{}: {e}", part.display()));
        let mut out = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)
            .map_err(failed)?;
        if out.try_lock().is_err() {
            let message = format!("{}: another process is fetching this file", part.display());
            return Err(Failure::new(Code::Failed, message));
        }
        let mut have = out.metadata().map_err(failed)?.len();
        if have > file.bytes {
            out.set_len(0).map_err(failed)?;
            have = 0;
        }
        let mut received = 0;
        let mut barren = 0;
        // a server that knows no parts begins anew each time: only what was never reached before is progress
        let mut furthest = have;
        while have < file.bytes {
            go_on(self.cancel)?;
            let why = match self.hub.open(self.repository, self.commit, file, have) {
                Ok(mut bytes) => {
                    if bytes.from != have {
                        out.set_len(bytes.from).map_err(failed)?;
                        have = bytes.from;
                    }
                    out.seek(SeekFrom::Start(have)).map_err(failed)?;
                    let end = self.copy(&mut bytes.body, &mut out, file, &mut have, part, progress)?;
                    received += have - bytes.from;
                    end
                }
                Err(Problem::Passing(why)) => why,
                Err(Problem::Lasting(failure)) => return Err(failure),
            };
            if have > furthest {
                barren = 0;
                furthest = have;
            } else if have < file.bytes {
                barren += 1;
                if barren > self.retries {
                    let message = format!("{why}: gave up after {barren} attempts that brought nothing");
                    return Err(Failure::new(Code::Failed, message)
                        .hint("what has come is kept: the same command goes on from there"));
                }
                pause(barren, self.cancel)?;
            }
        }
        progress(have);
        out.sync_all().map_err(failed)?;
        Ok(received)
    }

    /// Copies until the source ends; why it ended.
    fn copy(
        &self,
        body: &mut dyn Read,
        out: &mut File,
        file: &RemoteFile,
        have: &mut u64,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<String, Failure> {
        let mut buffer = vec![0; 1 << 17];
        loop {
            go_on(self.cancel)?;
            progress(*have);
            match body.read(&mut buffer) {
                Ok(0) => {
                    return Ok(format!(
                        "{}: the connection ended at byte {have} of {}",
                        file.path, file.bytes
                    ));
                }
                Ok(count) if count as u64 > file.bytes - *have => {
                    let message =
                        format!("{}: more bytes came than the {} that it has", file.path, file.bytes);
                    return Err(Failure::new(Code::Failed, message));
                }
                Ok(count) => {
                    out.write_all(&buffer[..count])
                        .map_err(|e| Failure::new(Code::Failed, format!("{}: {e}", part.display())))?;
                    *have += count as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(format!("{}: {e}", file.path)),
            }
        }
    }
}

/// Waits longer after each attempt in a row, and wakes up when cancelled.
pub fn pause(attempt: u32, cancel: &CancelToken) -> Result<(), Failure> {
    for _ in 0..1u32 << attempt.min(5) {
        go_on(cancel)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn go_on(cancel: &CancelToken) -> Result<(), Failure> {
    if cancel.is_cancelled() { Err(Failure::new(Code::Cancelled, "cancelled")) } else { Ok(()) }
}

/// The name that a file has until it is whole: another one for other bytes.
fn part_name(target: &Path, digest: &RemoteDigest) -> PathBuf {
    let (RemoteDigest::Sha256(digest) | RemoteDigest::GitBlob(digest)) = digest;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.part", &digest[..12]))
}
