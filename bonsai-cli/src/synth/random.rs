//! Random bytes of tensors, fast: one 64-bit number makes eight bytes.

use half::bf16;

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// BF16 Gaussian numbers.
    Normal { mean: f32, std: f32 },
    /// BF16 Gaussian numbers of the rows that make shifts, scales and gates of `width` channels, in this order; the
    /// scales of one channel in `every` are [`OUTLIER`] times as large.
    Modulation { std: f32, width: u64, every: u64 },
    /// Code words: every code equally likely.
    Words,
    /// 2-bit codes 0, 1 and 2; never 3.
    TernaryWords,
    /// BF16 group scales, evenly spread within a quarter of `scale`.
    Scales { scale: f32 },
    /// The BF16 biases to [`Fill::Scales`] of the same stream.
    Biases { scale: f32, bias_per_scale: f32 },
    /// Zero bytes.
    Zero,
}

/// SplitMix64: one addition and a hash of the sum.
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream `name` of `seed`; other names give other numbers.
    pub(super) fn named(seed: u64, name: &str) -> Self {
        let fnv1a = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut mixer = Self(seed);
        Self(mixer.next() ^ fnv1a)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Entries of a table of 16-bit values: the top 12 bits of a random number choose one.
const TABLE_LEN: usize = 4096;

/// Makes the bytes of tensors; holds the tables that all of them share.
pub(super) struct Generator {
    /// Quantiles of the standard Gaussian.
    quantiles: Vec<f32>,
    /// Eight ternary codes each, all combinations.
    octets: Vec<u16>,
}

/// How much larger outlier channels are: a power of two, so that it is exact in BF16.
const OUTLIER: f32 = 32.0;

/// The bytes of one tensor, made piece by piece.
pub(super) struct Stream<'a> {
    rng: SplitMix64,
    source: Source<'a>,
    /// What is done to the values after that.
    outliers: Option<Outliers>,
}

/// Rows of a modulation whose values grow.
struct Outliers {
    width: u64,
    every: u64,
    /// Values made so far.
    at: u64,
}

impl Outliers {
    fn grow(&mut self, out: &mut [u8]) {
        for value in out.as_chunks_mut::<2>().0 {
            let row = self.at / self.width;
            let (part, channel) = (row / self.width % 3, row % self.width);
            if part == 1 && channel % self.every == self.every / 2 {
                *value = bf16::from_f32(bf16::from_le_bytes(*value).to_f32() * OUTLIER).to_le_bytes();
            }
            self.at += 1;
        }
    }
}

enum Source<'a> {
    Words,
    Octets(&'a [u16]),
    Table(Vec<u16>),
    Zero,
}

impl Generator {
    pub(super) fn new() -> Self {
        Self { quantiles: gaussian_quantiles(), octets: ternary_octets() }
    }

    /// The bytes of a tensor; `rng` is the stream that the tensor's plan names.
    pub(super) fn stream(&self, fill: Fill, rng: SplitMix64) -> Stream<'_> {
        let source = match fill {
            Fill::Words => Source::Words,
            Fill::TernaryWords => Source::Octets(&self.octets),
            Fill::Zero => Source::Zero,
            Fill::Normal { mean, std } => self.normal(mean, std),
            Fill::Modulation { std, .. } => self.normal(0.0, std),
            Fill::Scales { scale } => Source::Table(scales(scale).map(bf16::to_bits).collect()),
            Fill::Biases { scale, bias_per_scale } => Source::Table(
                scales(scale).map(|s| bf16::from_f32(s.to_f32() * bias_per_scale).to_bits()).collect(),
            ),
        };
        let outliers = match fill {
            Fill::Modulation { width, every, .. } => Some(Outliers { width, every, at: 0 }),
            _ => None,
        };
        Stream { rng, source, outliers }
    }

    fn normal(&self, mean: f32, std: f32) -> Source<'static> {
        Source::Table(self.quantiles.iter().map(|q| bf16::from_f32(mean + std * q).to_bits()).collect())
    }
}

impl Stream<'_> {
    /// Fills `out` with the next bytes of the tensor. Every piece but the last must be whole 8-byte words.
    pub(super) fn fill(&mut self, out: &mut [u8]) {
        let rng = &mut self.rng;
        match &self.source {
            Source::Zero => out.fill(0),
            Source::Words => fill_words(out, || rng.next()),
            Source::Octets(octets) => fill_words(out, || {
                // A multiplication spreads 2^16 numbers over 3^8 entries evenly to within a tenth.
                quarters(rng.next(), |r| octets.get((r * octets.len()) >> 16))
            }),
            Source::Table(table) => fill_words(out, || quarters(rng.next(), |r| table.get(r >> 4))),
        }
        if let Some(outliers) = &mut self.outliers {
            outliers.grow(out);
        }
    }
}

/// Replaces each 16-bit quarter of a word by what `look_up` finds for it.
#[inline(always)]
fn quarters<'a>(word: u64, look_up: impl Fn(usize) -> Option<&'a u16>) -> u64 {
    let quarter = |i: u32| {
        let found = look_up(usize::from((word >> (16 * i)) as u16)).copied().unwrap_or(0);
        u64::from(found) << (16 * i)
    };
    quarter(0) | quarter(1) | quarter(2) | quarter(3)
}

#[inline(always)]
fn fill_words(out: &mut [u8], mut next: impl FnMut() -> u64) {
    let (words, rest) = out.as_chunks_mut::<8>();
    for word in words {
        *word = next().to_le_bytes();
    }
    if !rest.is_empty() {
        let last = next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

fn scales(scale: f32) -> impl Iterator<Item = bf16> {
    (0..TABLE_LEN).map(move |i| {
        let position = (i as f32 + 0.5) / TABLE_LEN as f32;
        bf16::from_f32(scale * (0.75 + 0.5 * position))
    })
}

/// The middle of each of `TABLE_LEN` equally likely slices, by summing up the density.
fn gaussian_quantiles() -> Vec<f32> {
    const STEP: f64 = 1e-4;
    let mut quantiles = Vec::with_capacity(TABLE_LEN);
    let normalise = STEP / (2.0 * std::f64::consts::PI).sqrt();
    // Half of the probability lies below zero; the lower half of the table mirrors the upper one.
    let mut below = 0.5;
    let mut x = 0.0_f64;
    for i in 0..TABLE_LEN / 2 {
        let target = 0.5 + (i as f64 + 0.5) / TABLE_LEN as f64;
        while below < target {
            let middle = x + 0.5 * STEP;
            below += normalise * (-0.5 * middle * middle).exp();
            x += STEP;
        }
        quantiles.push(x as f32);
    }
    let lower: Vec<f32> = quantiles.iter().rev().map(|q| -q).collect();
    [lower, quantiles].concat()
}

fn ternary_octets() -> Vec<u16> {
    (0..3_u16.pow(8))
        .map(|mut n| {
            (0..8).fold(0, |word, i| {
                let code = n % 3;
                n /= 3;
                word | code << (2 * i)
            })
        })
        .collect()
}
