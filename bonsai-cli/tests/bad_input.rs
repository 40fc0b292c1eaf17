//! Bad input of every sort: a documented exit code, a message that names what is wrong, no panic, no file left.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bonsai_core::image::{Image, write_png};
use common::{GOLDEN, Site, stderr};
use serde_json::{Value, json};

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const USAGE: i32 = 2;
const MODEL: i32 = 3;
/// No bad input may take long to find.
const PATIENCE: Duration = Duration::from_secs(10);

struct Case {
    name: String,
    code: i32,
    words: Vec<String>,
    run: Box<dyn Fn(&Site) -> Output>,
}

fn case(name: &str, code: i32, words: &[&str], run: impl Fn(&Site) -> Output + 'static) -> Case {
    let words = words.iter().map(|&w| w.to_owned()).collect();
    Case { name: name.to_owned(), code, words, run: Box::new(run) }
}

/// A model that `damage` has been at.
fn model(name: &str, words: &[&str], damage: impl Fn(&Path) + 'static) -> Case {
    case(name, MODEL, words, move |site| {
        damage(&site.model);
        site.generate(&["-q", "-t", "1", "--steps", "1", "-o", "out.png", "a tree"])
    })
}

/// One field of a config set to something else.
fn config(file: &'static str, field: &'static str, value: Value, words: &[&str]) -> Case {
    model(&format!("{file}: {field} = {value}"), words, move |m| {
        edit(&m.join(file), |json| json[field] = value.clone());
    })
}

/// Arguments of `generate` beside a sound model.
fn usage(args: &'static [&'static str], words: &[&str]) -> Case {
    case(&args.join(" "), USAGE, words, move |site| site.generate(args))
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn truncate(path: &Path, len: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(len(file.metadata().unwrap().len())).unwrap();
}

/// A safetensors file with this header before the bytes that it had.
fn header(path: &Path, change: impl Fn(String) -> Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let (header, data) = bytes[8..].split_at(header_len(&bytes));
    let header = change(String::from_utf8(header.to_vec()).unwrap());
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), data].concat()).unwrap();
}

fn header_len(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

fn header_json(path: &Path, change: impl Fn(&mut Value)) {
    header(path, |text| {
        let mut json = serde_json::from_str(&text).unwrap();
        change(&mut json);
        json.to_string().into_bytes()
    });
}

/// Overwrites the first bytes of a tensor.
fn poke(path: &Path, tensor: &str, value: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let len = header_len(&bytes);
    let json: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let at = 8 + len + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + value.len()].copy_from_slice(value);
    fs::write(path, bytes).unwrap();
}

/// The transformer's weights become this GGUF file.
fn gguf(m: &Path, bytes: &[u8]) {
    fs::remove_file(m.join(TRANSFORMER)).unwrap();
    fs::write(m.join("transformer/model.gguf"), bytes).unwrap();
}

fn gguf_head(version: u32, tensors: u64, pairs: u64) -> Vec<u8> {
    let head = [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()];
    head.concat()
}

fn gguf_tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A GGUF file with one tensor and 64 kB of zeros.
fn gguf_of(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    [gguf_head(3, 1, 0), gguf_tensor(name, shape, kind, offset), vec![0; 1 << 16]].concat()
}

fn tiny_gguf() -> Vec<u8> {
    fs::read(format!("{GOLDEN}/formats/tiny.gguf")).unwrap()
}

fn picture(site: &Site, text: &[(&str, &str)]) {
    let image = Image::new(16, 16, vec![7; 3 * 16 * 16]).unwrap();
    let text: Vec<_> = text.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    write_png(&site.work.join("in.png"), &image, &text).unwrap();
}

/// `verify` of a picture with this recipe, whose model is sound.
fn verify(name: &str, code: i32, words: &[&str], recipe: Value) -> Case {
    case(name, code, words, move |site| {
        picture(site, &[("bonsai", &recipe.to_string())]);
        site.command().args(["verify", "-q", "in.png", "-m"]).arg(&site.model).output().unwrap()
    })
}

fn recipe() -> Value {
    json!({
        "schema": 1, "engine": "bonsai-core 0.1.0", "model": {"name": "model"}, "prompt": "a tree",
        "tokens_used": 14, "truncated": false, "seed": 1, "noise_source": "torch-cpu", "steps": 1,
        "sigmas": [1.0, 0.0], "width": 16, "height": 16, "isa_class": "portable", "precision": "f32",
        "max_sequence_length": 40, "text_encoder_out_layers": [1, 2, 3], "vae_tiling": false
    })
}

