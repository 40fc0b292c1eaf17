//! A picture's recipe.

use std::path::Path;

use bonsai_core::image::{Image, Recipe};
use serde::Serialize;

use crate::failure::Failure;
use crate::print;
use crate::verify::recipe_of;

#[derive(Serialize)]
struct PictureReport {
    path: String,
    width: usize,
    height: usize,
    recipe: Recipe,
}

pub fn run(path: &Path, json: bool) -> Result<(), Failure> {
    let recipe = recipe_of(path)?;
    let image = Image::load(path).map_err(|e| Failure::in_files(&e))?;
    let path = path.display().to_string();
    let report = PictureReport { path, width: image.width(), height: image.height(), recipe };
    if json { print::json(&report) } else { print::stdout(&text(&report)) }
}

fn text(report: &PictureReport) -> String {
    let r = &report.recipe;
    let cut = if r.truncated { ", the rest was cut" } else { "" };
    let sigmas: Vec<String> = r.sigmas.iter().map(|s| format!("{s:.4}")).collect();
    let mut lines = vec![
        format!("{}: {}x{}, painted by {}", report.path, report.width, report.height, r.engine),
        format!("  prompt     {:?}", r.prompt),
        format!("  tokens     {} of {}{cut}", r.tokens_used, r.max_sequence_length),
        format!("  seed       {} ({})", r.seed, r.noise_source),
        format!("  size       {}x{}", r.width, r.height),
        format!("  steps      {} (sigmas {})", r.steps, sigmas.join(", ")),
        format!("  model      {}", r.model.name),
        format!("  taps       {:?}", r.text_encoder_out_layers),
        format!("  arithmetic {}, {}", r.precision, r.isa_class),
    ];
    lines.extend(r.guidance.map(|guidance| format!("  guidance   {guidance}")));
    lines.extend(r.vae_tiling.then(|| "  decoded in tiles".to_owned()));
    lines.join("\n")
}
