//! Where each component of a model and its config live: in a model directory, or on their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bonsai_kernels::CancelToken;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::component_paths::{ComponentPaths, VaePath};
use crate::config::read_json;
use crate::error::{Error, ErrorKind, Result};
use crate::model_source::ModelFiles;
use crate::native::NativePack;
use crate::tokenizer::Tokenizer;
use crate::weights::{Component, TensorFile, Weights};

/// Endings of files of weights, those that are preferred first.
const WEIGHTS: [&str; 4] = [".safetensors", ".gguf", ".pt", ".pth"];
const INDEX: &str = ".safetensors.index.json";

/// A model directory in the diffusers layout, and the components that were named instead of its own.
#[derive(Debug)]
pub struct ModelDir {
    root: PathBuf,
    files: ModelFiles,
    components: ComponentPaths,
}

/// Files of one component.
#[derive(Debug, Clone)]
pub struct ComponentFiles {
    /// Its folder.
    pub dir: PathBuf,
    /// Its weights: one file, or several shards.
    pub weights: Vec<PathBuf>,
    /// Its config, where there is one; sizes follow from the weights otherwise.
    pub config: Option<PathBuf>,
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
    weight_map: BTreeMap<String, String>,
}

impl ComponentFiles {
    /// The config beside the weights; without one, what `detect` finds in the weights themselves.
    pub(crate) fn config<T: DeserializeOwned>(
        &self,
        files: &ModelFiles,
        detect: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match &self.config {
            Some(path) => read_json(files, path),
            None => detect().map_err(|e| self.blamed(e)),
        }
    }

