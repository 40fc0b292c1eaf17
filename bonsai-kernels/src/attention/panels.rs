use ndarray::ArrayView2;

use super::KEYS;
use super::rotation::{Rotation, Side, turned};
use crate::aligned::AlignedBuf;
use crate::dot::{DotTile, LARGEST_SCALE, MAX_WIDTH, Number, PackRow};
use crate::isa::Work;
use crate::prefetch::prefetch_all;
use crate::rows::row_of;
use crate::spare::SpareBuf;

/// Where keys and values of one block of [`KEYS`] keys stand: for each panel of keys `[words][width]`, then for each
/// panel of value channels `[words][width]`. A word with two values holds values `i` and `words + i` of a key, or of
/// keys `i` and `KEYS / 2 + i`, before [`DotTile::arrange`].
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dim: usize,
    /// Words of one key.
    pub(super) words: usize,
    /// Keys of one panel.
    pub(super) key_width: usize,
    /// Words of one column of values.
    pub(super) value_words: usize,
    /// Width and first channel of each panel of values.
    pub(super) strips: Vec<(usize, usize)>,
    /// Width of all panels of values.
    pub(super) value_width: usize,
}

impl Layout {
    pub(super) fn new<N: Number, T: DotTile<N>>(dim: usize) -> Self {
        let (mut strips, mut channel, mut value_width) = (Vec::new(), 0, 0);
        while channel < dim {
            let width = T::width_for(dim - channel);
            strips.push((width, channel));
            channel += width;
            value_width += width;
        }
        Self {
            dim,
            words: N::words(dim),
            key_width: T::width_for(usize::MAX),
            value_words: N::words(KEYS),
            strips,
            value_width,
        }
    }

    /// Words of a block.
    pub(super) fn block_len(&self) -> usize {
        KEYS * self.words + self.value_words * self.value_width
    }

    /// Floats of a block's units: of its keys, then of its columns of values.
    pub(super) fn units_len(&self) -> usize {
        KEYS + self.value_width
    }
}

/// Largest 16-bit factor of a value, and the largest sum of a row's probabilities: the product of both, with what
/// rounding adds to the latter, stays below 2^31.
const LARGEST_VALUE: f32 = 8191.0;
const LARGEST_SUM: f32 = 262_000.0;
const LARGEST_PROBABILITY: f32 = 32_767.0;

/// What the probabilities of a row in one block are multiplied with before rounding, from the largest of them and
/// their sum.
#[inline(always)]
pub(super) fn probability_scale(largest: f32, sum: f32) -> f32 {
    let scale = if largest > 0.0 { (LARGEST_PROBABILITY / largest).min(LARGEST_SUM / sum) } else { 0.0 };
    if sum.is_nan() { sum } else { scale.min(LARGEST_SCALE) }
}

/// Rows that are asked for before they are packed.
pub(super) const AHEAD: usize = 6;

/// Where a block of keys and values comes from, and room for one panel of keys.
pub(super) struct Source<'a, 'r, W> {
    /// `[keys, heads * dim]`
    pub(super) k: &'a ArrayView2<'a, f32>,
    pub(super) v: &'a ArrayView2<'a, f32>,
    /// Where the head begins in a row.
    pub(super) column: usize,
    /// The block's first key.
    pub(super) first: usize,
    pub(super) rotation: Option<&'a Rotation<'r>>,
    pub(super) rows: &'a mut [W],
    /// Room for one key.
    pub(super) head: &'a mut [f32],
}

