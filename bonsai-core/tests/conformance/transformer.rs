//! Latents, prompt and timestep to velocity, and everything on the way.

use bonsai_core::Context;
use bonsai_core::transformer::{
    Flux2Transformer, Inputs, Position, Rope, Scratch, image_positions, text_positions,
};
use serde::Deserialize;

use crate::compare::{PRODUCT_FLOOR, Report, TRANSFORMER_FLOOR, difference};
use crate::manifest::{Tensor, TensorSet, matrix};
use crate::models::{self, Recorder};
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct Case {
    transformer: String,
    prefixes: Vec<String>,
    timesteps: Vec<String>,
    #[serde(default)]
    reference_grids: Vec<[usize; 2]>,
}

pub fn run(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let file = rig.golden.tensors(file)?;
    let model = models::transformer(&rig.golden.path(&case.transformer))?;
    for prefix in &case.prefixes {
        run_prefix(rig, &file, &model, case, prefix, report)?;
    }
    Ok(())
}

fn run_prefix(
    rig: &Rig<'_>,
    file: &TensorSet<'_>,
    model: &Flux2Transformer,
    case: &Case,
    prefix: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let get = |name: &str| file.get(&format!("{prefix}{name}"));
    let (latents, prompt) = (get("latents")?, get("prompt_embeds")?);
    let text = positions(get("txt_ids")?)?;
    let image = positions(get("img_ids")?)?;
    report.exact(&format!("{prefix}txt_ids"), &text, &text_positions(text.len()));
    report.exact(&format!("{prefix}img_ids"), &image, &expected_positions(&image, &case.reference_grids));

    if let Some(cos) = file.find(&format!("{prefix}rope.cos")) {
        let rope = Rope::new(model.config(), text.iter().chain(&image));
        // the file holds every angle twice, once for each half of its pair
        let twice = |half: &ndarray::Array2<f32>| half.iter().flat_map(|&v| [v, v]).collect::<Vec<_>>();
        report.close(cos, &twice(&rope.cos), PRODUCT_FLOOR);
        report.close(get("rope.sin")?, &twice(&rope.sin), PRODUCT_FLOOR);
    }

    let (latent_values, prompt_values) = (latents.floats()?, prompt.floats()?);
    let mut outputs: Vec<(&Tensor, Vec<f32>)> = Vec::new();
    for timestep in &case.timesteps {
        let at = if timestep.is_empty() { prefix.to_owned() } else { format!("{prefix}{timestep}.") };
        let inputs = Inputs {
            latents: matrix(latents.rows_and_columns(), &latent_values)?,
            prompt: matrix(prompt.rows_and_columns(), &prompt_values)?,
            text_positions: &text,
            image_positions: &image,
            timestep: file.get(&format!("{at}timestep"))?.scalar()?,
            guidance: None,
        };
        let mut scratch = Scratch::new(&rig.cpu, model.config(), text.len() + image.len())?;
        let mut recorder = Recorder::default();
        let mut cx = Context::new(&rig.cpu).with_probe(&mut recorder);
        let velocity = model.forward(&mut cx, inputs, &mut scratch)?;
        recorder.compare(file, &at, TRANSFORMER_FLOOR, report)?;
        let want = file.get(&format!("{at}output"))?;
        report.close(want, velocity.as_slice(), TRANSFORMER_FLOOR);
        // norms inside the attention and the last block's text left out: the same bits
        let unseen = model.forward(&mut Context::new(&rig.cpu), inputs, &mut scratch)?;
        report.exact(&format!("{at}output without a probe"), velocity.as_slice(), unseen.as_slice());
        outputs.push((want, velocity.as_slice().to_vec()));
    }

    // int8 activations are another precision: how far they move the output is all that they tell of ours
    for name in file.below(&format!("{prefix}a8_")) {
        let yardstick = get(&format!("a8_{name}"))?;
        let values = yardstick.floats()?;
        let mut nearest: Option<(f64, &(&Tensor, Vec<f32>))> = None;
        for output in &outputs {
            let apart = difference(&values, &output.0.floats()?).1;
            if nearest.is_none_or(|(least, _)| apart < least) {
                nearest = Some((apart, output));
            }
        }
        let (_, (want, got)) = nearest.ok_or("no timestep to hold the yardstick to")?;
        report.as_far_as(yardstick, want, got);
    }
    Ok(())
}

fn positions(ids: &Tensor) -> Result<Vec<Position>, Failure> {
    let ids = ids.integers()?.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(ids.as_chunks::<4>().0.to_vec())
}

/// What our own functions make of the grid that the latents' positions (`t` 0) span, and of the references.
fn expected_positions(positions: &[Position], references: &[[usize; 2]]) -> Vec<Position> {
    let side = |axis: usize| {
        let own = positions.iter().filter(|p| p[0] == 0);
        own.map(|p| p[axis] as usize + 1).max().unwrap_or(0)
    };
    let mut all = image_positions(0, side(1), side(2));
    for (t, &[height, width]) in (10..).step_by(10).zip(references) {
        all.extend(image_positions(t, height, width));
    }
    all
}
