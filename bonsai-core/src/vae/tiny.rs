//! TAEF2, the tiny autoencoder for FLUX.2: two rows of small convolutions that stand in for the whole VAE. It reads
//! latents as the transformer leaves them, so that there are no statistics between the two.

use bonsai_kernels::Cpu;
use bonsai_kernels::conv2d::{Conv2d, Sampling};
use bonsai_kernels::norm::group_norm;
use ndarray::s;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::nn::{Conv, PictureBuffer};
use crate::weights::Weights;

/// Groups of a pool's norm.
const GROUPS: usize = 4;
const NORM_EPS: f32 = 1e-5;
/// Channels of a pool over those of its block.
const POOL: usize = 4;
/// Values of one task.
const TASK: usize = 1 << 16;

/// One half of TAEF2.
#[derive(Debug)]
pub(super) struct Tiny {
    layers: Vec<Layer>,
}

#[derive(Debug)]
enum Layer {
    /// `3 tanh(x / 3)`.
    Clamp,
    Conv(Conv),
    /// Each pixel doubled, then a convolution.
    Up(Conv),
    /// A convolution of every second pixel, with zeros all around.
    Down(Conv),
    Relu,
    Block(Box<Block>),
}

/// `relu(conv4(relu(conv2(relu(conv0(x))))) + x)`, `x` with its pool added before where there is one.
#[derive(Debug)]
struct Block {
    pool: Option<Pool>,
    convs: [Conv; 3],
}

/// `conv3(relu(norm1(conv0(x))))` of the whole picture.
#[derive(Debug)]
struct Pool {
    conv0: Conv,
    weight: Vec<f32>,
    bias: Vec<f32>,
    conv3: Conv,
}

/// Whether a file's tensors are TAEF2's.
pub(crate) fn is_tiny(w: &Weights) -> bool {
    w.has("decoder.3.conv.0.weight")
}

/// Channels of the decoder of a file that is TAEF2's.
pub(crate) fn decoder_width(w: &Weights) -> Option<usize> {
    is_tiny(w).then(|| dim(w, "decoder.1.weight", 0).ok()).flatten()
}

/// Channels of the latent that the decoder reads.
pub(super) fn latent_channels(w: &Weights) -> Result<usize> {
    dim(w, "decoder.1.weight", 1)
}

fn dim(w: &Weights, name: &str, axis: usize) -> Result<usize> {
    let size = w.shape(name).and_then(|shape| shape.get(axis)).copied();
    size.filter(|size| (1..1 << 12).contains(size))
        .ok_or_else(|| Error::mismatch(format!("tensor {name}: expected a 3x3 convolution of TAEF2")))
}

impl Tiny {
    /// Latent `[h, w, latent]` to a picture `[8 h, 8 w, 3]` of about -1 to 1.
    pub(super) fn decoder(w: &Weights) -> Result<Self> {
        let (width, latent) = (dim(w, "decoder.1.weight", 0)?, latent_channels(w)?);
        let w = w.at("decoder");
        let up =
            |i: usize| Ok::<_, Error>(Layer::Up(w.conv_without_bias(&i.to_string(), width, width, 3)?));
        let mut layers = vec![Layer::Clamp, Layer::Conv(w.conv("1", width, latent, 3)?), Layer::Relu];
        layers.extend(blocks(&w, 3..6, width)?);
        layers.push(up(7)?);
        layers.extend(blocks(&w, 8..11, width)?);
        layers.push(up(12)?);
        layers.extend(blocks(&w, 13..16, width)?);
        layers.push(up(17)?);
        layers.extend(blocks(&w, 18..19, width)?);
        layers.push(Layer::Conv(w.conv("19", 3, width, 3)?));
        Ok(Self { layers })
    }

    /// A picture of about -1 to 1 to its latent.
    pub(super) fn encoder(w: &Weights, latent: usize) -> Result<Self> {
        let width = dim(w, "encoder.0.weight", 0)?;
        let w = w.at("encoder");
        let down =
            |i: usize| Ok::<_, Error>(Layer::Down(w.conv_without_bias(&i.to_string(), width, width, 3)?));
        let mut layers = vec![Layer::Conv(w.conv("0", width, 3, 3)?)];
        layers.extend(blocks(&w, 1..2, width)?);
        layers.push(down(2)?);
        layers.extend(blocks(&w, 3..6, width)?);
        layers.push(down(6)?);
        layers.extend(blocks(&w, 7..10, width)?);
        layers.push(down(10)?);
        layers.extend(blocks(&w, 11..14, width)?);
        layers.push(Layer::Conv(w.conv("14", latent, width, 3)?));
        Ok(Self { layers })
    }

    pub(super) fn decode(&self, cx: &mut Context<'_>, latent: PictureBuffer) -> Result<PictureBuffer> {
        let mut picture = self.forward(cx, latent, "decoder")?;
        // TAEF2 paints in 0..1
        each(cx.cpu, &mut picture, |v| v.clamp(0.0, 1.0) * 2.0 - 1.0)?;
        Ok(picture)
    }

    pub(super) fn encode(&self, cx: &mut Context<'_>, mut picture: PictureBuffer) -> Result<PictureBuffer> {
        each(cx.cpu, &mut picture, |v| v * 0.5 + 0.5)?;
        self.forward(cx, picture, "encoder")
    }

