//! What the machine could do at most: loops of the instructions that kernels consist of, on registers alone.
//!
//! A kernel that loads nothing, stores nothing and waits for nothing would reach its ceiling. Rates of kernels are
//! given as shares of it, so that they compare between machines; [`measure`] takes both in one breath, since the clock
//! of a machine wanders.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod linear;
mod measure;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::time::{Duration, Instant};

pub use linear::{LinearKind, LinearShape, linear_shapes, test_activations, test_weights};
pub use measure::{Interleaved, KernelRate, LEAST_RUNS, measure};

use crate::error::Result;
use crate::gemm::ActivationPrecision;
use crate::{Cpu, DotPrecision, Isa};

/// A way to multiply and add, by the instructions that bound it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ceiling {
    /// Fused multiply-add of f32 (a product and a sum where there is none).
    F32Fma,
    /// Dot products of pairs of bf16 into f32.
    Bf16Dot,
    /// Dot products of 8-bit integers, by the best instructions of the instruction set.
    Int8Dot,
    /// Sign products of single bits, counted.
    Popcount,
    /// Tables in registers, indexed by weight bits, entries of 16 bits.
    Lookup,
}

impl Ceiling {
    /// All ceilings.
    pub const ALL: [Self; 5] = [Self::F32Fma, Self::Bf16Dot, Self::Int8Dot, Self::Popcount, Self::Lookup];

    /// `f32-fma`, `bf16-dot`, `int8-dot`, `popcount` or `lookup`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32Fma => "f32-fma",
            Self::Bf16Dot => "bf16-dot",
            Self::Int8Dot => "int8-dot",
            Self::Popcount => "popcount",
            Self::Lookup => "lookup",
        }
    }

    /// The loop of this kind that `isa` allows, the fastest of them by a short trial; `None` where it has no such
    /// instructions.
    pub fn on(self, isa: Isa) -> Option<CeilingLoop> {
        let mut candidates: Vec<_> = loops(isa).filter(|candidate| candidate.ceiling == self).collect();
        if candidates.len() > 1 {
            candidates.sort_by_cached_key(CeilingLoop::trial);
        }
        candidates.into_iter().next()
    }

    /// The ceiling that a linear of this precision is measured by: that of the arithmetic which the precision
    /// asks for, or of the nearest that `isa` has.
    ///
    /// It says nothing of the method. Look-up does without products, so it may exceed a ceiling of products; integers
    /// that are worked off bit by bit cannot come nearer to `popcount` than one over their bits.
    pub fn of(precision: ActivationPrecision, isa: Isa) -> Option<CeilingLoop> {
        let wanted: &[Self] = match precision.name() {
            "int16" => &[Self::Lookup, Self::Int8Dot],
            "bf16" => &[Self::Bf16Dot],
            "int8" | "int8-row" => &[Self::Int8Dot],
            "int4" | "int2" | "binary" => &[Self::Popcount],
            _ => &[],
        };
        wanted.iter().chain(&[Self::F32Fma]).find_map(|ceiling| ceiling.on(isa))
    }

    /// The ceiling of attention and convolution by these dot products, and the share of it that they can reach: a
    /// product of 16-bit factors takes the room of two of bytes, on tiles, which know bytes alone, of four.
    pub fn of_dots(dots: DotPrecision, isa: Isa) -> Option<(CeilingLoop, f64)> {
        let (wanted, share) = match (dots, isa) {
            (DotPrecision::F32, _) => (Self::F32Fma, 1.0),
            (DotPrecision::Bf16, _) => (Self::Bf16Dot, 1.0),
            #[cfg(target_arch = "x86_64")]
            (DotPrecision::Int16, Isa::Amx(_)) => (Self::Int8Dot, 0.25),
            (DotPrecision::Int16, _) => (Self::Int8Dot, 0.5),
        };
        wanted.on(isa).map(|ceiling| (ceiling, share))
    }
}

/// A register-only loop that this CPU can run.
#[derive(Clone, Copy)]
pub struct CeilingLoop {
    ceiling: Ceiling,
    instructions: &'static str,
    /// Multiply-accumulates of one round.
    macs: u64,
    /// Runs so many rounds.
    rounds: fn(u64),
}

impl std::fmt::Debug for CeilingLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CeilingLoop")
            .field("ceiling", &self.ceiling)
            .field("instructions", &self.instructions)
            .finish_non_exhaustive()
    }
}

impl CeilingLoop {
    const fn new(ceiling: Ceiling, instructions: &'static str, macs: u64, rounds: fn(u64)) -> Self {
        Self { ceiling, instructions, macs, rounds }
    }

    /// Femtoseconds that a multiply-accumulate takes on this thread, roughly.
    fn trial(&self) -> u64 {
        const MACS: u64 = 20_000_000;
        let rounds = MACS / self.macs;
        let time = || {
            let began = Instant::now();
            (self.rounds)(rounds);
            began.elapsed()
        };
        let best = (0..3).map(|_| time()).min().unwrap_or_default();
        (best.as_secs_f64() * 1e15 / (rounds * self.macs) as f64) as u64
    }

    /// Pieces of the loop that each thread gets; a late thread costs no more than one of them.
    const PIECES: u64 = 8;

    /// What it is a loop of.
    pub fn ceiling(&self) -> Ceiling {
        self.ceiling
    }

    /// The instructions between a product and the next.
    pub fn instructions(&self) -> &'static str {
        self.instructions
    }

    /// Runs about `macs` multiply-accumulates on all threads of `cpu`; the number that was run, and the wall time.
    ///
    /// # Errors
    /// When the work was cancelled.
    pub fn run(&self, cpu: &Cpu, macs: u64) -> Result<(u64, Duration)> {
        let pieces = cpu.threads() as u64 * Self::PIECES;
        let rounds = (macs / self.macs / pieces).max(1);
        let began = Instant::now();
        cpu.for_each(
            (0..pieces).collect(),
            || Ok(()),
            |(), _| {
                (self.rounds)(rounds);
                Ok(())
            },
        )?;
        Ok((pieces * rounds * self.macs, began.elapsed()))
    }
}

/// The loops that `isa` allows.
fn loops(isa: Isa) -> impl Iterator<Item = CeilingLoop> {
    #[cfg(target_arch = "x86_64")]
    return x86_64::loops(isa);
    #[cfg(target_arch = "aarch64")]
    return aarch64::loops(isa);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = isa;
        std::iter::empty()
    }
}
