//! Noise levels and the steps between them, all exact.

use std::collections::BTreeMap;

use bonsai_core::scheduler::{FlowMatchEuler, Step, empirical_mu, euler_step, scale_noise};
use half::bf16;
use serde::Deserialize;

use crate::compare::Report;
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct SigmasCase {
    kinds: BTreeMap<String, Shift>,
}

/// A fixed shift, or the name of a rule.
#[derive(Deserialize)]
#[serde(untagged)]
enum Shift {
    Fixed(f64),
    Rule(String),
}

#[derive(Deserialize)]
pub struct MuCase {}

#[derive(Deserialize)]
pub struct EulerCase {
    runs: BTreeMap<String, Run>,
    scale_noise: ScaleNoise,
}

#[derive(Deserialize)]
struct Run {
    steps: usize,
    image_seq_len: usize,
}

#[derive(Deserialize)]
struct ScaleNoise {
    steps: usize,
    image_seq_len: usize,
    sigma_index: usize,
}

/// Ends the name of a kind whose sigmas nobody passed to the scheduler.
const WITHOUT_SIGMAS: &str = "_default";

pub fn sigmas(rig: &Rig<'_>, file: &str, case: &SigmasCase, report: &mut Report) -> Result<(), Failure> {
    let file = rig.golden.tensors(file)?;
    for name in file.names() {
        let want = file.get(name)?;
        let parts: Vec<&str> = name.split('.').collect();
        let number = |prefix: &str| parts.iter().find_map(|p| p.strip_prefix(prefix)?.parse::<usize>().ok());
        let steps = number("steps").ok_or_else(|| format!("{name}: how many steps?"))?;
        let kind = parts[0];
        let schedule = match (case.kinds.get(kind), kind.strip_suffix(WITHOUT_SIGMAS)) {
            (Some(Shift::Fixed(shift)), _) => FlowMatchEuler::fixed_shift(steps, *shift)?,
            (Some(Shift::Rule(rule)), _) if rule == "empirical mu" => {
                FlowMatchEuler::new(steps, number("seq").ok_or_else(|| format!("{name}: how many tokens?"))?)?
            }
            (None, Some(kind)) => match case.kinds.get(kind) {
                Some(Shift::Fixed(shift)) => FlowMatchEuler::fixed_shift_default(steps, *shift)?,
                _ => return Err(format!("{name}: no fixed shift is called {kind}").into()),
            },
            _ => return Err(format!("{name}: an unknown kind of schedule").into()),
        };
        match parts.last() {
            Some(&"sigmas") => report.exact_floats(want, schedule.sigmas()),
            Some(&"timesteps") => {
                report.exact_floats(want, &schedule.steps().map(Step::timestep).collect::<Vec<_>>());
            }
            _ => report.fail(name, "neither sigmas nor timesteps"),
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MuTable {
    mu: BTreeMap<String, f64>,
}

pub fn mu(rig: &Rig<'_>, file: &str, _: &MuCase, report: &mut Report) -> Result<(), Failure> {
    let text = std::fs::read_to_string(rig.golden.path(file))?;
    let table: MuTable = serde_json::from_str(&text)?;
    for key in table.mu.keys() {
        // serde_json's own reading may be one ulp off
        let quoted = format!("\"{key}\":");
        let rest = text.split_once(&quoted).ok_or_else(|| format!("{file}: {key}"))?.1;
        let end = rest.find([',', '}']).ok_or_else(|| format!("{file}: {key}"))?;
        let want: f64 = rest[..end].trim().parse()?;
        let (tokens, steps) = key.split_once('/').ok_or_else(|| format!("{file}: {key}"))?;
        report.exact(key, &[want], &[empirical_mu(tokens.parse()?, steps.parse()?)]);
    }
    Ok(())
}

pub fn euler(rig: &Rig<'_>, file: &str, case: &EulerCase, report: &mut Report) -> Result<(), Failure> {
    let file = rig.golden.tensors(file)?;
    for (name, run) in &case.runs {
        let mut sample = file.get(&format!("{name}.sample0"))?.floats()?;
        for step in FlowMatchEuler::new(run.steps, run.image_seq_len)? {
            let velocity = file.get(&format!("{name}.v{}", step.index))?.floats()?;
            euler_step(&mut sample, &velocity, step.delta());
            report.exact_floats(file.get(&format!("{name}.sample{}", step.index + 1))?, &sample);
        }
    }

    let schedule = FlowMatchEuler::new(case.scale_noise.steps, case.scale_noise.image_seq_len)?;
    let sigma =
        *schedule.sigmas().get(case.scale_noise.sigma_index).ok_or("scale_noise beyond the schedule")?;
    let (clean, noise) = (file.get("scale_noise.clean")?.floats()?, file.get("scale_noise.noise")?.floats()?);
    report.exact_floats(file.get("scale_noise.out")?, &scale_noise(&clean, &noise, sigma));

    // the first step of the same schedule; a bf16 run rounds the step's length, the product and the sum
    if let Some(want) = file.find("bf16.sample1") {
        let delta = schedule.steps().next().ok_or("an empty schedule")?.delta();
        let rounded = |x: f32| bf16::from_f32(x).to_f32();
        let velocity = file.get("bf16.v0")?.floats()?;
        let product: Vec<f32> = velocity.into_iter().map(|v| rounded(rounded(delta) * v)).collect();
        let mut sample = file.get("bf16.sample0")?.floats()?;
        euler_step(&mut sample, &product, 1.0);
        report.exact_floats(want, &sample.into_iter().map(rounded).collect::<Vec<_>>());
    }
    Ok(())
}
