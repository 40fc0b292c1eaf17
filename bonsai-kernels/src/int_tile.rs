//! The inner product of integers: a few rows of activations times a narrow panel of digits.

use std::marker::PhantomData;

use crate::aligned::Element;
use crate::isa::{Token, Work};

/// No tile has more rows.
pub(crate) const MOST_ROWS: usize = 12;

/// Columns whose words of codes stand side by side.
pub(crate) const LANES: usize = 16;

/// The largest magnitude of an 8-bit activation.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "for tiles of their own")
)]
pub(crate) const LARGEST_BYTE: i32 = 127;

/// How activations meet digits: so many neighbouring products are added at once.
pub(crate) trait Products: Copy + Send + Sync + 'static {
    /// Element of a row.
    type Row: Element;
    /// Inputs whose digits share a word of the panel.
    const DEPTH: usize;
    /// Whether digits have a sign.
    const SIGNED: bool;
    /// Whether blocks of a row have scales of their own; else those of rows are 1.
    #[cfg(target_arch = "x86_64")]
    const BLOCK_SCALES: bool;
    /// Product `j` of a word of digits with an activation.
    fn product(x: Self::Row, digits: u32, j: usize) -> i32;
}

/// 16-bit activations times 16-bit signed digits, two in a word.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

impl Products for Pairs {
    type Row = i16;
    const DEPTH: usize = 2;
    const SIGNED: bool = true;
    #[cfg(target_arch = "x86_64")]
    const BLOCK_SCALES: bool = false;

    #[inline(always)]
    fn product(x: i16, digits: u32, j: usize) -> i32 {
        i32::from(x) * i32::from((digits >> (16 * j)) as i16)
    }
}

/// 8-bit activations times 8-bit unsigned digits, four in a word.
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

impl Products for Bytes {
    type Row = i8;
    const DEPTH: usize = 4;
    const SIGNED: bool = false;
    #[cfg(target_arch = "x86_64")]
    const BLOCK_SCALES: bool = true;

    #[inline(always)]
    fn product(x: i8, digits: u32, j: usize) -> i32 {
        i32::from(x) * i32::from((digits >> (8 * j)) as u8)
    }
}

/// How stored codes become digits: `code * step - zero`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digits {
    pub(crate) bits: usize,
    pub(crate) step: u32,
    /// 0 for unsigned digits.
    pub(crate) zero: i32,
}

/// One group of one tile of rows, and the panels that it meets.
#[derive(Clone, Copy)]
pub(crate) struct IntBlock<'a, R> {
    /// Columns of one panel.
    pub(crate) width: usize,
    /// Words of digits of one column.
    pub(crate) steps: usize,
    /// `MR` rows, `row_stride` apart, `steps * DEPTH` elements each.
    pub(crate) rows: &'a [R],
    pub(crate) row_stride: usize,
    /// One behind the other: digits `[steps][width]`, scales `[width]`, and biases `[width]` where there are any; floats as
    /// their bits.
    pub(crate) panels: &'a [u32],
    pub(crate) biased: bool,
    /// The largest digit, where digits are unsigned.
    pub(crate) largest: i32,
    /// What sums begin with, for each row.
    pub(crate) starts: &'a [i32; MOST_ROWS],
    /// What biases are multiplied with, for each row.
    pub(crate) row_sums: &'a [i32; MOST_ROWS],
    /// For each row.
    pub(crate) row_scales: &'a [f32; MOST_ROWS],
}

impl<'a, R> IntBlock<'a, R> {
    /// Words of one panel.
    #[inline(always)]
    pub(crate) fn panel_len(&self) -> usize {
        (self.steps + 1 + usize::from(self.biased)) * self.width
    }

    /// Number of panels, after a look at what every tile demands of its slices.
    #[inline(always)]
    pub(crate) fn checked_panels(&self, mr: usize, depth: usize, acc: &[f32]) -> usize {
        assert!(self.rows.len() >= (mr - 1) * self.row_stride + self.steps * depth, "rows of the tile");
        let panels = self.panels.len() / self.panel_len();
        assert!(acc.len() >= panels * mr * self.width, "sums of the tile");
        panels
    }
}

/// Multiplies a few rows with a panel, exactly, and scales the sums.
pub(crate) trait IntTile<P: Products>: Token {
    /// Rows of one tile.
    const MR: usize;
    /// Panel widths that the kernel takes, ascending, multiples of [`LANES`]; the last is the one to prefer.
    const WIDTHS: &'static [usize];

    /// `panel[i][lane]`, rows of `stride`: the digits of [`LANES`] columns whose word of codes is `words[lane]`, word after
    /// word, as many as fit into `panel`.
    #[inline(always)]
    fn spread(self, digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
        self.work(Spread { products: PhantomData::<P>, digits, words, panel, stride });
    }

