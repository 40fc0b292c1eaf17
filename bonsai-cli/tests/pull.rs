//! `bonsai pull` from a hub on the loopback address.
#![cfg(feature = "pull")]

#[allow(dead_code, reason = "these tests paint nothing")]
mod common;
mod hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Site, stderr};
use hub::{COMMIT, Fault, REPOSITORY, Request, TestHub, is_large, sha256};
use serde_json::{Value, json};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

struct Pull {
    site: Site,
    hub: TestHub,
}

impl Pull {
    fn new() -> Self {
        let site = Site::new();
        let hub = TestHub::new(&site.model);
        assert!(hub.files().contains_key(WEIGHTS));
        Self { site, hub }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.site.command();
        command.args(["pull", REPOSITORY, "--endpoint", &self.hub.endpoint(), "--retries", "1"]).args(args);
        command.env_remove("HF_TOKEN").env_remove("BONSAI_MODELS");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn succeeds(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json", "-q"], args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The message of a pull that fails.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    fn root(&self) -> PathBuf {
        self.site.work.join("models/a-model")
    }

    /// Each file of the model is there as published, and nothing else but the note.
    fn is_whole(&self) {
        let mut want = self.hub.files();
        want.retain(|name, _| {
            ![".gitattributes", "README.md", "assets/logo.svg", "picture.png"].contains(&name.as_str())
        });
        let mut found = names(&self.root(), "");
        found.retain(|name| name != "bonsai-pull.json");
        assert_eq!(found, want.keys().cloned().collect::<Vec<_>>());
        for (name, bytes) in want {
            assert!(fs::read(self.root().join(&name)).unwrap() == bytes, "{name}");
        }
    }
}

fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
        if path.is_dir() {
            found.extend(names(&path, &format!("{prefix}{name}/")));
        } else {
            found.push(format!("{prefix}{name}"));
        }
    }
    found.sort();
    found
}

fn of_weights(requests: Vec<Request>) -> Vec<Option<String>> {
    let stored = requests.into_iter().filter(|r| r.path.starts_with(&format!("/storage/{WEIGHTS}")));
    stored.map(|r| r.range).collect()
}

#[test]
fn a_model_is_fetched_whole_and_paints() {
    let pull = Pull::new();
    let report = pull.succeeds(&[]);
    pull.is_whole();
    assert_eq!((&report["repository"], &report["revision"]), (&REPOSITORY.into(), &COMMIT.into()));
    let files = report["files"].as_array().unwrap();
    let total: u64 = files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["received_bytes"], total);
    // the note holds the digests of all files, also of those that the hub gives none for
    let note: Value =
        serde_json::from_slice(&fs::read(pull.root().join("bonsai-pull.json")).unwrap()).unwrap();
    assert_eq!(&note["files"], &report["files"]);
    for file in files {
        let path = file["path"].as_str().unwrap();
        assert_eq!(file["sha256"], sha256(&pull.hub.files()[path]), "{path}");
    }
    let output = pull.site.bonsai(&["generate", "-q", "-m", "models/a-model", "-o", "a.png", "a tree"]);
    assert!(output.status.success(), "{}", stderr(&output));
    // a second time nothing comes; a file that lost a byte, or changed one, comes again
    pull.hub.requests();
    assert_eq!(pull.succeeds(&[])["received_bytes"], 0);
    assert!(pull.hub.requests().iter().all(|r| r.path.starts_with("/api/")));
    let weights = pull.root().join(WEIGHTS);
    let mut bytes = fs::read(&weights).unwrap();
    bytes[1000] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    assert_eq!(pull.succeeds(&[])["received_bytes"], bytes.len());
    fs::write(pull.root().join("vae/config.json"), "{").unwrap();
    pull.succeeds(&[]);
    pull.is_whole();
}

#[test]
fn everything_comes_when_asked_for_and_elsewhere() {
    let pull = Pull::new();
    pull.succeeds(&["--all", "--to", "other"]);
    let found = names(&pull.site.work.join("other/a-model"), "");
    assert_eq!(found.len(), pull.hub.files().len() + 1);
    let mut command = pull.command(&["-q"]);
    assert!(command.env("BONSAI_MODELS", "third").status().unwrap().success());
    assert!(pull.site.work.join("third/a-model").join(WEIGHTS).is_file());
}

