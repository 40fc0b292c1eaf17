use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{FloatType, Weights as Matrix};
use serde_json::{Value, json};

use super::gguf_names::text_encoder_keys;
use super::safetensors_writer::{self, Data, Tensor, dtype_name};
use super::{ALIGN, FORMAT, Item, ROLES, TOKENIZER, VERSION, floats, gguf_names, gguf_writer};
use crate::LatentRgb;
use crate::config::read_json;
use crate::error::{Error, ErrorKind, Result};
use crate::model::default_taps;
use crate::model_dir::ModelDir;
use crate::nn::Conv;
use crate::text_encoder::{Qwen3, Qwen3Config};
use crate::tokenizer::{GgufTokenizer, Tokenizer};
use crate::transformer::{Flux2Config, Flux2Transformer};
use crate::vae::{Vae, VaeConfig};
use crate::weights::Component;

/// What a model is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One file in the layout of the kernels.
    Native,
    /// A directory with transformer and text encoder as GGUF, under the names that other programs look for: Q1_0, Q2_0
    /// and Q4_1 where they are exact, else F32.
    Gguf,
    /// A directory of half-precision checkpoints in the layout of diffusers: exact for binary and ternary weights,
    /// rounded to bf16 for affine ones.
    Unpacked,
}

/// Files of a tokenizer, as far as there are any.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.tables"];
const MAX_SMALL: u64 = 256 << 20;
/// What diffusers opens a directory by.
const MODEL_INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// These two of FLUX.2 Klein, for a directory whose source had none.
fn pipeline_files() -> [(&'static str, Value); 2] {
    let index = json!({
        "_class_name": "Flux2KleinPipeline",
        "is_distilled": true,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    });
    let scheduler = json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "time_shift_type": "exponential",
        "use_dynamic_shifting": true,
    });
    [(MODEL_INDEX, index), (SCHEDULER, scheduler)]
}

struct Source<'a> {
    dir: &'a ModelDir,
    /// By name: configs and side files.
    texts: BTreeMap<String, String>,
    items: Vec<(&'static str, Vec<(String, Item)>)>,
    text_encoder: Option<Qwen3Config>,
}

/// Writes the model in `input` to `output`, which must not exist; it appears whole or not at all.
///
/// # Errors
/// When the model is unusable, `output` exists or can't be written, or a matrix has no form in the target.
pub fn convert(input: &Path, output: &Path, target: Target) -> Result<()> {
    convert_from(&ModelDir::open(input)?, output, target)
}

/// [`convert`] of a model of which some components may have been named by themselves.
///
/// # Errors
/// As [`convert`].
pub fn convert_from(input: &ModelDir, output: &Path, target: Target) -> Result<()> {
    if output.exists() {
        return Err(Error::invalid(format!("{}: exists already", output.display())));
    }
    let source = Source::read(input, target)?;
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = match target {
        Target::Native => native(&source, &partial),
        Target::Gguf | Target::Unpacked => directory(&source, &partial, target),
    };
    let done = written.and_then(|()| fs::rename(&partial, output).map_err(|e| Error::io(output, e)));
    if done.is_err() {
        // what is left is of no use; that it can't be removed would only hide the cause
        let _ = if partial.is_dir() { fs::remove_dir_all(&partial) } else { fs::remove_file(&partial) };
    }
    done
}

impl<'a> Source<'a> {
    fn read(dir: &'a ModelDir, target: Target) -> Result<Self> {
        let (files, side) = (dir.files(), dir.side_file()?);
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        // configs of small decoders do not always say
        let mut decoder_channels = Value::Null;
        let mut keep = |path: &Path, name: String| -> Result<()> {
            if files.exists(path) {
                let value: Value = read_json(files, path)?;
                texts.insert(name, value.to_string());
            }
            Ok(())
        };
        for name in ["bonsai.json", MODEL_INDEX, SCHEDULER] {
            keep(&dir.root().join(name), name.to_owned())?;
        }
        let mut items = Vec::new();
        let mut text_encoder = None;
        // configs of components that have none, as their weights tell them
        let mut detected: BTreeMap<String, Value> = BTreeMap::new();
        for role in ROLES {
            let found = dir.component(role)?;
            let name = format!("{role}/config.json");
            if let Some(config) = &found.config {
                keep(config, name.clone())?;
            }
            match role {
                "transformer" => {
                    let weights = dir.open_weights(&found, Component::Transformer)?.recording();
                    let config = found.config(files, || Flux2Config::detect(&weights))?;
                    detected.insert(name, json!(config));
                    Flux2Transformer::load(&weights, config)?;
                    items.push((role, weights.recorded()));
                }
                "text_encoder" => {
                    let weights = dir.open_weights(&found, Component::TextEncoder)?.recording();
                    let config = found.config(files, || Qwen3Config::detect(&weights))?;
                    detected.insert(name, json!(config));
                    config.validate()?;
                    let taps = side.text_encoder_out_layers.clone().unwrap_or_else(|| default_taps(&config));
                    let needed = taps.last().copied().unwrap_or(0);
                    let all = weights.count("layers").min(config.num_hidden_layers);
                    let last = if target == Target::Native { needed } else { all.max(needed) };
                    Qwen3::load(&weights, config.clone(), last)?;
                    text_encoder = Some(config);
                    items.push((role, weights.recorded()));
                }
                _ => {
                    keep(&found.dir.join(LatentRgb::FILE), format!("{role}/{}", LatentRgb::FILE))?;
                    let weights = dir.open_weights(&found, Component::Vae)?.recording();
                    let config = found.config(files, || VaeConfig::detect(&weights))?.fitted(&weights);
                    detected.insert(name, json!(config));
                    let channels = json!(config.decoder_channels());
                    let vae = Vae::load(&weights, config)?;
                    if vae.is_tiny() {
                        return Err(Error::new(ErrorKind::Unsupported, "TAEF2 is not converted"));
                    }
                    decoder_channels = channels;
                    items.push((role, weights.recorded()));
                }
            }
        }
        for (name, config) in detected {
            texts.entry(name).or_insert_with(|| config.to_string());
        }
        if let Some(text) = texts.get_mut("vae/config.json") {
            let mut config: Value = serde_json::from_str(text)
                .map_err(|e| Error::new(ErrorKind::Internal, "a config").with_source(e))?;
            config["decoder_block_out_channels"] = decoder_channels;
            *text = config.to_string();
        }
        Ok(Self { dir, texts, items, text_encoder })
    }
}

