//! Seeded noise of other runtimes.

use bonsai_core::noise::{NoiseSource, normal, uniform};
use half::bf16;
use safetensors::Dtype;
use serde::Deserialize;

use crate::compare::Report;
use crate::manifest::{Tensor, TensorSet};
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct Case {
    seeds: Vec<u64>,
}

/// Erfinv of MLX is not ours to the last bit.
const MLX_NORMAL: f64 = 2e-6;

/// Each tensor `seedN.REST` with N and REST; every seed of the case must be there.
fn draws<'a>(file: &'a TensorSet<'_>, case: &Case) -> Result<Vec<(u64, &'a str, &'a Tensor)>, Failure> {
    let mut draws = Vec::new();
    for name in file.names() {
        let parsed = name.strip_prefix("seed").and_then(|n| n.split_once('.'));
        let (seed, rest) = parsed.ok_or_else(|| format!("{name}: expected seedN.SHAPE"))?;
        draws.push((seed.parse()?, rest, file.get(name)?));
    }
    match case.seeds.iter().find(|seed| !draws.iter().any(|(drawn, ..)| drawn == *seed)) {
        Some(seed) => Err(format!("no tensor of seed {seed}").into()),
        None => Ok(draws),
    }
}

pub fn torch_cpu(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (seed, rest, want) in draws(&rig.golden.tensors(file)?, case)? {
        let n = want.shape.iter().product();
        let draw = if rest.starts_with("uniform.") { uniform } else { normal };
        let mut got = draw(NoiseSource::TorchCpu, seed, n);
        if want.dtype == Dtype::BF16 {
            got = got.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect();
        }
        report.exact(&want.name, &bits(&want.floats()?), &bits(&got));
    }
    Ok(())
}

pub fn mlx(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    for (seed, rest, want) in draws(&rig.golden.tensors(file)?, case)? {
        let n = want.shape.iter().product();
        match rest.split('.').next() {
            Some("uniform") => report.exact_floats(want, &uniform(NoiseSource::Mlx, seed, n)),
            Some("normal") => report.within(want, &normal(NoiseSource::Mlx, seed, n), MLX_NORMAL),
            _ => report.fail(&want.name, "neither uniform nor normal"),
        }
    }
    Ok(())
}