fn recipe_with(field: &str, value: Value) -> Value {
    let mut recipe = recipe();
    recipe[field] = value;
    recipe
}

fn directories() -> Vec<Case> {
    let mut cases = vec![
        case("missing directory", MODEL, &["nowhere", "does not exist", "hint:"], |site| {
            site.bonsai(&["generate", "-m", "nowhere", "-o", "out.png", "a tree"])
        }),
        case("a file for a directory", MODEL, &["Cargo.toml", "expected a safetensors file"], |site| {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
            site.bonsai(&["generate", "-m", file, "-o", "out.png", "a tree"])
        }),
        case("missing directory in the environment", MODEL, &["nowhere", "does not exist"], |site| {
            site.command().args(["generate", "a tree"]).env("BONSAI_MODEL", "nowhere").output().unwrap()
        }),
        if cfg!(feature = "mini") {
            case("components without a model", USAGE, &["no model for the rest", "-m DIR"], |site| {
                site.bonsai(&["generate", "--vae", "vae.safetensors", "a tree"])
            })
        } else {
            case("no model at all", MODEL, &["no model", "-m DIR"], |site| {
                site.bonsai(&["generate", "a tree"])
            })
        },
        model("two folders of one role", &["several transformer folders"], |m| {
            fs::rename(m.join("transformer"), m.join("transformer-a")).unwrap();
            fs::create_dir(m.join("transformer-b")).unwrap();
        }),
        model("no weights in a folder", &["vae", "no weights"], |m| fs::remove_file(m.join(VAE)).unwrap()),
        model("weights are a folder", &["transformer", "no weights"], |m| {
            fs::remove_file(m.join(TRANSFORMER)).unwrap();
            fs::create_dir(m.join(TRANSFORMER)).unwrap();
        }),
        model("shard that is missing", &["index.json", "b.safetensors is missing"], |m| {
            let index = r#"{"weight_map":{"x":"b.safetensors"}}"#;
            fs::write(m.join("transformer/model.safetensors.index.json"), index).unwrap();
        }),
        model("shard outside the folder", &["../vae/x.safetensors", "no file name"], |m| {
            let index = r#"{"weight_map":{"x":"../vae/x.safetensors"}}"#;
            fs::write(m.join("transformer/model.safetensors.index.json"), index).unwrap();
        }),
        model("shard index of another shape", &["index.json", "weight_map"], |m| {
            fs::write(m.join("transformer/model.safetensors.index.json"), "{}").unwrap();
        }),
        model("two shards with one tensor", &["again in"], |m| {
            let copy = "transformer/diffusion_pytorch_model-2.safetensors";
            fs::copy(m.join(TRANSFORMER), m.join(copy)).unwrap();
        }),
        model("parts that do not fit", &["384", "transformer reads"], |m| {
            fs::write(m.join("bonsai.json"), r#"{"text_encoder_out_layers":[1,2],"max_sequence_length":40}"#)
                .unwrap();
        }),
    ];
    for role in ["transformer", "text_encoder", "vae", "tokenizer"] {
        cases.push(model(&format!("missing folder {role}"), &[role], move |m| {
            fs::remove_dir_all(m.join(role)).unwrap();
        }));
    }
    cases
}

fn configs() -> Vec<Case> {
    const T: &str = "transformer/config.json";
    const E: &str = "text_encoder/config.json";
    const V: &str = "vae/config.json";
    const B: &str = "bonsai.json";
    let mut cases = Vec::new();
    // shapes tell all of the others' sizes
    cases.push(model(&format!("missing {V}"), &[V, "norm_num_groups"], |m| {
        fs::remove_file(m.join(V)).unwrap()
    }));
    for file in [T, E, V, B] {
        cases.push(model(&format!("{file} is no JSON"), &[file], move |m| {
            fs::write(m.join(file), "{\"num_layers\": ").unwrap();
        }));
        cases.push(model(&format!("{file} is not UTF-8"), &[file, "UTF-8"], move |m| {
            fs::write(m.join(file), b"{\"a\": \"\xff\xfe\"}").unwrap();
        }));
    }
    let huge = || json!(1u64 << 60);
    cases.extend([
        model("config.json is a list", &[T], |m| fs::write(m.join(T), "[]").unwrap()),
        model("config.json is empty", &[T], |m| fs::write(m.join(T), "").unwrap()),
        model("config.json has an infinite number", &[T], |m| {
            let text = fs::read_to_string(m.join(T)).unwrap();
            fs::write(m.join(T), text.replace("1e-06", "1e999")).unwrap();
        }),
        model("config.json says NaN", &[T], |m| {
            let text = fs::read_to_string(m.join(T)).unwrap();
            fs::write(m.join(T), text.replace("1e-06", "NaN")).unwrap();
        }),
        config(T, "num_attention_heads", json!("two"), &[T]),
        config(T, "num_attention_heads", json!(0), &["num_attention_heads"]),
        config(T, "num_attention_heads", huge(), &["num_attention_heads"]),
        config(T, "num_attention_heads", json!(3), &["x_embedder", "expected shape"]),
        config(T, "num_layers", huge(), &["num_layers"]),
        config(T, "num_layers", json!(-1), &[T]),
        config(T, "num_layers", json!(3), &["transformer_blocks.2", "missing"]),
        config(T, "num_single_layers", json!(2), &["belong to no part", "single_transformer_blocks.2"]),
        config(T, "attention_head_dim", json!(127), &["axes_dims_rope"]),
        config(T, "axes_dims_rope", json!([32, 32, 32, 16]), &["axes_dims_rope"]),
        config(T, "axes_dims_rope", json!([31, 33, 32, 32]), &["axes_dims_rope"]),
        config(T, "axes_dims_rope", json!([32, 32]), &[T]),
        config(T, "joint_attention_dim", huge(), &["joint_attention_dim"]),
        config(T, "in_channels", json!(0), &["in_channels"]),
        config(T, "mlp_ratio", json!(-3.0), &["mlp_ratio"]),
        config(T, "mlp_ratio", json!(1e300), &["mlp_ratio"]),
        config(T, "eps", json!(0.0), &["eps"]),
        config(T, "eps", json!(1e39), &["eps"]),
        config(T, "patch_size", json!(2), &["patch_size"]),
        config(T, "timestep_guidance_channels", json!(3), &["timestep_guidance_channels"]),
        config(T, "guidance_embeds", json!(true), &["guidance_embedder", "missing"]),
        config(E, "head_dim", json!(31), &["head_dim"]),
        config(E, "num_attention_heads", json!(0), &["num_attention_heads"]),
        config(E, "num_key_value_heads", json!(4), &["num_key_value_heads"]),
        config(E, "num_key_value_heads", json!(0), &["num_key_value_heads"]),
        config(E, "hidden_size", huge(), &["hidden_size", "positive size"]),
        config(E, "num_hidden_layers", huge(), &["num_hidden_layers"]),
        config(E, "vocab_size", json!(0), &["vocab_size"]),
        config(E, "vocab_size", json!(959), &["embed_tokens", "expected shape"]),
        config(E, "rms_norm_eps", json!(-1e-6), &["rms_norm_eps"]),
        config(E, "hidden_act", json!("gelu"), &["hidden_act"]),
        config(V, "block_out_channels", json!([]), &["block_out_channels"]),
        config(V, "block_out_channels", json!([16, 32, 32, 1u64 << 60]), &["block_out_channels"]),
        config(V, "norm_num_groups", json!(0), &["norm_num_groups"]),
        config(V, "norm_num_groups", json!(5), &["norm_num_groups"]),
        config(V, "latent_channels", json!(16), &["decoder.conv_in", "expected shape"]),
        config(V, "layers_per_block", huge(), &["layers_per_block"]),
        config(V, "patch_size", json!([0, 0]), &["patch_size"]),
        config(B, "text_encoder_out_layers", json!([1, 2, 9]), &[B, "0 to 4"]),
        config(B, "text_encoder_out_layers", json!([3, 2, 1]), &[B, "ascending"]),
        config(B, "text_encoder_out_layers", json!([]), &[B, "text_encoder_out_layers"]),
        config(B, "steps", json!(0), &[B, "0 steps"]),
        config(E, "num_hidden_layers", json!(16_000_000), &["num_hidden_layers", "4096"]),
        config(B, "max_sequence_length", json!(0), &[B, "max_sequence_length"]),
        config(B, "max_sequence_length", huge(), &[B, "max_sequence_length"]),
        config(B, "default_size", json!([100, 64]), &[B, "96 and 112"]),
        config(B, "default_size", json!([0, 64]), &[B, "default_size"]),
        config(B, "default_size", json!([64]), &[B]),
    ]);
    cases
}

fn safetensors() -> Vec<Case> {
    const X: &str = "x_embedder.weight";
    let mut cases = Vec::new();
    let whole = fs::metadata(format!("{GOLDEN}/model/{TRANSFORMER}")).unwrap().len();
    for len in [0, 4, 8, 100, 8 + 12_568, whole / 2, whole - 1] {
        cases.push(model(&format!("safetensors cut to {len}"), &[TRANSFORMER], move |m| {
            truncate(&m.join(TRANSFORMER), |_| len);
        }));
    }
    for len in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 40, 5_000_000] {
        cases.push(model(&format!("header length {len}"), &[VAE, "safetensors"], move |m| {
            let mut bytes = fs::read(m.join(VAE)).unwrap();
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            fs::write(m.join(VAE), bytes).unwrap();
        }));
    }
    for (file, tensor, value, name) in [
        (TEXT_ENCODER, "model.layers.0.input_layernorm.weight", [0xc0, 0x7f], "layers.0.input_layernorm"),
        (TEXT_ENCODER, "model.embed_tokens.weight", [0xc0, 0x7f], "embed_tokens"),
        (TRANSFORMER, "single_transformer_blocks.0.attn.to_out.scales", [0x00, 0x7e], "attn.to_out"),
        (TRANSFORMER, "x_embedder.weight", [0x00, 0x7c], "x_embedder"),
        (VAE, "decoder.conv_in.weight", [0x00, 0x7e], "decoder.conv_in"),
        (VAE, "decoder.conv_in.bias", [0x00, 0x7e], "decoder.conv_in"),
    ] {
        cases.push(model(&format!("NaN or infinity in {tensor}"), &[file, name, "NaN"], move |m| {
            poke(&m.join(file), tensor, &value);
        }));
    }
    cases.extend([
        model("header is no JSON", &[TRANSFORMER, "safetensors"], |m| {
            header(&m.join(TRANSFORMER), |text| text.replacen(':', ";", 1).into_bytes());
        }),
        model("header is not UTF-8", &[TRANSFORMER, "safetensors"], |m| {
            header(&m.join(TRANSFORMER), |text| {
                let mut bytes = text.into_bytes();
                bytes[4] = 0xff;
                bytes
            });
        }),
        model("header is a number", &[TRANSFORMER, "safetensors"], |m| {
            header(&m.join(TRANSFORMER), |_| b"7".to_vec());
        }),
        model("a tensor twice", &[TRANSFORMER, X, "twice"], |m| {
            header(&m.join(TRANSFORMER), |text| {
                let from = text.find("\"x_embedder.weight\"").unwrap();
                let to = from + text[from..].find('}').unwrap() + 1;
                let entry = text[from..to].to_owned();
                text.replacen(&entry, &format!("{entry},{entry}"), 1).into_bytes()
            });
        }),
        model("overlapping tensors", &[TRANSFORMER], |m| {
            header_json(&m.join(TRANSFORMER), |h| {
                let end = h[X]["data_offsets"][1].clone();
                h[X]["data_offsets"] = json!([0, end]);
            });
        }),
        model("offsets that end before they begin", &[TRANSFORMER], |m| {
            header_json(&m.join(TRANSFORMER), |h| h[X]["data_offsets"] = json!([100, 50]));
        }),
        model("offsets near 2^64", &[TRANSFORMER], |m| {
            header_json(&m.join(TRANSFORMER), |h| h[X]["data_offsets"] = json!([u64::MAX - 8, u64::MAX]));
        }),
        model("a shape whose product overflows", &[TRANSFORMER], |m| {
            header_json(&m.join(TRANSFORMER), |h| h[X]["shape"] = json!([1u64 << 40, 1u64 << 40]));
        }),
        model("unknown element type", &[TRANSFORMER, "F17"], |m| {
            header_json(&m.join(TRANSFORMER), |h| h[X]["dtype"] = json!("F17"));
        }),
        model("missing tensor", &[TRANSFORMER, "x_embedder.weight is missing"], |m| {
            header(&m.join(TRANSFORMER), |text| text.replace("\"x_embedder.", "\"y_embedder.").into_bytes());
        }),
        model("left-over tensor", &[TEXT_ENCODER, "belong to no part", "layers.9.surplus"], |m| {
            header(&m.join(TEXT_ENCODER), |text| {
                text.replacen(
                    '{',
                    r#"{"model.layers.9.surplus":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#,
                    1,
                )
                .into_bytes()
            });
        }),
        model("wrong shape", &[TRANSFORMER, X, "expected shape [256, 128]", "[128, 256]"], |m| {
            header_json(&m.join(TRANSFORMER), |h| h[X]["shape"] = json!([128, 256]));
        }),
        model("wrong shape of packed codes", &["to_out", "no [256, 1024] matrix"], |m| {
            let name = "single_transformer_blocks.0.attn.to_out.weight";
            header_json(&m.join(TRANSFORMER), |h| h[name]["shape"] = json!([32, 256]));
        }),
        model("wrong element type", &[TRANSFORMER, X, "I16"], |m| {
            header_json(&m.join(TRANSFORMER), |h| h[X]["dtype"] = json!("I16"));
        }),
        model("packed codes of another type", &["to_out", "expected U32", "I32"], |m| {
            let name = "single_transformer_blocks.0.attn.to_out.weight";
            header_json(&m.join(TRANSFORMER), |h| h[name]["dtype"] = json!("I32"));
        }),
        model("norm of another type", &["norm_q", "expected F32, F16 or BF16"], |m| {
            let name = "single_transformer_blocks.0.attn.norm_q.weight";
            header_json(&m.join(TRANSFORMER), |h| h[name]["dtype"] = json!("I16"));
        }),
        model("scales without biases", &["to_out.biases is missing"], |m| {
            header(&m.join(TRANSFORMER), |text| {
                text.replacen("0.attn.to_out.biases", "0.attn.to_out.bioses", 1).into_bytes()
            });
        }),
    ]);
    cases
}

