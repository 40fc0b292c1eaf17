//! The inner product that attention and convolution are made of: a few rows times a narrow panel, with factors in one
//! of several number formats and sums that never lose what the factors held.

use bytemuck::Pod;

use crate::Cpu;
use crate::aligned::Element;
use crate::gemm::ActivationPrecision;
use crate::isa::{Isa, Token, Work};

/// How attention and convolution hold the factors of their dot products. Sums are f32, or exact integers that enter
/// f32 sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DotPrecision {
    /// As they are.
    F32,
    /// Rounded to 8 significant bits.
    Bf16,
    /// Integers of up to 16 bits with one scale for each vector (a row of queries, a pixel): a finer grid than bf16
    /// has for all values near the largest of their vector.
    Int16,
}

impl DotPrecision {
    /// Those that this instruction set has dot products for.
    pub fn available(isa: Isa) -> Vec<Self> {
        let all = [Self::F32, Self::Bf16, Self::Int16];
        all.into_iter().filter(|&p| with_dots!(isa, p, |_t, N| N::PRECISION) == p).collect()
    }

    /// `f32`, `bf16` or `int16`
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int16 => "int16",
        }
    }

    /// Bytes of one factor.
    pub fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// What attention and convolution use on this handle: f32 where linears do, otherwise what is fastest on this CPU
    /// among the formats no coarser than bf16. Never decided by timing, so that results stay the same.
    pub fn chosen(cpu: &Cpu) -> Self {
        let wanted = match (cpu.precision(), cpu.isa()) {
            (ActivationPrecision::F32, _) => Self::F32,
            #[cfg(target_arch = "x86_64")]
            (ActivationPrecision::Bf16, Isa::Amx(_)) => Self::Bf16,
            #[cfg(target_arch = "x86_64")]
            (ActivationPrecision::Bf16, Isa::Avx512Bf16(t)) if t.is_fast() => Self::Bf16,
            // where there are such dot products, they take half as many instructions as f32 ones
            _ => Self::Int16,
        };
        with_dots!(cpu.isa(), wanted, |_t, N| N::PRECISION)
    }
}

/// The instruction set whose dot products outrun the others at the moment, of those that make the same bits, for so many
/// multiply-accumulates.
pub(crate) fn fastest(cpu: &Cpu, precision: DotPrecision, macs: usize) -> Isa {
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (precision, macs);
    match (cpu.isa(), precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx(t), DotPrecision::Int16) if !t.runs_somewhere(cpu, macs) => {
            Isa::Avx512Vnni(t.lower().lower())
        }
        (isa, _) => isa,
    }
}

/// A number format of factors.
pub(crate) trait Number: Copy + Send + Sync + 'static {
    const PRECISION: DotPrecision;
    /// What a row or panel is made of.
    type Word: Element + Pod;
    /// Values in one word: 1, or 2.
    const PER_WORD: usize;
    /// Whether values are multiplied with a scale before they are rounded.
    const SCALED: bool;
    /// The word of one or two values that were scaled; a format of one value ignores `second`.
    fn word(first: f32, second: f32) -> Self::Word;
    /// Words of a row, or lines of a panel, that stand together: rows and panels have whole steps of them.
    const STEP: usize = 1;
    /// Words of so many values.
    fn words(values: usize) -> usize {
        values.div_ceil(Self::PER_WORD).next_multiple_of(Self::STEP)
    }
    /// `2^x` for x <= 0, to a precision that rounding to this format does not feel.
    fn exp2<T: Token>(x: f32) -> f32;
}

/// f32 factors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct F32;

impl Number for F32 {
    const PRECISION: DotPrecision = DotPrecision::F32;
    type Word = f32;
    const PER_WORD: usize = 1;
    const SCALED: bool = false;

    #[inline(always)]
    fn word(first: f32, _: f32) -> f32 {
        first
    }

    #[inline(always)]
    fn exp2<T: Token>(x: f32) -> f32 {
        crate::math::exp2::<T>(x)
    }
}

/// Pairs of bf16.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16;

#[cfg(target_arch = "x86_64")]
impl Bf16 {
    /// The bits of the nearest bf16, ties to even, in the upper half.
    #[inline(always)]
    fn round(x: f32) -> u32 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // a NaN must not be carried over into the sign
        if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x40_0000 } else { rounded }
    }
}