fn native(source: &Source<'_>, path: &Path) -> Result<()> {
    let files = source.dir.files();
    let tokenizer = Tokenizer::tables(files, &source.dir.tokenizer()?)?;
    let mut tensors = Vec::new();
    for (role, items) in &source.items {
        for (name, item) in items {
            native_tensors(&format!("{role}.{name}"), item, &mut tensors)?;
        }
    }
    tensors.push(Tensor::bytes(TOKENIZER.to_owned(), "U8", vec![tokenizer.len()], tokenizer));
    let canonical = source.dir.root().canonicalize().unwrap_or_else(|_| source.dir.root().to_owned());
    let folder = || canonical.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = files.source_name().map(str::to_owned).or_else(folder).unwrap_or_else(|| "model".to_owned());
    let mut metadata: BTreeMap<String, String> =
        source.texts.iter().map(|(name, text)| (format!("file:{name}"), text.clone())).collect();
    for (key, value) in [("format", FORMAT), ("version", VERSION), ("name", &name)] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    write_file(path, |out| {
        let group = |name: &str| name.split('.').next().map(str::to_owned);
        safetensors_writer::write(out, &tensors, &metadata, &group, ALIGN)
    })
}

fn native_tensors(name: &str, item: &Item, out: &mut Vec<Tensor>) -> Result<()> {
    match item {
        Item::Values(bytes, float_type, shape) => {
            out.push(Tensor::bytes(name.to_owned(), dtype_name(*float_type), shape.clone(), bytes.clone()));
        }
        Item::Conv(conv) => out.push(convolution(name, conv)),
        Item::Matrix(matrix) => {
            let parts = matrix.parts();
            let (rows, cols) = (matrix.rows(), matrix.cols());
            let Some(scales) = &parts.scales else {
                let dtype = dense_type(matrix)?;
                let shape = vec![rows, cols];
                out.push(Tensor::bytes(format!("{name}.weight"), dtype_name(dtype), shape, parts.codes));
                return Ok(());
            };
            if !cols.is_multiple_of(parts.group_size) {
                let message = format!("{name}: {cols} inputs in groups of {}", parts.group_size);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            let shape = vec![rows, parts.codes.len() / rows.max(1)];
            out.push(Tensor::bytes(format!("{name}.{}", matrix.kind()), "U8", shape, parts.codes));
            for (part, values) in [("scales", Some(scales)), ("biases", parts.biases.as_ref())] {
                if let Some(values) = values {
                    let (float_type, bytes) = floats::multiplied(values);
                    let shape = vec![rows, cols / parts.group_size];
                    let bytes = SharedBytes::from_vec(bytes);
                    out.push(Tensor::bytes(format!("{name}.{part}"), dtype_name(float_type), shape, bytes));
                }
            }
        }
    }
    Ok(())
}

fn dense_type(matrix: &Matrix) -> Result<FloatType> {
    match matrix {
        Matrix::Dense(dense) => Ok(dense.float_type()),
        _ => Err(Error::new(ErrorKind::Internal, "a dense matrix")),
    }
}

/// A component as one GGUF file; `None` for one that other programs do not read from GGUF.
fn gguf(source: &Source<'_>, role: &str, items: &[(String, Item)], folder: &Path) -> Result<Option<()>> {
    let (component, architecture, keys) = match (role, &source.text_encoder) {
        ("transformer", _) => (Component::Transformer, "flux", Vec::new()),
        ("text_encoder", Some(config)) => {
            let layer = |name: &str| name.strip_prefix("layers.")?.split('.').next()?.parse::<usize>().ok();
            let layers = items.iter().filter_map(|(name, _)| layer(name)).max().map_or(0, |last| last + 1);
            let tables = Tokenizer::tables(source.dir.files(), &source.dir.tokenizer()?)?;
            let tokenizer = GgufTokenizer::from_tables(tables, config.vocab_size)?;
            (Component::TextEncoder, "qwen3", text_encoder_keys(config, layers, tokenizer))
        }
        _ => return Ok(None),
    };
    let tensors = gguf_names::tensors(component, items)?;
    write_file(&folder.join("model.gguf"), |out| gguf_writer::write(out, architecture, &keys, &tensors))
        .map(Some)
}

fn directory(source: &Source<'_>, root: &Path, target: Target) -> Result<()> {
    fs::create_dir(root).map_err(|e| Error::io(root, e))?;
    for (role, items) in &source.items {
        let folder = root.join(role);
        fs::create_dir(&folder).map_err(|e| Error::io(&folder, e))?;
        let prefix = if *role == "text_encoder" { "model." } else { "" };
        if target == Target::Gguf && gguf(source, role, items, &folder)?.is_some() {
            continue;
        }
        let tensors: Vec<Tensor> =
            items.iter().map(|(name, item)| unpacked(&format!("{prefix}{name}"), item)).collect();
        let name = if *role == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        write_file(&folder.join(format!("{name}.safetensors")), |out| {
            safetensors_writer::write(out, &tensors, &metadata, &|_| None, 1)
        })?;
    }
    let folder = root.join("scheduler");
    fs::create_dir(&folder).map_err(|e| Error::io(&folder, e))?;
    for (name, value) in pipeline_files().into_iter().filter(|(name, _)| !source.texts.contains_key(*name)) {
        write_file(&root.join(name), |out| out.write_all(value.to_string().as_bytes()))?;
    }
    for (name, text) in &source.texts {
        let mut value: Value = serde_json::from_str(text).unwrap_or_else(|_| json!({}));
        if let Some(fields) = value.as_object_mut() {
            // the weights are not packed any more
            fields.retain(|key, _| !key.starts_with("quantization"));
        }
        write_file(&root.join(name), |out| out.write_all(value.to_string().as_bytes()))?;
    }
    let (from, to) = (source.dir.tokenizer()?, root.join("tokenizer"));
    fs::create_dir(&to).map_err(|e| Error::io(&to, e))?;
    let files = source.dir.files();
    let folder = if files.is_file(&from) { from.parent().unwrap_or(&from) } else { &from };
    let mut copied = false;
    for name in TOKENIZER_FILES {
        let path = folder.join(name);
        if files.is_file(&path) {
            let bytes = files.read(&path, MAX_SMALL)?;
            let bytes = bytes.map_err(|size| Error::format(format!("{size} bytes")).in_file(&path))?;
            write_file(&to.join(name), |out| out.write_all(&bytes))?;
            copied = true;
        }
    }
    if !copied {
        // that of a GGUF file
        let tables = Tokenizer::tables(files, &from)?;
        write_file(&to.join("tokenizer.tables"), |out| out.write_all(tables.as_slice()))?;
    }
    Ok(())
}

/// As files have it, `[out_channels, in_channels, kernel, kernel]`.
fn convolution(name: &str, conv: &Conv) -> Tensor {
    let shape = vec![conv.out_channels(), conv.in_channels, conv.kernel, conv.kernel];
    Tensor::bytes(format!("{name}.weight"), dtype_name(conv.float_type), shape, conv.values.clone())
}

fn unpacked(name: &str, item: &Item) -> Tensor {
    match item {
        Item::Values(bytes, float_type, shape) => {
            Tensor::bytes(name.to_owned(), dtype_name(*float_type), shape.clone(), bytes.clone())
        }
        Item::Conv(conv) => convolution(name, conv),
        Item::Matrix(matrix) => {
            let shape = vec![matrix.rows(), matrix.cols()];
            let name = format!("{name}.weight");
            let parts = matrix.parts();
            match (matrix, parts.scales) {
                (Matrix::Dense(dense), _) => {
                    Tensor::bytes(name, dtype_name(dense.float_type()), shape, parts.codes)
                }
                (Matrix::Binary(_) | Matrix::Ternary(_), Some(scales))
                    if floats::multiplied(&scales).0 == FloatType::F16 =>
                {
                    Tensor { name, dtype: "F16", shape, data: Data::Rows(matrix.clone(), FloatType::F16) }
                }
                _ => Tensor { name, dtype: "BF16", shape, data: Data::Rows(matrix.clone(), FloatType::Bf16) },
            }
        }
    }
}

fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let io = |e| Error::io(path, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    write(&mut out).map_err(io)?;
    out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)
}