fn ggufs() -> Vec<Case> {
    const X: &str = "x_embedder.weight";
    let mut cases = Vec::new();
    for len in [5, 8, 20, 24, 30, 100, 1000, 20_000, usize::MAX] {
        let name = if len == usize::MAX { "all but one byte".to_owned() } else { len.to_string() };
        cases.push(model(&format!("GGUF cut to {name}"), &["model.gguf"], move |m| {
            let whole = tiny_gguf();
            gguf(m, &whole[..len.min(whole.len() - 1)]);
        }));
    }
    let file = |name: &str, words: &[&str], bytes: Vec<u8>| {
        let words = [&["model.gguf"], words].concat();
        model(name, &words, move |m| gguf(m, &bytes))
    };
    cases.extend([
        file("GGUF of another model", &["missing"], tiny_gguf()),
        file("bad magic", &["safetensors"], [b"GGUX", &tiny_gguf()[4..]].concat()),
        file("GGUF version 1", &["version 1"], gguf_head(1, 0, 0)),
        file("GGUF version 99", &["version 99"], gguf_head(99, 0, 0)),
        file("big-endian GGUF", &["big-endian"], gguf_head(3u32.swap_bytes(), 0, 0)),
        file("absurd tensor count", &["tensors"], gguf_head(3, u64::MAX, 0)),
        file("absurd pair count", &["pairs"], gguf_head(3, 0, u64::MAX)),
        file("unknown type", &[X, "999"], gguf_of(X, &[256, 256], 999, 0)),
        file("type known by name only", &[X, "IQ2_XXS"], gguf_of(X, &[256, 256], 16, 0)),
        file("five dimensions", &[X, "5 dimensions"], gguf_of(X, &[1; 5], 0, 0)),
        file("shape that overflows", &[X, "shape"], gguf_of(X, &[1 << 62, 1 << 62], 0, 0)),
        file("row of half blocks", &[X, "Q8_0"], gguf_of(X, &[33, 4], 8, 0)),
        file("offset outside", &[X, "outside"], gguf_of(X, &[256, 256], 0, 1 << 40)),
        file("offset near 2^64", &[X, "outside"], gguf_of(X, &[256, 256], 0, u64::MAX)),
        file("name that is not UTF-8", &["UTF-8"], {
            let mut bytes = gguf_of(X, &[16], 0, 0);
            bytes[32] = 0xff;
            bytes
        }),
        file(
            "string of 2^63 bytes",
            &["key"],
            [gguf_head(3, 0, 1), (1u64 << 63).to_le_bytes().to_vec(), vec![0; 64]].concat(),
        ),
        file("unknown value type", &["key k", "77"], {
            let pair = [&1u64.to_le_bytes()[..], b"k", &77u32.to_le_bytes()].concat();
            [gguf_head(3, 0, 1), pair, vec![0; 64]].concat()
        }),
        file("array of 2^60 elements", &["key k", "array"], {
            let pair = [&1u64.to_le_bytes()[..], b"k", &9u32.to_le_bytes(), &4u32.to_le_bytes()].concat();
            [gguf_head(3, 0, 1), pair, (1u64 << 60).to_le_bytes().to_vec(), vec![0; 64]].concat()
        }),
        file("alignment of 0", &["alignment"], {
            let key = "general.alignment";
            let pair = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &4u32.to_le_bytes(), &[0; 4]];
            [gguf_head(3, 0, 1), pair.concat(), vec![0; 64]].concat()
        }),
        model("known type that is not computed", &["x_embedder.weight", "IQ4_XS", "not supported"], |m| {
            edit(&m.join("transformer/config.json"), |json| json["in_channels"] = json!(256));
            gguf(m, &gguf_of(X, &[256, 256], 23, 0));
        }),
    ]);
    cases
}

