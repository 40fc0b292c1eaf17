use ndarray::ArrayViewMut2;

use super::panels::{AHEAD, Layout};
use super::rotation::{Rotation, Side, turned};
use super::softmax::{ROWS, SoftmaxStep};
use super::{KEYS, Mask};
use crate::Cpu;
use crate::aligned::{AlignedBuf, Element};
use crate::dot::{DEPTH, Dot, DotTile, MAX_MR, Number, PackRow};
use crate::error::Result;
use crate::prefetch::prefetch_all;

/// What one thread needs for a block of queries.
pub(super) struct Scratch<W: Element> {
    /// `[queries][words + padding]`
    queries: AlignedBuf<W>,
    /// Room for one query.
    head: Vec<f32>,
    /// For each query the inverse of its scale, times that of the scores.
    units: Vec<f32>,
    /// Scores of one block of keys, `[queries][KEYS]`.
    scores: AlignedBuf<f32>,
    /// What the scores become, `[queries][words]`.
    probabilities: AlignedBuf<W>,
    /// For each query, how its sums go on with a block.
    keep: Vec<f32>,
    probability_units: Vec<f32>,
    /// Unnormalised output, `[queries][value width]`.
    sums: AlignedBuf<f32>,
    maxima: Vec<f32>,
    totals: Vec<f32>,
}

/// Keeps rows whose length is a power of two out of the same cache sets.
const ROW_PADDING: usize = 16;

impl<W: Element> Scratch<W> {
    /// For so many queries, in whole tiles.
    pub(super) fn new(cpu: &Cpu, layout: &Layout, queries: usize, tile_rows: usize) -> Result<Self> {
        let queries = queries.next_multiple_of(tile_rows);
        Ok(Self {
            queries: cpu.buffer(queries * (layout.words + ROW_PADDING))?,
            head: vec![0.0; layout.dim],
            units: vec![0.0; queries],
            scores: cpu.buffer(queries * KEYS)?,
            probabilities: cpu.buffer(queries * layout.value_words)?,
            keep: vec![0.0; queries],
            probability_units: vec![1.0; queries],
            sums: cpu.buffer(queries * layout.value_width)?,
            maxima: vec![0.0; queries],
            totals: vec![0.0; queries],
        })
    }
}

/// A block of queries of one head.
pub(super) struct Queries<'a, 'r> {
    pub(super) layout: &'a Layout,
    pub(super) mask: Mask<'a>,
    pub(super) keys: usize,
    pub(super) first_query: usize,
    /// The token of the first query, whose angles it has.
    pub(super) first_token: usize,
    pub(super) rotation: Option<&'a Rotation<'r>>,
}

