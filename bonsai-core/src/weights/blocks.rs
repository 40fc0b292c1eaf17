//! Blocks of ggml's types to the kernels' weights. Every type is read exactly: its values are `scale * code + bias`
//! with products that f32 holds, so that one rounding remains where ggml itself rounds once.

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{
    BinaryWeights, FloatType, Int2Weights, Int4Weights, Int8Weights, Scales, SizeError, TernaryWeights,
    Weights, f16_to_f32,
};

use super::dtype::BlockType;
use super::quantized::PART_BYTES;

/// Codes, scales and biases of a matrix while its blocks are read.
#[derive(Default)]
struct Columns {
    /// One code a byte, in the order of the inputs.
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Columns {
    fn scale(&mut self, value: f32) {
        self.scales.extend_from_slice(&value.to_le_bytes());
    }

    fn bias(&mut self, value: f32) {
        self.biases.extend_from_slice(&value.to_le_bytes());
    }
}

/// What codes become.
enum Form {
    /// 0 is `-scale`, 1 is `+scale`.
    Binary,
    /// `scale * (code - 1)`.
    Ternary,
    /// `scale * (code - 2^n)`, by the multiplier of the bias.
    Centred(f32),
    /// `scale * code + bias`.
    Affine,
}

/// How a type's blocks fall apart.
struct Layout {
    form: Form,
    /// Bits that hold every code: 1, 2, 4 or 8.
    bits: u32,
    /// Inputs of a scale.
    group: usize,
    float_type: FloatType,
    unpack: fn(&[u8], &mut Columns),
}

/// The weights of ggml blocks `[rows, cols]`; `None` for block types that are not read.
///
/// Codes of 1, 2 and 4 bits stay so wide, those of 3 take 4 bits and those of 5 and 6 take 8; scales of types with
/// sub-scales are written out as f32. `done` is called behind each [`PART_BYTES`] that were read.
pub fn from_blocks(
    rows: usize,
    cols: usize,
    block: BlockType,
    bytes: &[u8],
    done: &dyn Fn(),
) -> Option<Result<Weights, SizeError>> {
    let layout = layout(block)?;
    let per_byte = (8 / layout.bits) as usize;
    let mut codes = Vec::with_capacity(bytes.len() / block.bytes() * block.weights() / per_byte);
    let mut columns = Columns::default();
    let mut any_code_3 = false;
    for part in bytes.chunks(PART_BYTES / block.bytes() * block.bytes()) {
        for stored in part.chunks_exact(block.bytes()) {
            columns.codes.clear();
            (layout.unpack)(stored, &mut columns);
            any_code_3 |= columns.codes.contains(&3);
            let packed = columns
                .codes
                .chunks_exact(per_byte)
                .map(|few| few.iter().rev().fold(0, |byte: u8, code| byte.unbounded_shl(layout.bits) | code));
            codes.extend(packed);
        }
        done();
    }
    let Columns { mut scales, biases, .. } = columns;
    let mut group = layout.group;
    if matches!(block, BlockType::Q2_0) && cols.is_multiple_of(2 * group) && pairs_are_equal(&scales) {
        // a group of 128, as the released packs have it, was written as two
        scales = scales.as_chunks::<4>().0.iter().flat_map(|[a, b, _, _]| [*a, *b]).collect();
        group *= 2;
    }
    let (codes, scales) = (SharedBytes::from_vec(codes), SharedBytes::from_vec(scales));
    let scale = |multiplier| Scales::new(scales.clone(), layout.float_type, multiplier);
    let bias = match layout.form {
        Form::Binary => {
            return Some(BinaryWeights::new(rows, cols, group, codes, scale(1.0)).map(Weights::Binary));
        }
        Form::Ternary if !any_code_3 => {
            return Some(TernaryWeights::new(rows, cols, group, codes, scale(1.0)).map(Weights::Ternary));
        }
        // code 3 is twice the scale
        Form::Ternary => scale(-1.0),
        Form::Centred(centre) => scale(-centre),
        Form::Affine => Scales::new(SharedBytes::from_vec(biases), layout.float_type, 1.0),
    };
    Some(match layout.bits {
        2 => Int2Weights::new(rows, cols, group, codes, scale(1.0), bias).map(Weights::Int2),
        4 => Int4Weights::new(rows, cols, group, codes, scale(1.0), bias).map(Weights::Int4),
        _ => Int8Weights::new(rows, cols, group, codes, scale(1.0), bias).map(Weights::Int8),
    })
}

fn layout(block: BlockType) -> Option<Layout> {
    use FloatType::{F16, F32};
    use Form::{Affine, Binary, Centred, Ternary};
    let of = |form, bits, group, float_type, unpack| Some(Layout { form, bits, group, float_type, unpack });
    match block {
        BlockType::Q1_0 => of(Binary, 1, 128, F16, q1_0),
        BlockType::Q2_0 => of(Ternary, 2, 64, F16, q2_0),
        BlockType::TQ1_0 => of(Ternary, 2, 256, F16, tq1_0),
        BlockType::TQ2_0 => of(Ternary, 2, 256, F16, tq2_0),
        BlockType::TQ2_0_G128 => of(Ternary, 2, 128, F16, tq2_0_g128),
        BlockType::Q4_0 => of(Centred(8.0), 4, 32, F16, q4_0),
        BlockType::Q4_1 => of(Affine, 4, 32, F16, q4_1),
        BlockType::Q5_0 => of(Centred(16.0), 8, 32, F16, q5_0),
        BlockType::Q5_1 => of(Affine, 8, 32, F16, q5_1),
        BlockType::Q8_0 => of(Centred(128.0), 8, 32, F16, q8_0),
        BlockType::Q2_K => of(Affine, 2, 16, F32, q2_k),
        BlockType::Q3_K => of(Centred(4.0), 4, 16, F32, q3_k),
        BlockType::Q4_K => of(Affine, 4, 32, F32, q4_k),
        BlockType::Q5_K => of(Affine, 8, 32, F32, q5_k),
        BlockType::Q6_K => of(Centred(32.0), 8, 16, F32, q6_k),
        BlockType::IQ4_NL | BlockType::IQ4_XS | BlockType::MXFP4 | BlockType::NVFP4 => None,
    }
}

fn pairs_are_equal(halves: &[u8]) -> bool {
    let (pairs, rest) = halves.as_chunks::<4>();
    rest.is_empty() && pairs.iter().all(|[a, b, c, d]| a == c && b == d)
}

/// A stored half.
fn half(bytes: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]).into())
}