    /// For each panel, `acc[panel][m][n] += row_scales[m] * (scales[n] * (starts[m] + sum_k x[m][k] digit[k][n]) + biases[n] * row_sums[m])`,
    /// the sum exact.
    ///
    /// # Panics
    /// When the width is none of `WIDTHS` or a slice is too short.
    fn multiply(self, block: IntBlock<'_, P::Row>, acc: &mut [f32]);

    /// The narrowest panel that holds `columns`, or the widest there is.
    fn width_for(columns: usize) -> usize {
        let widest = Self::WIDTHS[Self::WIDTHS.len() - 1];
        Self::WIDTHS.iter().copied().find(|&w| w >= columns).unwrap_or(widest)
    }
}

/// [`IntTile::spread`] in shifts that all vectors have: four codes are parted in pairs, and pairs in codes.
struct Spread<'a, P> {
    products: PhantomData<P>,
    digits: Digits,
    words: &'a [[u32; LANES]],
    panel: &'a mut [u32],
    stride: usize,
}

impl<P: Products> Work for Spread<'_, P> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { digits, words, panel, stride, .. } = self;
        let Digits { bits, step, zero } = digits;
        let steps_per_word = 32 / bits / P::DEPTH;
        let slot = 32 / P::DEPTH;
        // one in every slot, and in its top bit
        let ones = (0..P::DEPTH).fold(0u32, |ones, j| ones | 1 << (j * slot));
        let tops = ones << (slot - 1);
        let zeros = zero as u32 * ones;
        let code = u32::MAX >> (32 - bits);
        let pair = code << bits | code;
        // one code of each pair
        let keep = code * if P::DEPTH == 4 { 0x0001_0001 } else { 1 };
        for (i, panel) in panel.chunks_mut(stride).enumerate() {
            let words = &words[i / steps_per_word];
            let first = i % steps_per_word * P::DEPTH * bits;
            let panel: &mut [u32; LANES] = panel.first_chunk_mut().expect("a panel of whole vectors");
            for (out, word) in panel.iter_mut().zip(words) {
                let mut codes = word >> first;
                if P::DEPTH == 4 {
                    codes = codes & pair | (codes >> (2 * bits) & pair) << 16;
                }
                codes = codes & keep | (codes >> bits & keep) << slot;
                let spread = codes << step.trailing_zeros();
                // the top bit of a slot keeps a subtraction from borrowing from the next
                *out = if P::SIGNED { ((spread | tops) - zeros) ^ tops } else { spread };
            }
        }
    }
}

/// The tile for instruction sets without integer dot products of their own: plain loops, vectorised over columns.
#[inline(always)]
fn plain_multiply<P: Products, const MR: usize>(block: IntBlock<'_, P::Row>, acc: &mut [f32]) {
    block.checked_panels(MR, P::DEPTH, acc);
    let IntBlock { width, steps, .. } = block;
    let panels = block.panels.chunks_exact(block.panel_len());
    for (panel, acc) in panels.zip(acc.chunks_exact_mut(MR * width)) {
        let (digits, floats) = panel.split_at(steps * width);
        let (scales, biases) = bytemuck::must_cast_slice::<u32, f32>(floats).split_at(width);
        for (m, acc) in acc.chunks_exact_mut(width).enumerate() {
            let row = &block.rows[m * block.row_stride..][..steps * P::DEPTH];
            for (first, acc) in (0..width).step_by(LANES).zip(acc.chunks_exact_mut(LANES)) {
                let mut sums = [block.starts[m]; LANES];
                for (x, digits) in row.chunks_exact(P::DEPTH).zip(digits.chunks_exact(width)) {
                    for (sum, &digits) in sums.iter_mut().zip(&digits[first..]) {
                        for (j, &x) in x.iter().enumerate() {
                            *sum += P::product(x, digits, j);
                        }
                    }
                }
                for ((sum, acc), scale) in sums.iter().zip(&mut *acc).zip(&scales[first..]) {
                    *acc += *sum as f32 * (scale * block.row_scales[m]);
                }
                if block.biased {
                    let factor = block.row_sums[m] as f32 * block.row_scales[m];
                    for (acc, bias) in acc.iter_mut().zip(&biases[first..]) {
                        *acc += factor * bias;
                    }
                }
            }
        }
    }
}

macro_rules! plain_tile {
    ($token:ty) => {
        impl<P: Products> IntTile<P> for $token {
            const MR: usize = 4;
            const WIDTHS: &'static [usize] = &[16];

            fn multiply(self, block: IntBlock<'_, P::Row>, acc: &mut [f32]) {
                self.run(|| plain_multiply::<P, 4>(block, acc));
            }
        }
    };
}

plain_tile!(crate::isa::Portable);
