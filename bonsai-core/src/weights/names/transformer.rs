//! Flux2Transformer2DModel: the naming of diffusers, and that of BFL's single file.

use super::{Rows, strip_prefix};

const PREFIXES: [&str; 4] = ["model.diffusion_model.", "diffusion_model.", "transformer.", "model."];

/// `is_block`: quantised tensors of some GGUF files are called after their layer alone.
pub(super) fn canonical(stored: &str, is_block: bool) -> Vec<(String, Rows)> {
    let bare = strip_prefix(stored, &PREFIXES);
    let named;
    let bare = if is_block && !bare.ends_with(".weight") {
        named = format!("{bare}.weight");
        &named
    } else {
        bare
    };
    from_bfl(bare).unwrap_or_else(|| vec![(bare.to_owned(), Rows::All)])
}

/// Names of the single-file layout; `None` for any other name.
fn from_bfl(name: &str) -> Option<Vec<(String, Rows)>> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let one = |stem: &str, suffix: &str| Some(vec![(format!("{stem}.{suffix}"), Rows::All)]);
    let flat = match stem {
        "img_in" => "x_embedder",
        "txt_in" => "context_embedder",
        "time_in.in_layer" => "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer" => "time_guidance_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer" => "time_guidance_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer" => "time_guidance_embed.guidance_embedder.linear_2",
        "double_stream_modulation_img.lin" => "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin" => "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin" => "single_stream_modulation.linear",
        "final_layer.linear" => "proj_out",
        "final_layer.adaLN_modulation.1" => {
            return Some(vec![(format!("norm_out.linear.{suffix}"), Rows::SwappedHalves)]);
        }
        _ => "",
    };
    if !flat.is_empty() {
        return one(flat, suffix);
    }
    let (kind, rest) = stem.split_once('.')?;
    let (index, part) = rest.split_once('.')?;
    if index.parse::<usize>().is_err() {
        return None;
    }
    // QK norms are `.scale` in BFL's files, `.weight` in some repacks
    let norm_suffix = if suffix == "scale" { "weight" } else { suffix };
    match kind {
        "double_blocks" => {
            let at = |name: &str| format!("transformer_blocks.{index}.{name}");
            let thirds = |names: [&str; 3]| {
                let third = |(i, n): (usize, &&str)| (format!("{}.{suffix}", at(n)), Rows::Third(i));
                Some(names.iter().enumerate().map(third).collect())
            };
            match part {
                "img_attn.qkv" => thirds(["attn.to_q", "attn.to_k", "attn.to_v"]),
                "txt_attn.qkv" => thirds(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
                "img_attn.proj" => one(&at("attn.to_out.0"), suffix),
                "txt_attn.proj" => one(&at("attn.to_add_out"), suffix),
                "img_attn.norm.query_norm" => one(&at("attn.norm_q"), norm_suffix),
                "img_attn.norm.key_norm" => one(&at("attn.norm_k"), norm_suffix),
                "txt_attn.norm.query_norm" => one(&at("attn.norm_added_q"), norm_suffix),
                "txt_attn.norm.key_norm" => one(&at("attn.norm_added_k"), norm_suffix),
                "img_mlp.0" => one(&at("ff.linear_in"), suffix),
                "img_mlp.2" => one(&at("ff.linear_out"), suffix),
                "txt_mlp.0" => one(&at("ff_context.linear_in"), suffix),
                "txt_mlp.2" => one(&at("ff_context.linear_out"), suffix),
                _ => None,
            }
        }
        "single_blocks" => {
            let at = |name: &str| format!("single_transformer_blocks.{index}.attn.{name}");
            match part {
                "linear1" => one(&at("to_qkv_mlp_proj"), suffix),
                "linear2" => one(&at("to_out"), suffix),
                "norm.query_norm" => one(&at("norm_q"), norm_suffix),
                "norm.key_norm" => one(&at("norm_k"), norm_suffix),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stored: &str) -> Vec<(String, Rows)> {
        canonical(stored, false)
    }

    #[test]
    fn diffusers_names_pass() {
        let name = "transformer_blocks.3.attn.to_out.0.weight";
        assert_eq!(names(name), [(name.to_owned(), Rows::All)]);
        let stem = name.strip_suffix(".weight").unwrap();
        assert_eq!(canonical(stem, true), names(name));
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
    }

    #[test]
    fn norms_are_called_weight() {
        let got = names("single_blocks.7.norm.key_norm.scale");
        assert_eq!(got, [("single_transformer_blocks.7.attn.norm_k.weight".to_owned(), Rows::All)]);
    }
}