fn tokenizers() -> Vec<Case> {
    const FILE: &str = "tokenizer/tokenizer.json";
    vec![
        model("tokenizer.json is no JSON", &[FILE], |m| fs::write(m.join(FILE), "{").unwrap()),
        model("tokenizer.json is not UTF-8", &[FILE], |m| fs::write(m.join(FILE), b"\xff\xfe{}").unwrap()),
        model("tokenizer.json is another file", &[FILE], |m| fs::write(m.join(FILE), "{}").unwrap()),
        model("tokenizer without its added tokens", &["tokenizer", "<|im_start|>"], |m| {
            edit(&m.join(FILE), |json| json["added_tokens"] = json!([]));
        }),
        model("tokenizer of another kind", &[FILE, "BPE"], |m| {
            edit(&m.join(FILE), |json| json["model"]["type"] = json!("WordPiece"));
        }),
        model("tokenizer without merges", &["merges.txt"], |m| {
            fs::remove_file(m.join(FILE)).unwrap();
            fs::remove_file(m.join("tokenizer/merges.txt")).unwrap();
        }),
        model("tokenizer with more tokens than the embedding", &["960 rows"], |m| {
            edit(&m.join(FILE), |json| json["model"]["vocab"]["surplus"] = json!(5000));
        }),
    ]
}