#[cfg(target_arch = "x86_64")]
impl Number for Bf16 {
    const PRECISION: DotPrecision = DotPrecision::Bf16;
    type Word = u32;
    const PER_WORD: usize = 2;
    const SCALED: bool = false;

    #[inline(always)]
    fn word(first: f32, second: f32) -> u32 {
        Self::round(first) >> 16 | Self::round(second) & 0xffff_0000
    }

    #[inline(always)]
    fn exp2<T: Token>(x: f32) -> f32 {
        crate::math::exp2_coarse::<T>(x)
    }
}

/// Pairs of 16-bit integers.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int16;

#[cfg(target_arch = "x86_64")]
impl Number for Int16 {
    const PRECISION: DotPrecision = DotPrecision::Int16;
    type Word = u32;
    const PER_WORD: usize = 2;
    const SCALED: bool = true;

    /// Values of more than one panel are cut where [`Int16Bytes`] cuts them, so that the sums of each part are the same.
    fn words(values: usize) -> usize {
        let words = values.div_ceil(Self::PER_WORD);
        if words > DEPTH { Int16Bytes::words(values) } else { words }
    }

    /// The nearest integers, ties to even, of values within +-32767.
    #[inline(always)]
    fn word(first: f32, second: f32) -> u32 {
        // adding it leaves the integer, modulo 2^16, in the low bits
        const ROUNDER: f32 = 12_582_912.0;
        (first + ROUNDER).to_bits() & 0xffff | (second + ROUNDER).to_bits() << 16
    }

    #[inline(always)]
    fn exp2<T: Token>(x: f32) -> f32 {
        crate::math::exp2_coarse::<T>(x)
    }
}

/// 16-bit integers, whose high and low bytes are multiplied apart.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int16Bytes;

#[cfg(target_arch = "x86_64")]
impl Number for Int16Bytes {
    const PRECISION: DotPrecision = DotPrecision::Int16;
    type Word = u32;
    const PER_WORD: usize = 2;
    const SCALED: bool = true;
    const STEP: usize = crate::x86_64::amx_int16::STEP;

    #[inline(always)]
    fn word(first: f32, second: f32) -> u32 {
        Int16::word(first, second)
    }

    #[inline(always)]
    fn exp2<T: Token>(x: f32) -> f32 {
        Int16::exp2::<T>(x)
    }
}

/// The largest 16-bit factor. Its negative is the smallest, so that no pair of products leaves 32 bits.
const LARGEST: f64 = 32_767.0;
/// The largest Euclidean norm of a vector of 16-bit factors before they are rounded: by Cauchy and Schwarz any part of
/// a dot product of two such vectors stays below 2^31, also after rounding moved the norms by `sqrt(len) / 2` (up to a
/// length of 2^16).
pub(crate) const LARGEST_NORM: f64 = 46_000.0;
/// Keeps scales finite: what is smaller than its inverse counts as zero.
pub(crate) const LARGEST_SCALE: f32 = 1e30;

/// Largest magnitude and sum of squares of a vector, from which its scale follows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Bits of the largest magnitude: in this order NaN is the largest of all.
    pub(crate) largest: u32,
    pub(crate) squares: f64,
}

impl Extent {
    /// Of these values.
    #[inline(always)]
    pub(crate) fn of<T: Token>(t: T, x: &[f32]) -> Self {
        let (blocks, tail) = x.as_chunks::<16>();
        let (largest, squares) = t.extent(blocks);
        let mut all = Self { largest, squares };
        for v in tail {
            all = all.with(*v);
        }
        all
    }

    /// Of these values and one more.
    #[inline(always)]
    pub(crate) fn with(self, x: f32) -> Self {
        Self {
            largest: self.largest.max(x.to_bits() & 0x7fff_ffff),
            squares: self.squares + f64::from(x) * f64::from(x),
        }
    }

    /// The larger of both in both respects.
    #[inline(always)]
    pub(crate) fn join(self, other: Self) -> Self {
        Self { largest: self.largest.max(other.largest), squares: self.squares.max(other.squares) }
    }

