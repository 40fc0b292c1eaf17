//! The tile for CPUs without a kernel of their own: 128-bit vectors of the `wide` crate, which every target has.

use wide::f32x4;

use crate::dot::{Dot, DotTile, F32};
use crate::isa::Portable;
use crate::tile::{F32Tile, check_tile};

const MR: usize = 4;
const WIDTH: usize = 8;

impl F32Tile for Portable {
    const MR: usize = MR;
    const WIDTHS: &'static [usize] = &[WIDTH];

    fn tile(
        self,
        width: usize,
        depth: usize,
        rows: &[f32],
        row_stride: usize,
        panel: &[f32],
        acc: &mut [f32],
    ) {
        assert_eq!(width, WIDTH);
        check_tile(MR, WIDTH, depth, rows, row_stride, panel, acc);
        let mut sums = [[f32x4::ZERO; 2]; MR];
        let lanes: [&[f32]; MR] = std::array::from_fn(|m| &rows[m * row_stride..][..depth]);
        let (lines, _) = panel.as_chunks::<WIDTH>();
        for (k, line) in lines.iter().take(depth).enumerate() {
            let [a, b, c, d, e, f, g, h] = *line;
            let weights = [f32x4::new([a, b, c, d]), f32x4::new([e, f, g, h])];
            for (sums, row) in sums.iter_mut().zip(lanes) {
                let x = f32x4::splat(row[k]);
                sums[0] = x.mul_add(weights[0], sums[0]);
                sums[1] = x.mul_add(weights[1], sums[1]);
            }
        }
        let (acc, _) = acc.as_chunks_mut::<WIDTH>();
        for (acc, [low, high]) in acc.iter_mut().zip(sums) {
            let values = [low.to_array(), high.to_array()];
            for (a, v) in acc.iter_mut().zip(values.as_flattened()) {
                *a += v;
            }
        }
    }
}

impl DotTile<F32> for Portable {
    const MR: usize = MR;
    const WIDTHS: &'static [usize] = &[WIDTH];

    fn dot(self, dot: Dot<'_, f32>, sums: &mut [f32], stride: usize) {
        assert_eq!(dot.width, WIDTH);
        dot.check(MR, sums, stride);
        let mut acc = [[f32x4::ZERO; 2]; MR];
        let rows: [&[f32]; MR] = std::array::from_fn(|m| &dot.rows[dot.at[m]..][..dot.depth]);
        let (lines, _) = dot.panel.as_chunks::<WIDTH>();
        for (k, line) in lines.iter().take(dot.depth).enumerate() {
            let [a, b, c, d, e, f, g, h] = *line;
            let weights = [f32x4::new([a, b, c, d]), f32x4::new([e, f, g, h])];
            for (acc, row) in acc.iter_mut().zip(rows) {
                let x = f32x4::splat(row[k]);
                acc[0] = x.mul_add(weights[0], acc[0]);
                acc[1] = x.mul_add(weights[1], acc[1]);
            }
        }
        for (m, [low, high]) in acc.iter().enumerate() {
            let sums = &mut sums[m * stride..][..WIDTH];
            let values = [low.to_array(), high.to_array()];
            for ((sum, v), column) in sums.iter_mut().zip(values.as_flattened()).zip(dot.column) {
                let kept = if dot.keep[m] == 0.0 { 0.0 } else { dot.keep[m] * *sum };
                *sum = kept + v * (dot.row[m] * column);
            }
        }
    }
}
