//! AutoencoderKLFlux2: the naming of diffusers, that of BFL's single file, and TAEF2's bare numbers.

use std::collections::BTreeMap;

use super::strip_prefix;
use crate::weights::stored::StoredTensor;

const PREFIXES: [&str; 3] = ["first_stage_model.", "vae.", "autoencoder."];

/// How the tensors of one file are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaeNaming {
    /// As diffusers does.
    Diffusers,
    /// As BFL does, with so many levels in the decoder, which counts them from the other end.
    Bfl {
        /// Levels of the decoder.
        levels: usize,
    },
    /// `3.conv.0.weight`, in a file of TAEF2's encoder or decoder.
    Tiny {
        /// Which of the two.
        part: &'static str,
    },
}

impl VaeNaming {
    /// By the names of a file.
    pub(super) fn detect(tensors: &BTreeMap<String, StoredTensor>) -> Self {
        let has = |wanted: &str| tensors.keys().any(|name| strip_prefix(name, &PREFIXES) == wanted);
        if has("3.conv.0.weight") {
            // the encoder begins with a convolution, the decoder with a clamp
            let encodes = has("0.weight");
            return Self::Tiny { part: if encodes { "encoder" } else { "decoder" } };
        }
        let level = |name: &String| {
            let rest = strip_prefix(name, &PREFIXES).strip_prefix("decoder.up.")?;
            rest.split('.').next()?.parse::<usize>().ok().filter(|&level| level < MAX_LEVELS)
        };
        match tensors.keys().filter_map(level).max() {
            Some(last) => Self::Bfl { levels: last + 1 },
            None => Self::Diffusers,
        }
    }

    pub(super) fn canonical(self, stored: &str) -> String {
        let bare = strip_prefix(stored, &PREFIXES);
        match self {
            Self::Diffusers => bare.to_owned(),
            Self::Tiny { part } => format!("{part}.{bare}"),
            Self::Bfl { levels } => from_bfl(bare, levels).unwrap_or_else(|| bare.to_owned()),
        }
    }
}

const MAX_LEVELS: usize = 16;

/// `None` for names that both share.
fn from_bfl(name: &str, levels: usize) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let (half, part) = stem.split_once('.')?;
    let is_half = matches!(half, "encoder" | "decoder");
    if !is_half {
        return None;
    }
    let renamed = match part {
        "quant_conv" | "post_quant_conv" => return Some(format!("{part}.{suffix}")),
        "norm_out" => "conv_norm_out".to_owned(),
        _ => {
            let mut parts = part.splitn(3, '.');
            let (kind, index, rest) = (parts.next()?, parts.next()?, parts.next().unwrap_or(""));
            match kind {
                "mid" => middle(index, rest)?,
                "down" => format!("down_blocks.{index}.{}", level(rest)?),
                "up" => {
                    let index = index.parse::<usize>().ok()?;
                    format!("up_blocks.{}.{}", levels.checked_sub(index + 1)?, level(rest)?)
                }
                _ => return None,
            }
        }
    };
    Some(format!("{half}.{renamed}.{suffix}"))
}

fn middle(block: &str, rest: &str) -> Option<String> {
    match block {
        "block_1" => Some(format!("mid_block.resnets.0.{}", resnet(rest))),
        "block_2" => Some(format!("mid_block.resnets.1.{}", resnet(rest))),
        "attn_1" => {
            let part = match rest {
                "norm" => "group_norm",
                "q" => "to_q",
                "k" => "to_k",
                "v" => "to_v",
                "proj_out" => "to_out.0",
                _ => return None,
            };
            Some(format!("mid_block.attentions.0.{part}"))
        }
        _ => None,
    }
}

/// What stands in a level: `block.2.conv1`, `upsample.conv`.
fn level(rest: &str) -> Option<String> {
    match rest {
        "upsample.conv" => Some("upsamplers.0.conv".to_owned()),
        "downsample.conv" => Some("downsamplers.0.conv".to_owned()),
        _ => {
            let (index, part) = rest.strip_prefix("block.")?.split_once('.')?;
            Some(format!("resnets.{index}.{}", resnet(part)))
        }
    }
}

fn resnet(part: &str) -> &str {
    if part == "nin_shortcut" { "conv_shortcut" } else { part }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Dtype;

    fn naming(names: &[&str]) -> VaeNaming {
        let tensor = |name: &&str| ((*name).to_owned(), StoredTensor::new(Dtype::U8, vec![], 0..0));
        VaeNaming::detect(&names.iter().map(tensor).collect())
    }

    #[test]
    fn bfl_levels_count_from_the_other_end() {
        let naming = naming(&["decoder.up.0.block.0.norm1.weight", "decoder.up.3.block.0.norm1.weight"]);
        assert_eq!(naming, VaeNaming::Bfl { levels: 4 });
        for (stored, name) in [
            ("decoder.up.3.block.2.conv1.weight", "decoder.up_blocks.0.resnets.2.conv1.weight"),
            ("decoder.up.0.block.0.nin_shortcut.bias", "decoder.up_blocks.3.resnets.0.conv_shortcut.bias"),
            ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
            ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
            ("encoder.mid.attn_1.proj_out.weight", "encoder.mid_block.attentions.0.to_out.0.weight"),
            ("decoder.mid.block_2.norm2.bias", "decoder.mid_block.resnets.1.norm2.bias"),
            ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
            ("decoder.post_quant_conv.weight", "post_quant_conv.weight"),
            ("vae.encoder.quant_conv.bias", "quant_conv.bias"),
            ("decoder.conv_in.weight", "decoder.conv_in.weight"),
            ("bn.running_mean", "bn.running_mean"),
        ] {
            assert_eq!(naming.canonical(stored), name);
        }
    }

    #[test]
    fn halves_of_the_tiny_one_are_told_apart() {
        let decoder = naming(&["1.weight", "3.conv.0.weight"]);
        assert_eq!(decoder.canonical("1.weight"), "decoder.1.weight");
        let encoder = naming(&["0.weight", "3.conv.0.weight"]);
        assert_eq!(encoder.canonical("1.conv.0.bias"), "encoder.1.conv.0.bias");
    }
}
