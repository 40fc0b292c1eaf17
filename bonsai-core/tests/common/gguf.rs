//! GGUF files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::{Tensor, Tensors};

const ALIGNMENT: usize = 64;

/// A type of blocks that random bytes fill well.
#[derive(Clone, Copy, PartialEq)]
pub struct Block {
    pub name: &'static str,
    id: u32,
    weights: usize,
    bytes: usize,
    /// Halves at these places, of about these sizes.
    halves: &'static [(usize, f32)],
}

pub const Q1_0: Block = block("Q1_0", 41, 128, 18, &[(0, 0.05)]);
/// Every type but those that are exact forms of binary and ternary weights.
pub const LOSSY: [Block; 12] = [
    block("Q2_K", 10, 256, 84, &[(80, 0.005), (82, 0.005)]),
    block("Q3_K", 11, 256, 110, &[(108, 0.001)]),
    block("Q4_K", 12, 256, 144, &[(0, 0.0002), (2, 0.002)]),
    block("Q5_K", 13, 256, 176, &[(0, 0.0001), (2, 0.002)]),
    block("Q6_K", 14, 256, 210, &[(208, 0.0001)]),
    block("Q4_0", 2, 32, 18, &[(0, 0.01)]),
    block("Q4_1", 3, 32, 20, &[(0, 0.01), (2, -0.08)]),
    block("Q5_0", 6, 32, 22, &[(0, 0.005)]),
    block("Q5_1", 7, 32, 24, &[(0, 0.005), (2, -0.08)]),
    block("Q8_0", 8, 32, 34, &[(0, 0.0005)]),
    block("TQ1_0", 34, 256, 54, &[(52, 0.03)]),
    block("TQ2_0", 35, 256, 66, &[(64, 0.03)]),
];

const fn block(
    name: &'static str,
    id: u32,
    weights: usize,
    bytes: usize,
    halves: &'static [(usize, f32)],
) -> Block {
    Block { name, id, weights, bytes, halves }
}

/// A tensor as the file holds it.
pub struct Stored {
    id: u32,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Random blocks of a matrix.
pub fn random(block: Block, shape: &[usize], seed: u64) -> Stored {
    let count = shape.iter().product::<usize>() / block.weights;
    let mut state = seed;
    let mut byte = || {
        // a splitmix generator
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes()[0]
    };
    let mut data = Vec::new();
    for _ in 0..count {
        let start = data.len();
        data.extend((0..block.bytes).map(|_| byte()));
        for &(at, size) in block.halves {
            let spread = 0.75 + f32::from(byte()) / 512.0;
            data[start + at..start + at + 2]
                .copy_from_slice(&half::f16::from_f32(size * spread).to_le_bytes());
        }
    }
    Stored { id: block.id, shape: shape.to_vec(), data }
}

/// The tensors as they are, or as exact binary blocks where `choose` says so.
pub fn blocks(
    tensors: &Tensors,
    choose: impl Fn(&str, &Tensor) -> Option<Block>,
) -> BTreeMap<String, Stored> {
    let stored = |tensor: &Tensor, block: Option<Block>| {
        let shape = tensor.shape.clone();
        if block == Some(Q1_0) {
            let mut data = Vec::new();
            for group in tensor.data.chunks_exact(256) {
                data.extend([group[0], group[1] & 0x7f]);
                for byte in group.chunks_exact(16) {
                    let bit = |(i, w): (usize, &[u8])| u8::from(w[1] >> 7 == 0) << i;
                    data.push(byte.chunks_exact(2).enumerate().map(bit).sum());
                }
            }
            return Stored { id: Q1_0.id, shape, data };
        }
        let id = match tensor.dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::BF16 => 30,
            other => panic!("{other:?}"),
        };
        Stored { id, shape, data: tensor.data.clone() }
    };
    tensors.iter().map(|(name, tensor)| (name.clone(), stored(tensor, choose(name, tensor)))).collect()
}

/// A matrix of MLX's ternary triplet as the blocks of files whose architecture is `bonsai-image`: 128 codes, then the
/// scale.
pub fn ternary_g128(codes: &Tensor, scales: &Tensor) -> Stored {
    let groups = codes.data.chunks_exact(32).zip(scales.data.chunks_exact(2));
    let data = groups.flat_map(|(codes, scale)| [codes, scale].concat()).collect();
    Stored { id: 42, shape: vec![scales.shape[0], scales.shape[1] * 128], data }
}

/// A value of a key.
pub enum Value {
    Text(&'static str),
    U32(u32),
    F32(f32),
    Texts(Vec<String>),
    Ints(Vec<i32>),
}

pub fn write(path: &Path, keys: &[(&str, Value)], tensors: &BTreeMap<String, Stored>) {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((keys.len() as u64 + 1).to_le_bytes());
    string(&mut head, "general.alignment");
    head.extend(4u32.to_le_bytes());
    head.extend((ALIGNMENT as u32).to_le_bytes());
    for (key, value) in keys {
        string(&mut head, key);
        match value {
            Value::Text(text) => {
                head.extend(8u32.to_le_bytes());
                string(&mut head, text);
            }
            Value::U32(value) => head.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Value::F32(value) => head.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Value::Texts(texts) => {
                head.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
                head.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| string(&mut head, text));
            }
            Value::Ints(values) => {
                head.extend([9u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
                head.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| head.extend(value.to_le_bytes()));
            }
        }
    }
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        string(&mut head, name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        // the contiguous axis first
        tensor.shape.iter().rev().for_each(|&n| head.extend((n as u64).to_le_bytes()));
        head.extend(tensor.id.to_le_bytes());
        head.extend((data.len() as u64).to_le_bytes());
        data.extend(&tensor.data);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    head.extend(data);
    std::fs::write(path, head).unwrap();
}
