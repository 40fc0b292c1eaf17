//! The buffers of each stage, counted as the code makes them.

use super::{Estimate, ModelSizes, Plan, Stage, StageEstimate};
use crate::request::Request;
use crate::transformer::Scratch;
use crate::vae;

/// The program itself, its threads and what is always there.
const PROGRAM: u64 = 11 << 20;
/// A token and its merge in the tokenizer's tables.
const TOKENIZER_ENTRY: u64 = 256;
/// What the system's allocator keeps of freed buffers, at most.
const RETAINED: u64 = 8 << 20;

/// f32 values.
fn floats(count: usize) -> u64 {
    4 * count as u64
}

/// Rows as the GEMM prepares them.
fn prepared(rows: usize, cols: usize) -> u64 {
    floats(rows * (cols.next_multiple_of(256) + 16))
}

impl ModelSizes {
    pub(super) fn estimate(
        &self,
        request: &Request,
        (width, height): (usize, usize),
        threads: usize,
        plan: Plan,
    ) -> Estimate {
        let text = request.max_sequence_length.unwrap_or(self.max_sequence_length);
        let taps = request.text_encoder_out_layers.as_ref().unwrap_or(&self.taps);
        let steps = request.steps.unwrap_or(self.steps);
        let base = PROGRAM + TOKENIZER_ENTRY * self.text_encoder.vocab_size as u64 + self.copied;
        let (encode, encode_macs) = self.text_encode(text, taps);
        let image = (width / 16) * (height / 16);
        let preview = self.preview((width, height), threads);
        let (denoise, mapped, denoise_macs) = self.denoise(text, image, steps, preview);
        let (decode, decode_macs) = self.decode(request, (width, height), threads, plan);
        let stage = |stage, mapped_bytes, activation_bytes, macs| StageEstimate {
            stage,
            peak_bytes: base + mapped_bytes + activation_bytes,
            mapped_bytes,
            activation_bytes,
            macs,
        };
        let stages = vec![
            stage(Stage::TextEncode, self.layer, encode, encode_macs),
            stage(Stage::Denoise, mapped, denoise, denoise_macs),
            stage(Stage::Decode, 0, decode + RETAINED, decode_macs),
        ];
        Estimate { width, height, steps, plan, base_bytes: base, stages }
    }

    /// Activations and multiply-accumulates.
    fn text_encode(&self, tokens: usize, taps: &[usize]) -> (u64, u64) {
        let c = &self.text_encoder;
        let (hidden, wide) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let buffers = hidden * (2 + taps.len()) + 2 * q + 2 * kv + 3 * wide;
        let bytes = floats(tokens * buffers) + prepared(tokens, hidden) + prepared(tokens, wide);
        let linears = hidden * (2 * q + 2 * kv + 3 * wide);
        let layers = taps.last().copied().unwrap_or(0);
        // half of the scores are masked
        (bytes, (layers * tokens * (linears + tokens * q)) as u64)
    }

    /// Buffers of a preview, which is painted between steps.
    fn preview(&self, (width, height): (usize, usize), threads: usize) -> u64 {
        let factor = 1 << (self.vae.block_out_channels.len() - 1);
        let bytes = |c| vae::tiny_decode_bytes(c, height / factor, width / factor, threads);
        self.preview_decoder.as_ref().map_or(0, bytes)
    }

    /// Activations, mapped weights at the peak, and multiply-accumulates without those of previews.
    fn denoise(&self, text: usize, image: usize, steps: usize, preview: u64) -> (u64, u64, u64) {
        let c = &self.transformer;
        let (hidden, mlp, tokens) = (c.hidden_size(), c.mlp_size(), text + image);
        let conditioning = floats(text * hidden + steps * 17 * hidden);
        let lift = floats(text * c.joint_attention_dim) + prepared(text, c.joint_attention_dim);
        let rows = Scratch::mlp_rows_of(tokens);
        let scratch = floats(Scratch::floats(c, tokens));
        let heads = c.num_attention_heads.min(4);
        let panels = floats(tokens.next_multiple_of(64) * heads * 2 * c.attention_head_dim);
        let widest = prepared(tokens, hidden).max(panels).max(prepared(rows, hidden + mlp));
        let angles = floats(tokens * c.attention_head_dim);
        let latents = floats(4 * image * c.in_channels);
        let condition = conditioning + lift + self.embedder;
        let blocks = conditioning + scratch + widest + angles + latents;
        let between = conditioning + scratch + latents + preview;
        let (bytes, mapped) = if condition.max(between) <= blocks + self.block {
            (blocks, self.block)
        } else if condition >= between {
            (conditioning + lift, self.embedder)
        } else {
            (between, 0)
        };
        let square = hidden * hidden;
        let double = tokens * (4 * square + 3 * hidden * mlp);
        let single = tokens * (hidden * (3 * hidden + 2 * mlp) + hidden * (hidden + mlp));
        let attention = 2 * tokens * tokens * hidden;
        let step = c.num_layers * (double + attention) + c.num_single_layers * (single + attention);
        let once = text * hidden * c.joint_attention_dim + steps * 17 * square;
        (bytes, mapped, (steps * step + once) as u64)
    }

    fn decode(
        &self,
        request: &Request,
        (width, height): (usize, usize),
        threads: usize,
        plan: Plan,
    ) -> (u64, u64) {
        let factor = 1 << (self.vae.block_out_channels.len() - 1);
        let picture = floats(3 * width * height) + (3 * width * height) as u64;
        let (h, w) = (height / factor, width / factor);
        let tile = self.vae.sample_size / factor;
        if request.vae_tiling && (h > tile || w > tile) {
            let (bytes, macs) = vae::decode_cost(&self.vae, h.min(tile), w.min(tile), threads, 0);
            // tiles overlap by a quarter in each direction; two rows of them are held, and what is kept
            let across = |side: usize| side.div_ceil((tile * 3 / 4).max(1)) as u64;
            return (bytes + 3 * picture, macs * across(h) * across(w));
        }
        let (bytes, macs) = vae::decode_cost(&self.vae, h, w, threads, plan.strips);
        // the picture in bytes is made when only the decoded one is left
        (bytes.max(picture), macs)
    }
}
