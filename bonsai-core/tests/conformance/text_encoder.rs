//! Prompts to hidden states.

use bonsai_core::Context;
use bonsai_core::text_encoder::Qwen3;
use serde::Deserialize;

use crate::compare::{ENCODER_FLOOR, Report};
use crate::manifest::Tensor;
use crate::{Failure, Rig, models};

#[derive(Deserialize)]
pub struct Case {
    model: String,
    prompts: Vec<String>,
    taps: Vec<usize>,
    max_sequence_length: usize,
}

/// Ids and mask of one prompt.
type Tokens = (Vec<u32>, Vec<bool>);

pub fn run(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let file = rig.golden.tensors(file)?;
    let model = rig.golden.path(&case.model);
    let (tokenizer, encoder) = (models::tokenizer(&model)?, models::text_encoder(&model)?);
    let encode = |prompt: &String| -> Result<Tokens, Failure> {
        let tokens = tokenizer.encode_prompt(prompt, case.max_sequence_length)?;
        Ok((tokens.ids, tokens.mask))
    };
    let prompts = case.prompts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;

    if let Some(want) = file.find("input_ids") {
        let ids: Vec<i64> = prompts.iter().flat_map(|(ids, _)| ids).map(|&id| id.into()).collect();
        report.exact(&want.name, &want.integers()?, &ids);
    }
    if let Some(want) = file.find("attention_mask") {
        let mask: Vec<i64> = prompts.iter().flat_map(|(_, mask)| mask).map(|&m| m.into()).collect();
        report.exact(&want.name, &want.integers()?, &mask);
    }
    for tap in file.below("hidden_states.") {
        let want = file.get(&format!("hidden_states.{tap}"))?;
        report.close(want, &states(rig, &encoder, &prompts, &[tap.parse()?])?, ENCODER_FLOOR);
    }
    report.exact("loaded layers", &[encoder.config().num_hidden_layers], &[encoder.layers()]);

    let embeds = states(rig, &encoder, &prompts, &case.taps)?;
    report.finite("prompt_embeds are finite", &embeds);
    if let Some(want) = file.find("prompt_embeds") {
        report.close(want, &embeds, ENCODER_FLOOR);
    }
    if let Some(want) = file.find("prompt_embeds_rows") {
        let rows = file.get("rows")?.integers()?;
        report.close(want, &pick(&embeds, prompts.len(), case.max_sequence_length, &rows)?, ENCODER_FLOOR);
    }
    if let Some(want) = file.find("prompt_embeds_no_mask") {
        let unmasked: Vec<Tokens> =
            prompts.iter().map(|(ids, _)| (ids.clone(), vec![true; ids.len()])).collect();
        report.close(want, &states(rig, &encoder, &unmasked, &case.taps)?, ENCODER_FLOOR);
    }
    if let Some(want) = file.find("left.prompt_embeds") {
        let left = padded_left(file.get("left.input_ids")?, file.get("left.attention_mask")?)?;
        let got = states(rig, &encoder, &left, &case.taps)?;
        report.finite("left.prompt_embeds are finite", &got);
        // rows without a visible key are undefined
        let real: Vec<bool> = left.iter().flat_map(|(_, mask)| mask.iter().copied()).collect();
        let width = got.len() / real.len();
        let defined = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks_exact(width).zip(&real).filter(|(_, real)| **real);
            rows.flat_map(|(row, _)| row.iter().copied()).collect()
        };
        report.close(&want.with_values(&defined(&want.floats()?)), &defined(&got), ENCODER_FLOOR);
    }
    Ok(())
}

/// Hidden states of all prompts, one behind the other.
fn states(rig: &Rig<'_>, encoder: &Qwen3, prompts: &[Tokens], taps: &[usize]) -> Result<Vec<f32>, Failure> {
    let mut all = Vec::new();
    for (ids, mask) in prompts {
        let states = encoder.hidden_states(&mut Context::new(&rig.cpu), ids, mask, taps)?;
        all.extend_from_slice(states.as_slice());
    }
    Ok(all)
}

/// Some rows of each prompt.
fn pick(values: &[f32], prompts: usize, tokens: usize, rows: &[i64]) -> Result<Vec<f32>, Failure> {
    let width = values.len() / (prompts * tokens);
    let mut picked = Vec::new();
    for prompt in values.chunks_exact(tokens * width) {
        for &row in rows {
            let start = usize::try_from(row)? * width;
            picked.extend_from_slice(prompt.get(start..start + width).ok_or("a row beyond the prompt")?);
        }
    }
    Ok(picked)
}

fn padded_left(ids: &Tensor, mask: &Tensor) -> Result<Vec<Tokens>, Failure> {
    let (_, length) = ids.rows_and_columns();
    let ids = ids.integers()?.into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>()?;
    let mask: Vec<bool> = mask.integers()?.into_iter().map(|m| m != 0).collect();
    Ok(ids
        .chunks_exact(length)
        .zip(mask.chunks_exact(length))
        .map(|(i, m)| (i.to_vec(), m.to_vec()))
        .collect())
}
