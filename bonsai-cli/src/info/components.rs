//! The components of a model, each looked at on its own, so that one that is broken hides no other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use bonsai_core::Result;
use bonsai_core::model_dir::{ComponentFiles, ModelDir};
use bonsai_core::text_encoder::{Qwen3, Qwen3Config};
use bonsai_core::transformer::{Flux2Config, Flux2Transformer};
use bonsai_core::vae::{Vae, VaeConfig};
use bonsai_core::weights::{self, Weights};
use serde::Serialize;

use crate::{print, published};

/// Kinds that are one or two bits a weight.
const FEW_BITS: [&str; 2] = ["binary", "ternary"];
/// Kinds that are not quantised.
const DENSE: [&str; 3] = ["f32", "f16", "bf16"];

#[derive(Default, Serialize)]
pub struct Component {
    pub role: &'static str,
    pub folder: Option<String>,
    pub container: Option<String>,
    pub files: Vec<FileSize>,
    /// Stored tensors by element type.
    pub tensors: BTreeMap<String, usize>,
    /// Matrices by the kind that they are computed in.
    pub matrices: BTreeMap<&'static str, usize>,
    pub config: BTreeMap<&'static str, String>,
    pub notes: Vec<String>,
    /// Signs that the weights are not those that were trained together.
    pub warnings: Vec<String>,
    pub error: Option<String>,
}

#[derive(Serialize)]
pub struct FileSize {
    pub name: String,
    pub bytes: u64,
}

/// All components; the tokenizer and the side file are among them.
pub fn all(dir: &ModelDir) -> Vec<Component> {
    vec![
        with_weights(dir, "transformer", weights::Component::Transformer, transformer),
        with_weights(dir, "text_encoder", weights::Component::TextEncoder, text_encoder),
        with_weights(dir, "vae", weights::Component::Vae, vae),
        look("tokenizer", |c| tokenizer(dir, c)),
        look("bonsai.json", |c| side_file(dir, c)),
        look("model_index.json", |c| {
            c.warnings = dir.index_warnings()?;
            Ok(())
        }),
    ]
}

type Summary = BTreeMap<&'static str, String>;

fn look(role: &'static str, fill: impl FnOnce(&mut Component) -> Result<()>) -> Component {
    let mut component = Component { role, ..Component::default() };
    if let Err(error) = fill(&mut component) {
        component.error = Some(error.to_string());
    }
    component
}

fn with_weights(
    dir: &ModelDir,
    role: &'static str,
    component: weights::Component,
    load: impl FnOnce(&ModelDir, &ComponentFiles, &Weights) -> Result<(Summary, Vec<String>)>,
) -> Component {
    look(role, |c| {
        let files = dir.component(role)?;
        let weights = dir.open_weights(&files, component)?;
        match dir.pack() {
            Some(pack) => c.files.push(FileSize { bytes: weights.stored_bytes(), ..size(pack) }),
            None => {
                c.folder = Some(files.dir.display().to_string());
                c.files = files.weights.iter().map(|path| size(path)).collect();
            }
        }
        c.tensors = weights.dtypes();
        c.container = Some(weights.containers());
        let loaded = load(dir, &files, &weights);
        let kinds = weights.kinds();
        for kind in kinds.values() {
            *c.matrices.entry(kind).or_default() += 1;
        }
        c.notes = odd_ones(&kinds);
        c.notes.extend(c.files.iter().filter_map(published_note));
        c.warnings.extend(weights.warnings());
        let (config, warnings) = loaded?;
        c.config = config;
        c.warnings.extend(warnings);
        Ok(())
    })
}

/// Says which published file has this size.
fn published_note(file: &FileSize) -> Option<String> {
    let known = published::of_size(file.bytes)?;
    let name = &file.name;
    Some(format!("{name} has the size of {}; `bonsai doctor` compares the digest", known.what))
}

fn size(path: &Path) -> FileSize {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    FileSize { name, bytes: path.metadata().map_or(0, |m| m.len()) }
}

