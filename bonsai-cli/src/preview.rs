//! `--preview`: a rough picture after each step, while one waits for the real one.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bonsai_core::image::write_png;
use bonsai_core::{Event, Observer, Preview, VaePath};
use clap::{Args, ValueEnum};

use crate::failure::Failure;
use crate::progress::Progress;

#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Write a preview as the picture comes into being; it never changes the picture
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Kind::None)]
    preview: Kind,
    /// The TAEF2 of --preview tiny: its file or folder [default: the one in the model directory]
    #[arg(long, value_name = "PATH")]
    preview_decoder: Option<VaePath>,
    /// PNG file of the preview, written over each time; {step} and {seed} in the name keep them apart
    #[arg(long, value_name = "FILE", default_value = "preview.png")]
    preview_path: PathBuf,
    /// Steps between previews; there is always one after the last
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    preview_interval: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// No previews
    None,
    /// The latents as colours, an eighth of the picture's sides (with the model inside a sixteenth)
    Latent,
    /// What TAEF2 makes of the latents, as large as the picture
    Tiny,
}

impl PreviewArgs {
    /// Which decoder is to be loaded, if one is.
    pub fn decoder(&self) -> Result<Option<VaePath>, Failure> {
        match (self.preview, &self.preview_decoder) {
            (Kind::Tiny, path) => Ok(Some(path.clone().unwrap_or(VaePath::Tiny))),
            (_, None) => Ok(None),
            (_, Some(_)) => Err(Failure::usage("--preview-decoder: expected --preview tiny beside it")),
        }
    }
}

/// Shows progress and writes previews.
pub struct Watch<'a> {
    pub progress: &'a mut Progress,
    pub args: &'a PreviewArgs,
    pub seed: u64,
}

impl Watch<'_> {
    fn path(&self, step: usize) -> PathBuf {
        let name = self.args.preview_path.file_name().unwrap_or_default();
        match name.to_str() {
            Some(name) => self.args.preview_path.with_file_name(
                name.replace("{step}", &step.to_string()).replace("{seed}", &self.seed.to_string()),
            ),
            // a name that is no text has no placeholders
            None => self.args.preview_path.clone(),
        }
    }
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        self.progress.event(event);
        ControlFlow::Continue(())
    }

    fn wants_preview(&self, step: usize, steps: usize) -> bool {
        let due = (step + 1).is_multiple_of(self.args.preview_interval as usize) || step + 1 == steps;
        self.args.preview != Kind::None && due
    }

    fn preview(&mut self, preview: &Preview) -> ControlFlow<()> {
        let path = self.path(preview.step + 1);
        if let Err(error) = write_png(&path, &preview.image, &[]) {
            // the picture is worth more than its preview
            self.progress.warn(&format!("preview: {error}"));
        }
        ControlFlow::Continue(())
    }
}
