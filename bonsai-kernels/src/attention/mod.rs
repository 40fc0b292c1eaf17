//! Attention with a streaming softmax: no score matrix, memory grows with the tokens and not with their square.

mod panels;
mod rotation;
mod softmax;
mod stream;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use crate::Cpu;
use crate::dot::{DotPrecision, DotTile, Number, fastest, with_dots};
use crate::error::Result;
use crate::rows::row_of;
use panels::{Layout, Panels, Source, pack_block};
pub use rotation::{HeadNorms, Rotation};
use stream::{Queries, Scratch};

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

/// Keys of one block.
const KEYS: usize = 256;
/// Bytes that the panels of those heads should take that are laid out at one time.
const PANEL_BYTES: usize = 8 << 20;
/// The most queries of one task, and the fewest but for the last.
const QUERIES_PER_TASK: usize = 192;
const MIN_QUERIES_PER_TASK: usize = 24;
/// What a task does besides, keys and values that come from memory among it, takes as long as so many queries.
const BESIDE_QUERIES: usize = 8;

/// Queries of one task, such that all threads are done the soonest with so many of each of some heads.
fn queries_per_task(tile_rows: usize, heads: usize, queries: usize, threads: usize) -> usize {
    let time =
        |&of_task: &usize| (heads * queries.div_ceil(of_task)).div_ceil(threads) * (of_task + BESIDE_QUERIES);
    let sizes = (MIN_QUERIES_PER_TASK..=QUERIES_PER_TASK).rev().filter(|size| size.is_multiple_of(tile_rows));
    sizes.min_by_key(time).unwrap_or(tile_rows)
}

/// `out = softmax(q k^T / sqrt(dim) + mask) v` for each head.
///
/// `q`, `out`: `[queries, query * dim]`; `k`, `v`: `[keys, key_value * dim]`; rows are contiguous. Factors are held as
/// [`DotPrecision::chosen`] says.
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
    attention_in(cpu, DotPrecision::chosen(cpu), q, k, v, heads, mask, None, out)
}

/// [`attention`] of queries and keys as `rotation` turns them while they are read; `q` and `k` stay what they are. With fewer queries
/// than keys, which a causal mask does not allow, queries are those of the last tokens.
///
/// # Errors
/// As [`attention`].
///
/// # Panics
/// When the shapes don't fit.
#[expect(clippy::too_many_arguments, reason = "the arguments of `attention` and the rotation")]
pub fn attention_rotated(
    cpu: &Cpu,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
    heads: Heads,
    mask: Mask<'_>,
    rotation: &Rotation<'_>,
    out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    attention_in(cpu, DotPrecision::chosen(cpu), q, k, v, heads, mask, Some(rotation), out)
}

/// [`attention`], rotated or not, in this precision, or in f32 where the instruction set has no such dot products.
///
/// # Errors
/// As [`attention`].
///
/// # Panics
/// When the shapes don't fit.
#[expect(clippy::too_many_arguments, reason = "the arguments of `attention_rotated` and the precision")]
pub fn attention_in(
    cpu: &Cpu,
    precision: DotPrecision,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
    heads: Heads,
    mask: Mask<'_>,
    rotation: Option<&Rotation<'_>>,
    out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    let Heads { query, key_value, dim } = heads;
    assert!(key_value > 0 && dim > 0 && query.is_multiple_of(key_value), "heads {heads:?}");
    assert!(dim < 1 << 16, "heads {heads:?}");
    assert!(q.ncols() == query * dim && out.dim() == q.dim(), "shape of the queries");
    assert!(k.ncols() == key_value * dim && v.dim() == k.dim(), "shape of keys and values");
    if let Mask::Causal { keys } = mask {
        assert_eq!(keys.len(), k.nrows(), "length of a key mask");
    }
    if let Some(rotation) = rotation {
        rotation.check(q.nrows(), k.nrows(), heads);
        assert!(
            matches!(mask, Mask::None) || q.nrows() == k.nrows(),
            "a causal mask sees the tokens of all queries"
        );
    }
    let isa = fastest(cpu, precision, 2 * q.len() * k.nrows());
    with_dots!(isa, precision, |t, N| attend::<N, _>(cpu, t, q, k, v, heads, mask, rotation, out))
}

