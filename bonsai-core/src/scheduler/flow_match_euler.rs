//! The sigmas of flow matching with Euler steps, to the last bit those of diffusers'
//! `FlowMatchEulerDiscreteScheduler` with the FLUX.2 settings.

use super::{ScheduleError, Step};

/// Timesteps of the training schedule: sigma 1 is timestep 1000.
const TRAIN_TIMESTEPS: f64 = 1000.0;

/// mu of the exponential shift that FLUX.2 takes for an image of `image_seq_len` latent tokens
/// (reference tokens not counted) sampled in `steps` steps.
///
/// `compute_empirical_mu` of the FLUX.2 reference: two fitted lines, for 10 and for 200 steps, with linear
/// interpolation in between; above 4300 tokens the line for 200 steps alone. In f64 and in this order of
/// operations the result equals the reference's.
pub fn empirical_mu(image_seq_len: usize, steps: usize) -> f64 {
    let tokens = image_seq_len as f64;
    let mu_200 = 0.00016927 * tokens + 0.45666666;
    if image_seq_len > 4300 {
        return mu_200;
    }
    let mu_10 = 8.73809524e-5 * tokens + 1.89833333;
    let slope = (mu_200 - mu_10) / 190.0;
    slope * steps as f64 + (mu_200 - 200.0 * slope)
}

/// A schedule: strictly decreasing noise levels in [0, 1], the last one 0.
///
/// Iterating gives its [`Step`]s.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMatchEuler {
    sigmas: Vec<f32>,
}

impl FlowMatchEuler {
    /// The most steps a schedule may have: one for every training timestep.
    pub const MAX_STEPS: usize = 1000;

    /// The schedule of FLUX.2: base times from 1 to 1/steps, shifted by [`empirical_mu`] as
    /// `e^mu / (e^mu + (1/t - 1))`.
    ///
    /// `image_seq_len` is the number of latent tokens, reference tokens not counted.
    ///
    /// # Errors
    /// [`ScheduleError::Steps`]; [`ScheduleError::NotDecreasing`] and [`ScheduleError::Sigma`] where so many
    /// tokens are asked for that the shift leaves f32 no distinct noise levels.
    pub fn new(steps: usize, image_seq_len: usize) -> Result<Self, ScheduleError> {
        let times = base_times(steps)?;
        // The reference rounds e^mu and the times to f32 and goes on in f32.
        let exp_mu = empirical_mu(image_seq_len, steps).exp() as f32;
        Self::from_sigmas(times.into_iter().map(|t| exp_mu / (exp_mu + (1.0 / t - 1.0))).collect())
    }

    /// A fixed shift of the same base times: `shift * t / (1 + (shift - 1) * t)`, whatever the image size.
    ///
    /// # Errors
    /// [`ScheduleError::Steps`], [`ScheduleError::Shift`]; the others where an extreme shift leaves f32 no
    /// distinct noise levels.
    pub fn fixed_shift(steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        let times = base_times(steps)?;
        let shift = Shift::new(shift)?;
        Self::from_sigmas(times.into_iter().map(|t| shift.apply(t)).collect())
    }

    /// What diffusers' `set_timesteps(steps)` without sigmas gives with a fixed shift: times between the
    /// largest and smallest sigma of the *shifted* training schedule, shifted a second time.
    ///
    /// # Errors
    /// As [`fixed_shift`](Self::fixed_shift).
    pub fn fixed_shift_default(steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        check_steps(steps)?;
        let shift = Shift::new(shift)?;
        let largest = f64::from(shift.apply(1.0)) * TRAIN_TIMESTEPS;
        let smallest = f64::from(shift.apply(1.0 / TRAIN_TIMESTEPS as f32)) * TRAIN_TIMESTEPS;
        let timesteps = linspace(largest, smallest, steps);
        Self::from_sigmas(timesteps.map(|t| shift.apply_f64(t / TRAIN_TIMESTEPS) as f32).collect())
    }

    /// A schedule of these noise levels; a final 0 is appended where it is missing.
    ///
    /// # Errors
    /// [`ScheduleError::Sigma`] for a value outside [0, 1] or NaN, [`ScheduleError::NotDecreasing`] where one
    /// is not less than the one before, [`ScheduleError::Steps`] for too many or for none above 0.
    pub fn from_sigmas(mut sigmas: Vec<f32>) -> Result<Self, ScheduleError> {
        if let Some((index, value)) = sigmas.iter().enumerate().find(|(_, s)| !(0.0..=1.0).contains(*s)) {
            return Err(ScheduleError::Sigma { index, value: *value });
        }
        if let Some(before) = sigmas.windows(2).position(|pair| pair[0] <= pair[1]) {
            return Err(ScheduleError::NotDecreasing { index: before + 1 });
        }
        if sigmas.last() != Some(&0.0) {
            sigmas.push(0.0);
        }
        check_steps(sigmas.len() - 1)?;
        Ok(Self { sigmas })
    }

