//! The buffers of each stage, counted as the code makes them.

use super::{Estimate, ModelSizes, Plan, Setting, Stage, StageEstimate};
use crate::request::Request;
use crate::transformer::Scratch;
use crate::vae::{self, VaeConfig};

/// The program itself, its threads and what is always there.
const PROGRAM: u64 = 10 << 20;
/// A token and its merge in the tokenizer's tables.
const TOKENIZER_ENTRY: u64 = 36;
/// What the system's allocator keeps of an entry where the tables were made of other files.
const PARSED_ENTRY: u64 = 110;
/// What the system's allocator keeps of freed buffers, at most, and of all of them.
const RETAINED: u64 = 8 << 20;
const RETAINED_PART: u64 = 3;

/// Buffers with what is kept of those that were freed.
fn retaining(bytes: u64, most: u64) -> u64 {
    bytes + most.min(bytes / RETAINED_PART)
}

/// f32 values.
fn floats(count: usize) -> u64 {
    4 * count as u64
}

/// Rows as the GEMM prepares them, `bytes` for each value.
fn prepared(bytes: u64, rows: usize, cols: usize) -> u64 {
    bytes * (rows * (cols.next_multiple_of(256) + 16)) as u64
}

/// Keys and values as attention lays them out: all heads, or as many as fit 8 MiB.
fn panels(bytes: u64, keys: usize, heads: usize, dim: usize) -> u64 {
    const AT_ONCE: u64 = 8 << 20;
    let head = bytes * (keys.next_multiple_of(128) * 2 * dim) as u64;
    head * (AT_ONCE / head.max(1)).clamp(1, heads as u64)
}

impl ModelSizes {
    /// Bytes of a prompt that is kept for the next picture.
    pub(super) fn prompt_bytes(&self, request: &Request) -> u64 {
        let text = request.max_sequence_length.unwrap_or(self.max_sequence_length);
        floats(text * self.transformer.hidden_size())
    }

    pub(super) fn estimate(
        &self,
        request: &Request,
        (width, height): (usize, usize),
        setting: &Setting<'_>,
        plan: Plan,
    ) -> Estimate {
        let text = request.max_sequence_length.unwrap_or(self.max_sequence_length);
        let taps = request.text_encoder_out_layers.as_ref().unwrap_or(&self.taps);
        let steps = request.steps.unwrap_or(self.steps);
        let prompt = self.prompt_bytes(request);
        let entry = TOKENIZER_ENTRY + if self.tokenizer_is_parsed { PARSED_ENTRY } else { 0 };
        let base = PROGRAM
            + entry * self.text_encoder.vocab_size as u64
            + self.copied
            + (setting.prompts_beside)(prompt, plan.prompts);
        let (encode, encode_macs) = self.text_encode(text, taps, setting);
        let pixels = self.vae.pixels_per_token();
        let image = (width / pixels) * (height / pixels);
        let preview = self.preview((width, height), setting);
        let (denoise, mapped, denoise_macs) = self.denoise(text, image, steps, preview, setting);
        let (mut decode, decode_macs) = self.decode(request, (width, height), setting, plan);
        if plan.prompts > 0 {
            decode += prompt;
        }
        let stage = |stage, mapped, activation_bytes, (macs, linear_macs)| {
            let mapped_bytes = if plan.keep_weights { self.mapped } else { mapped };
            let peak_bytes = base + mapped_bytes + activation_bytes;
            StageEstimate { stage, peak_bytes, mapped_bytes, activation_bytes, macs, linear_macs }
        };
        let stages = vec![
            stage(Stage::TextEncode, self.layer, retaining(encode, RETAINED), encode_macs),
            // most of its buffers are made once
            stage(Stage::Denoise, mapped, retaining(denoise, RETAINED / 2), denoise_macs),
            stage(Stage::Decode, 0, retaining(decode, RETAINED), (decode_macs, 0)),
        ];
        let copied_bytes = self.copied;
        Estimate { width, height, steps, plan, base_bytes: base, copied_bytes, stages }
    }