fn arguments() -> Vec<Case> {
    vec![
        usage(&["--size", "0x64", "-o", "out.png", "x"], &["width 0"]),
        usage(&["--size", "100x64", "-o", "out.png", "x"], &["width 100", "96 and 112"]),
        usage(&["-H", "70", "-o", "out.png", "x"], &["height 70", "64 and 80"]),
        usage(&["--size", "100000x64", "-o", "out.png", "x"], &["width 100000", "multiple of 16 from 16 to"]),
        usage(&["--size", "64x18446744073709551616", "-o", "out.png", "x"], &["--size", "number of pixels"]),
        usage(&["--size", "big", "-o", "out.png", "x"], &["WIDTHxHEIGHT"]),
        usage(&["-W", "-64", "-o", "out.png", "x"], &["-64"]),
        usage(&["--size", "64x64", "-W", "64", "-o", "out.png", "x"], &["cannot be used with"]),
        usage(&["--steps", "0", "-o", "out.png", "x"], &["0 steps"]),
        usage(&["--steps", "100000", "-o", "out.png", "x"], &["100000 steps", "1 to 1000"]),
        usage(&["--steps", "-4", "-o", "out.png", "x"], &["-4", "--steps"]),
        usage(&["--steps", "four", "-o", "out.png", "x"], &["four"]),
        usage(&["--seed", "-2", "-o", "out.png", "x"], &["-2", "--seed"]),
        usage(&["--seed", "1.5", "-o", "out.png", "x"], &["1.5"]),
        usage(&["--threads", "0", "-o", "out.png", "x"], &["--threads"]),
        usage(&["--threads", "-1", "-o", "out.png", "x"], &["--threads"]),
        usage(&["-b", "0", "-o", "out.png", "x"], &["--batch-count"]),
        usage(&["--guidance", "high", "-o", "out.png", "x"], &["high"]),
        usage(&["--colour", "-o", "out.png", "x"], &["unexpected argument", "--colour"]),
        usage(&["--precision", "f64", "-o", "out.png", "x"], &["f64", "f32"]),
        usage(&["--rng", "dice", "-o", "out.png", "x"], &["dice", "torch-cpu"]),
        usage(&["--isa", "mmx", "-o", "out.png", "x"], &["--isa mmx", "portable"]),
        usage(&["-o", "out.png"], &["required", "PROMPT"]),
        usage(&["-p", "x", "--prompt-file", "y", "-o", "out.png"], &["cannot be used with"]),
        usage(&["-p", "x", "y", "-o", "out.png"], &["cannot be used with"]),
        usage(&["--prompt-file", "nowhere.txt", "-o", "out.png"], &["nowhere.txt"]),
        usage(&["-o", "out.jpg", "x"], &["out.jpg", "PNG"]),
        usage(&["-s", "5", "-s", "5", "-o", "{seed}.png", "x"], &["5.png", "two pictures"]),
        case("prompt file that is not UTF-8", USAGE, &["prompt.txt", "UTF-8"], |site| {
            fs::write(site.model.join("prompt.txt"), b"a tr\xe9e").unwrap();
            let file = site.model.join("prompt.txt");
            site.generate(&["-o", "out.png", "--prompt-file", file.to_str().unwrap()])
        }),
        case("BONSAI_ISA unknown", USAGE, &["BONSAI_ISA=mmx", "portable"], |site| {
            let mut command = site.command();
            command.env("BONSAI_ISA", "mmx").args(["generate", "-o", "out.png", "x", "-m"]);
            command.arg(&site.model).output().unwrap()
        }),
        case("no subcommand", USAGE, &["Usage"], |site| site.bonsai(&[])),
        case("a prompt for a subcommand", USAGE, &["bonsai generate \"a tree\""], |site| {
            site.bonsai(&["a tree"])
        }),
        case("unknown preset", USAGE, &["huge", "tiny"], |site| {
            site.bonsai(&["synth", "--preset", "huge", "--out", "m"])
        }),
        case("synth into a folder in use", USAGE, &["not empty"], |site| {
            site.command().args(["synth", "--preset", "tiny", "--out"]).arg(&site.model).output().unwrap()
        }),
        case("synth into a file", 1, &["out"], |site| {
            fs::write(site.work.join("out"), "kept").unwrap();
            site.bonsai(&["synth", "--preset", "tiny", "--out", "out/m"])
        }),
        case("bench of nothing", MODEL, &["nowhere"], |site| site.bonsai(&["bench", "-m", "nowhere"])),
        case("bench of a bad size", USAGE, &["width 17", "16 and 32"], |site| {
            site.command().args(["bench", "--size", "17x16", "-m"]).arg(&site.model).output().unwrap()
        }),
    ]
}

