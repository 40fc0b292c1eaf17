//! What a forward pass needs besides its inputs: the CPU, somebody who watches, somebody who looks inside.

use std::fmt;

use bonsai_kernels::Cpu;
use ndarray::{ArrayView2, ArrayView3};

use crate::error::Result;

/// Looks at values inside a model, under the names that diffusers gives its modules.
pub trait Probe {
    /// `values` is row-major with this shape: `[tokens, channels]`, or `[channels, height, width]` in the VAE.
    fn record(&mut self, name: &str, shape: &[usize], values: Vec<f32>);
}

/// Called as parts of a model finish, with how many are done and how many there are. An error ends the pass.
pub type OnPart<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// Passed through every forward pass.
pub struct Context<'a> {
    /// Where it runs.
    pub cpu: &'a Cpu,
    /// Who looks inside; nobody as a rule.
    pub probe: Option<&'a mut dyn Probe>,
    /// Who counts finished parts.
    pub on_part: Option<OnPart<'a>>,
}

impl<'a> Context<'a> {
    /// A pass that nobody watches.
    pub fn new(cpu: &'a Cpu) -> Self {
        Self { cpu, probe: None, on_part: None }
    }

    /// The same with a probe.
    pub fn with_probe(self, probe: &'a mut dyn Probe) -> Self {
        Self { probe: Some(probe), ..self }
    }

    /// The same with progress.
    pub fn with_progress(self, on_part: OnPart<'a>) -> Self {
        Self { on_part: Some(on_part), ..self }
    }

    pub(crate) fn part_done(&mut self, done: usize, of: usize) -> Result<()> {
        self.cpu.check()?;
        match &mut self.on_part {
            Some(on_part) => on_part(done, of),
            None => Ok(()),
        }
    }

    /// Whether somebody records what passes by, and wants to see it all.
    pub(crate) fn is_probed(&self) -> bool {
        self.probe.is_some()
    }

    pub(crate) fn tap(&mut self, name: fmt::Arguments<'_>, values: ArrayView2<'_, f32>) {
        if let Some(probe) = &mut self.probe {
            probe.record(&name.to_string(), values.shape(), values.iter().copied().collect());
        }
    }

    pub(crate) fn tap_vector(&mut self, name: &str, values: &[f32]) {
        if let Some(probe) = &mut self.probe {
            probe.record(name, &[values.len()], values.to_vec());
        }
    }

    pub(crate) fn tap_picture(&mut self, name: fmt::Arguments<'_>, values: ArrayView3<'_, f32>) {
        if let Some(probe) = &mut self.probe {
            let planes = values.permuted_axes([2, 0, 1]);
            probe.record(&name.to_string(), planes.shape(), planes.iter().copied().collect());
        }
    }
}
