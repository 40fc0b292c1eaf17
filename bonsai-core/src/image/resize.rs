//! Lanczos resampling in the fixed-point arithmetic of Pillow, byte for byte.
//!
//! Reference images are resized before the model sees them, so another rounding would be another input.

use std::f64::consts::PI;

/// Fraction bits of a weight: 8 bits of a pixel, 2 of headroom and these fill an `i32`.
const FRACTION_BITS: u32 = 22;
/// Zero crossings of the filter to either side.
const LOBES: f64 = 3.0;

/// Resamples `rgb`, `[height, width, 3]`, from `[width, height]` to `[width, height]`; no side is 0.
pub(super) fn lanczos(rgb: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    // Each pass rounds to 8 bits, so their order matters: Pillow goes along the rows first.
    let rows = if from[0] == to[0] { rgb.to_vec() } else { resize_rows(rgb, from[0], to[0]) };
    if from[1] == to[1] { rows } else { resize_columns(&rows, 3 * to[0], from[1], to[1]) }
}

fn resize_rows(rgb: &[u8], from: usize, to: usize) -> Vec<u8> {
    let windows = windows(from, to);
    let mut out = Vec::with_capacity(rgb.len() / from * to);
    for row in rgb.chunks_exact(3 * from) {
        let pixels = row.as_chunks::<3>().0;
        for window in &windows {
            let mut sums = [0; 3];
            for (weight, pixel) in window.weights.iter().zip(&pixels[window.start..]) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(*sample);
                }
            }
            out.extend(sums.map(round));
        }
    }
    out
}

fn resize_columns(rgb: &[u8], row_bytes: usize, from: usize, to: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(row_bytes * to);
    let mut sums = vec![0; row_bytes];
    for window in windows(from, to) {
        sums.fill(0);
        let rows = rgb.chunks_exact(row_bytes).skip(window.start);
        for (weight, row) in window.weights.iter().zip(rows) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(*sample);
            }
        }
        out.extend(sums.iter().copied().map(round));
    }
    out
}

fn round(sum: i32) -> u8 {
    ((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS).clamp(0, 255) as u8
}

/// The samples that one output sample is made of.
struct Window {
    start: usize,
    /// Sum to one, in units of 2^-22.
    weights: Vec<i32>,
}

/// The window of every output sample of a line of `from` samples resized to `to`.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // Enlarging interpolates between neighbours; shrinking widens the filter so that it averages.
    let stretch = scale.max(1.0);
    let support = LOBES * stretch;
    let window = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        // The casts truncate, and a negative start becomes 0.
        let start = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (start..end).map(|x| filter((x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / total * f64::from(1 << FRACTION_BITS)).round() as i32;
        Window { start, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

/// The Lanczos filter: sinc(x) * sinc(x/3) within three lobes.
fn filter(x: f64) -> f64 {
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_cannot_overflow() {
        let limit = i64::from(i32::MAX) / 255 - 1;
        for from in 1..70 {
            for to in 1..70 {
                for window in windows(from, to) {
                    assert!(!window.weights.is_empty() && window.start + window.weights.len() <= from);
                    let sum: i32 = window.weights.iter().sum();
                    assert!((sum - (1 << FRACTION_BITS)).abs() <= window.weights.len() as i32);
                    let absolute: i64 = window.weights.iter().map(|w| i64::from(w.abs())).sum();
                    assert!(absolute < limit - (1 << 14), "{from} to {to}: {absolute}");
                }
            }
        }
    }

    #[test]
    fn flat_pictures_stay_flat() {
        for value in [0, 1, 128, 255] {
            assert!(lanczos(&[value; 3 * 7 * 5], [7, 5], [16, 3]).iter().all(|x| *x == value));
        }
    }
}