#[expect(clippy::too_many_arguments, reason = "the arguments of `attention_rotated` and the token")]
fn attend<N: Number, T: DotTile<N>>(
    cpu: &Cpu,
    t: T,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
    heads: Heads,
    mask: Mask<'_>,
    rotation: Option<&Rotation<'_>>,
    mut out: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    let dim = heads.dim;
    let per_kv = heads.query / heads.key_value;
    let layout = Layout::new::<N, T>(dim);
    let keys = k.nrows();
    let blocks = keys.div_ceil(KEYS);
    let (head_len, units_len) = (blocks * layout.block_len(), blocks * layout.units_len());
    let at_once = (PANEL_BYTES / (4 * head_len.max(1))).clamp(1, heads.key_value);
    // as many each time
    let at_once = heads.key_value.div_ceil(heads.key_value.div_ceil(at_once));
    let mut panels =
        Panels::<N> { words: cpu.spare(at_once * head_len)?, units: cpu.buffer(at_once * units_len)? };
    let tokens_before = keys.saturating_sub(q.nrows());
    let queries_per_task = queries_per_task(T::MR, at_once * per_kv, q.nrows(), cpu.threads());
    for first_kv in (0..heads.key_value).step_by(at_once) {
        let kv_heads = at_once.min(heads.key_value - first_kv);
        let words = panels.words.chunks_mut(layout.block_len());
        let items = words.zip(panels.units.chunks_mut(layout.units_len()));
        cpu.for_each(
            items.take(kv_heads * blocks).enumerate().collect(),
            || Ok((cpu.buffer::<N::Word>(layout.key_width * layout.words)?, vec![0.0; dim])),
            |(rows, head), (index, (block, units))| {
                let (column, first) = ((first_kv + index / blocks) * dim, index % blocks * KEYS);
                let source = Source { k: &k, v: &v, column, first, rotation, rows, head };
                pack_block::<N, _>(t, &layout, source, block, units);
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
        let Panels { words, units } = &panels;
        cpu.for_each(
            tasks,
            || Scratch::new(cpu, &layout, queries_per_task, T::MR),
            |scratch, (h, first_query, out)| {
                let columns = (first_head + h) * dim..(first_head + h + 1) * dim;
                let query = |i: usize| &row_of(&q, first_query + i)[columns.clone()];
                let words = &words[h / per_kv * head_len..][..head_len];
                let units = &units[h / per_kv * units_len..][..units_len];
                let first_token = tokens_before + first_query;
                Queries { layout: &layout, mask, keys, first_query, first_token, rotation }
                    .attend(cpu, t, query, words, units, scratch, out)
            },
        )?;
    }
    Ok(())
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::ceiling::test_activations;
    use crate::dot::{Int16, Int16Bytes};

    /// Whatever `fastest` says: which of both it is does not show.
    #[test]
    fn tiles_make_the_bits_of_16_bit_dot_products() {
        let Some(Isa::Amx(t)) = Isa::available().pop() else { return };
        let cpu = Cpu::new(Isa::Amx(t));
        for (queries, keys, dim) in [(5, 9, 8), (70, 70, 128), (33, 515, 301), (7, 256, 512)] {
            let heads = Heads { query: 2, key_value: 1, dim };
            let q = test_activations(queries, 2 * dim);
            let (k, v) = (test_activations(keys, dim), test_activations(keys + 1, dim));
            let (q, k, v) = (q.view(), k.view(), v.slice(s![1.., ..]));
            let seen: Vec<bool> = (0..keys).map(|j| j % 5 > 0).collect();
            let masks = [Mask::None, Mask::Causal { keys: &seen }];
            for mask in &masks[..if queries == keys { 2 } else { 1 }] {
                let [mut tiles, mut vectors] = [(); 2].map(|()| ndarray::Array2::zeros(q.dim()));
                attend::<Int16Bytes, _>(&cpu, t, q, k, v, heads, *mask, None, tiles.view_mut()).unwrap();
                let t = t.lower().lower();
                attend::<Int16, _>(&cpu, t, q, k, v, heads, *mask, None, vectors.view_mut()).unwrap();
                assert_eq!(tiles, vectors, "{queries} queries, {keys} keys, {dim} channels");
            }
        }
    }
}

#[cfg(test)]
mod task_tests {
    use super::queries_per_task;
    use crate::busy::{USUAL_THREADS, busy, lengths};

    /// 24 heads at 256x256, 512x512 and 1024x1024 and with three pictures more: as many of them as have room at one time.
    #[test]
    fn up_to_64_threads_stay_busy() {
        for tile_rows in [6, 32] {
            for (queries, heads) in [(768, 12), (1536, 8), (4608, 3), (16896, 1)] {
                for threads in USUAL_THREADS {
                    let of_task = queries_per_task(tile_rows, heads, queries, threads);
                    let busy = busy((0..heads).flat_map(|_| lengths(queries, of_task)), threads);
                    assert!(busy > 0.75, "{threads} threads are busy for {busy:.2} with {queries} queries");
                }
            }
        }
    }
}
