use std::ops::Range;

use crate::dot::{Extent, MAX_WIDTH, Number};
use crate::isa::Work;
use crate::weights::{FloatType, SizeError, bf16_to_f32, f16_to_f32};

/// Weights of one convolution, reordered so that panels are read in sequence: blocks of up to 64 output channels, each
/// `[kernel * kernel, in_channels, block]`.
#[derive(Debug, Clone)]
pub struct ConvWeights {
    values: Vec<u8>,
    float_type: FloatType,
    bias: Vec<f32>,
    kernel: usize,
    in_channels: usize,
}

/// Output channels of one block.
pub(super) const BLOCK: usize = MAX_WIDTH;

impl ConvWeights {
    /// From a file's order `[out_channels, in_channels, kernel, kernel]`; `kernel` is 1 or 3.
    ///
    /// # Errors
    /// When `values` or `bias` have another length.
    pub fn new(
        out_channels: usize,
        in_channels: usize,
        kernel: usize,
        float_type: FloatType,
        values: &[u8],
        bias: Vec<f32>,
    ) -> Result<Self, SizeError> {
        assert!(matches!(kernel, 1 | 3), "a {kernel}x{kernel} convolution");
        assert_eq!(bias.len(), out_channels, "length of a convolution's bias");
        let (size, taps) = (float_type.size(), kernel * kernel);
        let expected = out_channels.saturating_mul(in_channels).saturating_mul(taps * size);
        SizeError::check("weights", expected, values.len())?;
        let mut reordered = vec![0u8; values.len()];
        let of_channel = in_channels * taps * size;
        let of_block = (BLOCK * of_channel).max(1);
        for (block, from) in reordered.chunks_mut(of_block).zip(values.chunks(of_block)) {
            match size {
                2 => reorder::<2>(block, from, in_channels, taps),
                _ => reorder::<4>(block, from, in_channels, taps),
            }
        }
        Ok(Self { values: reordered, float_type, bias, kernel, in_channels })
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.bias.len()
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// 1 or 3.
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.values.len()
    }

    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// The stored weights of `columns`, which lie in one block, for one input of one tap.
    #[inline(always)]
    fn stored(&self, columns: &Range<usize>, tap: usize, input: usize) -> &[u8] {
        let (size, taps) = (self.float_type.size(), self.kernel * self.kernel);
        let block = columns.start / BLOCK * BLOCK;
        let width = BLOCK.min(self.out_channels() - block);
        let line = (block * taps + (tap * width)) * self.in_channels + input * width;
        &self.values[(line + columns.start - block) * size..][..columns.len() * size]
    }

    /// The sum over some taps of the weights of `columns` for one input; zeros beyond the columns.
    #[inline(always)]
    fn line(&self, columns: &Range<usize>, taps: &[usize], input: usize, line: &mut [f32; BLOCK]) {
        *line = [0.0; BLOCK];
        for &tap in taps {
            let stored = self.stored(columns, tap, input);
            match self.float_type {
                FloatType::F32 => {
                    for (sum, b) in line.iter_mut().zip(stored.as_chunks::<4>().0) {
                        *sum += f32::from_le_bytes(*b);
                    }
                }
                FloatType::F16 => {
                    for (sum, b) in line.iter_mut().zip(stored.as_chunks::<2>().0) {
                        *sum += f16_to_f32(u16::from_le_bytes(*b).into());
                    }
                }
                FloatType::Bf16 => {
                    for (sum, b) in line.iter_mut().zip(stored.as_chunks::<2>().0) {
                        *sum += bf16_to_f32(u16::from_le_bytes(*b).into());
                    }
                }
            }
        }
    }

    pub(super) fn weight(&self, out: usize, input: usize, ky: usize, kx: usize) -> f32 {
        let stored = self.stored(&(out..out + 1), ky * self.kernel + kx, input);
        let code = stored.iter().rev().fold(0, |code, &b| code << 8 | u32::from(b));
        match self.float_type {
            FloatType::F32 => f32::from_bits(code),
            FloatType::F16 => f16_to_f32(code),
            FloatType::Bf16 => bf16_to_f32(code),
        }
    }
}