impl Queries<'_, '_> {
    /// `panels` and `units` hold all blocks of the head's keys and values.
    #[expect(clippy::too_many_arguments, reason = "operands, scratch and result")]
    pub(super) fn attend<'q, N: Number, T: DotTile<N>>(
        &self,
        cpu: &Cpu,
        t: T,
        query: impl Fn(usize) -> &'q [f32],
        panels: &[N::Word],
        units: &[f32],
        scratch: &mut Scratch<N::Word>,
        mut out: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        let layout = self.layout;
        let rows = out.nrows();
        // whole tiles; the rows beyond the last are zeros or left over, and nobody reads what becomes of them
        let padded = rows.next_multiple_of(T::MR);
        self.pack_queries(t, rows, query, scratch);
        scratch.maxima.fill(f32::NEG_INFINITY);
        scratch.totals.fill(0.0);
        let blocks = panels.chunks_exact(layout.block_len()).zip(units.chunks_exact(layout.units_len()));
        for (index, (block, units)) in blocks.enumerate() {
            cpu.check()?;
            let first_key = index * KEYS;
            if matches!(self.mask, Mask::Causal { .. }) && first_key >= self.first_query + rows {
                break;
            }
            let (keys, values) = block.split_at(KEYS * layout.words);
            let (key_units, value_units) = units.split_at(KEYS);
            self.scores(t, padded, first_key, keys, key_units, scratch);
            self.probabilities(t, rows, first_key, scratch);
            self.values(t, padded, values, value_units, scratch);
        }
        let sums = scratch.sums.chunks_exact(layout.value_width);
        for ((out, sums), &total) in out.rows_mut().into_iter().zip(sums).zip(&scratch.totals) {
            let out = out.into_slice().expect("rows of a matrix must be contiguous");
            let inverse = if total > 0.0 { 1.0 / total } else { total };
            t.run(|| out.iter_mut().zip(sums).for_each(|(o, s)| *o = s * inverse));
        }
        Ok(())
    }

    fn pack_queries<'q, N: Number, T: DotTile<N>>(
        &self,
        t: T,
        rows: usize,
        query: impl Fn(usize) -> &'q [f32],
        scratch: &mut Scratch<N::Word>,
    ) {
        let layout = self.layout;
        // scores are in base 2
        let of_scores = std::f32::consts::LOG2_E / (layout.dim as f32).sqrt();
        let words = scratch.queries.chunks_exact_mut(layout.words + ROW_PADDING);
        for (i, (words, unit)) in words.zip(&mut scratch.units).take(rows).enumerate() {
            if i + AHEAD < rows {
                prefetch_all(query(i + AHEAD));
            }
            let head = &mut scratch.head[..];
            let x = turned(t, self.rotation, Side::Query, self.first_token + i, query(i), head);
            let row = PackRow::<N, _> { token: t, x, out: &mut words[..layout.words] };
            *unit = t.work(row) * of_scores;
        }
    }

    /// Scores of all queries with one block of keys.
    fn scores<N: Number, T: DotTile<N>>(
        &self,
        t: T,
        rows: usize,
        first_key: usize,
        keys: &[N::Word],
        key_units: &[f32],
        scratch: &mut Scratch<N::Word>,
    ) {
        let layout = self.layout;
        let (width, stride) = (layout.key_width, layout.words + ROW_PADDING);
        let mut at = [0; MAX_MR];
        let panels = keys.chunks_exact(layout.words * width).zip(key_units.chunks_exact(width));
        for (i, (panel, column)) in panels.enumerate() {
            if first_key + i * width >= self.keys {
                break;
            }
            let parts = panel.chunks(DEPTH * width).enumerate();
            for (part, panel) in parts {
                let keep = [if part == 0 { 0.0 } else { 1.0 }; MAX_MR];
                let depth = panel.len() / width;
                for first in (0..rows).step_by(T::MR) {
                    for (m, at) in at.iter_mut().enumerate() {
                        *at = (first + m) * stride + part * DEPTH;
                    }
                    let dot = Dot {
                        width,
                        depth,
                        rows: &scratch.queries,
                        at: &at[..T::MR],
                        panel,
                        keep: &keep[..T::MR],
                        row: &scratch.units[first..first + T::MR],
                        column,
                    };
                    t.dot(dot, &mut scratch.scores[first * KEYS + i * width..], KEYS);
                }
            }
        }
    }

    /// Scores to probabilities.
    fn probabilities<N: Number, T: DotTile<N>>(
        &self,
        t: T,
        rows: usize,
        first_key: usize,
        scratch: &mut Scratch<N::Word>,
    ) {
        let words = self.layout.value_words;
        for first in (0..rows).step_by(ROWS) {
            let group = first..rows.min(first + ROWS);
            let scores = &mut scratch.scores[group.start * KEYS..group.end * KEYS];
            for (row, query) in scores.chunks_exact_mut(KEYS).zip(self.first_query + first..) {
                self.hide(row, query, first_key);
            }
            t.work(SoftmaxStep::<N, T> {
                token: t,
                scores,
                words: &mut scratch.probabilities[group.start * words..group.end * words],
                maxima: &mut scratch.maxima[group.clone()],
                totals: &mut scratch.totals[group.clone()],
                keep: &mut scratch.keep[group.clone()],
                units: &mut scratch.probability_units[group],
            });
        }
    }

    /// Scores of keys that query `query` does not see, and of those beyond the last key, become minus infinity.
    fn hide(&self, scores: &mut [f32], query: usize, first_key: usize) {
        if first_key + scores.len() > self.keys {
            scores[self.keys - first_key..].fill(f32::NEG_INFINITY);
        }
        if let Mask::Causal { keys } = self.mask {
            for (j, (score, &seen)) in scores.iter_mut().zip(&keys[first_key..]).enumerate() {
                if !seen || first_key + j > query {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Adds the block's values, weighed with the probabilities.
    fn values<N: Number, T: DotTile<N>>(
        &self,
        t: T,
        rows: usize,
        values: &[N::Word],
        value_units: &[f32],
        scratch: &mut Scratch<N::Word>,
    ) {
        let layout = self.layout;
        let depth = layout.value_words;
        let mut at = [0; MAX_MR];
        for &(width, channel) in &layout.strips {
            let panel = &values[depth * channel..][..depth * width];
            for first in (0..rows).step_by(T::MR) {
                for (m, at) in at.iter_mut().enumerate() {
                    *at = (first + m) * depth;
                }
                let dot = Dot {
                    width,
                    depth,
                    rows: &scratch.probabilities,
                    at: &at[..T::MR],
                    panel,
                    keep: &scratch.keep[first..first + T::MR],
                    row: &scratch.probability_units[first..first + T::MR],
                    column: &value_units[channel..channel + width],
                };
                t.dot(dot, &mut scratch.sums[first * layout.value_width + channel..], layout.value_width);
            }
        }
    }
}
