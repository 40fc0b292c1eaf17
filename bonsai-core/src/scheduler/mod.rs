//! The noise schedule of flow matching and the steps along it.
//!
//! A latent at noise level sigma is `sigma * noise + (1 - sigma) * clean`; the model predicts the velocity
//! `noise - clean`, and a step moves the latent to the next, smaller sigma. Imports nothing but `std`.

mod flow_match_euler;

use std::error::Error;
use std::fmt;

pub use flow_match_euler::{FlowMatchEuler, Steps, empirical_mu};

/// One step of a schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Position in the schedule, from 0.
    pub index: usize,
    /// Noise level that the latents have before the step, in (0, 1].
    pub sigma: f32,
    /// Noise level after the step, less than `sigma`; 0 at the last step.
    pub next_sigma: f32,
}

impl Step {
    /// `next_sigma - sigma`, the (negative) length of the step.
    pub fn delta(self) -> f32 {
        self.next_sigma - self.sigma
    }

    /// The training timestep, `1000 * sigma`.
    pub fn timestep(self) -> f32 {
        self.sigma * 1000.0
    }
}

/// Moves `sample` one Euler step: `sample += delta * velocity`, every operation rounded to f32.
///
/// # Panics
/// If the lengths differ.
pub fn euler_step(sample: &mut [f32], velocity: &[f32], delta: f32) {
    assert_eq!(sample.len(), velocity.len(), "sample and velocity differ in length");
    for (x, v) in sample.iter_mut().zip(velocity) {
        *x += delta * v;
    }
}

/// Puts a clean latent at noise level `sigma`: `sigma * noise + (1 - sigma) * clean`.
///
/// # Panics
/// If the lengths differ.
pub fn scale_noise(clean: &[f32], noise: &[f32], sigma: f32) -> Vec<f32> {
    assert_eq!(clean.len(), noise.len(), "clean latent and noise differ in length");
    clean.iter().zip(noise).map(|(clean, noise)| sigma * noise + (1.0 - sigma) * clean).collect()
}

/// Why there is no such schedule.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The number of steps is 0 or more than [`FlowMatchEuler::MAX_STEPS`].
    Steps(usize),
    /// The fixed shift is not a positive finite number.
    Shift(f64),
    /// The strength is not in (0, 1], or so small that no step is left.
    Strength(f64),
    /// A given sigma is not a number in [0, 1].
    Sigma {
        /// Position in the list.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// A sigma is not smaller than the one before it.
    NotDecreasing {
        /// Position of the later sigma.
        index: usize,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => {
                write!(f, "{steps} steps: expected 1 to {}", FlowMatchEuler::MAX_STEPS)
            }
            Self::Shift(shift) => write!(f, "shift {shift}: expected a positive finite number"),
            Self::Strength(strength) => {
                write!(f, "strength {strength}: expected more than 0 and at most 1, with a step left to do")
            }
            Self::Sigma { index, value } => {
                write!(f, "sigma {index} is {value}: expected a number in [0, 1]")
            }
            Self::NotDecreasing { index } => write!(f, "sigma {index} is not smaller than the one before it"),
        }
    }
}

impl Error for ScheduleError {}

#[cfg(test)]
mod tests {
    use super::*;

    use half::bf16;
    use safetensors::SafeTensors;

    const EULER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/scheduler/euler.safetensors");

    fn f32s(tensors: &SafeTensors, name: &str) -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn bf16s(tensors: &SafeTensors, name: &str) -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        let words = tensor.data().as_chunks::<2>().0.iter();
        words.map(|b| bf16::from_bits(u16::from_le_bytes(*b)).to_f32()).collect()
    }

    #[test]
    fn euler_steps_are_exact() {
        let file = std::fs::read(EULER).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        for (steps, image_seq_len) in [(4, 1024), (3, 24)] {
            let mut sample = f32s(&tensors, &format!("n{steps}.sample0"));
            for step in FlowMatchEuler::new(steps, image_seq_len).unwrap() {
                let velocity = f32s(&tensors, &format!("n{steps}.v{}", step.index));
                euler_step(&mut sample, &velocity, step.delta());
                assert_eq!(sample, f32s(&tensors, &format!("n{steps}.sample{}", step.index + 1)));
            }
        }
    }

    /// A bf16 run of the reference rounds the step's length, the product and the sum.
    #[test]
    fn bf16_steps_of_the_reference() {
        let file = std::fs::read(EULER).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let delta = FlowMatchEuler::new(4, 1024).unwrap().steps().next().unwrap().delta();
        let rounded = |x: f32| bf16::from_f32(x).to_f32();
        let product: Vec<f32> =
            bf16s(&tensors, "bf16.v0").into_iter().map(|v| rounded(rounded(delta) * v)).collect();
        let mut sample = bf16s(&tensors, "bf16.sample0");
        euler_step(&mut sample, &product, 1.0);
        let got: Vec<f32> = sample.into_iter().map(rounded).collect();
        assert!(got == bf16s(&tensors, "bf16.sample1"));
    }

    #[test]
    fn scale_noise_is_exact() {
        let file = std::fs::read(EULER).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let sigma = FlowMatchEuler::new(4, 1024).unwrap().sigmas()[1];
        let got =
            scale_noise(&f32s(&tensors, "scale_noise.clean"), &f32s(&tensors, "scale_noise.noise"), sigma);
        assert_eq!(got, f32s(&tensors, "scale_noise.out"));
    }
}