/// Says which matrices stayed dense though most of the same place in other blocks have few bits.
fn odd_ones(kinds: &BTreeMap<String, &'static str>) -> Vec<String> {
    let place = |name: &str| -> String {
        let star = |part: &str| if part.parse::<usize>().is_ok() { "*".to_owned() } else { part.to_owned() };
        name.split('.').map(star).collect::<Vec<_>>().join(".")
    };
    let mut places: BTreeMap<String, Vec<(&str, &'static str)>> = BTreeMap::new();
    for (name, kind) in kinds {
        places.entry(place(name)).or_default().push((name, kind));
    }
    let mut notes = Vec::new();
    for (place, members) in places {
        let few = members.iter().filter(|(_, kind)| FEW_BITS.contains(kind)).count();
        if few == 0 {
            continue;
        }
        let dense = members.iter().filter(|(_, kind)| DENSE.contains(kind));
        notes.extend(dense.map(|(name, kind)| {
            let of = members.len();
            format!("{name} is {kind}: {few} of {of} {place} have 1 or 2 bits, this one is not exactly of that form")
        }));
    }
    notes
}

type Loaded = Result<(Summary, Vec<String>)>;

fn transformer(dir: &ModelDir, files: &ComponentFiles, weights: &Weights) -> Loaded {
    let config = dir.config(files, || Flux2Config::detect(weights))?;
    let model = Flux2Transformer::load(weights, config)?;
    let c = model.config();
    let summary = BTreeMap::from([
        ("blocks", format!("{} double, {} single", c.num_layers, c.num_single_layers)),
        (
            "width",
            format!("{} ({} heads of {})", c.hidden_size(), c.num_attention_heads, c.attention_head_dim),
        ),
        ("feed-forward", c.mlp_size().to_string()),
        ("prompt channels", c.joint_attention_dim.to_string()),
        ("token channels", c.in_channels.to_string()),
        ("guidance input", if c.guidance_embeds { "yes" } else { "no" }.to_owned()),
    ]);
    Ok((summary, Vec::new()))
}

fn text_encoder(dir: &ModelDir, files: &ComponentFiles, weights: &Weights) -> Loaded {
    let config = dir.config(files, || Qwen3Config::detect(weights))?;
    // a broken side file is reported as its own component
    let taps = dir.side_file().ok().and_then(|side| side.text_encoder_out_layers);
    let last =
        taps.and_then(|taps| taps.last().copied()).unwrap_or(config.num_hidden_layers.saturating_mul(3) / 4);
    let model = Qwen3::load(weights, config, last)?;
    let c = model.config();
    let summary = BTreeMap::from([
        ("layers", format!("{} of {} needed", model.layers(), c.num_hidden_layers)),
        ("width", c.hidden_size.to_string()),
        (
            "attention",
            format!("{} heads on {} of {}", c.num_attention_heads, c.num_key_value_heads, c.head_dim),
        ),
        ("feed-forward", c.intermediate_size.to_string()),
        ("vocabulary", c.vocab_size.to_string()),
        ("rope theta", c.rope_theta().to_string()),
    ]);
    Ok((summary, c.warnings()))
}

fn vae(dir: &ModelDir, files: &ComponentFiles, weights: &Weights) -> Loaded {
    let config = dir.config(files, || VaeConfig::detect(weights))?;
    let model = Vae::load(weights, config)?;
    let c = model.config();
    let channels: Vec<String> = c.decoder_channels().iter().map(usize::to_string).collect();
    let summary = BTreeMap::from([
        (
            "latent",
            format!("{} channels, 1/{} of the picture's side", c.latent_channels, model.scale_factor()),
        ),
        ("decoder channels", channels.join(", ")),
        ("encoder", if model.can_encode() { "yes" } else { "no" }.to_owned()),
        ("form", if model.is_tiny() { "TAEF2, the tiny stand-in" } else { "AutoencoderKLFlux2" }.to_owned()),
    ]);
    Ok((summary, Vec::new()))
}

fn tokenizer(dir: &ModelDir, c: &mut Component) -> Result<()> {
    if dir.pack().is_none() {
        let folder = dir.tokenizer()?;
        let names = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"];
        let files = names.iter().map(|name| folder.join(name)).chain([folder.clone()]);
        c.files = files.filter(|p| p.is_file()).map(|p| size(&p)).collect();
        c.folder = Some(folder.display().to_string());
    }
    let tokenizer = dir.open_tokenizer()?;
    c.config.insert("tokens", tokenizer.vocab_size().to_string());
    Ok(())
}

fn side_file(dir: &ModelDir, c: &mut Component) -> Result<()> {
    if !dir.has_side_file() {
        c.notes.push("not there; the published models need none".to_owned());
        return Ok(());
    }
    if dir.pack().is_none() {
        c.files.push(size(&dir.root().join("bonsai.json")));
    }
    let side = dir.side_file()?;
    c.config.extend(side.text_encoder_out_layers.map(|taps| ("taps", format!("{taps:?}"))));
    c.config.extend(side.max_sequence_length.map(|length| ("prompt tokens", length.to_string())));
    c.config.extend(side.default_size.map(|[width, height]| ("size", format!("{width}x{height}"))));
    c.config.extend(side.steps.map(|steps| ("steps", steps.to_string())));
    Ok(())
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role)?;
        if let Some(folder) = &self.folder {
            write!(f, "  {folder}")?;
        }
        if let Some(container) = &self.container {
            write!(f, "  ({container})")?;
        }
        for FileSize { name, bytes } in &self.files {
            write!(f, "\n  file       {name}, {}", print::bytes(*bytes))?;
        }
        if !self.tensors.is_empty() {
            let total: usize = self.tensors.values().sum();
            write!(f, "\n  tensors    {total}: {}", counts(&self.tensors))?;
        }
        if !self.matrices.is_empty() {
            write!(f, "\n  matrices   {}", counts(&self.matrices))?;
        }
        if !self.config.is_empty() {
            let pairs: Vec<_> = self.config.iter().map(|(key, value)| format!("{key} {value}")).collect();
            write!(f, "\n  config     {}", pairs.join("; "))?;
        }
        for warning in &self.warnings {
            write!(f, "\n  WARNING    {warning}")?;
        }
        for note in &self.notes {
            write!(f, "\n  note       {note}")?;
        }
        match &self.error {
            Some(error) => write!(f, "\n  PROBLEM    {error}"),
            None => Ok(()),
        }
    }
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, usize>) -> String {
    counts.iter().map(|(key, count)| format!("{key} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_among_binary_is_odd() {
        let kinds = [("a.0.q", "binary"), ("a.1.q", "f16"), ("a.0.k", "f16"), ("b", "f16")];
        let kinds = kinds.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        let notes = odd_ones(&kinds);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("a.1.q is f16: 1 of 2 a.*.q "), "{notes:?}");
    }
}