    /// Activations, and multiply-accumulates: all of them, and those of linears.
    fn text_encode(&self, tokens: usize, taps: &[usize], s: &Setting<'_>) -> (u64, (u64, u64)) {
        let c = &self.text_encoder;
        let (hidden, wide) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let buffers = hidden * (2 + taps.len()) + 2 * q + 2 * kv + 2 * wide;
        // the rows of the norm are still kept for the next linear when those of the middle are made
        let rows = prepared(s.code_row_bytes, tokens, hidden) + prepared(s.code_row_bytes, tokens, wide);
        let attention = panels(s.factor_bytes(), tokens, c.num_key_value_heads, c.head_dim);
        let bytes =
            floats(tokens * buffers) + rows.max(attention + prepared(s.code_row_bytes, tokens, hidden));
        let linears = hidden * (2 * q + 2 * kv + 3 * wide);
        let layers = taps.last().copied().unwrap_or(0);
        // half of the scores are masked
        let macs = |of_a_token: usize| (layers * tokens * of_a_token) as u64;
        (bytes, (macs(linears + tokens * q), macs(linears)))
    }

    /// Buffers of a preview, which is painted between steps.
    fn preview(&self, (width, height): (usize, usize), s: &Setting<'_>) -> u64 {
        let factor = 1 << (self.vae.block_out_channels.len() - 1);
        let (h, w) = (height / factor, width / factor);
        let bytes = |(c, channels): &(VaeConfig, usize)| {
            vae::tiny_decode_cost(*channels, c, h, w, (s.threads, s.factors)).0
        };
        self.preview_decoder.as_ref().map_or(0, bytes)
    }

    /// Activations, mapped weights at the peak, and multiply-accumulates without those of previews: all of them, and those
    /// of linears.
    fn denoise(
        &self,
        text: usize,
        image: usize,
        steps: usize,
        preview: u64,
        s: &Setting<'_>,
    ) -> (u64, u64, (u64, u64)) {
        let c = &self.transformer;
        let (hidden, mlp, tokens) = (c.hidden_size(), c.mlp_size(), text + image);
        let conditioning = floats(text * hidden + steps * 17 * hidden);
        // dense matrices multiply f32
        let lift = floats(text * c.joint_attention_dim) + prepared(4, text, c.joint_attention_dim);
        let rows = Scratch::mlp_rows_of(tokens);
        let scratch = floats(Scratch::floats(c, tokens));
        let panels = panels(s.factor_bytes(), tokens, c.num_attention_heads, c.attention_head_dim);
        let middle =
            prepared(s.sign_row_bytes, rows, hidden).max(prepared(s.sign_row_bytes, rows, hidden + mlp));
        let widest = prepared(s.sign_row_bytes, tokens, hidden).max(panels).max(middle);
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
        let once = text * hidden * c.joint_attention_dim + steps * 17 * square;
        // the last block makes keys and values alone of the text
        let unseen = if c.num_single_layers > 0 { text } else { 0 };
        let spared = unseen * (hidden * (hidden + 2 * mlp) + hidden * (hidden + mlp));
        let linears = once + steps * (c.num_layers * double + c.num_single_layers * single - spared);
        let queries = (c.num_layers + c.num_single_layers) * tokens - unseen;
        let attention = steps * 2 * queries * tokens * hidden;
        (bytes, mapped, ((linears + attention) as u64, linears as u64))
    }

    fn decode(
        &self,
        request: &Request,
        (width, height): (usize, usize),
        setting: &Setting<'_>,
        plan: Plan,
    ) -> (u64, u64) {
        let cost = |height, width, strips| {
            let work = (setting.threads, setting.factors);
            match self.tiny_decoder {
                Some(channels) => vae::tiny_decode_cost(channels, &self.vae, height, width, work),
                None => vae::decode_cost(&self.vae, height, width, work, strips),
            }
        };
        let factor = 1 << (self.vae.block_out_channels.len() - 1);
        let picture = floats(3 * width * height) + (3 * width * height) as u64;
        let (h, w) = (height / factor, width / factor);
        let tile = self.vae.sample_size / factor;
        if request.vae_tiling && (h > tile || w > tile) {
            let (bytes, macs) = cost(h.min(tile), w.min(tile), 0);
            // tiles overlap by a quarter in each direction; two rows of them are held, and what is kept
            let across = |side: usize| side.div_ceil((tile * 3 / 4).max(1)) as u64;
            return (bytes + 3 * picture, macs * across(h) * across(w));
        }
        let (bytes, macs) = cost(h, w, plan.strips);
        // the picture in bytes is made when only the decoded one is left
        (bytes.max(picture), macs)
    }
}
