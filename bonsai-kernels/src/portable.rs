//! The tile for CPUs without a kernel of their own: 128-bit vectors of the `wide` crate, which every target has.

use wide::f32x4;

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