fn outputs() -> Vec<Case> {
    let mut cases = vec![
        case("output folder is missing", 1, &["output folder nowhere"], |site| {
            site.generate(&["-o", "nowhere/out.png", "x"])
        }),
        case("output folder is a file", 1, &["output folder"], |site| {
            fs::write(site.work.join("file"), "kept").unwrap();
            site.generate(&["-o", "file/out.png", "x"])
        }),
        case("output is a folder", 1, &["taken.png", "is a folder"], |site| {
            fs::create_dir(site.work.join("taken.png")).unwrap();
            site.generate(&["-o", "taken.png", "x"])
        }),
        case("output ends in a slash", 1, &["is a folder"], |site| site.generate(&["-o", "new/", "x"])),
    ];
    if cfg!(unix) {
        cases.push(case("output is a pipe", 1, &["file: is there and is no file"], |site| {
            assert!(Command::new("mkfifo").arg(site.work.join("file")).status().unwrap().success());
            site.generate(&["-o", "file", "x"])
        }));
        cases.push(case("disk full", 1, &["out.png"], |site| {
            // the limit stands for a full disk; without its signal a write fails as it does there
            let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
            let mut command = Command::new("sh");
            command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_bonsai")).current_dir(&site.work);
            command.args(["generate", "-q", "-o", "out.png", "x", "-m"]).arg(&site.model).output().unwrap()
        }));
    }
    cases
}

