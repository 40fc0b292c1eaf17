//! Pictures to latents and back.

use bonsai_core::Context;
use bonsai_core::latents::Latents;
use bonsai_core::nn::PictureBuffer;
use bonsai_core::vae::Tiling;
use serde::Deserialize;

use crate::compare::{ENCODER_FLOOR, Report};
use crate::models::{self, Recorder};
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct Case {
    model: String,
}

#[derive(Deserialize)]
pub struct TiledCase {
    model: String,
    tile_sample_min_size: usize,
    tile_latent_min_size: usize,
    tile_overlap_factor: f64,
}

/// A picture as planes `[channels, height, width]`.
pub fn planes(picture: &PictureBuffer) -> Vec<f32> {
    picture.view().permuted_axes([2, 0, 1]).iter().copied().collect()
}

/// Planes of tokens: `[channels, height, width]`.
fn token_planes(latents: &Latents) -> Vec<f32> {
    latents.view().t().iter().copied().collect()
}

pub fn decode(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let vae = models::vae(&rig.golden.path(&case.model))?;
    let file = rig.golden.tensors(file)?;
    for prefix in file.before("latent") {
        let latent = file.get(&format!("{prefix}latent"))?.picture()?;
        let mut recorder = Recorder::default();
        let picture = vae.decode(&mut Context::new(&rig.cpu).with_probe(&mut recorder), latent.view())?;
        recorder.compare(&file, prefix, ENCODER_FLOOR, report)?;
        report.close(file.get(&format!("{prefix}image"))?, &planes(&picture), ENCODER_FLOOR);
    }
    Ok(())
}

pub fn encode(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let vae = models::vae(&rig.golden.path(&case.model))?;
    let file = rig.golden.tensors(file)?;
    for prefix in file.before("image") {
        let image = file.get(&format!("{prefix}image"))?.picture()?;
        let mut recorder = Recorder::default();
        let mode = vae.encode(&mut Context::new(&rig.cpu).with_probe(&mut recorder), image.view())?;
        recorder.compare(&file, prefix, ENCODER_FLOOR, report)?;
        report.close(file.get(&format!("{prefix}mode"))?, &planes(&mode), ENCODER_FLOOR);
    }
    Ok(())
}

pub fn tiled(rig: &Rig<'_>, file: &str, case: &TiledCase, report: &mut Report) -> Result<(), Failure> {
    let vae = models::vae(&rig.golden.path(&case.model))?;
    let file = rig.golden.tensors(file)?;
    let tiling = Tiling {
        sample_size: case.tile_sample_min_size,
        latent_size: case.tile_latent_min_size,
        overlap: case.tile_overlap_factor,
    };
    report.exact("tiling of the config", &[tiling], &[vae.default_tiling()]);
    let mut cx = Context::new(&rig.cpu);
    let latent = file.get("latent")?.picture()?;
    let image = vae.decode_tiled(&mut cx, latent.view(), &tiling)?;
    report.close(file.get("image_tiled")?, &planes(&image), ENCODER_FLOOR);
    let image = vae.decode(&mut cx, latent.view())?;
    report.close(file.get("image_plain")?, &planes(&image), ENCODER_FLOOR);
    let mode = vae.encode_tiled(&mut cx, file.get("encode_image")?.picture()?.view(), &tiling)?;
    report.close(file.get("encode_mode_tiled")?, &planes(&mode), ENCODER_FLOOR);
    Ok(())
}

pub fn latent_norm(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let vae = models::vae(&rig.golden.path(&case.model))?;
    let norm = vae.latent_norm();
    let file = rig.golden.tensors(file)?;
    let packed = file.get("packed")?;
    let (channels, height, width) = packed.planes_shape()?;
    let mut latents = Latents::from_planes(height, width, channels, &packed.floats()?)?;
    report.exact_floats(file.get("tokens")?, latents.as_slice());
    norm.denormalise(latents.as_mut_slice());
    report.close(file.get("denormalised")?, &token_planes(&latents), ENCODER_FLOOR);
    let picture = latents.unpatchify(&rig.cpu)?;
    report.close(file.get("unpatchified")?, &planes(&picture), ENCODER_FLOOR);
    let mut back = Latents::patchify(&picture)?;
    report.exact("patchify undoes unpatchify", latents.as_slice(), back.as_slice());
    report.close(file.get("repatchified")?, &token_planes(&back), ENCODER_FLOOR);
    norm.normalise(back.as_mut_slice());
    report.close(file.get("normalised")?, &token_planes(&back), ENCODER_FLOOR);
    Ok(())
}