    /// What 16-bit factors are multiplied with before rounding, and its inverse, which is NaN or infinite when a value
    /// was.
    pub(crate) fn scale(self) -> (f32, f32) {
        let largest = f64::from(f32::from_bits(self.largest));
        if self.largest == 0 {
            return (0.0, 0.0);
        }
        let scale = (LARGEST / largest).min(LARGEST_NORM / self.squares.sqrt()) as f32;
        // `min` passes NaN over
        let scale = if largest.is_nan() { f32::NAN } else { scale.min(LARGEST_SCALE) };
        (scale, 1.0 / scale)
    }
}

/// Writes `x * scale` as words: word `i` holds value `i`, and with two values in a word also value `len + i`, where
/// `len` is the length of `out`. [`DotTile::arrange`] comes after. Values beyond the end of `x` are zeros.
#[inline(always)]
pub(crate) fn pack_row<N: Number>(x: &[f32], scale: f32, out: &mut [N::Word]) {
    let (first, second) = x.split_at(out.len().min(x.len()));
    let both = if N::PER_WORD == 2 { second.len().min(first.len()) } else { 0 };
    let (pairs, singles) = out.split_at_mut(both);
    for ((word, a), b) in pairs.iter_mut().zip(first).zip(second) {
        *word = N::word(a * scale, b * scale);
    }
    let used = first.len() - both;
    for (word, a) in singles.iter_mut().zip(&first[both..]) {
        *word = N::word(a * scale, 0.0);
    }
    singles[used..].fill(N::word(0.0, 0.0));
}

/// A row with a scale of its own, where the format wants one; the output is the inverse of that scale.
pub(crate) struct PackRow<'a, N: Number, T> {
    pub(crate) token: T,
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [N::Word],
}

impl<N: Number, T: DotTile<N>> Work for PackRow<'_, N, T> {
    type Output = f32;

    #[inline(always)]
    fn work(self) -> f32 {
        let (scale, unit) = if N::SCALED { Extent::of(self.token, self.x).scale() } else { (1.0, 1.0) };
        pack_row::<N>(self.x, scale, self.out);
        self.token.arrange(self.out, 1);
        unit
    }
}

/// What a tile multiplies, and how the products enter the sums:
/// `sums[m][n] = keep[m] * sums[m][n] + row[m] * column[n] * sum_k rows[at[m] + k] panel[k][n]`,
/// without reading `sums[m]` where `keep[m]` is 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dot<'a, W> {
    /// Columns of the panel: one of `WIDTHS`.
    pub(crate) width: usize,
    /// Words of each row.
    pub(crate) depth: usize,
    pub(crate) rows: &'a [W],
    /// Where each of the `MR` rows begins.
    pub(crate) at: &'a [usize],
    /// `[depth][width]`
    pub(crate) panel: &'a [W],
    /// `[MR]`
    pub(crate) keep: &'a [f32],
    /// `[MR]`
    pub(crate) row: &'a [f32],
    /// `[width]`
    pub(crate) column: &'a [f32],
}

impl<W> Dot<'_, W> {
    /// Proves that a tile of `mr` rows stays inside all slices.
    #[inline(always)]
    pub(crate) fn check(&self, mr: usize, sums: &[f32], stride: usize) {
        let &Self { width, depth, rows, at, panel, keep, row, column } = self;
        assert!(at.len() == mr && keep.len() == mr && row.len() == mr, "rows of a tile");
        assert!(column.len() == width && panel.len() >= depth * width, "columns of a tile");
        let last = rows.len().checked_sub(depth).expect("words of a tile");
        assert!(at.iter().fold(0, |most, &a| most.max(a)) <= last, "words of a tile");
        assert!(sums.len() >= (mr - 1) * stride + width, "sums of a tile");
    }
}

