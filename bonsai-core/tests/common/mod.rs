//! Checkpoints of the small model in other forms than the one that it is recorded in.
#![allow(dead_code, reason = "each test uses its part")]

pub mod gguf;
pub mod torch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

#[derive(Clone)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn f32(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), data }
    }
}

pub type Tensors = BTreeMap<String, Tensor>;

pub fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned =
        |t: TensorView<'_>| Tensor { dtype: t.dtype(), shape: t.shape().to_vec(), data: t.data().to_vec() };
    file.tensors().into_iter().map(|(name, t)| (name, owned(t))).collect()
}

pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, t)| (n, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

/// Where the small model's tensors of a component are.
pub fn weights_of(component: &str) -> PathBuf {
    let name = if component == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
    Path::new(MODEL).join(component).join(format!("{name}.safetensors"))
}

pub fn golden(component: &str) -> Tensors {
    read(&weights_of(component))
}

fn f16_at(data: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([data[2 * index], data[2 * index + 1]]).to_f32()
}

/// MLX triplets of 1 or 2 bits to dense tensors, through `store`.
pub fn unpacked(packed: &Tensors, store: impl Fn(f32) -> Vec<u8>, dtype: Dtype) -> Tensors {
    let mut dense = Tensors::new();
    for (name, tensor) in packed {
        let Some(stem) = name.strip_suffix(".weight") else { continue };
        let Some(scales) = packed.get(&format!("{stem}.scales")) else {
            let values = (0..tensor.data.len() / 2).flat_map(|i| store(f16_at(&tensor.data, i))).collect();
            dense.insert(name.clone(), Tensor { dtype, shape: tensor.shape.clone(), data: values });
            continue;
        };
        let biases = &packed[&format!("{stem}.biases")];
        let (rows, groups) = (scales.shape[0], scales.shape[1]);
        let cols = groups * 128;
        let bits = tensor.shape[1] * 32 / cols;
        let mut values = Vec::new();
        for row in 0..rows {
            for col in 0..cols {
                let bit = (row * cols + col) * bits;
                let code = tensor.data[bit / 8] >> (bit % 8) & ((1 << bits) - 1);
                let group = row * groups + col / 128;
                values.extend(store(
                    f16_at(&scales.data, group) * f32::from(code) + f16_at(&biases.data, group),
                ));
            }
        }
        dense.insert(name.clone(), Tensor { dtype, shape: vec![rows, cols], data: values });
    }
    dense
}

pub fn unpacked_f16(packed: &Tensors) -> Tensors {
    unpacked(packed, |v| f16::from_f32(v).to_le_bytes().to_vec(), Dtype::F16)
}

/// The single-file layout: q, k, v in one matrix, shift before scale at the end.
pub fn bfl(tensors: &Tensors, double_blocks: usize, single_blocks: usize) -> Tensors {
    let mut renamed = Tensors::new();
    let mut put = |name: String, parts: &[&Tensor]| {
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|p| p.shape[0]).sum();
        let data = parts.iter().flat_map(|p| p.data.clone()).collect();
        renamed
            .insert(format!("model.diffusion_model.{name}"), Tensor { dtype: parts[0].dtype, shape, data });
    };
    let get = |name: &str| &tensors[name];
    for (bfl, diffusers) in [
        ("img_in", "x_embedder"),
        ("txt_in", "context_embedder"),
        ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
        ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
        ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
        ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
        ("single_stream_modulation.lin", "single_stream_modulation.linear"),
        ("final_layer.linear", "proj_out"),
    ] {
        put(format!("{bfl}.weight"), &[get(&format!("{diffusers}.weight"))]);
    }
    let last = get("norm_out.linear.weight");
    let half = last.data.len() / 2;
    let swapped = [&last.data[half..], &last.data[..half]].concat();
    put("final_layer.adaLN_modulation.1.weight".into(), &[&Tensor { data: swapped, ..last.clone() }]);
    for i in 0..double_blocks {
        let at = |name: &str| get(&format!("transformer_blocks.{i}.{name}.weight"));
        let block = format!("double_blocks.{i}");
        put(format!("{block}.img_attn.qkv.weight"), &[at("attn.to_q"), at("attn.to_k"), at("attn.to_v")]);
        let txt = [at("attn.add_q_proj"), at("attn.add_k_proj"), at("attn.add_v_proj")];
        put(format!("{block}.txt_attn.qkv.weight"), &txt);
        for (bfl, diffusers) in [
            ("img_attn.proj.weight", "attn.to_out.0"),
            ("txt_attn.proj.weight", "attn.to_add_out"),
            ("img_attn.norm.query_norm.scale", "attn.norm_q"),
            ("img_attn.norm.key_norm.scale", "attn.norm_k"),
            ("txt_attn.norm.query_norm.scale", "attn.norm_added_q"),
            ("txt_attn.norm.key_norm.scale", "attn.norm_added_k"),
            ("img_mlp.0.weight", "ff.linear_in"),
            ("img_mlp.2.weight", "ff.linear_out"),
            ("txt_mlp.0.weight", "ff_context.linear_in"),
            ("txt_mlp.2.weight", "ff_context.linear_out"),
        ] {
            put(format!("{block}.{bfl}"), &[at(diffusers)]);
        }
    }
    for i in 0..single_blocks {
        for (bfl, diffusers) in [
            ("linear1.weight", "to_qkv_mlp_proj"),
            ("linear2.weight", "to_out"),
            ("norm.query_norm.scale", "norm_q"),
            ("norm.key_norm.scale", "norm_k"),
        ] {
            let tensor = get(&format!("single_transformer_blocks.{i}.attn.{diffusers}.weight"));
            put(format!("single_blocks.{i}.{bfl}"), &[tensor]);
        }
    }
    renamed
}

/// The VAE's single-file layout: other words, decoder levels counted from the other end, attention as convolutions.
pub fn bfl_vae(tensors: &Tensors, levels: usize) -> Tensors {
    let rename = |name: &str| {
        let mut name = name.to_owned();
        for (diffusers, bfl) in [
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
            ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
            ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
            ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
            ("resnets", "block"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("down_blocks", "down"),
        ] {
            name = name.replace(diffusers, bfl);
        }
        for level in 0..levels {
            let other = levels - 1 - level;
            name = name.replace(&format!("up_blocks.{level}."), &format!("up.{other}."));
        }
        match name.split_once('.') {
            Some(("quant_conv", _)) => format!("encoder.{name}"),
            Some(("post_quant_conv", _)) => format!("decoder.{name}"),
            _ => name,
        }
    };
    let shape = |name: &str, tensor: &Tensor| {
        let is_projection = name.contains("attn_1") && tensor.shape.len() == 2;
        let ones: &[usize] = if is_projection { &[1, 1] } else { &[] };
        [tensor.shape.as_slice(), ones].concat()
    };
    let renamed = tensors.iter().map(|(name, tensor)| {
        let name = rename(name);
        let shape = shape(&name, tensor);
        (name, Tensor { shape, ..tensor.clone() })
    });
    renamed.collect()
}