/// `[out, in, taps]` to `[taps, in, out]`, values of `SIZE` bytes.
fn reorder<const SIZE: usize>(to: &mut [u8], from: &[u8], in_channels: usize, taps: usize) {
    let (to, from) = (to.as_chunks_mut::<SIZE>().0, from.as_chunks::<SIZE>().0);
    let width = from.len() / (in_channels * taps).max(1);
    for input in 0..in_channels {
        for tap in 0..taps {
            let column = from[input * taps + tap..].iter().step_by(in_channels * taps);
            let line = &mut to[(tap * in_channels + input) * width..][..width];
            line.iter_mut().zip(column).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Lays out the summed taps of `columns`, which lie in one block, for `inputs` as `[words][width]`, each column
/// multiplied with its scale. Word `i` holds input `i`, and with two values in a word also input `words + i` of the
/// range.
pub(super) struct Panel<'a, N: Number> {
    pub(super) weights: &'a ConvWeights,
    pub(super) columns: Range<usize>,
    pub(super) taps: &'a [usize],
    pub(super) inputs: Range<usize>,
    /// `[width]`
    pub(super) scales: &'a [f32],
    pub(super) width: usize,
    pub(super) panel: &'a mut [N::Word],
}

impl<N: Number> Work for Panel<'_, N> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { weights, columns, taps, inputs, scales, width, panel } = self;
        let words = N::words(inputs.len());
        let (mut first, mut second) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (i, out) in panel.chunks_exact_mut(width).take(words).enumerate() {
            let inputs_of_word = [inputs.start + i, inputs.start + words + i];
            for (line, input) in [&mut first, &mut second].into_iter().zip(inputs_of_word).take(N::PER_WORD) {
                if input < inputs.end {
                    weights.line(&columns, taps, input, line);
                } else {
                    *line = [0.0; BLOCK];
                }
            }
            let lanes = out.iter_mut().zip(scales).zip(first.iter().zip(&second));
            for ((word, scale), (a, b)) in lanes {
                *word = N::word(a * scale, b * scale);
            }
        }
    }
}

/// Finds scales for the weights of `columns` and their inverses, from the largest of all blocks of inputs and sets of
/// taps.
pub(super) struct WeightScales<'a> {
    pub(super) weights: &'a ConvWeights,
    pub(super) columns: Range<usize>,
    /// Sets of taps that are summed.
    pub(super) taps: &'a [&'a [usize]],
    /// Inputs of one block.
    pub(super) block: usize,
    pub(super) scales: &'a mut [f32],
    pub(super) units: &'a mut [f32],
}

impl Work for WeightScales<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { weights, columns, taps, block, scales, units } = self;
        let mut extents = [Extent::default(); BLOCK];
        let mut line = [0.0; BLOCK];
        for taps in taps {
            for first in (0..weights.in_channels).step_by(block) {
                let (mut largest, mut squares) = ([0u32; BLOCK], [0.0f64; BLOCK]);
                for input in first..weights.in_channels.min(first + block) {
                    weights.line(&columns, taps, input, &mut line);
                    for (largest, v) in largest.iter_mut().zip(line) {
                        *largest = (*largest).max(v.to_bits() & 0x7fff_ffff);
                    }
                    for (squares, v) in squares.iter_mut().zip(line) {
                        *squares += f64::from(v) * f64::from(v);
                    }
                }
                for ((extent, largest), squares) in extents.iter_mut().zip(largest).zip(squares) {
                    *extent = extent.join(Extent { largest, squares });
                }
            }
        }
        for ((extent, scale), unit) in extents.iter().zip(scales).zip(units) {
            (*scale, *unit) = extent.scale();
        }
    }
}
