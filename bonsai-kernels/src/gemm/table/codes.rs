use std::marker::PhantomData;

use super::super::rows::BLOCK;
use super::{Scratch, TableNumber, padded};
use crate::isa::Work;
use crate::table::{Alphabet, Lanes, Signs, TableTile, Trits};
use crate::weights::{BinaryWeights, TernaryWeights};

/// Weights whose codes pick entries of tables.
pub(crate) trait TableWeights: Sync {
    type Alphabet: Alphabet;
    fn rows(&self) -> usize;
    fn cols(&self) -> usize;
    fn group_size(&self) -> usize;
    fn row_codes(&self, row: usize) -> &[u8];
    /// The scales of all groups of a row.
    fn copy_scales(&self, row: usize, out: &mut [f32]);
}

macro_rules! table_weights {
    ($weights:ty, $alphabet:ty) => {
        impl TableWeights for $weights {
            type Alphabet = $alphabet;
            fn rows(&self) -> usize {
                self.rows()
            }
            fn cols(&self) -> usize {
                self.cols()
            }
            fn group_size(&self) -> usize {
                self.group_size()
            }
            #[inline(always)]
            fn row_codes(&self, row: usize) -> &[u8] {
                self.row_codes(row)
            }
            #[inline(always)]
            fn copy_scales(&self, row: usize, out: &mut [f32]) {
                self.copy_scales(row, 0, out);
            }
        }
    };
}

table_weights!(BinaryWeights, Signs);
table_weights!(TernaryWeights, Trits);

/// Lays out the words and the scales of the columns of a task, those of one pass or group side by side.
pub(super) struct LayOut<'a, T, N: TableNumber, W> {
    pub(super) tile: PhantomData<T>,
    pub(super) weights: &'a W,
    pub(super) first_column: usize,
    pub(super) scratch: &'a mut Scratch<N>,
}

impl<N: TableNumber, T: TableTile<N>, W: TableWeights> Work for LayOut<'_, T, N, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        // two cache lines of words, one of scales
        const COLUMNS: usize = 16;
        let Self { weights, first_column, scratch, .. } = self;
        let columns = scratch.columns;
        let passes = padded(weights.cols()) / W::Alphabet::INPUTS;
        let groups = weights.cols().div_ceil(weights.group_size());
        let of_rows = &mut scratch.row_scales[..COLUMNS * groups];
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let codes: [&[u8]; COLUMNS] =
                std::array::from_fn(|i| weights.row_codes(first_column + first + i.min(count - 1)));
            for (pass, words) in scratch.words.chunks_exact_mut(columns).take(passes).enumerate() {
                for (word, codes) in words[first..first + count].iter_mut().zip(codes) {
                    *word = W::Alphabet::word(stored_word(codes, pass));
                }
            }
            for (i, scales) in of_rows.chunks_exact_mut(groups).take(count).enumerate() {
                weights.copy_scales(first_column + first + i, scales);
            }
            for (group, scales) in scratch.scales.chunks_exact_mut(columns).take(groups).enumerate() {
                for (scale, of_row) in
                    scales[first..first + count].iter_mut().zip(of_rows.chunks_exact(groups))
                {
                    *scale = of_row[group] * <T::Lanes as Lanes>::SCALE;
                }
            }
        }
    }
}

/// Little-endian word `index` of a row; bytes beyond its end read as 0.
#[inline(always)]
fn stored_word(codes: &[u8], index: usize) -> u64 {
    match codes.get(8 * index..8 * index + 8).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => {
            let tail = codes.get(8 * index..).unwrap_or(&[]);
            tail.iter().enumerate().fold(0, |word, (i, &b)| word | u64::from(b) << (8 * i))
        }
    }
}

const _: () = assert!(BLOCK.is_multiple_of(Signs::INPUTS) && BLOCK.is_multiple_of(Trits::INPUTS));
