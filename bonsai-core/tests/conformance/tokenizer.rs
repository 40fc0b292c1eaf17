//! Prompts to token ids, all exact.

use bonsai_core::tokenizer::Tokenizer;
use serde::Deserialize;

use crate::compare::Report;
use crate::{Failure, Rig, models};

#[derive(Deserialize)]
pub struct Case {
    model: String,
    max_length: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompts {
    max_length: usize,
    pad_id: u32,
    vocab_with_added: usize,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    prompt: String,
    text: String,
    ids: Vec<u32>,
    mask_ones: usize,
    untruncated: usize,
    plain_ids: Vec<u32>,
    plain_decoded: String,
}

pub fn run(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let tokenizer = models::tokenizer(&rig.golden.path(&case.model))?;
    let golden: Prompts = serde_json::from_slice(&std::fs::read(rig.golden.path(file))?)?;
    report.exact("max_length", &[golden.max_length], &[case.max_length]);
    report.exact("pad_id", &[golden.pad_id], &[tokenizer.pad_id()]);
    report.exact("vocab_with_added", &[golden.vocab_with_added], &[tokenizer.vocab_size()]);

    let encoded = golden.prompts.iter().map(|p| tokenizer.encode_prompt(&p.prompt, case.max_length));
    let encoded = encoded.collect::<Result<Vec<_>, _>>()?;
    let plain =
        golden.prompts.iter().map(|p| tokenizer.encode_text(&p.prompt)).collect::<Result<Vec<_>, _>>()?;
    let decoded =
        golden.prompts.iter().map(|p| tokenizer.decode(&p.plain_ids)).collect::<Result<Vec<_>, _>>()?;

    fn column<'a, T>(golden: &'a Prompts, field: impl Fn(&'a Prompt) -> T) -> Vec<T> {
        golden.prompts.iter().map(field).collect()
    }
    let texts: Vec<_> = golden.prompts.iter().map(|p| Tokenizer::chat_text(&p.prompt)).collect();
    report.exact("text", &column(&golden, |p| &p.text), &texts.iter().collect::<Vec<_>>());
    let ids: Vec<_> = encoded.iter().map(|e| &e.ids).collect();
    report.exact("ids", &column(&golden, |p| &p.ids), &ids);
    let mask = |p: &Prompt| (0..case.max_length).map(|i| i < p.mask_ones).collect::<Vec<_>>();
    let masks: Vec<_> = encoded.iter().map(|e| e.mask.clone()).collect();
    report.exact("mask_ones", &column(&golden, mask), &masks);
    let whole: Vec<_> = encoded.iter().map(|e| e.mask.iter().filter(|&&m| m).count() + e.cut).collect();
    report.exact("untruncated", &column(&golden, |p| p.untruncated), &whole);
    report.exact("plain_ids", &column(&golden, |p| &p.plain_ids), &plain.iter().collect::<Vec<_>>());
    report.exact(
        "plain_decoded",
        &column(&golden, |p| &p.plain_decoded),
        &decoded.iter().collect::<Vec<_>>(),
    );
    Ok(())
}
