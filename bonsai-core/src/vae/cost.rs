//! What a decode takes, counted as [`super::decoder`] and [`super::strips`] make their buffers.

use bonsai_kernels::conv2d;

use super::VaeConfig;
use super::strips::{BAND_BYTES, strip_rows};

/// The largest sum of buffers so far, and the work.
#[derive(Default)]
struct Cost {
    peak: u64,
    macs: u64,
    threads: usize,
}

/// Bytes of a feature map.
fn map(height: usize, width: usize, channels: usize) -> u64 {
    4 * (height * width * channels) as u64
}

impl Cost {
    fn hold(&mut self, bytes: u64) {
        self.peak = self.peak.max(bytes);
    }

    /// A convolution while `held` bytes of feature maps are there, its result among them.
    fn conv(&mut self, held: u64, kernel: usize, inputs: usize, outputs: usize, (h, w): (usize, usize)) {
        let weights = inputs * outputs * kernel * kernel;
        self.macs += (weights * h * w) as u64;
        // as stored and as reordered
        let weights = 2 * 2 * weights as u64;
        let scratch = 4 * conv2d::scratch_floats(inputs, h, w) * self.threads;
        self.hold(held + weights + scratch as u64);
    }
}

/// Peak bytes of the buffers of a decode of a latent `[height, width]`, and its multiply-accumulates.
pub(crate) fn decode_cost(
    c: &VaeConfig,
    height: usize,
    width: usize,
    threads: usize,
    strips: usize,
) -> (u64, u64) {
    let channels: Vec<usize> = c.decoder_channels().iter().rev().copied().collect();
    let (mut h, mut w, mut of) = (height, width, channels[0]);
    let mut cost = Cost { threads, ..Cost::default() };
    let latent = map(h, w, c.latent_channels);
    let x = map(h, w, of);
    cost.conv(2 * latent + x, 3, c.latent_channels, of, (h, w));
    for _ in 0..4 {
        cost.conv(2 * x, 3, of, of, (h, w));
    }
    if c.mid_block_add_attention {
        // x, norm, q, k, v, and panels of keys and values
        cost.hold(7 * x);
        let pixels = h * w;
        cost.macs += (4 * pixels * of * of + 2 * pixels * pixels * of) as u64;
    }
    for (i, &out) in channels.iter().enumerate() {
        let fused = i > 0 && i + strips >= channels.len();
        for j in 0..=c.layers_per_block {
            let (x, hidden) = (map(h, w, of), map(h, w, out));
            let shortcut = if of == out { 0 } else { hidden };
            if fused && j == 0 {
                upsampled(&mut cost, h, w, of, out);
            } else {
                cost.conv(x + hidden + shortcut, 3, of, out, (h, w));
            }
            if of != out {
                cost.macs += (of * out * h * w) as u64;
            }
            cost.conv(2 * hidden, 3, out, out, (h, w));
            of = out;
        }
        if i + 1 < channels.len() {
            let low = map(h, w, of);
            (h, w) = (2 * h, 2 * w);
            if i + 1 + strips < channels.len() {
                cost.conv(low + map(h, w, of), 3, of, of, (h, w));
            }
        }
    }
    cost.conv(map(h, w, of + c.out_channels), 3, of, c.out_channels, (h, w));
    (cost.peak, cost.macs)
}

/// `ResnetBlock::forward_upsampled`, whose upsampled picture is `[h, w, of]`.
fn upsampled(cost: &mut Cost, h: usize, w: usize, of: usize, out: usize) {
    let low = map(h / 2, w / 2, of);
    let strip = strip_rows(w, of).min(h);
    let window = map(strip + 2, w, of);
    let input = map(strip / 2 + 2, w / 2, of);
    let band = if low > BAND_BYTES as u64 { (BAND_BYTES as u64).min(low) } else { low };
    let results = 2 * map(h, w, out);
    if low > BAND_BYTES as u64 {
        cost.hold(2 * low + window);
    }
    // bands leave as the results come
    let held = low.max(results + band) + window + input;
    cost.conv(low + window, 3, of, of, (h, w));
    cost.conv(held, 3, of, of, (strip, w));
    // the second time the whole picture is made
    cost.macs += (9 * of * of * (h - strip.min(h)) * w) as u64;
    cost.conv(held, 3, of, out, (strip, w));
    cost.macs += (9 * of * out * (h - strip.min(h)) * w) as u64;
}

/// Blocks of each level of TAEF2's decoder, deepest first, and convolutions of a block.
const TINY_BLOCKS: [usize; 4] = [3, 3, 3, 1];
const TINY_BLOCK_CONVS: usize = 3;

/// Peak bytes of the buffers as [`super::tiny`] decodes a latent `[height, width]`.
pub(crate) fn tiny_decode_bytes(c: &VaeConfig, height: usize, width: usize, threads: usize) -> u64 {
    let (mut h, mut w, of) = (height, width, c.decoder_channels()[0]);
    let mut cost = Cost { threads, ..Cost::default() };
    cost.conv(2 * map(h, w, c.latent_channels) + map(h, w, of), 3, c.latent_channels, of, (h, w));
    // a pool, and its norm, are four times as wide as its block
    cost.hold((1 + 4 + 4) * map(h, w, of));
    for (level, blocks) in TINY_BLOCKS.into_iter().enumerate() {
        if level > 0 {
            let low = map(h, w, of);
            (h, w) = (2 * h, 2 * w);
            cost.conv(low + map(h, w, of), 3, of, of, (h, w));
        }
        for _ in 0..TINY_BLOCK_CONVS * blocks {
            cost.conv(3 * map(h, w, of), 3, of, of, (h, w));
        }
    }
    cost.conv(map(h, w, of + c.out_channels), 3, of, c.out_channels, (h, w));
    cost.peak
}
