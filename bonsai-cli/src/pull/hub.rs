//! The Hugging Face hub's HTTP interface, or that of a mirror: commits, file lists, files from any byte on.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::StatusCode;
use ureq::{Agent, Body, http};

use super::tls;
use crate::failure::{Code, Failure};
use crate::record::inside;

/// Longest answer that is no file.
const LONGEST_ANSWER: u64 = 32 << 20;
/// More files than any release has.
const MOST_FILES: usize = 10_000;
/// Pages that a file list may come in.
const MOST_PAGES: usize = 200;

/// Why an answer did not come.
pub enum Problem {
    /// It may come the next time.
    Passing(String),
    /// It will not.
    Lasting(Failure),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Passing(what) => Self::new(Code::Failed, what),
            Problem::Lasting(failure) => failure,
        }
    }
}

/// A file of a repository, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Checked to be a plain path below the repository.
    pub path: String,
    pub bytes: u64,
    pub digest: RemoteDigest,
}

/// What the hub tells of a file's bytes, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteDigest {
    /// Of large files.
    Sha256(String),
    /// Of small ones: SHA-1 of the bytes after Git's header of a blob.
    GitBlob(String),
}

/// Bytes of a file.
pub struct Bytes {
    /// The first of them.
    pub from: u64,
    pub body: Box<dyn Read>,
}

/// A hub.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

#[derive(Deserialize)]
struct RevisionAnswer {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// The hub at `endpoint`, `http://` or `https://`. The token is sent there and nowhere else.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self, Failure> {
        let endpoint = endpoint.trim_end_matches('/');
        let refuse = |what: &str| Err(Failure::usage(format!("--endpoint {endpoint}: {what}")));
        let uri: http::Uri = match endpoint.parse() {
            Ok(uri) => uri,
            Err(_) => return refuse("not an address; expected https://HOST"),
        };
        let secure = uri.scheme_str() == Some("https");
        if uri.host().is_none() || !(secure || uri.scheme_str() == Some("http")) || uri.query().is_some() {
            return refuse("not an address; expected https://HOST");
        }
        let missing = tls::missing();
        if let (true, Some(missing)) = (secure, &missing) {
            return refuse(&format!("encrypted connections need {missing}, which this CPU lacks"));
        }
        let local = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if token.is_some() && !secure && !local {
            return refuse("HF_TOKEN is not sent over a connection that is not encrypted");
        }
        let mut config = Agent::config_builder()
            .user_agent(concat!("bonsai/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        config = match missing {
            None => config.tls_config(tls::config()),
            // a redirect may lead to an encrypted address
            Some(_) => config.max_redirects(0).max_redirects_will_error(false),
        };
        if local {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().into(), endpoint: endpoint.to_owned(), token })
    }

    /// The commit that a branch, tag or commit stands for.
    pub fn commit(&self, repository: &str, revision: &str) -> Result<String, Problem> {
        let url = format!("{}/api/models/{repository}/revision/{}", self.endpoint, encode(revision));
        let what = format!("{repository}, revision {revision}");
        let (answer, _) = self.json::<RevisionAnswer>(&url, &what)?;
        if !is_hex(&answer.sha, 40) {
            return Err(odd(&what, "no commit in the answer"));
        }
        Ok(answer.sha)
    }

    /// All files of a commit, in the order of their paths.
    pub fn files(&self, repository: &str, commit: &str) -> Result<Vec<RemoteFile>, Problem> {
        let first = format!("{}/api/models/{repository}/tree/{commit}?recursive=true", self.endpoint);
        let what = format!("{repository}, file list");
        let mut files = Vec::new();
        let mut url = first.clone();
        for _ in 0..MOST_PAGES {
            let (entries, next) = self.json::<Vec<Entry>>(&url, &what)?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                files.push(remote_file(entry).map_err(|why| odd(&what, &why))?);
            }
            if files.len() > MOST_FILES {
                return Err(odd(&what, "too many files"));
            }
            let Some(cursor) = next.as_deref().and_then(cursor) else {
                files.sort_by(|a, b| a.path.cmp(&b.path));
                if let Some(twice) = files.windows(2).find(|two| two[0].path == two[1].path) {
                    return Err(odd(&what, &format!("{} is listed twice", twice[0].path)));
                }
                return Ok(files);
            };
            url = format!("{first}&cursor={cursor}");
        }
        Err(odd(&what, "too many pages"))
    }

    /// The bytes of a file from `from` on, or from 0 where the server knows no parts.
    pub fn open(
        &self,
        repository: &str,
        commit: &str,
        file: &RemoteFile,
        from: u64,
    ) -> Result<Bytes, Problem> {
        let path: Vec<_> = file.path.split('/').map(encode).collect();
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, path.join("/"));
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let answer = self.get(&url, &file.path, range.as_deref())?;
        let from = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let header = answer.headers().get("content-range").and_then(|value| value.to_str().ok());
                let (start, total) = header
                    .and_then(content_range)
                    .ok_or_else(|| odd(&file.path, "a part, but not which (content-range)"))?;
                if start != from || total.is_some_and(|total| total != file.bytes) {
                    return Err(odd(
                        &file.path,
                        &format!("asked for byte {from} of {}, got {header:?}", file.bytes),
                    ));
                }
                from
            }
            _ => 0,
        };
        Ok(Bytes { from, body: Box::new(answer.into_body().into_reader()) })
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
        what: &str,
    ) -> Result<(T, Option<String>), Problem> {
        let mut answer = self.get(url, what, None)?;
        let link = answer.headers().get("link").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = answer.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec();
        let body = body.map_err(|e| Problem::Passing(format!("{what}: {e}")))?;
        let value = serde_json::from_slice(&body).map_err(|e| odd(what, &e.to_string()))?;
        Ok((value, link))
    }

    fn get(&self, url: &str, what: &str, range: Option<&str>) -> Result<http::Response<Body>, Problem> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = request.call().map_err(|error| problem(&format!("{what}: {url}"), &error))?;
        let lasting = |message: String, hint: Option<&str>| {
            let failure = Failure::new(Code::Failed, message);
            Problem::Lasting(hint.map_or(failure.clone(), |hint| failure.hint(hint)))
        };
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            401 | 403 => {
                let hint = match self.token {
                    Some(_) => {
                        "the token in HF_TOKEN lacks access; a gated repository has terms to accept on its page"
                    }
                    None => {
                        "a gated or private repository, or none of this name: set HF_TOKEN, and accept its terms on its page"
                    }
                };
                Err(lasting(format!("{what}: {url}: access refused ({})", answer.status()), Some(hint)))
            }
            404 => Err(lasting(format!("{what}: {url}: not there"), None)),
            300..=399 => {
                let hint = "encrypted connections need instructions that this CPU lacks; name a mirror that needs none";
                Err(lasting(format!("{what}: {url}: leads elsewhere"), Some(hint)))
            }
            429 | 500..=599 => Err(Problem::Passing(format!("{what}: {url}: {}", answer.status()))),
            _ => Err(lasting(format!("{what}: {url}: {}", answer.status()), None)),
        }
    }
}

