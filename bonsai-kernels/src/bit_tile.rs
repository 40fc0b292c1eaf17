//! The inner product of single bits: a few rows of activations times a narrow panel of weights, each a sign, or a sign and
//! whether it counts at all. Where `z` are the bits that count on both sides, `sum x w = popcount(z) - 2 popcount(z & (x ^ w))`.

use crate::int_tile::LANES;
use crate::isa::Token;

/// Groups of one tile of rows, and the panels that they meet. `XZ` says whether activations can be zero, `WZ` whether
/// weights can.
#[derive(Clone, Copy)]
pub(crate) struct BitBlock<'a> {
    pub(crate) groups: usize,
    /// Words of one group: 1, 2 or 4.
    pub(crate) words: usize,
    /// `MR` rows, `row_stride` apart: words of signs, 1 for `+`; `plane_stride` behind them, if `XZ`, words of what is not
    /// zero.
    pub(crate) rows: &'a [u32],
    pub(crate) row_stride: usize,
    pub(crate) plane_stride: usize,
    /// If `XZ`, the scales of each block of [`BLOCK_WORDS`] words, the rows `scale_stride` apart.
    pub(crate) scales: &'a [f32],
    pub(crate) scale_stride: usize,
    /// Whether every third of four words, of rows and of panels, is the exclusive or of the first three.
    pub(crate) carried: bool,
    /// One behind the other: for each group signs `[words][width]`, if `WZ` what is not zero `[words][width]`, and the bits
    /// of scales `[width]`; at the end the bits of what sums begin with, `[width]`. Without `XZ`, scales are times -2.
    pub(crate) panels: &'a [u32],
    /// Whether sums begin, whatever stands in their places.
    pub(crate) begins: bool,
}

/// Words of a row that share a scale.
pub(crate) const BLOCK_WORDS: usize = 4;

/// Words of one group of a panel.
pub(crate) const fn group_len(zeros: bool, words: usize, width: usize) -> usize {
    (words * (1 + zeros as usize) + 1) * width
}

impl BitBlock<'_> {
    pub(crate) fn panel_len(&self, zeros: bool, width: usize) -> usize {
        self.groups * group_len(zeros, self.words, width) + width
    }

    /// Number of panels, after a look at what every tile demands of its slices.
    #[inline(always)]
    pub(crate) fn checked_panels<const XZ: bool, const WZ: bool>(
        &self,
        mr: usize,
        width: usize,
        acc: &[f32],
    ) -> usize {
        let last_plane = if XZ { self.plane_stride } else { 0 };
        let row = last_plane + self.groups * self.words;
        assert!(!self.carried || self.words == 4, "words that are carried");
        assert!(self.rows.len() >= (mr - 1) * self.row_stride + row, "rows of the tile");
        let blocks = (self.groups * self.words).div_ceil(BLOCK_WORDS);
        assert!(!XZ || self.scales.len() >= (mr - 1) * self.scale_stride + blocks, "scales of the tile");
        let panels = self.panels.len() / self.panel_len(WZ, width);
        assert!(acc.len() >= panels * mr * width, "sums of the tile");
        panels
    }
}

/// Counts where bits differ.
pub(crate) trait BitTile: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Columns of one panel, a multiple of [`LANES`].
    const WIDTH: usize;
    /// Whether groups of four words of nothing but signs are to be [`carried`](BitBlock::carried): of three bits `a`, `b` and `c`
    /// the sum is `s + 2 carry`, where `s = a ^ b ^ c` and `carry` is `a` where `a` and `b` agree and not `s` where they don't.
    /// That is one popcount less, and `c` itself is not needed.
    const CARRIES: bool = false;

    /// For each panel, `acc[panel][m][n] += starts[n] + sum_g scales[g][n] * differ` without `XZ`, where `differ` is
    /// `popcount(z & (x ^ w))` over group `g`; with `XZ`, `+= scales[g][n] * row_scales[g][m] * (popcount(z) - 2 differ)`; `=` where sums begin.
    ///
    /// # Panics
    /// When a slice is too short.
    fn multiply<const XZ: bool, const WZ: bool>(self, block: BitBlock<'_>, acc: &mut [f32]);
}

/// The tile for instruction sets without a kernel of their own: plain loops, vectorised over columns.
#[inline(always)]
fn plain_multiply<const XZ: bool, const WZ: bool, const MR: usize>(block: BitBlock<'_>, acc: &mut [f32]) {
    block.checked_panels::<XZ, WZ>(MR, LANES, acc);
    assert!(!block.carried, "nothing is carried here");
    let words = block.words;
    let panels = block.panels.chunks_exact(block.panel_len(WZ, LANES));
    for (panel, acc) in panels.zip(acc.as_chunks_mut::<LANES>().0.chunks_exact_mut(MR)) {
        let (groups, starts) = panel.split_at(panel.len() - LANES);
        for (m, acc) in acc.iter_mut().enumerate() {
            let row = &block.rows[m * block.row_stride..];
            if block.begins {
                *acc = [0.0; LANES];
            }
            for (acc, &start) in acc.iter_mut().zip(starts) {
                *acc += f32::from_bits(start);
            }
            for (g, group) in groups.chunks_exact(group_len(WZ, words, LANES)).enumerate() {
                let (lines, _) = group.as_chunks::<LANES>();
                let (mut differ, mut both) = ([0u32; LANES], [0u32; LANES]);
                for w in 0..words {
                    let x = row[g * words + w];
                    let x_counts = if XZ { row[block.plane_stride + g * words + w] } else { u32::MAX };
                    let counts = if WZ { &lines[words + w] } else { &[u32::MAX; LANES] };
                    for lane in 0..LANES {
                        let z = x_counts & counts[lane];
                        differ[lane] += (z & (x ^ lines[w][lane])).count_ones();
                        if XZ && WZ {
                            both[lane] += z.count_ones();
                        }
                    }
                }
                let scales = lines[lines.len() - 1].map(f32::from_bits);
                if XZ {
                    let scale = block.scales[m * block.scale_stride + g * words / BLOCK_WORDS];
                    let counts = &row[block.plane_stride + g * words..][..words];
                    let total: u32 = counts.iter().map(|word| word.count_ones()).sum();
                    for lane in 0..LANES {
                        let total = if WZ { both[lane] } else { total } as i32;
                        acc[lane] += (total - 2 * differ[lane] as i32) as f32 * (scales[lane] * scale);
                    }
                } else {
                    for lane in 0..LANES {
                        acc[lane] += differ[lane] as i32 as f32 * scales[lane];
                    }
                }
            }
        }
    }
}

macro_rules! plain_tile {
    ($token:ty) => {
        impl BitTile for $token {
            const MR: usize = 4;
            const WIDTH: usize = LANES;

            fn multiply<const XZ: bool, const WZ: bool>(self, block: BitBlock<'_>, acc: &mut [f32]) {
                self.run(|| plain_multiply::<XZ, WZ, 4>(block, acc));
            }
        }
    };
}

plain_tile!(crate::isa::Portable);
#[cfg(target_arch = "x86_64")]
plain_tile!(crate::isa::Avx512);
