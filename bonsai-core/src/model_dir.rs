//! Where each component of a model directory and its config live on disk.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::read_json;
use crate::error::{Error, ErrorKind, Result};
use crate::model_source::ModelFiles;

/// A model directory in the diffusers layout.
#[derive(Debug)]
pub struct ModelDir {
    root: PathBuf,
    files: ModelFiles,
}

/// Files of one component.
#[derive(Debug, Clone)]
pub struct ComponentFiles {
    /// Its folder.
    pub dir: PathBuf,
    /// Its weights: one file, or several shards.
    pub weights: Vec<PathBuf>,
}

/// What a model directory says of itself in `bonsai.json`; every field is optional.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SideFile {
    /// Hidden states of the text encoder that make the prompt embeddings.
    pub text_encoder_out_layers: Option<Vec<usize>>,
    /// Tokens of a prompt, padding included.
    pub max_sequence_length: Option<usize>,
    /// Width and height of a picture.
    pub default_size: Option<[usize; 2]>,
    /// Steps of a picture.
    pub steps: Option<usize>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl ModelDir {
    /// A directory that holds a model.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn open(root: &Path) -> Result<Self> {
        if root.is_dir() {
            return Ok(Self { root: root.to_owned(), files: ModelFiles::disk() });
        }
        let what = if root.exists() { "is a file" } else { "does not exist" };
        Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{}: {what}; expected a model directory with transformer, text_encoder, vae and tokenizer folders",
                root.display()
            ),
        ))
    }

    /// A directory that a host keeps; its paths are the names of the host's files.
    pub(crate) fn of_source(files: ModelFiles) -> Self {
        Self { root: PathBuf::new(), files }
    }

    /// How its files are read.
    pub(crate) fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a role: the one of that name, or else the only one whose name begins with it (`text_encoder-4bit`).
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn folder(&self, role: &str) -> Result<PathBuf> {
        let exact = self.root.join(role);
        if self.files.is_dir(&exact) {
            return Ok(exact);
        }
        let entries = self.files.entries(&self.root)?;
        let named = |path: &PathBuf| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            self.files.is_dir(path)
                && name.strip_prefix(role).is_some_and(|rest| rest.starts_with(['-', '.']))
        };
        let mut found: Vec<PathBuf> = entries.into_iter().filter(named).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Error::new(ErrorKind::NotFound, format!("{}: no {role} folder", self.root.display()))),
            _ => Err(Error::new(
                ErrorKind::ModelMismatch,
                format!("{}: several {role} folders; name one of them {role}", self.root.display()),
            )),
        }
    }

    /// The folder and weight files of a role: those of a shard index, else all safetensors files, else GGUF
    /// files, else checkpoints of PyTorch.
    ///
    /// # Errors
    /// When the folder or its weights are missing.
    pub fn component(&self, role: &str) -> Result<ComponentFiles> {
        let dir = self.folder(role)?;
        let mut files = self.files.entries(&dir)?;
        files.retain(|path| self.files.is_file(path));
        let ending = |suffix: &str| -> Vec<PathBuf> {
            let matches =
                |p: &&PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.ends_with(suffix));
            files.iter().filter(matches).cloned().collect()
        };
        let weights = match ending(".safetensors.index.json").as_slice() {
            [index, ..] => self.shards(index)?,
            [] => {
                let forms = [".safetensors", ".gguf", ".pt", ".pth"].map(ending);
                forms.into_iter().find(|files| !files.is_empty()).unwrap_or_default()
            }
        };
        if weights.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{}: no weights; expected a .safetensors, .gguf or .pt file", dir.display()),
            ));
        }
        Ok(ComponentFiles { dir, weights })
    }

    /// The folder of the tokenizer: its own, or the text encoder's.
    ///
    /// # Errors
    /// When neither holds one.
    pub fn tokenizer(&self) -> Result<PathBuf> {
        let holds = |dir: &PathBuf| {
            ["tokenizer.json", "vocab.json"].iter().any(|name| self.files.is_file(&dir.join(name)))
        };
        let candidates = [self.folder("tokenizer"), self.folder("text_encoder")];
        candidates.into_iter().flatten().find(holds).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{}: no tokenizer/tokenizer.json", self.root.display()))
        })
    }

    /// `bonsai.json`, or nothing where there is none.
    ///
    /// # Errors
    /// When it is there and unsound.
    pub fn side_file(&self) -> Result<SideFile> {
        let path = self.root.join("bonsai.json");
        if self.files.exists(&path) { read_json(&self.files, &path) } else { Ok(SideFile::default()) }
    }

    fn shards(&self, index: &Path) -> Result<Vec<PathBuf>> {
        let parsed: ShardIndex = read_json(&self.files, index)?;
        let mut names: Vec<String> = parsed.weight_map.into_values().collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                // a name, not a way out of the folder
                if name.is_empty() || name.contains(['/', '\\']) || name.starts_with("..") {
                    return Err(Error::format(format!(
                        "{}: shard {name:?} is no file name",
                        index.display()
                    )));
                }
                let path = index.with_file_name(&name);
                if self.files.is_file(&path) {
                    Ok(path)
                } else {
                    Err(Error::new(
                        ErrorKind::NotFound,
                        format!("{}: shard {name} is missing", index.display()),
                    ))
                }
            })
            .collect()
    }
}
