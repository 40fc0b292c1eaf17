//! Attention with a streaming softmax: no score matrix, memory grows with the tokens and not with their square.

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use crate::Cpu;
use crate::aligned::AlignedBuf;
use crate::error::Result;
use crate::isa::dispatch;
use crate::rows::row_of;
use crate::softmax::softmax_step;
use crate::tile::F32Tile;

/// Heads side by side in a row of queries, keys or values.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Heads of the queries.
    pub query: usize,
    /// Heads of keys and values; divides `query`. Query head `h` reads head `h * key_value / query`.
    pub key_value: usize,
    /// Channels of one head.
    pub dim: usize,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// All.
    None,
    /// Key `j` for query `i` when `j <= i` and `keys[j]`. A query that sees no key at all gets zeros.
    Causal {
        /// `[keys]`: false for padding.
        keys: &'a [bool],
    },
}

/// Heads of keys and values whose panels are laid out at one time.
const HEADS_AT_ONCE: usize = 4;
/// Queries of one task.
const QUERIES_PER_TASK: usize = 96;

/// `out = softmax(q k^T / sqrt(dim) + mask) v` for each head.
///
/// `q`, `out`: `[queries, query * dim]`; `k`, `v`: `[keys, key_value * dim]`; rows are contiguous.
///
/// # Errors
/// When a buffer can't be had, or the work was cancelled.
///
/// # Panics
/// When the shapes don't fit.
pub fn attention(
    cpu: &Cpu,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
    heads: Heads,
    mask: Mask<'_>,
    out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    let Heads { query, key_value, dim } = heads;
    assert!(key_value > 0 && dim > 0 && query.is_multiple_of(key_value), "heads {heads:?}");
    assert!(q.ncols() == query * dim && out.dim() == q.dim(), "shape of the queries");
    assert!(k.ncols() == key_value * dim && v.dim() == k.dim(), "shape of keys and values");
    if let Mask::Causal { keys } = mask {
        assert_eq!(keys.len(), k.nrows(), "length of a key mask");
    }
    dispatch!(cpu.isa(), t => attend(cpu, t, q, k, v, heads, mask, out))
}

#[expect(clippy::too_many_arguments, reason = "the arguments of `attention` and the token")]
fn attend<T: F32Tile>(
    cpu: &Cpu,
    t: T,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
    heads: Heads,
    mask: Mask<'_>,
    mut out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    let dim = heads.dim;
    let per_kv = heads.query / heads.key_value;
    let layout = PanelLayout::new::<T>(dim);
    let keys = k.nrows();
    let key_blocks = keys.div_ceil(layout.keys);
    let head_len = key_blocks * layout.block_len();
    let at_once = HEADS_AT_ONCE.min(heads.key_value);
    let queries_per_task = QUERIES_PER_TASK.next_multiple_of(T::MR);
    let mut panels: AlignedBuf<f32> = cpu.buffer(at_once * head_len)?;
    for first_kv in (0..heads.key_value).step_by(at_once) {
        let kv_heads = at_once.min(heads.key_value - first_kv);
        let blocks = panels.chunks_mut(layout.block_len()).take(kv_heads * key_blocks).enumerate().collect();
        cpu.for_each(
            blocks,
            || Ok(()),
            |(), (index, block)| {
                let columns =
                    (first_kv + index / key_blocks) * dim..(first_kv + index / key_blocks + 1) * dim;
                block.fill(0.0);
                let first_key = index % key_blocks * layout.keys;
                for (lane, key) in (first_key..keys.min(first_key + layout.keys)).enumerate() {
                    layout.store_key(block, lane, &row_of(&k, key)[columns.clone()]);
                    layout.store_value(block, lane, &row_of(&v, key)[columns.clone()]);
                }
                Ok(())
            },
        )?;
        let first_head = first_kv * per_kv;
        let columns = first_head * dim..(first_head + kv_heads * per_kv) * dim;
        let mut of_group = out.slice_mut(s![.., columns]);
        let mut tasks = Vec::new();
        for (h, head) in of_group.axis_chunks_iter_mut(Axis(1), dim).enumerate() {
            let (mut rest, mut first_query) = (head, 0);
            while rest.nrows() > 0 {
                let rows = queries_per_task.min(rest.nrows());
                let (part, left) = rest.split_at(Axis(0), rows);
                tasks.push((h, first_query, part));
                (rest, first_query) = (left, first_query + queries_per_task);
            }
        }
        let panels = &panels[..];
        cpu.for_each(
            tasks,
            || Scratch::new::<T>(cpu, &layout, queries_per_task),
            |scratch, (h, first_query, out)| {
                let columns = (first_head + h) * dim..(first_head + h + 1) * dim;
                let query = |i: usize| &row_of(&q, first_query + i)[columns.clone()];
                let panels = &panels[h / per_kv * head_len..][..head_len];
                Queries { layout: &layout, mask, keys, first_query }
                    .attend(cpu, t, query, panels, scratch, out)
            },
        )?;
    }
    Ok(())
}