    /// An error of the config, or of the weights where there is none.
    pub(crate) fn blamed(&self, error: Error) -> Error {
        match self.config.as_ref().or(self.weights.first()) {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

impl ModelDir {
    /// A directory, or components without one, as the options name them.
    pub(crate) fn chosen(root: &Path, components: &ComponentPaths) -> Result<Self> {
        if root.as_os_str().is_empty() {
            Self::of_components(components.clone())
        } else {
            Ok(Self::open(root)?.with_components(components.clone()))
        }
    }

    /// A directory that holds a model, or a native pack that does.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn open(root: &Path) -> Result<Self> {
        if root.is_dir() {
            let (root, components) = (root.to_owned(), ComponentPaths::default());
            return Ok(Self { root, files: ModelFiles::disk(), components });
        }
        if root.is_file()
            && let Some(pack) = NativePack::open(root)?
        {
            return Ok(Self::of_source(ModelFiles::from_native(pack)));
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

    /// A model without a directory, all of whose components are named.
    ///
    /// # Errors
    /// When one is not.
    pub fn of_components(components: ComponentPaths) -> Result<Self> {
        components.expect_complete()?;
        let files = ModelFiles::disk().with_final_modulation(components.final_modulation);
        Ok(Self { root: PathBuf::new(), files, components })
    }

    /// The same with these components instead of its own.
    #[must_use]
    pub fn with_components(self, components: ComponentPaths) -> Self {
        let files = self.files.with_final_modulation(components.final_modulation);
        Self { components, files, ..self }
    }

    /// The same, whose reading ends soon after the token is set.
    #[must_use]
    pub(crate) fn with_cancel(self, cancel: Option<CancelToken>) -> Self {
        match cancel {
            Some(cancel) => Self { files: self.files.with_cancel(cancel), ..self },
            None => self,
        }
    }

    /// A directory that a host keeps; its paths are the names of the host's files.
    pub(crate) fn of_source(files: ModelFiles) -> Self {
        Self { root: PathBuf::new(), files, components: ComponentPaths::default() }
    }

    /// How its files are read.
    pub(crate) fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is a directory, and not only components.
    fn has_root(&self) -> bool {
        !self.root.as_os_str().is_empty() || self.files.source_name().is_some()
    }

    /// The folder of a role: the one of that name, or else the only one whose name begins with it (`text_encoder-4bit`).
    fn folder(&self, role: &str) -> Result<PathBuf> {
        self.folder_in(&self.root, role)
    }

    fn folder_in(&self, root: &Path, role: &str) -> Result<PathBuf> {
        let exact = root.join(role);
        if self.files.is_dir(&exact) {
            return Ok(exact);
        }
        let named = |path: &PathBuf| {
            self.files.is_dir(path)
                && file_name(path).strip_prefix(role).is_some_and(|rest| rest.starts_with(['-', '.']))
        };
        let entries = if self.has_root() { self.files.entries(root)? } else { Vec::new() };
        let mut found: Vec<PathBuf> = entries.into_iter().filter(named).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Error::new(ErrorKind::NotFound, format!("{}: no {role} folder", root.display()))),
            _ => {
                let names: Vec<_> = found.iter().map(|path| file_name(path)).collect();
                Err(Error::mismatch(format!(
                    "{}: several {role} folders ({}); name one of them {role}, or give its path",
                    root.display(),
                    names.join(", ")
                )))
            }
        }
    }

    /// The folder and weight files of a role: what was named; or the folder of that role; or the one file in the
    /// directory whose tensors are that component's.
    ///
    /// In a folder the weights are those of a shard index, else all safetensors files, else GGUF files, else checkpoints
    /// of PyTorch.
    ///
    /// # Errors
    /// When the folder or its weights are missing, or several could be meant.
    pub fn component(&self, role: &str) -> Result<ComponentFiles> {
        if let Some(path) = self.components.of(role) {
            return self.named(path, role);
        }
        if role == "vae" && self.components.vae == Some(VaePath::Tiny) {
            return self.tiny_vae(&self.root);
        }
        match self.folder(role) {
            Ok(dir) => self.in_folder(&dir),
            Err(error) if error.kind() == ErrorKind::NotFound => self.loose(role)?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    fn named(&self, path: &Path, role: &str) -> Result<ComponentFiles> {
        if self.files.is_file(path) {
            let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
            let weights =
                if file_name(path).ends_with(INDEX) { self.shards(path)? } else { vec![path.to_owned()] };
            let config = dir.join("config.json");
            let config = if self.describes(&config, role)? { Some(config) } else { None };
            return Ok(ComponentFiles { dir, weights, config });
        }
        if !self.files.is_dir(path) {
            return Err(Error::new(ErrorKind::NotFound, format!("no such {role}")).in_file(path));
        }
        // a whole model was named, of which this part is meant
        match self.folder_in(path, role) {
            Ok(dir) => self.in_folder(&dir),
            Err(_) => self.in_folder(path),
        }
    }

    /// Whether a config that lies beside a file is this component's, and not that of a neighbour.
    fn describes(&self, config: &Path, role: &str) -> Result<bool> {
        if !self.files.is_file(config) {
            return Ok(false);
        }
        let value: BTreeMap<String, Value> = read_json(&self.files, config)?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        Ok(match role {
            "transformer" => text("_class_name").is_some_and(|name| name.contains("Transformer")),
            "text_encoder" => text("model_type").is_some_and(|name| name.starts_with("qwen3")),
            _ => text("_class_name").is_some_and(|name| name.starts_with("Autoencoder")),
        })
    }

    fn in_folder(&self, dir: &Path) -> Result<ComponentFiles> {
        let files = self.weights_in(dir)?;
        let ending = |suffix: &str| -> Vec<PathBuf> {
            files.iter().filter(|path| file_name(path).ends_with(suffix)).cloned().collect()
        };
        let weights = match ending(INDEX).as_slice() {
            [index, ..] => self.shards(index)?,
            [] => WEIGHTS.map(ending).into_iter().find(|files| !files.is_empty()).unwrap_or_default(),
        };
        if weights.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{}: no weights; expected a .safetensors, .gguf or .pt file", dir.display()),
            ));
        }
        let config = dir.join("config.json");
        let config = self.files.exists(&config).then_some(config);
        Ok(ComponentFiles { dir: dir.to_owned(), weights, config })
    }

    /// Files of weights and shard indexes, sorted.
    fn weights_in(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut files = self.files.entries(dir)?;
        let is_weights =
            |name: &str| name.ends_with(INDEX) || WEIGHTS.iter().any(|ending| name.ends_with(ending));
        files.retain(|path| is_weights(file_name(path)) && self.files.is_file(path));
        Ok(files)
    }

    /// The one file beside the folders whose tensors are those of a role.
    fn loose(&self, role: &str) -> Result<Option<ComponentFiles>> {
        if !self.has_root() {
            return Ok(None);
        }
        let mut found = Vec::new();
        for path in self.weights_in(&self.root)? {
            if file_name(&path).ends_with(INDEX) {
                continue;
            }
            let tensors = TensorFile::open_from(&self.files, &path)?.tensors;
            if Component::detect(&tensors).is_some_and(|c| c.role() == role)
                && !Component::is_tiny_vae(&tensors)
            {
                found.push(path);
            }
        }
        match found.as_slice() {
            [] => Ok(None),
            [path] => self.named(path, role).map(Some),
            several => {
                let names: Vec<_> = several.iter().map(|path| file_name(path)).collect();
                Err(Error::mismatch(format!(
                    "{}: several files are a {role} ({}); give the path of one",
                    self.root.display(),
                    names.join(", ")
                )))
            }
        }
    }

    /// The files of the TAEF2 that paints previews.
    ///
    /// # Errors
    /// When there is none where it should be.
    pub fn preview_decoder(&self, path: &VaePath) -> Result<ComponentFiles> {
        match path {
            VaePath::Tiny => self.tiny_vae(&self.root),
            VaePath::Path(path) if self.files.is_dir(path) => self.tiny_vae(path),
            VaePath::Path(path) => self.named(path, "preview decoder"),
        }
    }

    /// The files of TAEF2: in the directory, or in a folder of it whose name begins with `vae` or `tae`.
    fn tiny_vae(&self, root: &Path) -> Result<ComponentFiles> {
        let mut folders = vec![root.to_owned()];
        let is_vae = |path: &PathBuf| {
            let name = file_name(path);
            self.files.is_dir(path) && (name.starts_with("vae") || name.starts_with("tae"))
        };
        folders.extend(self.files.entries(root)?.into_iter().filter(is_vae));
        for dir in folders {
            let mut weights = Vec::new();
            for path in self.weights_in(&dir)? {
                if !file_name(&path).ends_with(INDEX)
                    && Component::is_tiny_vae(&TensorFile::open_from(&self.files, &path)?.tensors)
                {
                    weights.push(path);
                }
            }
            if !weights.is_empty() {
                return Ok(ComponentFiles { dir, weights, config: None });
            }
        }
        let message =
            "no tiny VAE; expected the files of TAEF2 (taef2_decoder, taef2_encoder) beside the others";
        Err(Error::new(ErrorKind::NotFound, format!("{}: {message}", root.display())))
    }

    /// The tokenizer's folder, or its file: what was named, or a folder of its own, or the text encoder's.
    ///
    /// # Errors
    /// When none holds one.
    pub fn tokenizer(&self) -> Result<PathBuf> {
        let holds = |dir: &PathBuf| {
            ["tokenizer.tables", "tokenizer.json", "vocab.json"]
                .iter()
                .any(|name| self.files.is_file(&dir.join(name)))
        };
        if let Some(path) = &self.components.tokenizer {
            let folder = if file_name(path) == "vocab.json" { path.parent() } else { None };
            let path = folder.map_or_else(|| path.clone(), Path::to_owned);
            let inner = path.join("tokenizer");
            return if self.files.is_file(&path) || holds(&path) {
                Ok(path)
            } else if holds(&inner) {
                Ok(inner)
            } else {
                Err(Error::new(ErrorKind::NotFound, "no tokenizer.json").in_file(&path))
            };
        }
        let named = self.components.of("text_encoder").and_then(|path| {
            if self.files.is_dir(path) { Some(path.to_owned()) } else { path.parent().map(Path::to_owned) }
        });
        let mut candidates: Vec<PathBuf> = [self.folder("tokenizer"), self.folder("text_encoder")]
            .into_iter()
            .flatten()
            .chain(named)
            .flat_map(|dir| [dir.join("tokenizer"), dir])
            .collect();
        candidates.push(self.root.clone());
        if let Some(dir) = candidates.into_iter().find(holds) {
            return Ok(dir);
        }
        // a GGUF file brings its own
        let weights = self.component("text_encoder").map(|files| files.weights).unwrap_or_default();
        let gguf = weights.into_iter().find(|path| file_name(path).ends_with(".gguf"));
        gguf.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{}: no tokenizer/tokenizer.json", self.root.display()))
        })
    }

    /// Whether the tokenizer lies there in a form that is used in place, and is not made of other files.
    pub(crate) fn has_tokenizer_tables(&self) -> bool {
        self.tokenizer().is_ok_and(|dir| self.files.exists(&dir.join("tokenizer.tables")))
    }

    /// The weights of a component of this model.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_weights(&self, files: &ComponentFiles, component: Component) -> Result<Weights> {
        Weights::open_from(&self.files, &files.weights, component)
    }

    /// The config of a component of this model, or without one, what `detect` finds in the weights.
    ///
    /// # Errors
    /// When it is unsound, or there is none and `detect` fails.
    pub fn config<T: DeserializeOwned>(
        &self,
        files: &ComponentFiles,
        detect: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        files.config(&self.files, detect)
    }

    /// The tokenizer of this model.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn open_tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open_from(&self.files, &self.tokenizer()?)
    }

    /// The file that is this model, where it is a native pack.
    pub fn pack(&self) -> Option<&Path> {
        self.files.pack()
    }

    /// What `model_index.json` says that should give pause; nothing where there is none.
    ///
    /// # Errors
    /// When it is there and unsound.
    pub fn index_warnings(&self) -> Result<Vec<String>> {
        const CLASS: &str = "Flux2KleinPipeline";
        let path = self.root.join("model_index.json");
        if !self.has_root() || !self.files.exists(&path) {
            return Ok(Vec::new());
        }
        let index: BTreeMap<String, Value> = read_json(&self.files, &path)?;
        for (key, value) in &index {
            // names of folders and classes, none of which leads anywhere
            let mut texts =
                value.as_array().into_iter().flatten().filter_map(Value::as_str).chain([key.as_str()]);
            if let Some(text) = texts.find(|text| text.contains(['/', '\\']) || text.starts_with("..")) {
                return Err(Error::format(format!("{text:?} is no name of a component")).in_file(&path));
            }
        }
        let mut warnings = Vec::new();
        match index.get("_class_name").map(|class| class.as_str().unwrap_or("no text")) {
            Some(class) if class != CLASS => {
                warnings.push(format!("model_index.json describes a {class}; {CLASS} is what runs here"));
            }
            _ => {}
        }
        if index.get("is_distilled") == Some(&Value::Bool(false)) {
            let what = "model_index.json says that the model is not distilled";
            warnings.push(format!(
                "{what}: it needs many steps and guidance, and four steps give a blurred picture"
            ));
        }
        Ok(warnings)
    }

    /// Whether there is a `bonsai.json`.
    pub fn has_side_file(&self) -> bool {
        self.has_root() && self.files.exists(&self.root.join("bonsai.json"))
    }

    /// `bonsai.json`, or nothing where there is none.
    ///
    /// # Errors
    /// When it is there and unsound.
    pub fn side_file(&self) -> Result<SideFile> {
        let path = self.root.join("bonsai.json");
        if self.has_side_file() { read_json(&self.files, &path) } else { Ok(SideFile::default()) }
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

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or("")
}