    fn forward(&self, cx: &mut Context<'_>, mut x: PictureBuffer, name: &str) -> Result<PictureBuffer> {
        for (i, layer) in self.layers.iter().enumerate() {
            x = match layer {
                Layer::Clamp => {
                    each(cx.cpu, &mut x, |v| (v / 3.0).tanh() * 3.0)?;
                    x
                }
                Layer::Relu => {
                    relu(cx.cpu, &mut x)?;
                    x
                }
                Layer::Conv(weights) => convolve(cx, weights, Sampling::Same, &x)?,
                Layer::Up(weights) => convolve(cx, weights, Sampling::UpsampleNearest, &x)?,
                Layer::Down(conv) => halve(cx, conv, &x)?,
                Layer::Block(block) => block.forward(cx, x)?,
            };
            cx.tap_picture(format_args!("{name}.{i}"), x.view());
            cx.part_done(i + 1, self.layers.len())?;
        }
        Ok(x)
    }
}

fn blocks(w: &Weights, indices: std::ops::Range<usize>, width: usize) -> Result<Vec<Layer>> {
    indices.map(|i| Ok(Layer::Block(Box::new(Block::load(&w.at(i), width)?)))).collect()
}

impl Block {
    fn load(w: &Weights, width: usize) -> Result<Self> {
        let conv = |i: usize| w.conv(&format!("conv.{i}"), width, width, 3);
        let pool = if w.has("pool.0.weight") { Some(Pool::load(&w.at("pool"), width)?) } else { None };
        Ok(Self { pool, convs: [conv(0)?, conv(2)?, conv(4)?] })
    }

    fn forward(&self, cx: &Context<'_>, mut x: PictureBuffer) -> Result<PictureBuffer> {
        if let Some(pool) = &self.pool {
            pool.add_to(cx, &mut x)?;
        }
        let [conv0, conv2, conv4] = &self.convs;
        let mut h = convolve(cx, conv0, Sampling::Same, &x)?;
        relu(cx.cpu, &mut h)?;
        let mut h = convolve(cx, conv2, Sampling::Same, &h)?;
        relu(cx.cpu, &mut h)?;
        add_conv(cx, conv4, &h, &mut x)?;
        relu(cx.cpu, &mut x)?;
        Ok(x)
    }
}

impl Pool {
    fn load(w: &Weights, width: usize) -> Result<Self> {
        let inner = POOL * width;
        Ok(Self {
            conv0: w.conv_without_bias("0", inner, width, 1)?,
            weight: w.values("1.weight", &[inner])?,
            bias: w.values("1.bias", &[inner])?,
            conv3: w.conv_without_bias("3", width, inner, 1)?,
        })
    }

    fn add_to(&self, cx: &Context<'_>, x: &mut PictureBuffer) -> Result<()> {
        let h = convolve(cx, &self.conv0, Sampling::Same, x)?;
        let norm = group_norm(cx.cpu, h.view(), GROUPS, NORM_EPS, &self.weight, &self.bias)?;
        let mut normed = PictureBuffer::zeros(cx.cpu, h.dim())?;
        norm.apply(cx.cpu, h.pixels(), normed.pixels_mut())?;
        relu(cx.cpu, &mut normed)?;
        add_conv(cx, &self.conv3, &normed, x)
    }
}

fn convolve(cx: &Context<'_>, conv: &Conv, sampling: Sampling, x: &PictureBuffer) -> Result<PictureBuffer> {
    let (height, width, _) = x.dim();
    let (height, width) = sampling.output_size(height, width);
    let mut out = PictureBuffer::zeros(cx.cpu, (height, width, conv.out_channels()))?;
    let weights = conv.prepare()?;
    Conv2d { weights: &weights, sampling, norm_silu: None, add: false }.run(
        cx.cpu,
        x.view(),
        out.view_mut(),
    )?;
    Ok(out)
}

fn add_conv(cx: &Context<'_>, conv: &Conv, x: &PictureBuffer, to: &mut PictureBuffer) -> Result<()> {
    let weights = conv.prepare()?;
    let conv = Conv2d { weights: &weights, sampling: Sampling::Same, norm_silu: None, add: true };
    Ok(conv.run(cx.cpu, x.view(), to.view_mut())?)
}

/// Stride 2 with a border of one zero on every side. [`Sampling::Downsample`] has its border below and to the right
/// only, so that the picture moves by one pixel, and by another one to keep its size even.
fn halve(cx: &Context<'_>, conv: &Conv, x: &PictureBuffer) -> Result<PictureBuffer> {
    let (height, width, channels) = x.dim();
    let mut moved = PictureBuffer::zeros(cx.cpu, (height + 2, width + 2, channels))?;
    moved.view_mut().slice_mut(s![1..=height, 1..=width, ..]).assign(&x.view());
    let out = convolve(cx, conv, Sampling::Downsample, &moved)?;
    PictureBuffer::copy_of(cx.cpu, out.view().slice(s![..height / 2, ..width / 2, ..]))
}

fn relu(cpu: &Cpu, x: &mut PictureBuffer) -> Result<()> {
    each(cpu, x, |v| v.max(0.0))
}

fn each(cpu: &Cpu, x: &mut PictureBuffer, f: impl Fn(f32) -> f32 + Sync) -> Result<()> {
    let tasks: Vec<&mut [f32]> = x.as_mut_slice().chunks_mut(TASK).collect();
    Ok(cpu.for_each(
        tasks,
        || Ok(()),
        |(), values| {
            values.iter_mut().for_each(|v| *v = f(*v));
            Ok(())
        },
    )?)
}