fn q1_0(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    to.codes.extend(b[2..].iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)));
}

/// Four codes of each byte, the lowest bits first.
fn pairs_of_bits(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().flat_map(|byte| (0..4).map(move |j| byte >> (2 * j) & 3))
}

fn q2_0(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    to.codes.extend(pairs_of_bits(&b[2..]));
}

fn tq2_0_g128(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[32..]);
    // here 3 is another 0
    to.codes.extend(pairs_of_bits(&b[..32]).map(|code| if code == 3 { 1 } else { code }));
}

fn tq1_0(b: &[u8], to: &mut Columns) {
    // digit `n` of a number below 3^5 that was scaled to fill the byte, the most significant first
    let trit = |byte: u8, n: u32| ((u16::from(byte.wrapping_mul(3u8.pow(n))) * 3) >> 8) as u8;
    for (bytes, digits) in [(&b[..32], 5), (&b[32..48], 5), (&b[48..52], 4)] {
        for n in 0..digits {
            to.codes.extend(bytes.iter().map(|&byte| trit(byte, n)));
        }
    }
    to.scales.extend_from_slice(&b[52..]);
}

fn tq2_0(b: &[u8], to: &mut Columns) {
    for bytes in b[..64].chunks_exact(32) {
        for l in 0..4 {
            to.codes.extend(bytes.iter().map(|byte| byte >> (2 * l) & 3));
        }
    }
    to.scales.extend_from_slice(&b[64..]);
}

/// The low halves of the bytes, then the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

