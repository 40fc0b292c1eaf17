//! Flux2Transformer2DModel: the naming of diffusers, and that of BFL's single file.

use super::{Rows, strip_prefix};
use crate::component_paths::FinalModulation;

const PREFIXES: [&str; 4] = ["model.diffusion_model.", "diffusion_model.", "transformer.", "model."];

/// Layers outside of the blocks: BFL's name, diffusers' name.
const OUTSIDE: [(&str, &str); 10] = [
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
    ("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
    ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    ("single_stream_modulation.lin", "single_stream_modulation.linear"),
    ("final_layer.linear", "proj_out"),
];

/// The layer whose halves BFL has the other way round.
const FINAL_MODULATION: (&str, &str) = ("final_layer.adaLN_modulation.1", "norm_out.linear");

/// Layers of a block. Where diffusers has three, BFL has one of all their rows.
type Layers = &'static [(&'static str, &'static [&'static str])];

/// Kinds of blocks, and their layers.
const BLOCKS: [(&str, &str, Layers); 2] = [
    (
        "double_blocks",
        "transformer_blocks",
        &[
            ("img_attn.qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
            ("txt_attn.qkv", &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
            ("img_attn.proj", &["attn.to_out.0"]),
            ("txt_attn.proj", &["attn.to_add_out"]),
            ("img_attn.norm.query_norm", &["attn.norm_q"]),
            ("img_attn.norm.key_norm", &["attn.norm_k"]),
            ("txt_attn.norm.query_norm", &["attn.norm_added_q"]),
            ("txt_attn.norm.key_norm", &["attn.norm_added_k"]),
            ("img_mlp.0", &["ff.linear_in"]),
            ("img_mlp.2", &["ff.linear_out"]),
            ("txt_mlp.0", &["ff_context.linear_in"]),
            ("txt_mlp.2", &["ff_context.linear_out"]),
        ],
    ),
    (
        "single_blocks",
        "single_transformer_blocks",
        &[
            ("linear1", &["attn.to_qkv_mlp_proj"]),
            ("linear2", &["attn.to_out"]),
            ("norm.query_norm", &["attn.norm_q"]),
            ("norm.key_norm", &["attn.norm_k"]),
        ],
    ),
];

/// `is_block`: quantised tensors of some GGUF files are called after their layer alone. `order`: of the last modulation,
/// where it is not the order of the naming.
pub(super) fn canonical(stored: &str, is_block: bool, order: Option<FinalModulation>) -> Vec<(String, Rows)> {
    let bare = strip_prefix(stored, &PREFIXES);
    let named;
    let bare = if is_block && !bare.ends_with(".weight") {
        named = format!("{bare}.weight");
        &named
    } else {
        bare
    };
    let mut names = from_bfl(bare).unwrap_or_else(|| vec![(bare.to_owned(), Rows::All)]);
    if let ([(name, rows)], Some(order)) = (names.as_mut_slice(), order)
        && name.rsplit_once('.').is_some_and(|(stem, _)| stem == FINAL_MODULATION.1)
    {
        *rows = match order {
            FinalModulation::ScaleShift => Rows::All,
            FinalModulation::ShiftScale => Rows::SwappedHalves,
        };
    }
    names
}

/// Names of the single-file layout; `None` for any other name.
fn from_bfl(name: &str) -> Option<Vec<(String, Rows)>> {
    let (stem, suffix) = name.rsplit_once('.')?;
    if stem == FINAL_MODULATION.0 {
        return Some(vec![(format!("{}.{suffix}", FINAL_MODULATION.1), Rows::SwappedHalves)]);
    }
    if let Some((_, diffusers)) = OUTSIDE.iter().find(|(bfl, _)| *bfl == stem) {
        return Some(vec![(format!("{diffusers}.{suffix}"), Rows::All)]);
    }
    let (kind, index, part) = in_block(stem)?;
    let (_, blocks, layers) = BLOCKS.iter().find(|(bfl, ..)| *bfl == kind)?;
    let (bfl, parts) = layers.iter().find(|(bfl, _)| *bfl == part)?;
    // norms are `.scale` in BFL's files, `.weight` in some repacks
    let suffix = if suffix == "scale" && is_norm(bfl) { "weight" } else { suffix };
    let name = |part: &str| format!("{blocks}.{index}.{part}.{suffix}");
    Some(match parts {
        [part] => vec![(name(part), Rows::All)],
        parts => parts.iter().enumerate().map(|(i, part)| (name(part), Rows::Third(i))).collect(),
    })
}

/// BFL's name of a tensor that diffusers calls `name`, and which rows of BFL's it is; `None` for any other name.
pub(super) fn to_bfl(name: &str) -> Option<(String, Rows)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    if stem == FINAL_MODULATION.1 {
        return Some((format!("{}.{suffix}", FINAL_MODULATION.0), Rows::SwappedHalves));
    }
    if let Some((bfl, _)) = OUTSIDE.iter().find(|(_, diffusers)| *diffusers == stem) {
        return Some((format!("{bfl}.{suffix}"), Rows::All));
    }
    let (kind, index, part) = in_block(stem)?;
    let (blocks, _, layers) = BLOCKS.iter().find(|(_, diffusers, _)| *diffusers == kind)?;
    layers.iter().find_map(|(bfl, parts)| {
        let place = parts.iter().position(|name| *name == part)?;
        let suffix = if is_norm(bfl) { "scale" } else { suffix };
        let rows = if parts.len() == 1 { Rows::All } else { Rows::Third(place) };
        Some((format!("{blocks}.{index}.{bfl}.{suffix}"), rows))
    })
}

/// Kind, number and layer of a name `KIND.NUMBER.LAYER`.
fn in_block(stem: &str) -> Option<(&str, &str, &str)> {
    let (kind, rest) = stem.split_once('.')?;
    let (index, part) = rest.split_once('.')?;
    index.parse::<usize>().ok()?;
    Some((kind, index, part))
}

fn is_norm(bfl: &str) -> bool {
    bfl.ends_with("_norm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stored: &str) -> Vec<(String, Rows)> {
        canonical(stored, false, None)
    }

    #[test]
    fn diffusers_names_pass() {
        let name = "transformer_blocks.3.attn.to_out.0.weight";
        assert_eq!(names(name), [(name.to_owned(), Rows::All)]);
        let stem = name.strip_suffix(".weight").unwrap();
        assert_eq!(canonical(stem, true, None), names(name));
    }

    #[test]
    fn fused_matrices_are_cut_in_thirds() {
        let got = names("model.diffusion_model.double_blocks.2.txt_attn.qkv.weight");
        assert_eq!(got[1], ("transformer_blocks.2.attn.add_k_proj.weight".to_owned(), Rows::Third(1)));
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn the_last_modulation_is_swapped() {
        let got = names("final_layer.adaLN_modulation.1.weight");
        assert_eq!(got, [("norm_out.linear.weight".to_owned(), Rows::SwappedHalves)]);
        // unless the file was only renamed
        let stated = |name: &str, order| canonical(name, false, Some(order))[0].1;
        for name in ["final_layer.adaLN_modulation.1.weight", "norm_out.linear.weight"] {
            assert_eq!(stated(name, FinalModulation::ScaleShift), Rows::All, "{name}");
            assert_eq!(stated(name, FinalModulation::ShiftScale), Rows::SwappedHalves, "{name}");
        }
        assert_eq!(stated("proj_out.weight", FinalModulation::ShiftScale), Rows::All);
    }

    #[test]
    fn norms_are_called_weight() {
        let got = names("single_blocks.7.norm.key_norm.scale");
        assert_eq!(got, [("single_transformer_blocks.7.attn.norm_k.weight".to_owned(), Rows::All)]);
        assert_eq!(names("single_blocks.7.norm.key_norm.weight"), got);
    }

    #[test]
    fn the_way_there_is_the_way_back() {
        let outside = OUTSIDE.iter().chain([&FINAL_MODULATION]).map(|(_, name)| (*name).to_owned());
        let blocks = BLOCKS.iter().flat_map(|(_, blocks, layers)| {
            let parts = layers.iter().flat_map(|(_, parts)| parts.iter());
            parts.map(move |part| format!("{blocks}.12.{part}"))
        });
        for name in outside.chain(blocks) {
            let name = format!("{name}.weight");
            let (bfl, rows) = to_bfl(&name).unwrap();
            assert!(names(&bfl).contains(&(name, rows)), "{bfl}");
        }
        assert_eq!(to_bfl("x_embedder"), None);
        assert_eq!(to_bfl("transformer_blocks.x.attn.to_q.weight"), None);
    }
}
