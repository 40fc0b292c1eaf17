use std::io::{self, Write};

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{FloatType, Scales, Weights as Matrix};

use super::{Item, floats};

const ALIGNMENT: usize = 32;

/// How a tensor is written.
enum Form<'a> {
    Plain(FloatType, SharedBytes),
    /// Rows as f32.
    F32(&'a Matrix),
    Q1_0(&'a Matrix),
    Q2_0(&'a Matrix),
    Q4_1(&'a Matrix),
}

impl<'a> Form<'a> {
    fn of(matrix: &'a Matrix) -> Self {
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
            _ => Self::F32(matrix),
        }
    }

    fn id(&self) -> u32 {
        match self {
            Self::Plain(FloatType::F16, _) => 1,
            Self::Plain(FloatType::Bf16, _) => 30,
            Self::Plain(FloatType::F32, _) | Self::F32(_) => 0,
            Self::Q1_0(_) => 41,
            Self::Q2_0(_) => 42,
            Self::Q4_1(_) => 3,
        }
    }

    fn len(&self) -> usize {
        let blocks = |m: &Matrix, block: usize, bytes: usize| m.rows() * m.cols() / block * bytes;
        match self {
            Self::Plain(_, bytes) => bytes.len(),
            Self::F32(m) => blocks(m, 1, 4),
            Self::Q1_0(m) => blocks(m, 128, 18),
            Self::Q2_0(m) => blocks(m, 64, 18),
            Self::Q4_1(m) => blocks(m, 32, 20),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Plain(_, bytes) => out.write_all(bytes.as_slice()),
            Self::F32(m) => (0..m.rows()).try_for_each(|row| {
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

/// Writes a GGUF file of version 3. There are no convolutions in it.
pub(super) fn write(
    out: &mut dyn Write,
    architecture: &str,
    prefix: &str,
    items: &[(String, Item)],
) -> io::Result<()> {
    let mut tensors = Vec::new();
    for (name, item) in items {
        tensors.push(match item {
            Item::Values(bytes, float_type, shape) => {
                (format!("{prefix}{name}"), shape.clone(), Form::Plain(*float_type, bytes.clone()))
            }
            Item::Matrix(matrix) => {
                let form = match matrix {
                    Matrix::Dense(dense) => Form::Plain(dense.float_type(), dense.stored()),
                    _ => Form::of(matrix),
                };
                (format!("{prefix}{name}.weight"), vec![matrix.rows(), matrix.cols()], form)
            }
            Item::Conv(_) => return Err(io::Error::other(format!("{name}: a convolution"))),
        });
    }
    let mut header = b"GGUF".to_vec();
    header.extend_from_slice(&3u32.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&1u64.to_le_bytes());
    text(&mut header, "general.architecture");
    header.extend_from_slice(&8u32.to_le_bytes());
    text(&mut header, architecture);
    let mut offset = 0;
    for (name, shape, form) in &tensors {
        text(&mut header, name);
        header.extend_from_slice(&(shape.len() as u32).to_le_bytes());
        // the contiguous axis comes first
        shape.iter().rev().for_each(|&n| header.extend_from_slice(&(n as u64).to_le_bytes()));
        header.extend_from_slice(&form.id().to_le_bytes());
        header.extend_from_slice(&(offset as u64).to_le_bytes());
        offset = (offset + form.len()).next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&header)?;
    for (_, _, form) in &tensors {
        form.write(out)?;
        let len = form.len();
        out.write_all(&vec![0; len.next_multiple_of(ALIGNMENT) - len])?;
    }
    Ok(())
}
