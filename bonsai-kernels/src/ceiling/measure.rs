//! The rate of a kernel next to the rate of its ceiling.

use std::time::{Duration, Instant};

use ndarray::{ArrayView2, ArrayViewMut2};

use super::linear::{LinearKind, LinearShape, test_activations, test_weights};
use super::{Ceiling, CeilingLoop};
use crate::Cpu;
use crate::error::Result;
use crate::gemm::{ActivationPrecision, Epilogue, kernel_name_for, matmul};
use crate::weights::Weights;

/// Fewer runs than this say little on a machine that does other things too.
pub const LEAST_RUNS: usize = 7;

/// How long a ceiling runs before each run of the kernel.
const CEILING_TIME: Duration = Duration::from_millis(10);

/// Rows that a long run may be cut to whole multiples of: every kernel's tile divides it.
const ROW_UNIT: usize = 48;

/// Bytes of weights that a product of one row runs through: more than caches hold.
const STREAMED_BYTES: usize = 256 << 20;

/// The best of several runs of some work, each right after a run of its ceiling.
///
/// Both are best times, so that whatever else the machine did meanwhile is in neither.
#[derive(Debug)]
pub struct Interleaved<'a> {
    cpu: &'a Cpu,
    ceiling: Option<(CeilingLoop, u64)>,
    ceiling_gmacs: f64,
    best: Option<Duration>,
}

impl<'a> Interleaved<'a> {
    /// Nothing has run yet but the ceiling, to learn how much of it fills its time.
    ///
    /// # Errors
    /// When the work was cancelled.
    pub fn new(cpu: &'a Cpu, ceiling: Option<CeilingLoop>) -> Result<Self> {
        let ceiling = match ceiling {
            None => None,
            Some(ceiling) => {
                let mut macs = 1 << 20;
                let macs = loop {
                    let (done, took) = ceiling.run(cpu, macs)?;
                    if took >= CEILING_TIME / 4 {
                        break (done as f64 * CEILING_TIME.as_secs_f64() / took.as_secs_f64()) as u64;
                    }
                    macs *= 4;
                };
                Some((ceiling, macs))
            }
        };
        Ok(Self { cpu, ceiling, ceiling_gmacs: 0.0, best: None })
    }

    /// One run of the ceiling and one of `work`; how long the work took.
    ///
    /// # Errors
    /// Those of the work.
    pub fn run(&mut self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        if let Some((ceiling, macs)) = self.ceiling {
            let (done, took) = ceiling.run(self.cpu, macs)?;
            self.ceiling_gmacs = self.ceiling_gmacs.max(gmacs(done, took));
        }
        let began = Instant::now();
        work()?;
        let took = began.elapsed();
        self.best = Some(self.best.map_or(took, |best| best.min(took)));
        Ok(took)
    }

    /// The ceiling and its best rate in GMAC/s, once there was a run.
    pub fn ceiling(&self) -> Option<(Ceiling, f64)> {
        self.ceiling.filter(|_| self.best.is_some()).map(|(ceiling, _)| (ceiling.ceiling, self.ceiling_gmacs))
    }

    /// The best rate of the work in GMAC/s, if one run is `macs` multiply-accumulates.
    pub fn gmacs(&self, macs: u64) -> Option<f64> {
        self.best.map(|best| gmacs(macs, best))
    }
}

fn gmacs(macs: u64, took: Duration) -> f64 {
    macs as f64 / took.as_secs_f64().max(1e-9) / 1e9
}

/// What one kernel reached at one shape.
#[derive(Debug, Clone)]
pub struct KernelRate {
    /// The kernel, as [`kernel_name_for`] says it.
    pub name: String,
    /// The instruction set that it ran on.
    pub isa: &'static str,
    /// What the weights are.
    pub weights: LinearKind,
    /// How activations entered.
    pub activations: ActivationPrecision,
    /// The shape that was run; fewer rows than asked for where a run would have been too long.
    pub shape: LinearShape,
    /// Threads that worked.
    pub threads: usize,
    /// Billions of multiply-accumulates a second, activations prepared anew each time.
    pub gmacs: f64,
    /// The ceiling of this precision and what it reached at the same time, in GMAC/s.
    pub ceiling: Option<(Ceiling, f64)>,
}

impl KernelRate {
    /// The kernel's rate over its ceiling's.
    pub fn ratio(&self) -> Option<f64> {
        self.ceiling.map(|(_, ceiling)| self.gmacs / ceiling)
    }
}

/// Runs a linear of random values `runs` times, interleaved with its ceiling, and takes the best of both.
///
/// Preparing the activations is part of each run. A run longer than `longest` is cut to fewer rows. A single row runs
/// through copies of the weights that no cache holds, as the layers of a model do.
///
/// # Errors
/// When a buffer can't be had, or the work was cancelled.
pub fn measure(
    cpu: &Cpu,
    kind: LinearKind,
    precision: ActivationPrecision,
    shape: LinearShape,
    runs: usize,
    longest: Duration,
) -> Result<KernelRate> {
    let cpu = cpu.clone().with_precision(precision);
    let copies = if shape.m == 1 { (STREAMED_BYTES / kind.bytes(shape.k, shape.n)).max(1) } else { 1 };
    let weights = test_weights(kind, shape.n * copies, shape.k);
    let parts: Vec<Weights> =
        (0..copies).map(|i| weights.slice_rows(i * shape.n..(i + 1) * shape.n)).collect();
    // buffers of the kind that hold a model's activations
    let (mut x, mut y) = (cpu.buffer(shape.m * shape.k)?, cpu.buffer(shape.m * shape.n)?);
    x.copy_from_slice(test_activations(shape.m, shape.k).as_slice().expect("an array in standard order"));
    // the system gives pages when they are written first, which no run shall wait for
    y.fill(f32::NAN);
    let mut multiply = |rows: usize| -> Result<()> {
        let x = ArrayView2::from_shape((rows, shape.k), &x[..rows * shape.k]).expect("rows of inputs");
        for part in &parts {
            let y = &mut y[..rows * shape.n];
            let y = ArrayViewMut2::from_shape((rows, shape.n), y).expect("rows of outputs");
            matmul(&cpu, x, part, y, Epilogue::Store)?;
        }
        Ok(())
    };
    // a short run, the second, tells how long a whole one would be
    let few = shape.m.min(ROW_UNIT);
    multiply(few)?;
    let began = Instant::now();
    multiply(few)?;
    let whole = began.elapsed().as_secs_f64() * shape.m as f64 / few as f64;
    let rows = match longest.as_secs_f64() / whole {
        enough if enough >= 1.0 => shape.m,
        part => ((shape.m as f64 * part) as usize / ROW_UNIT * ROW_UNIT).clamp(few, shape.m),
    };
    let mut runner = Interleaved::new(&cpu, Ceiling::of(precision, cpu.isa()))?;
    for _ in 0..runs.max(1) {
        runner.run(|| multiply(rows))?;
    }
    let shape = LinearShape { m: rows, ..shape };
    Ok(KernelRate {
        name: kernel_name_for(cpu.isa(), precision, &weights, shape.m),
        isa: cpu.isa().name(),
        weights: kind,
        activations: precision,
        shape,
        threads: cpu.threads(),
        gmacs: runner.gmacs(shape.macs() * copies as u64).unwrap_or_default(),
        ceiling: runner.ceiling(),
    })
}
