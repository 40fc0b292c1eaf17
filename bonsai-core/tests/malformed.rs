//! Files cut at every length and with every byte of the header changed: an error or a sound result, never a panic.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bonsai_core::weights::{Component, TensorFile, Weights};
use tempfile::TempDir;

const FORMATS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/formats/");

/// A copy that may be damaged.
struct Copy {
    _folder: TempDir,
    path: PathBuf,
    whole: Vec<u8>,
    file: File,
}

impl Copy {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let whole = fs::read(format!("{FORMATS}{name}")).unwrap();
        fs::write(&path, &whole).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        Self { _folder: folder, path, whole, file }
    }

    /// Bytes before the first tensor.
    fn header_len(&self) -> usize {
        let tensors = TensorFile::open(&self.path).unwrap().tensors;
        tensors.values().map(|tensor| tensor.range.start).min().unwrap()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// Reads all that can be read; tells whether the file was taken for sound.
    fn read(&self, what: &str) -> bool {
        catch_unwind(AssertUnwindSafe(|| read(&self.path)))
            .unwrap_or_else(|_| panic!("{}, {what}: a panic", self.path.display()))
    }
}

fn read(path: &Path) -> bool {
    let Ok(file) = TensorFile::open(path) else { return false };
    let bytes = file.bytes.as_slice().len();
    for (name, tensor) in &file.tensors {
        assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= bytes, "{name}");
        let count = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).expect(name);
        // no format takes more than 64 weights a byte
        assert!(
            count / 64 <= tensor.range.len(),
            "{name}: {:?} in {} bytes",
            tensor.shape,
            tensor.range.len()
        );
    }
    let Ok(weights) = Weights::open(&[path.to_owned()], Component::Transformer) else { return false };
    for (name, tensor) in &file.tensors {
        let values = weights.values(name, &tensor.shape);
        let count: usize = tensor.shape.iter().product();
        assert!(values.is_err() || values.is_ok_and(|v| v.len() == count && v.iter().all(|x| x.is_finite())));
    }
    // the packed matrix of the safetensors file has no layer name of its own
    if let (Some(weight), Some(scales)) = (file.tensors.get("layer.weight"), file.tensors.get("layer.scales"))
    {
        let rows = weight.shape.first().copied().unwrap_or(0);
        let columns = scales.shape.get(1).copied().unwrap_or(0).saturating_mul(128);
        if let Ok(matrix) = weights.matrix("layer", rows, columns) {
            assert_eq!((matrix.rows(), matrix.cols()), (rows, columns));
            assert!(matrix.is_finite());
        }
    }
    true
}

/// Cuts from the end, so that every length costs one call.
fn cut_everywhere(copy: &Copy) -> usize {
    let mut sound = 0;
    for len in (0..copy.whole.len()).rev() {
        copy.file.set_len(len as u64).unwrap();
        sound += usize::from(copy.read(&format!("cut to {len} bytes")));
    }
    sound
}

fn flip_header(copy: &Copy) {
    for at in 0..copy.header_len() {
        let byte = copy.whole[at];
        for changed in [!byte, byte ^ 1, byte ^ 0x80, 0, b'9'] {
            copy.write(at, &[changed]);
            copy.read(&format!("byte {at} set to {changed:#04x}"));
        }
        copy.write(at, &[byte]);
    }
    assert!(copy.read("whole"));
}

/// A file whose tensors are those of a layer, so that the packed reader takes them.
fn layer() -> Copy {
    let mut copy = Copy::of("mlx_ternary_positive.safetensors");
    let len = u64::from_le_bytes(copy.whole[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&copy.whole[8..8 + len]).unwrap().trim_end().to_owned();
    let mut header = text.replace("\"weight\"", "\"layer.weight\"");
    header = header.replace("\"scales\"", "\"layer.scales\"").replace("\"biases\"", "\"layer.biases\"");
    header = format!("{header:0$}", header.len().next_multiple_of(8));
    let data = copy.whole.split_off(8 + len);
    copy.whole = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    copy.file.set_len(0).unwrap();
    copy.write(0, &copy.whole);
    copy
}

#[test]
fn gguf_cut_at_any_byte() {
    // nothing stands behind the last tensor
    assert_eq!(cut_everywhere(&Copy::of("tiny.gguf")), 0);
}

#[test]
fn gguf_with_any_header_byte_changed() {
    flip_header(&Copy::of("tiny.gguf"));
}

#[test]
fn safetensors_cut_at_any_byte() {
    assert_eq!(cut_everywhere(&layer()), 0);
}

#[test]
fn safetensors_with_any_header_byte_changed() {
    flip_header(&layer());
}

#[test]
fn the_undamaged_layer_is_read() {
    let copy = layer();
    let weights = Weights::open(std::slice::from_ref(&copy.path), Component::Transformer).unwrap();
    assert_eq!(weights.matrix("layer", 64, 384).unwrap().kind(), "ternary");
}