    /// The end of this schedule that image-to-image with this strength goes through: of `S` steps the first
    /// `int(max(S - min(S * strength, S), 0))` are left out. Strength 1 keeps them all. The start latents are
    /// [`scale_noise`](super::scale_noise) at the first sigma of the result.
    ///
    /// # Errors
    /// [`ScheduleError::Strength`] outside (0, 1].
    pub fn starting_at(&self, strength: f64) -> Result<Self, ScheduleError> {
        let steps = self.steps().len();
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(ScheduleError::Strength(strength));
        }
        let total = steps as f64;
        let start = (total - (total * strength).min(total)).max(0.0) as usize;
        if start >= steps {
            return Err(ScheduleError::Strength(strength));
        }
        Ok(Self { sigmas: self.sigmas[start..].to_vec() })
    }

    /// The noise levels: one more than there are steps, strictly decreasing, the last one 0.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The steps in order.
    pub fn steps(&self) -> Steps<'_> {
        Steps { sigmas: &self.sigmas, index: 0 }
    }
}

impl IntoIterator for FlowMatchEuler {
    type Item = Step;
    type IntoIter = std::vec::IntoIter<Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.steps().collect::<Vec<_>>().into_iter()
    }
}

impl<'a> IntoIterator for &'a FlowMatchEuler {
    type Item = Step;
    type IntoIter = Steps<'a>;

    fn into_iter(self) -> Steps<'a> {
        self.steps()
    }
}

/// The steps of a [`FlowMatchEuler`] schedule.
#[derive(Debug, Clone)]
pub struct Steps<'a> {
    /// What is left of the schedule, the current sigma first.
    sigmas: &'a [f32],
    index: usize,
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let [sigma, rest @ ..] = self.sigmas else { return None };
        let next_sigma = *rest.first()?;
        let step = Step { index: self.index, sigma: *sigma, next_sigma };
        self.sigmas = rest;
        self.index += 1;
        Some(step)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.sigmas.len().saturating_sub(1);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Steps<'_> {}

/// A fixed time shift `s`: `s * t / (1 + (s - 1) * t)`.
#[derive(Clone, Copy)]
struct Shift(f64);

impl Shift {
    fn new(shift: f64) -> Result<Self, ScheduleError> {
        if shift.is_finite() && shift > 0.0 { Ok(Self(shift)) } else { Err(ScheduleError::Shift(shift)) }
    }

    fn apply(self, t: f32) -> f32 {
        self.0 as f32 * t / (1.0 + (self.0 - 1.0) as f32 * t)
    }

    fn apply_f64(self, t: f64) -> f64 {
        self.0 * t / (1.0 + (self.0 - 1.0) * t)
    }
}

/// `linspace(1, 1/steps, steps)` rounded to f32.
fn base_times(steps: usize) -> Result<Vec<f32>, ScheduleError> {
    check_steps(steps)?;
    Ok(linspace(1.0, 1.0 / steps as f64, steps).map(|t| t as f32).collect())
}

fn check_steps(steps: usize) -> Result<(), ScheduleError> {
    if (1..=FlowMatchEuler::MAX_STEPS).contains(&steps) { Ok(()) } else { Err(ScheduleError::Steps(steps)) }
}

/// `count` evenly spaced values, both ends included, rounded as numpy's `linspace` rounds.
fn linspace(first: f64, last: f64, count: usize) -> impl Iterator<Item = f64> {
    let gap = (last - first) / count.saturating_sub(1).max(1) as f64;
    (0..count).map(move |i| if i > 0 && i + 1 == count { last } else { i as f64 * gap + first })
}

#[cfg(test)]
mod tests {
    use super::*;

    use safetensors::SafeTensors;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/scheduler/");

    /// `klein.seq1024.steps4.sigmas` gives `("klein", Some(1024), 4, "sigmas")`.
    fn parse(name: &str) -> (&str, Option<usize>, usize, &str) {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |prefix| parts.iter().find_map(|p| p.strip_prefix(prefix)).map(|n| n.parse().unwrap());
        (parts[0], number("seq"), number("steps").unwrap(), parts[parts.len() - 1])
    }