/// Where keys and values of one block of keys stand: keys as `[dim][keys]`, then for each strip of value channels
/// `[keys][width]`.
#[derive(Debug)]
struct PanelLayout {
    dim: usize,
    /// Keys of one block.
    keys: usize,
    /// Width and first channel of each strip of values.
    strips: Vec<(usize, usize)>,
    /// Width of all strips.
    value_width: usize,
}

impl PanelLayout {
    fn new<T: F32Tile>(dim: usize) -> Self {
        let (mut strips, mut channel, mut value_width) = (Vec::new(), 0, 0);
        while channel < dim {
            let width = T::width_for(dim - channel);
            strips.push((width, channel));
            channel += width;
            value_width += width;
        }
        Self { dim, keys: T::width_for(usize::MAX), strips, value_width }
    }

    fn block_len(&self) -> usize {
        self.keys * (self.dim + self.value_width)
    }

    fn store_key(&self, block: &mut [f32], lane: usize, key: &[f32]) {
        for (line, &c) in block.chunks_exact_mut(self.keys).zip(key) {
            line[lane] = c;
        }
    }

    fn store_value(&self, block: &mut [f32], lane: usize, value: &[f32]) {
        for &(width, channel) in &self.strips {
            let used = width.min(self.dim - channel);
            let at = self.keys * (self.dim + channel) + lane * width;
            block[at..at + used].copy_from_slice(&value[channel..channel + used]);
        }
    }
}

/// What one thread needs for a block of queries.
struct Scratch {
    /// Scaled queries, `[queries, dim + padding]`.
    queries: AlignedBuf<f32>,
    /// Scores, then probabilities, of one tile `[MR, keys]`.
    scores: AlignedBuf<f32>,
    /// Unnormalised output by tiles: for each strip of values `[MR, width]`.
    sums: AlignedBuf<f32>,
    maxima: Vec<f32>,
    totals: Vec<f32>,
}

/// Keeps rows whose length is a power of two out of the same cache sets.
const ROW_PADDING: usize = 16;

impl Scratch {
    fn new<T: F32Tile>(cpu: &Cpu, layout: &PanelLayout, queries: usize) -> Result<Self> {
        Ok(Self {
            queries: cpu.buffer(queries * (layout.dim + ROW_PADDING))?,
            scores: cpu.buffer(T::MR * layout.keys)?,
            sums: cpu.buffer(queries * layout.value_width)?,
            maxima: vec![0.0; queries],
            totals: vec![0.0; queries],
        })
    }
}

/// A block of queries of one head.
struct Queries<'a> {
    layout: &'a PanelLayout,
    mask: Mask<'a>,
    keys: usize,
    first_query: usize,
}

