//! Seeded noise that repeats other runtimes' draws, so that a seed means the same picture here and there.

mod mlx;
mod mt19937;
mod torch_cpu;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Whose random numbers a seed stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoiseSource {
    /// `torch.randn` with a CPU generator, bit for bit: what diffusers users reproduce.
    #[default]
    TorchCpu,
    /// `mx.random.normal` with `key(seed)`: uniforms exact, normals to about 2e-6.
    Mlx,
}

impl NoiseSource {
    /// Every source, the default first.
    pub const ALL: [Self; 2] = [Self::TorchCpu, Self::Mlx];

    /// The name in options and metadata: `torch-cpu` or `mlx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TorchCpu => "torch-cpu",
            Self::Mlx => "mlx",
        }
    }
}

impl fmt::Display for NoiseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NoiseSource {
    type Err = Error;

    /// The source of this [`name`](NoiseSource::name); any other text is
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument).
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "noise source {name:?}: expected one of {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// `n` draws from N(0, 1), in the order in which the source fills a tensor (row-major).
///
/// The draws depend on `n`: neither source gives a prefix of a longer draw. A bf16 draw of either
/// runtime is this one rounded to nearest even.
pub fn normal(source: NoiseSource, seed: u64, n: usize) -> Vec<f32> {
    match source {
        NoiseSource::TorchCpu => torch_cpu::normal(seed, n),
        NoiseSource::Mlx => mlx::normal(seed, n),
    }
}

/// `n` draws from the uniform distribution on [0, 1), in the source's order.
pub fn uniform(source: NoiseSource, seed: u64, n: usize) -> Vec<f32> {
    match source {
        NoiseSource::TorchCpu => torch_cpu::uniform(seed, n),
        NoiseSource::Mlx => mlx::uniform(seed, n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use half::bf16;
    use safetensors::{Dtype, SafeTensors};

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/rng/");

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// The seed of a tensor called `seed<seed>.<rest>`, and the rest.
    fn parse(name: &str) -> (u64, &str) {
        let (seed, rest) = name.strip_prefix("seed").unwrap().split_once('.').unwrap();
        (seed.parse().unwrap(), rest)
    }

    #[test]
    fn torch_cpu_is_bit_exact() {
        let file = std::fs::read(format!("{GOLDEN}torch_cpu.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let mut checked = 0;
        for (name, tensor) in tensors.iter() {
            let (seed, rest) = parse(name);
            let n = tensor.shape().iter().product();
            if tensor.dtype() == Dtype::BF16 {
                let want: Vec<u16> =
                    tensor.data().as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
                let got = normal(NoiseSource::TorchCpu, seed, n);
                let got: Vec<u16> = got.into_iter().map(|x| bf16::from_f32(x).to_bits()).collect();
                assert_eq!(got, want, "{name}");
            } else {
                let draw = if rest.starts_with("uniform.") { uniform } else { normal };
                let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(draw(NoiseSource::TorchCpu, seed, n)), bits(f32s(tensor.data())), "{name}");
            }
            checked += 1;
        }
        assert_eq!(checked, 12);
    }

    #[test]
    fn mlx_uniforms_are_exact_and_normals_close() {
        let file = std::fs::read(format!("{GOLDEN}mlx.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let mut checked = 0;
        for (name, tensor) in tensors.iter() {
            let (seed, rest) = parse(name);
            let n = tensor.shape().iter().product();
            let want = f32s(tensor.data());
            if rest.starts_with("uniform.") {
                assert_eq!(uniform(NoiseSource::Mlx, seed, n), want, "{name}");
            } else {
                let got = normal(NoiseSource::Mlx, seed, n);
                assert_eq!(got.len(), want.len());
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 2e-6, "{name}: off by {worst}");
            }
            checked += 1;
        }
        assert_eq!(checked, 16);
    }

    #[test]
    fn names_round_trip() {
        for source in NoiseSource::ALL {
            assert_eq!(source.name().parse::<NoiseSource>().unwrap(), source);
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{source}\""));
        }
        assert!("cuda".parse::<NoiseSource>().is_err());
    }

    #[test]
    fn short_draws_have_their_length() {
        for source in NoiseSource::ALL {
            for n in [0, 1, 2, 3, 15, 16, 31, 33] {
                assert_eq!(normal(source, u64::MAX, n).len(), n);
                assert_eq!(uniform(source, u64::MAX, n).len(), n);
            }
        }
    }
}
