//! Which instruction set and which kernels a run gets, and why.

use bonsai_core::Isa;
use bonsai_core::kernels::ceiling::{LinearKind, test_weights};
use bonsai_core::kernels::gemm::{ActivationPrecision, kernel_name};
use bonsai_core::kernels::weights::{DenseWeights, FloatType, Weights};
use bonsai_core::kernels::{OVERRIDE, SharedBytes};
use serde::Serialize;

/// A kernel and what it is for.
#[derive(Serialize)]
pub struct ChosenKernel {
    pub weights: &'static str,
    pub activations: &'static str,
    pub kernel: String,
}

/// The kernels of an instruction set at one precision, for each kind of weights that the 4B models have.
pub fn kernels(isa: Isa, precision: ActivationPrecision) -> Vec<ChosenKernel> {
    let dense = DenseWeights::new(1, 128, FloatType::Bf16, SharedBytes::from_vec(vec![0; 2 * 128]));
    let packed = LinearKind::ALL.map(|kind| test_weights(kind, 1, 128));
    let all = packed.into_iter().chain(dense.ok().map(Weights::Dense));
    let chosen = |weights: Weights| ChosenKernel {
        weights: weights.kind(),
        activations: precision.name(),
        kernel: kernel_name(isa, precision, &weights),
    };
    all.map(chosen).collect()
}

/// Why `isa` is used, in a few words.
pub fn why(isa: Isa) -> String {
    let best = Isa::best();
    if isa == best {
        return "the best of this CPU".to_owned();
    }
    let variable = std::env::var_os(OVERRIDE).filter(|value| *value == *isa.name());
    let by = variable.map_or("--isa".to_owned(), |_| OVERRIDE.to_owned());
    format!("lowered by {by} from {}, the best of this CPU", best.name())
}

/// What the system calls the processor.
pub fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([':', ' ', '\t']).trim().to_owned())
}