fn pictures() -> Vec<Case> {
    vec![
        case("verify of a missing file", MODEL, &["none.png"], |site| site.bonsai(&["verify", "none.png"])),
        case("verify of a text", MODEL, &["Cargo.toml"], |site| {
            site.bonsai(&["verify", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        }),
        case("verify without a recipe", MODEL, &["in.png", "no recipe"], |site| {
            picture(site, &[]);
            site.bonsai(&["verify", "in.png"])
        }),
        case("verify of a broken recipe", MODEL, &["in.png", "recipe JSON"], |site| {
            picture(site, &[("bonsai", "{\"schema\":1,")]);
            site.bonsai(&["verify", "in.png"])
        }),
        case("verify of a cut PNG", MODEL, &["in.png"], |site| {
            picture(site, &[("bonsai", &recipe().to_string())]);
            truncate(&site.work.join("in.png"), |len| len - 40);
            site.bonsai(&["verify", "in.png"])
        }),
        verify("recipe of a later schema", MODEL, &["schema 2"], recipe_with("schema", json!(2))),
        verify(
            "recipe with no number for a seed",
            MODEL,
            &["recipe JSON", "u64"],
            recipe_with("seed", Value::Null),
        ),
        verify("recipe of a larger picture", 1, &["16x16", "32x16"], recipe_with("width", json!(32))),
        verify("recipe of a huge picture", 1, &["resized"], recipe_with("width", json!(1u64 << 60))),
        verify("recipe of an unknown precision", MODEL, &["int0"], recipe_with("precision", json!("int0"))),
        verify("recipe with bad sigmas", MODEL, &["sigma"], recipe_with("sigmas", json!([0.5, 0.9]))),
        verify("recipe without sigmas", MODEL, &["0 steps"], recipe_with("sigmas", json!([]))),
        verify(
            "recipe with other taps",
            MODEL,
            &["text_encoder_out_layers"],
            recipe_with("text_encoder_out_layers", json!([7])),
        ),
        verify(
            "recipe with a huge text length",
            MODEL,
            &["max_sequence_length"],
            recipe_with("max_sequence_length", json!(1u64 << 40)),
        ),
        verify("recipe of other pixels", 1, &["samples differ", "levels"], recipe()),
        case("info on nothing", MODEL, &["nowhere"], |site| site.bonsai(&["info", "nowhere"])),
        case("info on a text", MODEL, &["Cargo.toml"], |site| {
            site.bonsai(&["info", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        }),
        case("info on an empty folder", MODEL, &["transformer, text_encoder, vae, tokenizer"], |site| {
            site.bonsai(&["info", "."])
        }),
        case("info on a model that lacks a part", MODEL, &["unusable: vae"], |site| {
            fs::remove_dir_all(site.model.join("vae")).unwrap();
            site.command().arg("info").arg(&site.model).output().unwrap()
        }),
    ]
}

#[test]
fn bad_input_is_refused() {
    let groups = [directories, configs, safetensors, ggufs, tokenizers, arguments, outputs, pictures];
    let cases: Vec<Case> = groups.iter().flat_map(|group| group()).collect();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(check).collect();
    println!("{} cases of bad input", cases.len());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// What is not as it should be, if anything.
fn check(case: &Case) -> Option<String> {
    let site = Site::new();
    let began = Instant::now();
    let output = (case.run)(&site);
    let took = began.elapsed();
    let text = stderr(&output);
    let mut wrong = Vec::new();
    if output.status.code() != Some(case.code) {
        wrong.push(format!("ended with {}, expected code {}", output.status, case.code));
    }
    wrong.extend(case.words.iter().filter(|w| !text.contains(*w)).map(|w| format!("does not say {w:?}")));
    if text.contains("panicked") || text.contains("RUST_BACKTRACE") {
        wrong.push("panicked".to_owned());
    }
    let left: Vec<_> = site.files().into_iter().filter(|name| !PREPARED.contains(&name.as_str())).collect();
    if !left.is_empty() {
        wrong.push(format!("left {left:?}"));
    }
    if took > PATIENCE {
        wrong.push(format!("took {took:?}"));
    }
    (!wrong.is_empty()).then(|| format!("* {}: {}\n  {}", case.name, wrong.join("; "), text.trim_end()))
}

/// Names that cases put into the working folder themselves.
const PREPARED: [&str; 4] = ["in.png", "file", "taken.png", "out"];