#[test]
fn cut_connections_are_continued() {
    let pull = Pull::new();
    let size = pull.hub.files()[WEIGHTS].len();
    pull.hub.fault(WEIGHTS, &[Fault::Cut(1000), Fault::Cut(0), Fault::Cut(5000), Fault::Status(503)]);
    let report = pull.succeeds(&[]);
    pull.is_whole();
    let ranges = of_weights(pull.hub.requests());
    let from = |byte: u64| Some(format!("bytes={byte}-"));
    assert_eq!(ranges, [None, from(1000), from(1000), from(6000), from(6000)]);
    // nothing came twice
    let total: u64 = report["files"].as_array().unwrap().iter().map(|f| f["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["received_bytes"], total);
    assert!(total > size as u64);
}

#[test]
fn a_pull_that_gave_up_goes_on_from_there() {
    let pull = Pull::new();
    pull.hub.fault(WEIGHTS, &[Fault::Cut(3000), Fault::Cut(0), Fault::Cut(0)]);
    let text = pull.fails(&[]);
    assert!(
        text.contains(WEIGHTS) && text.contains("gave up after 2 attempts") && text.contains("hint: "),
        "{text}"
    );
    assert!(!pull.root().join(WEIGHTS).exists(), "no unfinished file under its name");
    assert!(!pull.root().join("bonsai-pull.json").exists());
    pull.hub.requests();
    pull.succeeds(&[]);
    pull.is_whole();
    assert_eq!(of_weights(pull.hub.requests()), [Some("bytes=3000-".to_owned())]);
}

#[test]
fn a_server_without_parts_begins_anew() {
    let pull = Pull::new();
    pull.hub.fault(WEIGHTS, &[Fault::Cut(3000), Fault::Whole]);
    pull.succeeds(&[]);
    pull.is_whole();
    // and one that never gets further than before is given up
    let again = Pull::new();
    let endless: Vec<_> = (0..50).map(|i| Fault::WholeCut(if i % 2 == 0 { 3000 } else { 2000 })).collect();
    again.hub.fault(WEIGHTS, &endless);
    assert!(again.fails(&[]).contains("gave up"));
}

#[test]
fn corrupt_bytes_are_noticed() {
    let pull = Pull::new();
    // once: the file is fetched again; a large one, and a small one that has Git's digest only
    pull.hub.fault(WEIGHTS, &[Fault::Flip(4321)]);
    pull.hub.fault("vae/config.json", &[Fault::Flip(5)]);
    pull.succeeds(&[]);
    pull.is_whole();
    for name in [WEIGHTS, "vae/config.json"] {
        // always: an error that names the file, and nothing under its name
        let pull = Pull::new();
        pull.hub.fault(name, &[Fault::Flip(7), Fault::Flip(7)]);
        let text = pull.fails(&[]);
        assert!(text.contains(name) && text.contains("digest") && text.contains("expected"), "{text}");
        assert!(!pull.root().join(name).exists());
        let part = names(&pull.root(), "").into_iter().find(|found| found.ends_with(".part"));
        assert_eq!(part, None, "wrong bytes are not continued");
    }
    // a part whose beginning is wrong is noticed as well
    let pull = Pull::new();
    pull.hub.fault(WEIGHTS, &[Fault::Cut(3000), Fault::Cut(0), Fault::Cut(0)]);
    pull.fails(&[]);
    let part = names(&pull.root(), "").into_iter().find(|found| found.ends_with(".part")).unwrap();
    fs::write(pull.root().join(part), vec![0; 3000]).unwrap();
    pull.succeeds(&[]);
    pull.is_whole();
}

#[test]
fn wrong_answers_are_errors() {
    for (faults, words) in [
        (vec![Fault::Cut(3000), Fault::OtherPart], "asked for byte 3000"),
        (vec![Fault::Longer], "more bytes"),
        (vec![Fault::Status(404)], "not there"),
        (vec![Fault::Status(403)], "refused"),
        (vec![Fault::Status(418)], "418"),
        (vec![Fault::Status(500), Fault::Status(502)], "502"),
    ] {
        let pull = Pull::new();
        pull.hub.fault(WEIGHTS, &faults);
        let text = pull.fails(&[]);
        assert!(text.contains(words) && text.contains(WEIGHTS), "{faults:?}: {text}");
        assert!(!pull.root().join(WEIGHTS).exists());
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    let blob = "a".repeat(40);
    for path in
        ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil", "C:\\evil", "", "a//b", "a/\u{0}b", "vae/."]
    {
        let pull = Pull::new();
        pull.hub.list_also(json!({ "type": "file", "oid": blob, "size": 4, "path": path }));
        let text = pull.fails(&[]);
        assert!(text.contains("not a path below the repository"), "{path}: {text}");
        // nothing at all was fetched
        assert!(!pull.site.work.join("models").exists(), "{path}");
        assert_eq!(pull.site.files(), [""; 0]);
    }
}

#[test]
fn odd_lists_are_refused() {
    let file = |extra: Value| {
        let mut entry = json!({ "type": "file", "oid": "a".repeat(40), "size": 4, "path": "x.json" });
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        entry
    };
    for (entry, words) in [
        (file(json!({ "oid": "xyz" })), "no SHA-1"),
        (file(json!({ "lfs": { "oid": "../../etc", "size": 3 } })), "no SHA-256"),
        (file(json!({ "size": -1 })), "file list"),
        (file(json!({ "path": "vae/config.json" })), "listed twice"),
        (file(json!({ "path": "bonsai-pull.json" })), "overwritten"),
        (json!("text"), "file list"),
    ] {
        let pull = Pull::new();
        pull.hub.list_also(entry.clone());
        let text = pull.fails(&[]);
        assert!(text.contains(words), "{entry}: {text}");
    }
}

#[test]
fn a_release_has_the_digests_that_are_known() {
    const RELEASE: &str = "prism-ml/bonsai-image-ternary-4B-mlx-2bit";
    // the ternary transformer by its size
    const BYTES: u64 = 1_425_271_472;
    let pull = Pull::new();
    pull.hub.also_called(RELEASE);
    let path = "transformer/other.safetensors";
    let digest = "0".repeat(64);
    let lfs = json!({ "oid": digest, "size": BYTES, "pointerSize": 134 });
    pull.hub.list_also(json!({ "type": "file", "oid": COMMIT, "size": BYTES, "path": path, "lfs": lfs }));
    let mut command = pull.site.command();
    command.args(["pull", "ternary", "--endpoint", &pull.hub.endpoint(), "--retries", "0", "-q"]);
    let output = command.env_remove("HF_TOKEN").env_remove("BONSAI_MODELS").output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        [path, &digest, "b21737bdf02690b7", "--revision"].iter().all(|word| text.contains(word)),
        "{text}"
    );
    // nothing was fetched
    let asked: Vec<_> = pull.hub.requests().into_iter().map(|request| request.path).collect();
    assert!(asked.iter().all(|path| path.starts_with("/api/")), "{asked:?}");
    assert!(!pull.site.work.join("models").exists());
}

#[test]
fn tokens_open_gates_and_stay_at_the_hub() {
    let pull = Pull::new();
    pull.hub.gate("secret");
    assert!(pull.fails(&[]).contains("HF_TOKEN"));
    let output = pull.command(&[]).env("HF_TOKEN", "wrong").output().unwrap();
    assert!(stderr(&output).contains("lacks access"), "{}", stderr(&output));
    pull.hub.requests();
    let output = pull.command(&["--json"]).env("HF_TOKEN", "secret").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        !stderr(&output).contains("secret") && !String::from_utf8_lossy(&output.stdout).contains("secret")
    );
    pull.is_whole();
    for Request { path, authorization, .. } in pull.hub.requests() {
        let want = (!path.starts_with("/storage/")).then(|| "Bearer secret".to_owned());
        assert_eq!(authorization, want, "{path}");
    }
    assert!(pull.hub.files().keys().any(|path| is_large(path)));
}

#[test]
fn wrong_usage_is_told() {
    let site = Site::new();
    for (args, words) in [
        (&["pull"][..], "RELEASE"),
        (&["pull", "nothing"], "ternary"),
        (&["pull", "../x"], "OWNER/NAME"),
        (&["pull", "a/b", "--endpoint", "ftp://x"], "address"),
        (&["pull", "a/b", "--list"], "--list"),
    ] {
        let output = site.bonsai(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
    }
    let output = site.bonsai(&["pull", "--list"]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("prism-ml/bonsai-image-ternary-4B-mlx-2bit"));
    // nobody listens there
    let output = site.bonsai(&["pull", "a/b", "--endpoint", "http://127.0.0.1:9", "--retries", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: a/b, revision main: "), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn links_and_folders_in_the_way_are_no_files() {
    let pull = Pull::new();
    let outside = pull.site.work.join("outside");
    fs::write(&outside, "precious").unwrap();
    fs::create_dir_all(pull.root().join("vae")).unwrap();
    std::os::unix::fs::symlink(&outside, pull.root().join("vae/config.json")).unwrap();
    assert!(pull.fails(&[]).contains("is no file"));
    assert_eq!(fs::read(&outside).unwrap(), b"precious");
}