/// A CPU's dot products of one number format.
pub(crate) trait DotTile<N: Number>: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Panel widths that the kernel takes, ascending; the last is the one to prefer.
    const WIDTHS: &'static [usize];

    /// Computes what [`Dot`] says; rows of `sums` are `stride` apart.
    ///
    /// # Panics
    /// When the width is none of `WIDTHS` or a slice is too short.
    fn dot(self, dot: Dot<'_, N::Word>, sums: &mut [f32], stride: usize);

    /// Brings the words of a panel `[words][width]`, or with one column those of a row, into the order in which they are multiplied.
    ///
    /// # Panics
    /// When they are no whole steps.
    #[inline(always)]
    fn arrange(self, _words: &mut [N::Word], _width: usize) {}

    /// The narrowest panel that holds `columns`, or the widest there is.
    fn width_for(columns: usize) -> usize {
        let widest = Self::WIDTHS[Self::WIDTHS.len() - 1];
        Self::WIDTHS.iter().copied().find(|&w| w >= columns).unwrap_or(widest)
    }
}

/// The widest panel of all.
pub(crate) const MAX_WIDTH: usize = 64;
/// The most rows of a tile.
pub(crate) const MAX_MR: usize = 32;
/// Words of the deepest panel: with the widest it takes 32 KiB of the first-level cache.
pub(crate) const DEPTH: usize = 128;