impl Queries<'_> {
    fn attend<'q, T: F32Tile>(
        &self,
        cpu: &Cpu,
        t: T,
        query: impl Fn(usize) -> &'q [f32],
        panels: &[f32],
        scratch: &mut Scratch,
        mut out: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        let layout = self.layout;
        let row_stride = layout.dim + ROW_PADDING;
        let scale = 1.0 / (layout.dim as f32).sqrt();
        scratch.queries.fill(0.0);
        for (i, row) in scratch.queries.chunks_exact_mut(row_stride).take(out.nrows()).enumerate() {
            for (x, &q) in row.iter_mut().zip(query(i)) {
                *x = q * scale;
            }
        }
        scratch.sums.fill(0.0);
        scratch.maxima.fill(f32::NEG_INFINITY);
        scratch.totals.fill(0.0);
        let tiles = out.nrows().div_ceil(T::MR);
        for (index, block) in panels.chunks_exact(layout.block_len()).enumerate() {
            cpu.check()?;
            let first_key = index * layout.keys;
            if matches!(self.mask, Mask::Causal { .. }) && first_key >= self.first_query + out.nrows() {
                break;
            }
            let (keys, values) = block.split_at(layout.keys * layout.dim);
            for tile in 0..tiles {
                let scores = &mut scratch.scores[..];
                scores.fill(0.0);
                let rows = &scratch.queries[tile * T::MR * row_stride..];
                t.tile(layout.keys, layout.dim, rows, row_stride, keys, scores);
                let sums =
                    &mut scratch.sums[tile * T::MR * layout.value_width..][..T::MR * layout.value_width];
                for r in 0..T::MR {
                    let row = &mut scores[r * layout.keys..][..layout.keys];
                    let i = tile * T::MR + r;
                    self.hide(row, self.first_query + i, first_key);
                    let rescale =
                        t.run(|| softmax_step(t, row, &mut scratch.maxima[i], &mut scratch.totals[i]));
                    if rescale != 1.0 {
                        for &(width, channel) in &layout.strips {
                            let at = T::MR * channel + r * width;
                            sums[at..at + width].iter_mut().for_each(|s| *s *= rescale);
                        }
                    }
                }
                for &(width, channel) in &layout.strips {
                    let values = &values[layout.keys * channel..];
                    t.tile(width, layout.keys, scores, layout.keys, values, &mut sums[T::MR * channel..]);
                }
            }
        }
        for (i, mut out) in out.rows_mut().into_iter().enumerate() {
            let total = scratch.totals[i];
            let inverse = if total > 0.0 { 1.0 / total } else { total };
            let sums = &scratch.sums[i / T::MR * T::MR * layout.value_width..];
            for &(width, channel) in &layout.strips {
                let sums = &sums[T::MR * channel + i % T::MR * width..][..width];
                for (o, s) in out.iter_mut().skip(channel).zip(sums) {
                    *o = s * inverse;
                }
            }
        }
        Ok(())
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
}

/// The plain twin: the whole score matrix in f64.
pub fn reference(
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
    heads: Heads,
    mask: Mask<'_>,
) -> ndarray::Array2<f64> {
    let dim = heads.dim;
    let mut out = ndarray::Array2::zeros(q.dim());
    for head in 0..heads.query {
        let kv = head * heads.key_value / heads.query;
        for i in 0..q.nrows() {
            let seen = |j: usize| match mask {
                Mask::None => true,
                Mask::Causal { keys } => keys[j] && j <= i,
            };
            let score = |j: usize| -> f64 {
                let products =
                    (0..dim).map(|c| f64::from(q[[i, head * dim + c]]) * f64::from(k[[j, kv * dim + c]]));
                products.sum::<f64>() / (dim as f64).sqrt()
            };
            let scores: Vec<(usize, f64)> =
                (0..k.nrows()).filter(|&j| seen(j)).map(|j| (j, score(j))).collect();
            let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.1));
            let total: f64 = scores.iter().map(|s| (s.1 - max).exp()).sum();
            for c in 0..dim {
                let sum: f64 =
                    scores.iter().map(|s| (s.1 - max).exp() * f64::from(v[[s.0, kv * dim + c]])).sum();
                out[[i, head * dim + c]] = if scores.is_empty() { 0.0 } else { sum / total };
            }
        }
    }
    out
}
