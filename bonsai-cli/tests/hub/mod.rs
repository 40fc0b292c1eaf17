//! A hub on the loopback address: it lists and serves the files of one repository as the real one does, and misbehaves
//! where a test asks for it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPOSITORY: &str = "somebody/a-model";

/// One answer to a request for a file that is not as it should be.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// A byte of the whole file is another one.
    Flip(usize),
    /// The whole file instead of a part.
    Whole,
    /// The whole file, which ends early.
    WholeCut(usize),
    /// This status and nothing else.
    Status(u16),
    /// A part that says it begins elsewhere.
    OtherPart,
    /// More bytes than the file has.
    Longer,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    /// Another name of the repository.
    alias: Option<String>,
    files: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    /// Entries that the list has beside the files.
    extra: Vec<Value>,
    token: Option<String>,
    requests: Vec<Request>,
}

pub struct TestHub {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl TestHub {
    /// A hub that serves the files below `folder`, and those that are no part of a model.
    pub fn new(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let hub = Self { port, state: Arc::clone(&state) };
        hub.add_folder(folder, "");
        for name in [".gitattributes", "README.md", "assets/logo.svg", "picture.png"] {
            hub.add(name, b"no part of a model".to_vec());
        }
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&state);
                thread::spawn(move || stream.map(|stream| serve(&stream, &state, port)));
            }
        });
        hub
    }

    fn add_folder(&self, folder: &Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
            if path.is_dir() {
                self.add_folder(&path, &format!("{prefix}{name}/"));
            } else {
                self.add(&format!("{prefix}{name}"), std::fs::read(path).unwrap());
            }
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn add(&self, path: &str, bytes: Vec<u8>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), bytes);
    }

    /// The next answers for this file.
    pub fn fault(&self, path: &str, faults: &[Fault]) {
        self.state.lock().unwrap().faults.entry(path.to_owned()).or_default().extend(faults.iter().cloned());
    }

    /// The list has this entry too.
    pub fn list_also(&self, entry: Value) {
        self.state.lock().unwrap().extra.push(entry);
    }

    /// The repository has this name too.
    pub fn also_called(&self, repository: &str) {
        self.state.lock().unwrap().alias = Some(repository.to_owned());
    }

    /// From here on only those with this token are served.
    pub fn gate(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.lock().unwrap().files.clone()
    }

    /// What was asked for since the last time.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

pub fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors")
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_blob(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(stream: &TcpStream, state: &Mutex<State>, port: u16) {
    let mut reader = BufReader::new(stream);
    // connections are kept open, as the real hub does
    while let Some(request) = read_request(&mut reader) {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let answer = answer(&request, &mut state, port);
        drop(state);
        let mut stream = stream;
        if stream.write_all(&answer.bytes).and_then(|()| stream.flush()).is_err() || answer.close {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, authorization: None };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { return Some(request) };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

struct Answer {
    bytes: Vec<u8>,
    close: bool,
}

fn reply(status: u16, headers: &[String], body: &[u8]) -> Answer {
    let mut bytes = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for header in headers {
        bytes.extend(format!("{header}\r\n").bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    Answer { bytes, close: false }
}

fn answer(request: &Request, state: &mut State, port: u16) -> Answer {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if let Some(name) = path.strip_prefix("/storage/") {
        return file(&decode(name), request.range.as_deref(), state);
    }
    if state.token.as_ref().is_some_and(|token| request.authorization != Some(format!("Bearer {token}"))) {
        return reply(401, &[], b"no");
    }
    let repository = match &state.alias {
        Some(alias) if path.contains(alias) => alias.as_str(),
        _ => REPOSITORY,
    };
    if path == format!("/api/models/{repository}/revision/main") {
        return reply(200, &[], json!({ "sha": COMMIT, "private": false }).to_string().as_bytes());
    }
    if path == format!("/api/models/{repository}/tree/{COMMIT}") {
        return tree(query, state, port);
    }
    match path.strip_prefix(&format!("/{repository}/resolve/{COMMIT}/")).map(decode) {
        // large files lie elsewhere, under another host name
        Some(name) if is_large(&name) => {
            reply(302, &[format!("location: http://localhost:{port}/storage/{name}?signature=1")], b"")
        }
        Some(name) => file(&name, request.range.as_deref(), state),
        None => reply(404, &[], b"no"),
    }
}

/// The list in two pages.
fn tree(query: &str, state: &State, port: u16) -> Answer {
    let mut entries = vec![json!({ "type": "directory", "oid": git_blob(b""), "size": 0, "path": "vae" })];
    entries.extend(state.extra.iter().cloned());
    for (path, bytes) in &state.files {
        let mut entry = json!({ "type": "file", "oid": git_blob(bytes), "size": bytes.len(), "path": path });
        if is_large(path) {
            entry["lfs"] = json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134 });
        }
        entries.push(entry);
    }
    let second = entries.split_off(entries.len() / 2);
    let (page, headers) = if query.contains("cursor=Mg%3D%3D") {
        (second, vec![])
    } else {
        let url = format!("http://localhost:{port}/elsewhere?recursive=true&cursor=Mg%3D%3D");
        (entries, vec![format!("link: <{url}>; rel=\"next\"")])
    };
    reply(200, &headers, Value::from(page).to_string().as_bytes())
}

fn file(name: &str, range: Option<&str>, state: &mut State) -> Answer {
    let Some(mut bytes) = state.files.get(name).cloned() else { return reply(404, &[], b"no") };
    let fault = state.faults.get_mut(name).and_then(VecDeque::pop_front);
    let total = bytes.len();
    if let Some(Fault::Status(status)) = fault {
        return reply(status, &[], b"no");
    }
    if let Some(Fault::Flip(at)) = fault {
        bytes[at] ^= 0x10;
    }
    let start: Option<usize> =
        range.map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let start = start.filter(|_| !matches!(fault, Some(Fault::Whole | Fault::WholeCut(_))));
    let mut answer = match start {
        Some(start) if matches!(fault, Some(Fault::OtherPart)) => reply(
            206,
            &[format!("content-range: bytes {}-{}/{total}", start - 1, total - 1)],
            &bytes[start..],
        ),
        Some(start) => {
            reply(206, &[format!("content-range: bytes {start}-{}/{total}", total - 1)], &bytes[start..])
        }
        None => reply(200, &[], &bytes),
    };
    match fault {
        Some(Fault::Cut(after) | Fault::WholeCut(after)) => {
            let head = answer.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            answer.bytes.truncate(head + after);
            answer.close = true;
        }
        Some(Fault::Longer) => answer = reply(200, &[], &[&bytes[..], b"more"].concat()),
        _ => {}
    }
    answer
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}
