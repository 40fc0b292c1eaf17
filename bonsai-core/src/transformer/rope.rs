use ndarray::Array2;

use super::Flux2Config;

/// Position of a token on the axes (t, h, w, l).
pub type Position = [i32; 4];

/// Cosine and sine of every pair's angle, `[tokens, head_dim / 2]`.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Cosines.
    pub cos: Array2<f32>,
    /// Sines.
    pub sin: Array2<f32>,
}

impl Rope {
    /// Pair `j` of axis `a` turns by `position[a] * theta^(-2j / axis_dim)`; axes follow each other. Angles in f64.
    pub fn new<'a>(config: &Flux2Config, positions: impl Iterator<Item = &'a Position>) -> Self {
        let frequencies: Vec<(usize, f64)> = config
            .axes_dims_rope
            .iter()
            .enumerate()
            .flat_map(|(axis, &dim)| {
                (0..dim / 2).map(move |j| (axis, config.rope_theta.powf(-((2 * j) as f64) / dim as f64)))
            })
            .collect();
        let angles: Vec<f64> = positions
            .flat_map(|position| frequencies.iter().map(|&(axis, f)| f64::from(position[axis]) * f))
            .collect();
        let pairs = frequencies.len().max(1);
        let angles =
            Array2::from_shape_vec((angles.len() / pairs, pairs), angles).expect("whole rows of angles");
        Self { cos: angles.mapv(|a| a.cos() as f32), sin: angles.mapv(|a| a.sin() as f32) }
    }
}

/// Positions of prompt tokens: (0, 0, 0, index).
pub fn text_positions(tokens: usize) -> Vec<Position> {
    (0..tokens as i32).map(|i| [0, 0, 0, i]).collect()
}

/// Positions of a grid of image tokens: (t, row, column, 0). Latents have `t = 0`, reference image `r` has `10 + 10 r`.
pub fn image_positions(t: i32, height: usize, width: usize) -> Vec<Position> {
    (0..height as i32).flat_map(|h| (0..width as i32).map(move |w| [t, h, w, 0])).collect()
}