/// Writes one block of words and its units.
pub(super) fn pack_block<N: Number, T: DotTile<N>>(
    t: T,
    layout: &Layout,
    source: Source<'_, '_, N::Word>,
    block: &mut [N::Word],
    units: &mut [f32],
) {
    let Source { k, v, column, first, rotation, rows, head } = source;
    let keys = KEYS.min(k.nrows() - first);
    let (key_part, value_part) = block.split_at_mut(KEYS * layout.words);
    let (key_units, value_units) = units.split_at_mut(KEYS);
    let (words, width) = (layout.words, layout.key_width);
    for (i, panel) in key_part.chunks_exact_mut(width * words).enumerate() {
        for (lane, out) in rows.chunks_exact_mut(words).take(width).enumerate() {
            let key = i * width + lane;
            // rows are far apart, so that the CPU does not guess which lines come next
            if key + AHEAD < keys {
                prefetch_all(&row_of(k, first + key + AHEAD)[column..column + layout.dim]);
            }
            if key < keys {
                prefetch_all(&row_of(v, first + key)[column..column + layout.dim]);
            }
            let x = if key < keys {
                let x = &row_of(k, first + key)[column..column + layout.dim];
                turned(t, rotation, Side::Key, first + key, x, head)
            } else {
                &[][..]
            };
            key_units[key] = t.work(PackRow::<N, _> { token: t, x, out });
        }
        t.work(Transpose { rows, words, panel, width });
    }
    for &(width, channel) in &layout.strips {
        let used = width.min(layout.dim - channel);
        let values: [&[f32]; KEYS] = std::array::from_fn(|key| {
            let columns = column + channel..column + channel + used;
            if key < keys { &row_of(v, first + key)[columns] } else { &[][..] }
        });
        let panel = &mut value_part[layout.value_words * channel..][..layout.value_words * width];
        let units = &mut value_units[channel..channel + width];
        t.work(PackValues::<N> { values: &values, width, panel: &mut *panel, units });
        t.arrange(panel, width);
    }
}

/// `[width][words]` to `[words][width]`.
struct Transpose<'a, W> {
    rows: &'a [W],
    words: usize,
    panel: &'a mut [W],
    width: usize,
}

impl<W: Copy> Work for Transpose<'_, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { rows, words, panel, width } = self;
        // squares of one cache line in each direction
        const SIDE: usize = 16;
        for w in (0..words).step_by(SIDE) {
            for lane in (0..width).step_by(SIDE) {
                for lane in lane..width.min(lane + SIDE) {
                    let row = &rows[lane * words + w..lane * words + words.min(w + SIDE)];
                    for (line, word) in panel[w * width..].chunks_mut(width).zip(row) {
                        line[lane] = *word;
                    }
                }
            }
        }
    }
}

/// The values of one panel: for each key its channels, or none beyond the last key.
struct PackValues<'a, N: Number> {
    values: &'a [&'a [f32]; KEYS],
    width: usize,
    panel: &'a mut [N::Word],
    units: &'a mut [f32],
}

impl<N: Number> Work for PackValues<'_, N> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { values, width, panel, units } = self;
        let mut scales = [1.0f32; MAX_WIDTH];
        units.fill(1.0);
        if N::SCALED {
            let mut largest = [0u32; MAX_WIDTH];
            for row in values {
                for (largest, v) in largest.iter_mut().zip(*row) {
                    *largest = (*largest).max(v.to_bits() & 0x7fff_ffff);
                }
            }
            for ((scale, unit), largest) in scales.iter_mut().zip(units).zip(largest) {
                let largest = f32::from_bits(largest);
                *scale = if largest > 0.0 { (LARGEST_VALUE / largest).min(LARGEST_SCALE) } else { 0.0 };
                // not finite where a value is not
                *unit = if largest > 0.0 { 1.0 / *scale } else { largest };
            }
        }
        let words = N::words(KEYS);
        for (i, line) in panel.chunks_exact_mut(width).enumerate() {
            let first = values[i];
            if N::PER_WORD == 2 && !values[words + i].is_empty() {
                let lanes = line.iter_mut().zip(&scales).zip(first.iter().zip(values[words + i]));
                lanes.for_each(|((word, scale), (a, b))| *word = N::word(a * scale, b * scale));
            } else {
                let lanes = line.iter_mut().zip(&scales).zip(first);
                lanes.for_each(|((word, scale), a)| *word = N::word(a * scale, 0.0));
            }
            line[first.len()..].fill(N::word(0.0, 0.0));
        }
    }
}

/// The panels of some heads, block after block.
pub(super) struct Panels<N: Number> {
    pub(super) words: SpareBuf<N::Word>,
    pub(super) units: AlignedBuf<f32>,
}
