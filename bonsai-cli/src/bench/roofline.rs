//! The least time that each stage of a picture could take on this machine: its work at the machine's ceilings.

use bonsai_core::kernels::ceiling::{Ceiling, CeilingLoop, Interleaved, LEAST_RUNS};
use bonsai_core::kernels::{Cpu, DotPrecision, KernelError};
use bonsai_core::{Estimate, Stage, StageEstimate};
use serde::Serialize;

/// Seconds at the ceilings, memory traffic and everything elementwise left out.
#[derive(Debug, Serialize)]
pub struct Roofline {
    /// What bounds linears.
    pub linear_ceiling: &'static str,
    pub linear_gmacs: f64,
    /// What bounds attention and convolutions.
    pub dot_ceiling: &'static str,
    pub dot_gmacs: f64,
    pub text_encode_s: f64,
    /// One step.
    pub step_s: f64,
    pub vae_decode_s: f64,
    pub total_s: f64,
}

impl Roofline {
    /// Runs the ceilings of the precision that `cpu` works at; `None` where this CPU has none.
    pub fn measure(cpu: &Cpu, estimate: &Estimate) -> Result<Option<Self>, KernelError> {
        let linear = Ceiling::of(cpu.precision(), cpu.isa());
        let dots = Ceiling::of_dots(DotPrecision::chosen(cpu), cpu.isa());
        let (Some(linear), Some((dots, share))) = (linear, dots) else { return Ok(None) };
        let linear_gmacs = best(cpu, linear)?;
        let dot_gmacs = share * best(cpu, dots)?;
        let seconds = |s: &StageEstimate| {
            s.linear_macs as f64 / linear_gmacs / 1e9 + (s.macs - s.linear_macs) as f64 / dot_gmacs / 1e9
        };
        let of = |stage| estimate.stages.iter().filter(|s| s.stage == stage).map(seconds).sum::<f64>();
        Ok(Some(Self {
            linear_ceiling: linear.ceiling().name(),
            linear_gmacs,
            dot_ceiling: dots.ceiling().name(),
            dot_gmacs,
            text_encode_s: of(Stage::TextEncode),
            step_s: of(Stage::Denoise) / estimate.steps.max(1) as f64,
            vae_decode_s: of(Stage::Decode),
            total_s: estimate.stages.iter().map(seconds).sum(),
        }))
    }
}

fn best(cpu: &Cpu, ceiling: CeilingLoop) -> Result<f64, KernelError> {
    let mut runner = Interleaved::new(cpu, Some(ceiling))?;
    for _ in 0..LEAST_RUNS {
        runner.run(|| Ok(()))?;
    }
    Ok(runner.ceiling().map_or(f64::NAN, |(_, gmacs)| gmacs))
}
