//! What a decode takes, counted as [`super::decoder`] and [`super::strips`] make their buffers.

use bonsai_kernels::{DotPrecision, conv2d};

use super::VaeConfig;
use super::strips::{BAND_BYTES, strip_rows};

/// Taps of a 3x3 convolution, and of each of the four that one over doubled pixels is made of.
const TAPS: usize = 9;
const FOLDED_TAPS: usize = 4;

/// The largest sum of buffers so far, and the work.
struct Cost {
    peak: u64,
    macs: u64,
    threads: usize,
    factors: DotPrecision,
}

/// Bytes of a feature map.
fn map(height: usize, width: usize, channels: usize) -> u64 {
    4 * (height * width * channels) as u64
}

impl Cost {
    fn hold(&mut self, bytes: u64) {
        self.peak = self.peak.max(bytes);
    }

    /// A 3x3 convolution to `[h, w]` pixels while `held` bytes of feature maps are there, its result among them.
    fn conv(&mut self, held: u64, inputs: usize, outputs: usize, (h, w): (usize, usize)) {
        self.buffers(held, TAPS, inputs, outputs, (h, w));
        self.work(TAPS, inputs, outputs, h * w);
    }

    /// The same of a picture whose pixels are doubled; `[h, w]` is the result.
    fn upsampling(&mut self, held: u64, channels: usize, (h, w): (usize, usize)) {
        // each computed pixel is four
        self.buffers(held, 4 * FOLDED_TAPS, channels, channels, (h / 2, w / 2));
        self.work(FOLDED_TAPS, channels, channels, h * w);
    }

    fn buffers(&mut self, held: u64, taps: usize, inputs: usize, outputs: usize, (h, w): (usize, usize)) {
        // as stored and as reordered, of 16 bits
        let weights = 2 * 2 * inputs * outputs * TAPS;
        let scratch = conv2d::scratch_bytes(self.factors, inputs, h, w) * self.threads;
        let panels = conv2d::panel_bytes(self.factors, inputs, outputs, taps);
        self.hold(held + (weights + scratch + panels) as u64);
    }

    fn work(&mut self, taps: usize, inputs: usize, outputs: usize, pixels: usize) {
        self.macs += (taps * inputs * outputs * pixels) as u64;
    }
}

/// Peak bytes of the buffers of a decode of a latent `[height, width]`, and its multiply-accumulates.
pub(crate) fn decode_cost(
    c: &VaeConfig,
    height: usize,
    width: usize,
    (threads, factors): (usize, DotPrecision),
    strips: usize,
) -> (u64, u64) {
    let channels: Vec<usize> = c.decoder_channels().iter().rev().copied().collect();
    let (mut h, mut w, mut of) = (height, width, channels[0]);
    let mut cost = Cost { peak: 0, macs: 0, threads, factors };
    let latent = map(h, w, c.latent_channels);
    let x = map(h, w, of);
    cost.conv(2 * latent + x, c.latent_channels, of, (h, w));
    for _ in 0..4 {
        cost.conv(2 * x, of, of, (h, w));
    }
    if c.mid_block_add_attention {
        let pixels = h * w;
        // x, norm, q, k, v; and first the rows that the linears read, then panels of keys and values
        cost.hold(5 * x + x.max(2 * x / 4 * factors.bytes() as u64));
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
                cost.conv(x + hidden + shortcut, of, out, (h, w));
            }
            if of != out {
                cost.macs += (of * out * h * w) as u64;
            }
            cost.conv(2 * hidden, out, out, (h, w));
            of = out;
        }
        if i + 1 < channels.len() {
            let low = map(h, w, of);
            (h, w) = (2 * h, 2 * w);
            if i + 1 + strips < channels.len() {
                cost.upsampling(low + map(h, w, of), of, (h, w));
            }
        }
    }
    cost.conv(map(h, w, of + c.out_channels), of, c.out_channels, (h, w));
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
    cost.upsampling(low + window, of, (h, w));
    cost.upsampling(held, of, (strip, w));
    // the second time the whole picture is made
    let rest = (h - strip) * w;
    cost.work(FOLDED_TAPS, of, of, rest);
    cost.conv(held, of, out, (strip, w));
    cost.work(TAPS, of, out, rest);
}

/// Blocks of each level of TAEF2's decoder, deepest first, and convolutions of a block.
const TINY_BLOCKS: [usize; 4] = [3, 3, 3, 1];
const TINY_BLOCK_CONVS: usize = 3;

/// The same of TAEF2, whose decoder has `channels` throughout.
pub(crate) fn tiny_decode_cost(
    channels: usize,
    c: &VaeConfig,
    height: usize,
    width: usize,
    (threads, factors): (usize, DotPrecision),
) -> (u64, u64) {
    let mut cost = Cost { peak: 0, macs: 0, threads, factors };
    let (mut h, mut w) = (height, width);
    let latent = map(h, w, c.latent_channels);
    cost.conv(2 * latent + map(h, w, channels), c.latent_channels, channels, (h, w));
    // a pool, and its norm, are four times as wide as its block
    cost.hold((1 + 4 + 4) * map(h, w, channels));
    for (level, blocks) in TINY_BLOCKS.into_iter().enumerate() {
        if level > 0 {
            let low = map(h, w, channels);
            (h, w) = (2 * h, 2 * w);
            cost.upsampling(low + map(h, w, channels), channels, (h, w));
        }
        for _ in 0..TINY_BLOCK_CONVS * blocks {
            cost.conv(3 * map(h, w, channels), channels, channels, (h, w));
        }
    }
    cost.conv(map(h, w, channels + c.out_channels), channels, c.out_channels, (h, w));
    (cost.peak, cost.macs)
}