/// An answer that is none.
fn odd(what: &str, why: &str) -> Problem {
    Problem::Lasting(Failure::new(Code::Failed, format!("{what}: the hub's answer is not understood: {why}")))
}

fn problem(what: &str, error: &ureq::Error) -> Problem {
    let message = format!("{what}: {error}");
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::Protocol(_) => Problem::Passing(message),
        _ => Problem::Lasting(Failure::new(Code::Failed, message)),
    }
}

fn remote_file(entry: Entry) -> Result<RemoteFile, String> {
    let Entry { path, size, oid, lfs, .. } = entry;
    if inside(&path).is_none() {
        return Err(format!("{path:?} is not a path below the repository"));
    }
    let (bytes, digest) = match lfs {
        Some(lfs) => {
            let digest = lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid).to_owned();
            if !is_hex(&digest, 64) {
                return Err(format!("{path}: {digest:?} is no SHA-256"));
            }
            (lfs.size, RemoteDigest::Sha256(digest))
        }
        None if is_hex(&oid, 40) => (size, RemoteDigest::GitBlob(oid)),
        None => return Err(format!("{path}: {oid:?} is no SHA-1")),
    };
    Ok(RemoteFile { path, bytes, digest })
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The place where the next page of a list begins, out of a `Link` header. Only that is used: the address itself could
/// lead elsewhere.
fn cursor(link: &str) -> Option<&str> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.split_once('<')?.1.split_once('>')?.0;
    let query = url.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix("cursor="))
}

/// First byte and length of the whole, out of `bytes 5-9/10`.
fn content_range(header: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    if total == "*" { Some((start, None)) } else { Some((start, Some(total.parse().ok()?))) }
}

/// Percent-encodes all but letters, digits and `-_.~`.
fn encode(part: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    part.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let link =
            r#"<https://hub/api/models/a/b/tree/c?recursive=true&cursor=Zm9v%3D%3D&limit=50>; rel="next""#;
        assert_eq!(cursor(link), Some("Zm9v%3D%3D"));
        assert_eq!(cursor(r#"<https://hub/x?cursor=1>; rel="prev""#), None);
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["5-9/10", "bytes 5/10", "bytes -9/10", "bytes */10", "bytes 5-9/x"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(encode("a b/\u{e9}"), "a%20b%2F%C3%A9");
    }

    #[test]
    fn addresses_are_checked() {
        let token = || Some("secret".to_owned());
        for bad in ["", "hub", "ftp://hub", "https://", "https://hub/?a=b", "file:///x"] {
            assert!(Hub::new(bad, None).is_err_and(|failure| failure.code == Code::Usage), "{bad}");
        }
        assert!(Hub::new("http://hub", None).is_ok());
        assert!(Hub::new("http://hub", token()).is_err());
        for good in ["http://127.0.0.1:80", "http://localhost", "http://[::1]:80/", "http://localhost/mirror"]
        {
            assert!(Hub::new(good, token()).is_ok(), "{good}");
        }
    }
}