    #[test]
    fn schedules_are_exact() {
        let file = std::fs::read(format!("{GOLDEN}schedules.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        for (name, tensor) in tensors.iter() {
            let (kind, image_seq_len, steps, quantity) = parse(name);
            let schedule = match (kind, image_seq_len) {
                ("klein", Some(tokens)) => FlowMatchEuler::new(steps, tokens),
                ("shift3", None) => FlowMatchEuler::fixed_shift(steps, 3.0),
                ("shift3_default", None) => FlowMatchEuler::fixed_shift_default(steps, 3.0),
                other => panic!("{name}: {other:?}"),
            }
            .unwrap();
            let got: Vec<f32> = match quantity {
                "sigmas" => schedule.sigmas().to_vec(),
                _ => schedule.steps().map(Step::timestep).collect(),
            };
            let want: Vec<f32> =
                tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(got, want, "{name}");
        }
        assert_eq!(tensors.len(), 184);
    }

    #[test]
    fn mu_is_exact() {
        // Read by hand: serde_json's default number parser may be off in the last bit.
        let text = std::fs::read_to_string(format!("{GOLDEN}mu.json")).unwrap();
        let table = text.trim().strip_prefix("{\"mu\":{").unwrap().trim_end_matches('}');
        for entry in table.split(',') {
            let (key, mu) = entry.split_once(':').unwrap();
            let (tokens, steps) = key.trim_matches('"').split_once('/').unwrap();
            let got = empirical_mu(tokens.parse().unwrap(), steps.parse().unwrap());
            assert_eq!(got, mu.parse::<f64>().unwrap(), "{key}");
        }
    }

    #[test]
    fn steps_chain_down_to_zero() {
        let schedule = FlowMatchEuler::new(4, 1024).unwrap();
        let steps: Vec<Step> = schedule.clone().into_iter().collect();
        assert_eq!(steps, (&schedule).into_iter().collect::<Vec<_>>());
        assert!(steps.windows(2).all(|pair| pair[0].next_sigma == pair[1].sigma));
        assert!(steps.iter().all(|step| step.delta() < 0.0));
        assert_eq!(steps.iter().map(|step| step.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(steps[3].next_sigma, 0.0);
    }

    #[test]
    fn every_allowed_number_of_steps_works() {
        for steps in [1, 2, 50, FlowMatchEuler::MAX_STEPS] {
            for tokens in [1, 1024, 4300, 4301, 16384] {
                assert_eq!(FlowMatchEuler::new(steps, tokens).unwrap().steps().len(), steps);
            }
            assert_eq!(FlowMatchEuler::fixed_shift(steps, 1.0).unwrap().steps().len(), steps);
        }
    }

    #[test]
    fn bad_arguments_are_errors() {
        for steps in [0, FlowMatchEuler::MAX_STEPS + 1, usize::MAX] {
            assert_eq!(FlowMatchEuler::new(steps, 1024), Err(ScheduleError::Steps(steps)));
            assert_eq!(FlowMatchEuler::fixed_shift(steps, 3.0), Err(ScheduleError::Steps(steps)));
            assert_eq!(FlowMatchEuler::fixed_shift_default(steps, 3.0), Err(ScheduleError::Steps(steps)));
        }
        for shift in [0.0, -3.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(FlowMatchEuler::fixed_shift(4, shift), Err(ScheduleError::Shift(_))));
            assert!(matches!(FlowMatchEuler::fixed_shift_default(4, shift), Err(ScheduleError::Shift(_))));
        }
        assert!(FlowMatchEuler::new(4, usize::MAX).is_err());
        assert!(FlowMatchEuler::fixed_shift(4, 1e300).is_err());
    }

    #[test]
    fn given_sigmas_are_checked() {
        let sigmas = |list: &[f32]| FlowMatchEuler::from_sigmas(list.to_vec());
        assert_eq!(sigmas(&[1.0, 0.5]).unwrap().sigmas(), [1.0, 0.5, 0.0]);
        assert_eq!(sigmas(&[1.0, 0.5, 0.0]).unwrap().sigmas(), [1.0, 0.5, 0.0]);
        assert_eq!(sigmas(&[]), Err(ScheduleError::Steps(0)));
        assert_eq!(sigmas(&[0.0]), Err(ScheduleError::Steps(0)));
        assert_eq!(sigmas(&[1.0, 1.0]), Err(ScheduleError::NotDecreasing { index: 1 }));
        assert_eq!(sigmas(&[1.0, 0.0, 0.0]), Err(ScheduleError::NotDecreasing { index: 2 }));
        assert_eq!(sigmas(&[1.5]), Err(ScheduleError::Sigma { index: 0, value: 1.5 }));
        assert!(matches!(sigmas(&[1.0, f32::NAN]), Err(ScheduleError::Sigma { index: 1, .. })));
        assert!(matches!(sigmas(&[1.0, -0.5]), Err(ScheduleError::Sigma { index: 1, .. })));
    }

    #[test]
    fn strength_leaves_out_the_first_steps() {
        let schedule = FlowMatchEuler::new(4, 1024).unwrap();
        for (strength, start) in [(1.0, 0), (0.8, 0), (0.75, 1), (0.6, 1), (0.5, 2), (0.1, 3)] {
            let tail = schedule.starting_at(strength).unwrap();
            assert_eq!(tail.sigmas(), &schedule.sigmas()[start..], "strength {strength}");
        }
        for strength in [0.0, -1.0, 1.1, f64::NAN, 1e-30] {
            assert!(matches!(schedule.starting_at(strength), Err(ScheduleError::Strength(_))));
        }
    }
}
