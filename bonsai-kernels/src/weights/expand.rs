//! Stored codes to a panel of f32 weights: what every kernel with f32 activations reads.

use std::ops::Range;

use super::codes::{CodeRows, word};

/// A kind of weights that can be laid out as f32 panels.
pub(crate) trait ExpandF32: Sync {
    /// Writes the weights of rows `first_row..first_row + W` and inputs `inputs` as `panel[input][row]`, rows beyond
    /// the last as zeros. `inputs.start` is a multiple of 32.
    fn expand<const W: usize>(&self, first_row: usize, inputs: Range<usize>, panel: &mut [f32]);
}

/// How codes of `BITS` bits become weights. `W` lanes are `W` neighbouring rows of the matrix.
pub(crate) trait Decode<const W: usize> {
    const BITS: u32;
    /// Called when the inputs of the next group begin.
    fn begin_group(&mut self, first_row: usize, group: usize);
    fn value(&self, code: u32, lane: usize) -> f32;
}

/// The loop that all kinds share: gather one word of each row, peel its codes off, one panel line each.
#[inline(always)]
pub(crate) fn expand_codes<const W: usize, D: Decode<W>>(
    codes: &CodeRows,
    group_size: usize,
    first_row: usize,
    inputs: Range<usize>,
    panel: &mut [f32],
    mut decode: D,
) {
    let per_word = (32 / D::BITS) as usize;
    let mask = if D::BITS == 32 { u32::MAX } else { (1u32 << D::BITS) - 1 };
    assert!(inputs.start.is_multiple_of(per_word) && panel.len() >= inputs.len() * W);
    let rows: [&[u8]; W] = std::array::from_fn(|lane| codes.row_bytes(first_row + lane));
    let mut words = [0u32; W];
    let (lines, _) = panel.as_chunks_mut::<W>();
    let mut group_left = 0;
    for (offset, line) in lines.iter_mut().take(inputs.len()).enumerate() {
        let input = inputs.start + offset;
        if group_left == 0 {
            decode.begin_group(first_row, input / group_size);
            group_left = group_size - input % group_size;
        }
        group_left -= 1;
        let within = input % per_word;
        if within == 0 {
            for (w, row) in words.iter_mut().zip(rows) {
                *w = word(row, input / per_word);
            }
        }
        let shift = within as u32 * D::BITS;
        for lane in 0..W {
            line[lane] = decode.value((words[lane] >> shift) & mask, lane);
        }
    }
}
