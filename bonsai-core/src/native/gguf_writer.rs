//! The container GGUF, and the types of ggml that hold our weights exactly.

use std::io::{self, Write};
use std::ops::Range;

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{FloatType, Scales, Weights as Matrix};

use super::gguf_names::Tensor;
use super::{Item, floats};

const ALIGNMENT: usize = 32;

/// A value beside the tensors.
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, id: u32| out.extend_from_slice(&id.to_le_bytes());
        let array = |out: &mut Vec<u8>, id: u32, len: usize| {
            kind(out, 9);
            kind(out, id);
            out.extend_from_slice(&(len as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => {
                kind(out, 4);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Self::F32(value) => {
                kind(out, 6);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Self::Text(value) => {
                kind(out, 8);
                text(out, value);
            }
            Self::Texts(values) => {
                array(out, 8, values.len());
                values.iter().for_each(|value| text(out, value));
            }
            Self::Ints(values) => {
                array(out, 5, values.len());
                values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
            }
        }
    }
}

/// How rows of an item are written.
enum Form<'a> {
    Plain(FloatType, SharedBytes),
    /// Rows as f32.
    F32(&'a Matrix, Range<usize>),
    Q1_0(&'a Matrix),
    Q2_0(&'a Matrix),
    Q4_1(&'a Matrix),
}

impl<'a> Form<'a> {
    fn of(item: &'a Item, rows: Range<usize>) -> io::Result<Self> {
        Ok(match item {
            Item::Matrix(Matrix::Dense(dense)) => {
                let row = dense.stored().len() / dense.rows().max(1);
                let part = dense.stored().slice(rows.start * row..rows.end * row);
                Self::Plain(
                    dense.float_type(),
                    part.ok_or_else(|| io::Error::other("rows outside a matrix"))?,
                )
            }
            Item::Matrix(matrix) if rows == (0..matrix.rows()) => Self::packed(matrix),
            Item::Matrix(matrix) => Self::F32(matrix, rows),
            // llama.cpp multiplies norms as f32
            Item::Values(bytes, float_type, _) => {
                let values = Scales::new(bytes.clone(), *float_type, 1.0);
                let bytes = values.iter().flat_map(f32::to_le_bytes).collect();
                Self::Plain(FloatType::F32, SharedBytes::from_vec(bytes))
            }
            Item::Conv(_) => return Err(io::Error::other("a convolution has no place in this file")),
        })
    }

    /// The parts of a tensor, all in one type.
    fn of_all(tensor: &Tensor<'a>) -> io::Result<Vec<Self>> {
        let forms: Vec<Self> = tensor
            .parts
            .iter()
            .map(|(item, rows)| Self::of(item, rows.clone()))
            .collect::<io::Result<_>>()?;
        if forms.windows(2).all(|pair| pair[0].id() == pair[1].id()) {
            return Ok(forms);
        }
        let f32 = |(item, rows): &(&'a Item, Range<usize>)| match item {
            Item::Matrix(matrix) => Ok(Self::F32(matrix, rows.clone())),
            _ => Err(io::Error::other("a vector among matrices")),
        };
        tensor.parts.iter().map(f32).collect()
    }

    fn packed(matrix: &'a Matrix) -> Self {
        let parts = matrix.parts();
        let exact = |scales: &Option<Scales>| {
            scales.as_ref().is_some_and(|s| s.iter().all(|v| floats::exact_f16(v).is_some()))
        };
        let whole = |block: usize| {
            parts.group_size.is_multiple_of(block) && matrix.cols().is_multiple_of(parts.group_size)
        };
        match matrix {
            Matrix::Binary(_) if whole(128) && exact(&parts.scales) => Self::Q1_0(matrix),
            Matrix::Ternary(_) if whole(64) && exact(&parts.scales) => Self::Q2_0(matrix),
            Matrix::Int4(_) if whole(32) && exact(&parts.scales) && exact(&parts.biases) => {
                Self::Q4_1(matrix)
            }
            _ => Self::F32(matrix, 0..matrix.rows()),
        }
    }

    fn id(&self) -> u32 {
        match self {
            Self::Plain(FloatType::F16, _) => 1,
            Self::Plain(FloatType::Bf16, _) => 30,
            Self::Plain(FloatType::F32, _) | Self::F32(..) => 0,
            Self::Q1_0(_) => 41,
            Self::Q2_0(_) => 42,
            Self::Q4_1(_) => 3,
        }
    }

    fn len(&self) -> usize {
        let blocks = |m: &Matrix, block: usize, bytes: usize| m.rows() * m.cols() / block * bytes;
        match self {
            Self::Plain(_, bytes) => bytes.len(),
            Self::F32(m, rows) => rows.len() * m.cols() * 4,
            Self::Q1_0(m) => blocks(m, 128, 18),
            Self::Q2_0(m) => blocks(m, 64, 18),
            Self::Q4_1(m) => blocks(m, 32, 20),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Plain(_, bytes) => out.write_all(bytes.as_slice()),
            Self::F32(m, rows) => rows.clone().try_for_each(|row| {
                let row: Vec<u8> = m.row(row).iter().flat_map(|v| v.to_le_bytes()).collect();
                out.write_all(&row)
            }),
            Self::Q1_0(m) => blocks(m, 128, 1, out, &|codes, block| block.extend_from_slice(codes)),
            Self::Q2_0(m) => blocks(m, 64, 2, out, &|codes, block| block.extend_from_slice(codes)),
            // ggml pairs the first half of a block with the second
            Self::Q4_1(m) => blocks(m, 32, 4, out, &|codes, block| {
                let nibble = |i: usize| codes[i / 2] >> (4 * (i % 2)) & 15;
                block.extend((0..16).map(|i| nibble(i) | nibble(i + 16) << 4));
            }),
        }
    }
}

/// Writes blocks of `size` weights: the scale of their group, its bias where there is one, then the codes.
fn blocks(
    matrix: &Matrix,
    size: usize,
    bits: usize,
    out: &mut dyn Write,
    pack: &dyn Fn(&[u8], &mut Vec<u8>),
) -> io::Result<()> {
    let parts = matrix.parts();
    let scales = parts.scales.ok_or_else(|| io::Error::other("a matrix without scales"))?;
    let half =
        |scales: &Scales, group: usize| floats::exact_f16(scales.get(group)).unwrap_or(0).to_le_bytes();
    let mut row = Vec::new();
    let per_row = matrix.cols() / size;
    for (i, codes) in parts.codes.as_slice().chunks_exact(size * bits / 8).enumerate() {
        let group = i * size / parts.group_size;
        row.extend_from_slice(&half(&scales, group));
        if let Some(biases) = &parts.biases {
            row.extend_from_slice(&half(biases, group));
        }
        pack(codes, &mut row);
        if (i + 1).is_multiple_of(per_row) {
            out.write_all(&row)?;
            row.clear();
        }
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Shape of a tensor, outermost axis first.
fn shape(tensor: &Tensor<'_>) -> Vec<usize> {
    let rows = tensor.parts.iter().map(|(_, rows)| rows.len()).sum();
    match tensor.parts.first() {
        Some((Item::Matrix(matrix), _)) => vec![rows, matrix.cols()],
        Some((Item::Values(_, _, shape), _)) => shape.clone(),
        _ => vec![rows],
    }
}

/// Writes a GGUF file of version 3.
pub(super) fn write(
    out: &mut dyn Write,
    architecture: &str,
    keys: &[(String, Value)],
    tensors: &[Tensor<'_>],
) -> io::Result<()> {
    let forms: Vec<Vec<Form<'_>>> = tensors.iter().map(Form::of_all).collect::<io::Result<_>>()?;
    let len = |forms: &[Form<'_>]| forms.iter().map(Form::len).sum::<usize>();
    let mut header = b"GGUF".to_vec();
    header.extend_from_slice(&3u32.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(keys.len() as u64 + 1).to_le_bytes());
    text(&mut header, "general.architecture");
    Value::Text(architecture.to_owned()).write(&mut header);
    for (key, value) in keys {
        text(&mut header, key);
        value.write(&mut header);
    }
    let mut offset = 0;
    for (tensor, forms) in tensors.iter().zip(&forms) {
        let shape = shape(tensor);
        text(&mut header, &tensor.name);
        header.extend_from_slice(&(shape.len() as u32).to_le_bytes());
        // the contiguous axis comes first
        shape.iter().rev().for_each(|&n| header.extend_from_slice(&(n as u64).to_le_bytes()));
        header.extend_from_slice(&forms.first().map_or(0, Form::id).to_le_bytes());
        header.extend_from_slice(&(offset as u64).to_le_bytes());
        offset = (offset + len(forms)).next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&header)?;
    for forms in &forms {
        forms.iter().try_for_each(|form| form.write(out))?;
        let len = len(forms);
        out.write_all(&vec![0; len.next_multiple_of(ALIGNMENT) - len])?;
    }
    Ok(())
}