/// Calls `$body` with `$t` bound to a token and the type `$n` to a number format that it has dot products for: that of
/// `$precision`, or f32.
macro_rules! with_dots {
    ($isa:expr, $precision:expr, |$t:ident, $n:ident| $body:expr) => {
        match ($precision, $isa) {
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Int16, $crate::Isa::Avx2($t)) => {
                type $n = $crate::dot::Int16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Int16, $crate::Isa::AvxVnni($t)) => {
                type $n = $crate::dot::Int16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Int16, $crate::Isa::Avx512Vnni($t)) => {
                type $n = $crate::dot::Int16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Int16, $crate::Isa::Avx512Bf16(t)) => {
                type $n = $crate::dot::Int16;
                let $t = t.lower();
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Int16, $crate::Isa::Amx($t)) => {
                type $n = $crate::dot::Int16Bytes;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Bf16, $crate::Isa::Avx512Bf16($t)) => {
                type $n = $crate::dot::Bf16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::dot::DotPrecision::Bf16, $crate::Isa::Amx($t)) => {
                type $n = $crate::dot::Bf16;
                $body
            }
            (_, isa) => $crate::isa::dispatch!(isa, $t => {
                type $n = $crate::dot::F32;
                $body
            }),
        }
    };
}
pub(crate) use with_dots;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Portable;

    /// Values on a grid of all formats, so that every precision must be exact: small integers.
    fn grid(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 17) as f32 - 8.0).collect()
    }

    /// One tile of every width, against plain loops.
    fn tile<N: Number, T: DotTile<N>>(t: T) {
        for &width in T::WIDTHS {
            for depth in [1, 2, 7, 64, 96, DEPTH].into_iter().filter(|depth| depth.is_multiple_of(N::STEP)) {
                let len = depth * N::PER_WORD;
                let (x, w) = (grid(T::MR * len, 1), grid(width * len, 2));
                let row_of = |m: usize| &x[m * len..][..len];
                let mut rows = vec![N::word(0.0, 0.0); T::MR * (depth + 3)];
                // rows in no particular order
                let at: Vec<usize> = (0..T::MR).map(|m| (T::MR - 1 - m) * (depth + 3)).collect();
                for (m, &at) in at.iter().enumerate() {
                    let row = &mut rows[at..at + depth];
                    pack_row::<N>(row_of(m), 1.0, row);
                    t.arrange(row, 1);
                }
                let mut panel = vec![N::word(0.0, 0.0); depth * width];
                for n in 0..width {
                    let mut column = vec![N::word(0.0, 0.0); depth];
                    pack_row::<N>(&w[n * len..][..len], 1.0, &mut column);
                    (0..depth).for_each(|k| panel[k * width + n] = column[k]);
                }
                t.arrange(&mut panel, width);
                let keep: Vec<f32> = (0..T::MR).map(|m| [0.0, 1.0, 2.0][m % 3]).collect();
                let row: Vec<f32> = (0..T::MR).map(|m| [1.0, -2.0][m % 2]).collect();
                let column: Vec<f32> = (0..width).map(|n| [1.0, 0.5, 4.0][n % 3]).collect();
                let stride = width + 5;
                let before: Vec<f32> = (0..T::MR * stride)
                    .map(|i| if i / stride % 3 == 0 { f32::NAN } else { i as f32 })
                    .collect();
                let mut sums = before.clone();
                let (rows, at, panel) = (&rows[..], &at[..], &panel[..]);
                let dot = Dot { width, depth, rows, at, panel, keep: &keep, row: &row, column: &column };
                t.dot(dot, &mut sums, stride);
                for m in 0..T::MR {
                    for n in 0..width {
                        let exact: f32 = row_of(m).iter().zip(&w[n * len..]).map(|(x, w)| x * w).sum();
                        let before = before[m * stride + n];
                        let kept = if keep[m] == 0.0 { 0.0 } else { keep[m] * before };
                        assert_eq!(sums[m * stride + n], kept + row[m] * column[n] * exact);
                    }
                }
            }
        }
    }

    #[test]
    fn every_tile_multiplies_exactly_what_its_format_holds() {
        for isa in Isa::available() {
            for precision in DotPrecision::available(isa) {
                with_dots!(isa, precision, |t, N| tile::<N, _>(t));
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn largest_sum<N: Number<Word = u32>, T: DotTile<N>>(t: T) -> (f32, f64) {
        // all values alike: the largest norm, spread as evenly as can be
        let (x, width) = (vec![3.0f32; 2 * DEPTH], T::WIDTHS[0]);
        let (scale, unit) = Extent::of(Portable, &x).scale();
        let mut row = vec![0u32; DEPTH];
        pack_row::<N>(&x, scale, &mut row);
        t.arrange(&mut row, 1);
        let panel: Vec<u32> = row.iter().flat_map(|&w| std::iter::repeat_n(w, width)).collect();
        let mut sums = vec![0.0; T::MR * width];
        let (ones, column) = ([1.0; MAX_MR], vec![1.0; width]);
        let dot = Dot {
            width,
            depth: DEPTH,
            rows: &row,
            at: &[0; MAX_MR][..T::MR],
            panel: &panel,
            keep: &[0.0; MAX_MR][..T::MR],
            row: &ones[..T::MR],
            column: &column,
        };
        t.dot(dot, &mut sums, width);
        let factor = (3.0 / f64::from(unit)).round();
        (sums[0], 2.0 * DEPTH as f64 * factor * factor)
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_largest_sum_of_16_bit_products_fits_32_bits() {
        let check = |(got, want): (f32, f64)| {
            assert!(want > 0.98 * f64::from(i32::MAX) && want < f64::from(i32::MAX));
            assert_eq!(got, want as f32);
        };
        for isa in Isa::available() {
            match isa {
                Isa::Avx2(t) => check(largest_sum::<Int16, _>(t)),
                Isa::AvxVnni(t) => check(largest_sum::<Int16, _>(t)),
                Isa::Avx512Vnni(t) => check(largest_sum::<Int16, _>(t)),
                Isa::Amx(t) => check(largest_sum::<Int16Bytes, _>(t)),
                _ => {}
            }
        }
    }

    #[test]
    fn what_is_chosen_is_there_and_no_coarser_than_asked() {
        for isa in Isa::available() {
            for &precision in ActivationPrecision::ALL {
                let chosen = DotPrecision::chosen(&Cpu::new(isa).with_precision(precision));
                assert!(DotPrecision::available(isa).contains(&chosen));
                match precision {
                    ActivationPrecision::F32 => assert_eq!(chosen, DotPrecision::F32),
                    ActivationPrecision::Bf16 => {}
                    _ => assert_ne!(chosen, DotPrecision::Bf16),
                }
            }
        }
    }

    #[test]
    fn scales_of_odd_vectors() {
        assert_eq!(Extent::of(Portable, &[0.0; 40]).scale(), (0.0, 0.0));
        let (scale, unit) = Extent::of(Portable, &[0.0, 2.0, 0.0]).scale();
        assert!((scale - 32_767.0 / 2.0).abs() < 0.01 && unit > 0.0);
        assert!(Extent::of(Portable, &[1.0, f32::NAN]).scale().1.is_nan());
        assert_eq!(Extent::of(Portable, &[1.0, f32::INFINITY]).scale(), (0.0, f32::INFINITY));
        assert_eq!(Extent::of(Portable, &[1e-40]).scale().0, LARGEST_SCALE);
    }
}