fn q4_0(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    to.codes.extend(nibbles(&b[2..]));
}

fn q4_1(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    to.biases.extend_from_slice(&b[2..4]);
    to.codes.extend(nibbles(&b[4..]));
}

/// Nibbles with a fifth bit each.
fn five_bits<'a>(high: &[u8], low: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    nibbles(low).enumerate().map(move |(j, code)| code | ((high >> j & 1) as u8) << 4)
}

fn q5_0(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    to.codes.extend(five_bits(&b[2..6], &b[6..]));
}

fn q5_1(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    to.biases.extend_from_slice(&b[2..4]);
    to.codes.extend(five_bits(&b[4..8], &b[8..]));
}

fn q8_0(b: &[u8], to: &mut Columns) {
    to.scales.extend_from_slice(&b[..2]);
    // -128..=127 to 0..=255
    to.codes.extend(b[2..].iter().map(|q| q ^ 0x80));
}

/// Two bits of each byte of `qs`, in the order of the inputs: halves of 128, planes of 32.
fn planes(qs: &[u8]) -> impl Iterator<Item = u8> + '_ {
    qs.chunks_exact(32).flat_map(|half| (0..4).flat_map(move |j| half.iter().map(move |b| b >> (2 * j) & 3)))
}

fn q2_k(b: &[u8], to: &mut Columns) {
    let (d, dmin) = (half(&b[80..]), half(&b[82..]));
    for s in &b[..16] {
        to.scale(d * f32::from(s & 15));
        to.bias(-(dmin * f32::from(s >> 4)));
    }
    to.codes.extend(planes(&b[16..80]));
}

fn q3_k(b: &[u8], to: &mut Columns) {
    let (high, qs, sc, d) = (&b[..32], &b[32..96], &b[96..108], half(&b[108..]));
    for i in 0..16 {
        let low = if i < 8 { sc[i] & 15 } else { sc[i - 8] >> 4 };
        let scale = low | (sc[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
        to.scale(d * (f32::from(scale) - 32.0));
    }
    let third = |i: usize| high[i % 32] >> (i / 32) & 1;
    to.codes.extend(planes(qs).enumerate().map(|(i, code)| code | third(i) << 2));
}

/// Eight scales and minima of six bits each.
fn six_bit_pairs(sc: &[u8]) -> impl Iterator<Item = (u8, u8)> + '_ {
    (0..8).map(|i| {
        if i < 4 {
            (sc[i] & 63, sc[i + 4] & 63)
        } else {
            (sc[i + 4] & 15 | sc[i - 4] >> 6 << 4, sc[i + 4] >> 4 | sc[i] >> 6 << 4)
        }
    })
}

fn scales_and_minima(b: &[u8], to: &mut Columns) {
    let (d, dmin) = (half(b), half(&b[2..]));
    for (scale, minimum) in six_bit_pairs(&b[4..16]) {
        to.scale(d * f32::from(scale));
        to.bias(-(dmin * f32::from(minimum)));
    }
}

fn q4_k(b: &[u8], to: &mut Columns) {
    scales_and_minima(b, to);
    to.codes.extend(b[16..].chunks_exact(32).flat_map(nibbles));
}

fn q5_k(b: &[u8], to: &mut Columns) {
    scales_and_minima(b, to);
    let high = &b[16..48];
    let codes = b[48..].chunks_exact(32).flat_map(nibbles).enumerate();
    to.codes.extend(codes.map(|(i, code)| code | (high[i % 32] >> (i / 32) & 1) << 4));
}

fn q6_k(b: &[u8], to: &mut Columns) {
    let (low, high, sc, d) = (&b[..128], &b[128..192], &b[192..208], half(&b[208..]));
    for &s in sc {
        to.scale(d * f32::from(s as i8));
    }
    for (low, high) in low.chunks_exact(64).zip(high.chunks_exact(32)) {
        let codes = nibbles(low).enumerate();
        to.codes.extend(codes.map(|(i, code)| code | (high[i % 32] >> (2 * (i / 32)) & 3) << 4));
    }
}
