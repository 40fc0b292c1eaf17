//! A place to run the command in: an empty working folder and a copy of the small golden model that may be damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden");

pub struct Site {
    _root: TempDir,
    /// The model.
    pub model: PathBuf,
    /// The working folder.
    pub work: PathBuf,
}

impl Site {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (model, work) = (root.path().join("model"), root.path().join("work"));
        fs::create_dir(&work).unwrap();
        // the second transformer of the golden folder is a variant that would stand in for a missing first one
        copy(&Path::new(GOLDEN).join("model"), &model, "transformer_ternary");
        Self { _root: root, model, work }
    }

    /// The command in the working folder, with no environment that would change what it does.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai"));
        command.current_dir(&self.work).env_remove("BONSAI_MODEL").env_remove("BONSAI_ISA");
        command
    }

    pub fn bonsai(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// `generate` with the model, and then these arguments.
    pub fn generate(&self, args: &[&str]) -> Output {
        self.command().arg("generate").arg("-m").arg(&self.model).args(args).output().unwrap()
    }

    /// Names in the working folder, sorted.
    pub fn files(&self) -> Vec<String> {
        let names = fs::read_dir(&self.work).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn copy(from: &Path, to: &Path, except: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (source, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if source.is_dir() && name != except {
            copy(&source, &to.join(&name), except);
        } else if source.is_file() {
            fs::copy(&source, to.join(&name)).unwrap();
        }
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
