//! A model that a host keeps in its own archive instead of a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bonsai_core::{Error, ErrorKind, ModelSource, Pipeline, PipelineOptions, Request, Result};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

#[derive(Default)]
struct Archive {
    names: Vec<String>,
    files: BTreeMap<String, Vec<u8>>,
    largest_read: AtomicUsize,
    fail: Option<&'static str>,
}

impl Archive {
    fn of(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(dir, "", &mut files);
        Self { names: files.keys().cloned().collect(), files, ..Self::default() }
    }

    fn without(mut self, name: &str) -> Self {
        assert!(self.files.remove(name).is_some());
        self.names.retain(|n| n != name);
        self
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

impl ModelSource for Archive {
    fn name(&self) -> &str {
        "model"
    }

    fn list(&self) -> &[String] {
        &self.names
    }

    fn len(&self, name: &str) -> Option<u64> {
        self.files.get(name).map(|bytes| bytes.len() as u64)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if self.fail == Some(name) {
            return Err(Error::new(ErrorKind::Io, "the archive is gone"));
        }
        self.largest_read.fetch_max(buffer.len(), Ordering::Relaxed);
        let offset = offset as usize;
        buffer.copy_from_slice(&self.files[name][offset..offset + buffer.len()]);
        Ok(())
    }
}

fn open(archive: Archive) -> Result<Pipeline> {
    Pipeline::open_source(Arc::new(archive), &PipelineOptions::default())
}

#[test]
fn an_archive_paints_what_the_directory_paints() {
    let request = Request::new("a tree").seed(3).size(64, 64);
    let want = Pipeline::open(MODEL).unwrap().generate(&request).unwrap();
    let found = open(Archive::of(Path::new(MODEL))).unwrap().generate(&request).unwrap();
    assert_eq!((found.image, found.recipe), (want.image, want.recipe));
}

#[test]
fn what_is_missing_or_unreadable_is_named() {
    let dir = Path::new(MODEL);
    for (name, kind) in [
        // a VAE without its config is taken for one of the published shape
        ("vae/config.json", ErrorKind::ModelMismatch),
        ("vae/diffusion_pytorch_model.safetensors", ErrorKind::NotFound),
        ("text_encoder/model.safetensors", ErrorKind::NotFound),
    ] {
        let error = open(Archive::of(dir).without(name)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("vae") || error.to_string().contains("text_encoder"), "{error}");
    }
    // tensors tell a text encoder's sizes, and the tokenizer does without its config
    for name in ["text_encoder/config.json", "tokenizer/tokenizer_config.json"] {
        open(Archive::of(dir).without(name)).unwrap();
    }
    for name in
        ["transformer/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "vae/config.json"]
    {
        let error = open(Archive { fail: Some(name), ..Archive::of(dir) }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(error.file(), Some(Path::new(name)));
        assert!(error.to_string().contains("the archive is gone"), "{error}");
    }
    assert_eq!(open(Archive::default()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn damaged_files_of_an_archive_are_errors() {
    let name = "transformer/diffusion_pytorch_model.safetensors";
    for keep in [0, 1, 7, 8, 100] {
        let mut archive = Archive::of(Path::new(MODEL));
        archive.files.get_mut(name).unwrap().truncate(keep);
        let error = open(archive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelFormat, "{keep}: {error}");
        assert_eq!(error.file(), Some(Path::new(name)));
    }
}
