//! Model folders with random weights: the real shapes, formats and file layout without the real pictures.
//!
//! For timing, for tests, and for looking at a folder before downloading gigabytes. Every byte follows from
//! the preset and the seed.

use std::path::Path;

use bonsai_core::{Error, ErrorKind};

mod configs;
mod plan;
mod presets;
mod random;
#[cfg(test)]
mod tests;
mod text_encoder;
mod tokenizer;
mod transformer;
mod vae;
mod vocabulary;
mod writer;

pub use presets::Preset;

use plan::TensorFile;
use writer::Output;

/// Writes the model folder of `preset` to `out`, which is created; parents too.
///
/// Of `outliers` channels the activations before the linears are tens of times as large as the others.
/// `progress` is told the fraction written so far, 0 to 1, and the file at work. The same preset, seed and outliers give
/// the same bytes. What was written is removed again if a later file fails.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if `out` is there and not empty; [`ErrorKind::Io`] naming the file that could
/// not be written.
pub fn run(
    preset: Preset,
    out: &Path,
    seed: u64,
    outliers: u16,
    progress: &dyn Fn(f64, &str),
) -> Result<(), Error> {
    let shapes = preset.shapes();
    let files = [
        text_encoder::file(&shapes.text_encoder),
        transformer::file(&shapes.transformer, outliers.into()),
        vae::file(&shapes.vae),
    ];
    prepare(out)?;
    let mut output = Output::new(out);
    let written = write_all(&mut output, &shapes, &files, seed, progress);
    if written.is_err() {
        output.remove();
    }
    written
}

fn write_all(
    output: &mut Output,
    shapes: &presets::Shapes,
    files: &[TensorFile],
    seed: u64,
    progress: &dyn Fn(f64, &str),
) -> Result<(), Error> {
    let total: u64 = files.iter().map(TensorFile::data_bytes).sum();
    let mut done = 0;
    progress(0.0, "tokenizer");
    tokenizer::write(output, &shapes.tokenizer)?;
    for file in files {
        output.tensors(file, seed, &mut |bytes| {
            done += bytes;
            progress(done as f64 / total as f64, file.path);
        })?;
    }
    // model_index.json comes last: a folder without it is not a model yet.
    for (path, json) in configs::all(shapes) {
        output.json(path, &json)?;
    }
    Ok(())
}

fn prepare(out: &Path) -> Result<(), Error> {
    let io = |e| Error::io(out, e);
    if out.exists() && out.read_dir().map_err(io)?.next().is_some() {
        let message = format!("{}: expected a new or empty folder, this one is not empty", out.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    std::fs::create_dir_all(out).map_err(io)
}
