use std::ops::Range;

use super::Sampling;
use super::weights::{BLOCK, ConvWeights, WeightScales};
use crate::Cpu;
use crate::dot::{DEPTH, DotTile, Number};
use crate::error::Result;

/// Which inputs go into which outputs.
#[derive(Debug)]
pub(super) struct Plan {
    /// Output pixels from one computed pixel to the next: 2 where each makes four.
    pub(super) step: usize,
    /// Input pixels from one computed pixel to the next.
    pub(super) stride: usize,
    /// Rows and columns of zeros before the first pixel.
    pub(super) before: usize,
    /// Input pixels, in each direction, that one computed pixel needs.
    pub(super) reach: usize,
    pub(super) phases: Vec<Phase>,
    /// For each output channel, padded to whole blocks: what its weights are multiplied with before they are rounded,
    /// and the inverse.
    pub(super) scales: Vec<f32>,
    pub(super) units: Vec<f32>,
}

/// The outputs at one position of each `step` by `step` square.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) y: usize,
    pub(super) x: usize,
    pub(super) taps: Vec<Tap>,
}

/// One input pixel of an output.
#[derive(Debug)]
pub(super) struct Tap {
    /// Where the pixel stands, from the first that is needed.
    pub(super) y: usize,
    pub(super) x: usize,
    /// Taps of the kernel that meet there, and whose weights are summed.
    pub(super) sources: Vec<usize>,
}

/// Inputs of the tap rows (or columns) of a 3x3 kernel over a picture of repeated pixels, for even and odd outputs:
/// rows `2y - 1, 2y, 2y + 1` are the pixels `y - 1, y, y`, and `2y, 2y + 1, 2y + 2` are `y, y, y + 1`.
const FOLDED: [[(usize, Range<usize>); 2]; 2] = [[(0, 0..1), (1, 1..3)], [(1, 0..2), (2, 2..3)]];

impl Plan {
    /// Rows, or columns, of the input that so many computed pixels need.
    pub(super) fn reached(&self, pixels: usize) -> usize {
        (pixels - 1) * self.stride + self.reach
    }

    pub(super) fn new<N: Number, T: DotTile<N>>(
        cpu: &Cpu,
        t: T,
        weights: &ConvWeights,
        sampling: Sampling,
    ) -> Result<Self> {
        let kernel = weights.kernel();
        let (step, stride, before) = match sampling {
            Sampling::Same => (1, 1, kernel / 2),
            Sampling::UpsampleNearest => (2, 1, 1),
            Sampling::Downsample => (1, 2, 0),
        };
        let whole = || {
            let taps = (0..kernel * kernel)
                .map(|tap| Tap { y: tap / kernel, x: tap % kernel, sources: vec![tap] })
                .collect();
            vec![Phase { y: 0, x: 0, taps }]
        };
        let phases = if sampling == Sampling::UpsampleNearest { folded() } else { whole() };
        let padded = weights.out_channels().next_multiple_of(BLOCK);
        let (mut scales, mut units) = (vec![1.0; padded], vec![1.0; padded]);
        if N::SCALED {
            let taps: Vec<&[usize]> = phases.iter().flat_map(|p| &p.taps).map(|t| &t.sources[..]).collect();
            let blocks =
                scales.chunks_exact_mut(BLOCK).zip(units.chunks_exact_mut(BLOCK)).enumerate().collect();
            cpu.for_each(
                blocks,
                || Ok(()),
                |(), (i, (scales, units))| {
                    let columns = i * BLOCK..weights.out_channels().min((i + 1) * BLOCK);
                    let block = DEPTH * N::PER_WORD;
                    t.work(WeightScales { weights, columns, taps: &taps, block, scales, units });
                    Ok(())
                },
            )?;
        }
        Ok(Self { step, stride, before, reach: kernel, phases, scales, units })
    }
}

/// A 3x3 convolution of a picture whose pixels are repeated twice in each direction, as four 2x2 convolutions of the
/// picture itself. The picture's border of zeros is the enlarged one's.
fn folded() -> Vec<Phase> {
    let mut phases = Vec::new();
    for (i, (rows, columns)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
        let mut taps = Vec::new();
        for (y, ky) in &FOLDED[rows] {
            for (x, kx) in &FOLDED[columns] {
                let sources = ky.clone().flat_map(|ky| kx.clone().map(move |kx| 3 * ky + kx)).collect();
                taps.push(Tap { y: *y, x: *x, sources });
            }
        }
        phases.push(Phase { y: i / 2, x: i % 2, taps });
    }
    phases
}
