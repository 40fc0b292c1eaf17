use super::SizeError;
use super::half_float::{self, bf16_to_f32, f16_to_f32};
use crate::SharedBytes;
use crate::isa::{Token, Work};

/// Values that are read at once.
const LANES: usize = 16;

/// How a float is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
}

impl FloatType {
    /// `f16`, `bf16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Stored floats, times a power of two: one for each group of one matrix.
#[derive(Debug, Clone)]
pub struct Scales {
    bytes: SharedBytes,
    float_type: FloatType,
    multiplier: f32,
}

impl Scales {
    /// Little-endian floats as they stand in a file. `multiplier` is applied to each on reading; a power of two keeps
    /// it exact.
    pub fn new(bytes: SharedBytes, float_type: FloatType, multiplier: f32) -> Self {
        Self { bytes, float_type, multiplier }
    }

    /// f32 values.
    pub fn from_f32(values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(SharedBytes::from_vec(bytes), FloatType::F32, 1.0)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.float_type.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the values are stored.
    pub fn float_type(&self) -> FloatType {
        self.float_type
    }

    /// The values as they are stored, before they are multiplied.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn multiplier(&self) -> f32 {
        self.multiplier
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Value `index`.
    ///
    /// # Panics
    /// When there is none.
    #[inline(always)]
    pub fn get(&self, index: usize) -> f32 {
        let bytes = self.bytes.as_slice();
        let value = match self.float_type {
            FloatType::F16 => f16_to_f32(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).into()),
            FloatType::Bf16 => {
                bf16_to_f32(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).into())
            }
            FloatType::F32 => {
                let at = 4 * index;
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
        };
        value * self.multiplier
    }

    /// Values `first`, `first + stride`, .. as many as `out` holds.
    // one copy for each instruction set, not for each kernel and kind of weights
    #[inline(never)]
    pub(crate) fn gather<T: Token>(&self, t: T, first: usize, stride: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(LANES).enumerate() {
            // first all bits, one by one, then all values at once
            let (bits, count) = self.bits(first + i * LANES * stride, stride);
            let is_f16 = self.float_type == FloatType::F16;
            let values = t.work(Values { bits: &bits, is_f16, multiplier: self.multiplier });
            out.iter_mut().zip(&values[..count]).for_each(|(out, value)| *out = *value);
        }
    }

    /// The bits of values `first`, `first + stride`, .., those of a bf16 where a float has them, and how many there are of so many.
    #[inline(never)]
    fn bits(&self, first: usize, stride: usize) -> ([u32; LANES], usize) {
        let (bytes, mut bits, mut count) = (self.bytes.as_slice(), [0; LANES], 0);
        macro_rules! fill {
            ($values:expr, |$b:ident| $value:expr) => {{
                let there = $values.get(first..).unwrap_or(&[]).iter().step_by(stride.max(1));
                for (bits, $b) in bits.iter_mut().zip(there) {
                    *bits = $value;
                    count += 1;
                }
            }};
        }
        match self.float_type {
            FloatType::F16 => fill!(bytes.as_chunks::<2>().0, |b| u16::from_le_bytes(*b).into()),
            FloatType::Bf16 => fill!(bytes.as_chunks::<2>().0, |b| u32::from(u16::from_le_bytes(*b)) << 16),
            FloatType::F32 => fill!(bytes.as_chunks::<4>().0, |b| u32::from_le_bytes(*b)),
        }
        (bits, count)
    }

    /// Values `first`, `first + 1`, .. as many as `out` holds.
    #[inline(always)]
    pub(crate) fn copy_to(&self, first: usize, out: &mut [f32]) {
        let bytes = &self.bytes.as_slice()[first * self.float_type.size()..];
        let times = self.multiplier;
        match self.float_type {
            FloatType::F16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(out, b)| {
                *out = f16_to_f32(u16::from_le_bytes(*b).into()) * times;
            }),
            FloatType::Bf16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(out, b)| {
                *out = bf16_to_f32(u16::from_le_bytes(*b).into()) * times;
            }),
            FloatType::F32 => out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(out, b)| {
                *out = f32::from_le_bytes(*b) * times;
            }),
        }
    }

    /// All values in order.
    pub fn iter(&self) -> impl Iterator<Item = f32> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    pub(crate) fn is_finite(&self) -> bool {
        half_float::is_finite(self.bytes.as_slice(), self.float_type)
    }

    pub(crate) fn expect_len(&self, what: &'static str, values: usize) -> Result<(), SizeError> {
        let expected = values.saturating_mul(self.float_type.size());
        if self.bytes.len() == expected {
            Ok(())
        } else {
            Err(SizeError { what, expected, found: self.bytes.len() })
        }
    }

    pub(crate) fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let size = self.float_type.size();
        let bytes = self.bytes.slice(range.start * size..range.end * size);
        Self { bytes: bytes.expect("rows were checked against the matrix"), ..self.clone() }
    }
}
/// Floats from bits of f16 or f32.
struct Values<'a> {
    bits: &'a [u32; LANES],
    is_f16: bool,
    multiplier: f32,
}

impl Work for Values<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn work(self) -> Self::Output {
        let Self { bits, is_f16, multiplier } = self;
        let mut values = [0.0; LANES];
        if is_f16 {
            for i in 0..LANES {
                values[i] = f16_to_f32(bits[i]) * multiplier;
            }
        } else {
            for i in 0..LANES {
                values[i] = f32::from_bits(bits[i]) * multiplier;
            }
        }
        values
    }
}
