//! AutoencoderKLFlux2: latents to pictures and back.

mod attn_block;
mod config;
mod cost;
mod decoder;
mod encoder;
mod latent_norm;
mod resnet_block;
mod strips;
mod tiling;
mod tiny;

use bonsai_kernels::conv2d::{Conv2d, Sampling};
use bonsai_kernels::norm::{ChannelAffine, ChannelSums, group_norm};
use ndarray::{ArrayView3, s};

pub use config::VaeConfig;
pub(crate) use cost::{decode_cost, tiny_decode_cost};
pub use latent_norm::LatentNorm;
pub use tiling::Tiling;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::nn::{Conv, PictureBuffer};
use crate::weights::Weights;
use decoder::Decoder;
use encoder::Encoder;
use tiny::Tiny;
pub(crate) use tiny::decoder_width as tiny_decoder_width;
pub(crate) use tiny::is_tiny;

const NORM_EPS: f32 = 1e-6;

/// The autoencoder. Pictures and latents are `[height, width, channels]`.
#[derive(Debug)]
pub struct Vae {
    config: VaeConfig,
    quant_conv: Option<Conv>,
    post_quant_conv: Option<Conv>,
    halves: Halves,
    latent_norm: LatentNorm,
}

/// Encoder and decoder.
#[derive(Debug)]
enum Halves {
    Full { encoder: Option<Box<Encoder>>, decoder: Box<Decoder> },
    Tiny { encoder: Option<Tiny>, decoder: Tiny },
}

impl Vae {
    /// Builds the model. A file without an encoder makes one that only decodes; the decoder is as wide as its tensors
    /// are, whatever the config says.
    ///
    /// # Errors
    /// When the config is unsound or a tensor is missing, left over, or of another shape or dtype.
    pub fn load(w: &Weights, config: VaeConfig) -> Result<Self> {
        if is_tiny(w) {
            return Self::load_tiny(w, config);
        }
        let config = config.fitted(w);
        config.validate()?;
        let c = &config;
        let latent = c.latent_channels;
        if !w.has("bn.running_mean") {
            let found =
                w.shape("decoder.conv_in.weight").and_then(|shape| shape.get(1)).copied().unwrap_or(0);
            return Err(Error::mismatch(format!(
                "no tensor bn.running_mean, and a decoder of {found} latent channels: not the VAE of FLUX.2"
            )));
        }
        let decoder = Box::new(Decoder::load(&w.at("decoder"), c)?);
        let encoder = if w.has("encoder.conv_in.weight") {
            Some(Box::new(Encoder::load(&w.at("encoder"), c)?))
        } else {
            None
        };
        let wants_quant = c.use_quant_conv && encoder.is_some();
        let quant_conv =
            wants_quant.then(|| Conv::load(w, "quant_conv", 2 * latent, 2 * latent, 1)).transpose()?;
        if !wants_quant {
            w.skip("quant_conv.");
        }
        let post_quant_conv =
            c.use_post_quant_conv.then(|| Conv::load(w, "post_quant_conv", latent, latent, 1)).transpose()?;
        let latent_norm = LatentNorm::load(&w.at("bn"), c)?;
        w.finish()?;
        let halves = Halves::Full { encoder, decoder };
        Ok(Self { quant_conv, post_quant_conv, halves, latent_norm, config })
    }

    fn load_tiny(w: &Weights, config: VaeConfig) -> Result<Self> {
        // a config beside it is that of the VAE that it stands in for
        let tiny = VaeConfig::detect(w)?;
        let config = VaeConfig { batch_norm_eps: config.batch_norm_eps, ..tiny };
        config.validate()?;
        let decoder = Tiny::decoder(w)?;
        let encodes = w.has("encoder.0.weight");
        let encoder = if encodes { Some(Tiny::encoder(w, config.latent_channels)?) } else { None };
        w.finish()?;
        let latent_norm = LatentNorm::identity(config.token_channels());
        let halves = Halves::Tiny { encoder, decoder };
        Ok(Self { quant_conv: None, post_quant_conv: None, halves, latent_norm, config })
    }

    /// Whether it is TAEF2, which stands in for the VAE of FLUX.2.
    pub fn is_tiny(&self) -> bool {
        matches!(self.halves, Halves::Tiny { .. })
    }

    /// The config.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Statistics between the transformer's latents and the decoder's.
    pub fn latent_norm(&self) -> &LatentNorm {
        &self.latent_norm
    }

    /// Whether pictures can be encoded.
    pub fn can_encode(&self) -> bool {
        match &self.halves {
            Halves::Full { encoder, .. } => encoder.is_some(),
            Halves::Tiny { encoder, .. } => encoder.is_some(),
        }
    }

    /// Pixels of a picture for each pixel of its latent, in one direction.
    pub fn scale_factor(&self) -> usize {
        1 << (self.config.block_out_channels.len() - 1)
    }

    /// Picture `[f h, f w, 3]`, about -1 to 1, f the [scale factor](Self::scale_factor), of a latent `[h, w, latent_channels]`.
    ///
    /// # Errors
    /// When the latent has other channels, the work was cancelled, or memory lacks.
    pub fn decode(&self, cx: &mut Context<'_>, latent: ArrayView3<'_, f32>) -> Result<PictureBuffer> {
        self.decode_in_strips(cx, latent, 0)
    }

    /// [`Vae::decode`] whose finest `strips` upsamplings are never held whole but made twice in strips of rows: once
    /// for the statistics of the norm behind, once to be used up. The same numbers in less memory and more time.
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode_in_strips(
        &self,
        cx: &mut Context<'_>,
        latent: ArrayView3<'_, f32>,
        strips: usize,
    ) -> Result<PictureBuffer> {
        if latent.dim().2 != self.config.latent_channels {
            let expected = self.config.latent_channels;
            return Err(Error::invalid(format!(
                "latent channels: expected {expected}, found {}",
                latent.dim().2
            )));
        }
        let latent = PictureBuffer::copy_of(cx.cpu, latent)?;
        let x = match &self.post_quant_conv {
            Some(conv) => plain_conv(cx, conv, &latent)?,
            None => latent,
        };
        cx.tap_picture(format_args!("post_quant_conv"), x.view());
        match &self.halves {
            Halves::Full { decoder, .. } => decoder.forward(cx, x, strips),
            Halves::Tiny { decoder, .. } => decoder.decode(cx, x),
        }
    }

    /// Mean of the posterior `[h, w, latent_channels]` of a picture `[f h, f w, 3]` of about -1 to 1, f the scale factor.
    ///
    /// # Errors
    /// When there is no encoder, the picture is no whole number of latent pixels, the work was cancelled, or memory
    /// lacks.
    pub fn encode(&self, cx: &mut Context<'_>, picture: ArrayView3<'_, f32>) -> Result<PictureBuffer> {
        let moments = self.encode_moments(cx, picture)?;
        PictureBuffer::copy_of(cx.cpu, moments.view().slice(s![.., .., ..self.config.latent_channels]))
    }

    fn encode_moments(&self, cx: &mut Context<'_>, picture: ArrayView3<'_, f32>) -> Result<PictureBuffer> {
        if !self.can_encode() {
            let message = "this VAE file holds no encoder; pictures can't be encoded";
            return Err(Error::new(crate::ErrorKind::Unsupported, message));
        }
        let (height, width, channels) = picture.dim();
        let factor = self.scale_factor();
        if !height.is_multiple_of(factor)
            || !width.is_multiple_of(factor)
            || channels != self.config.in_channels
        {
            return Err(Error::invalid(format!(
                "picture {width}x{height} with {channels} channels: expected sides that are multiples of {factor} and {} channels",
                self.config.in_channels
            )));
        }
        let picture = PictureBuffer::copy_of(cx.cpu, picture)?;
        let moments = match &self.halves {
            Halves::Full { encoder: Some(encoder), .. } => encoder.forward(cx, picture)?,
            Halves::Tiny { encoder: Some(encoder), .. } => encoder.encode(cx, picture)?,
            _ => return Err(Error::new(crate::ErrorKind::Internal, "an encoder that was there")),
        };
        let moments = match &self.quant_conv {
            Some(conv) => plain_conv(cx, conv, &moments)?,
            None => moments,
        };
        cx.tap_picture(format_args!("quant_conv"), moments.view());
        Ok(moments)
    }

    /// [`Vae::decode`] tile by tile, blended where tiles overlap. Another result than the whole decode: norms and
    /// attention see one tile only.
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode_tiled(
        &self,
        cx: &mut Context<'_>,
        latent: ArrayView3<'_, f32>,
        tiling: &Tiling,
    ) -> Result<PictureBuffer> {
        tiling.check()?;
        let (height, width, _) = latent.dim();
        if height <= tiling.latent_size && width <= tiling.latent_size {
            return self.decode(cx, latent);
        }
        tiling.decode(cx, latent, |cx, tile| self.decode(cx, tile))
    }

    /// [`Vae::encode`] tile by tile, as [`Vae::decode_tiled`].
    ///
    /// # Errors
    /// As [`Vae::encode`].
    pub fn encode_tiled(
        &self,
        cx: &mut Context<'_>,
        picture: ArrayView3<'_, f32>,
        tiling: &Tiling,
    ) -> Result<PictureBuffer> {
        tiling.check()?;
        let (height, width, _) = picture.dim();
        if height <= tiling.sample_size && width <= tiling.sample_size {
            return self.encode(cx, picture);
        }
        let moments = tiling.encode(cx, picture, |cx, tile| self.encode_moments(cx, tile))?;
        PictureBuffer::copy_of(cx.cpu, moments.view().slice(s![.., .., ..self.config.latent_channels]))
    }

    /// Tiles of the size that the config states.
    pub fn default_tiling(&self) -> Tiling {
        let sample_size = self.config.sample_size;
        Tiling { sample_size, latent_size: sample_size / self.scale_factor(), overlap: 0.25 }
    }
}

/// Weight and bias of a group norm.
#[derive(Debug)]
struct GroupNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    groups: usize,
}

impl GroupNorm {
    fn load(w: &Weights, name: &str, channels: usize, c: &VaeConfig) -> Result<Self> {
        let w = w.at(name);
        let (weight, bias) = (w.values("weight", &[channels])?, w.values("bias", &[channels])?);
        Ok(Self { weight, bias, groups: c.norm_num_groups })
    }

    fn of(&self, cx: &Context<'_>, x: &PictureBuffer) -> Result<ChannelAffine> {
        Ok(group_norm(cx.cpu, x.view(), self.groups, NORM_EPS, &self.weight, &self.bias)?)
    }

    fn finish(&self, sums: &ChannelSums) -> ChannelAffine {
        sums.finish(self.groups, NORM_EPS, &self.weight, &self.bias)
    }
}

/// `conv(x)` into a new buffer, or a spare one that fits, `x` through norm and SiLU first where there is a norm.
fn convolve(
    cx: &Context<'_>,
    conv: &Conv,
    sampling: Sampling,
    norm_silu: Option<&ChannelAffine>,
    x: &PictureBuffer,
    spare: Option<PictureBuffer>,
) -> Result<PictureBuffer> {
    let weights = conv.prepare()?;
    let (height, width, _) = x.dim();
    let (height, width) = sampling.output_size(height, width);
    let mut out = PictureBuffer::from_spare(cx.cpu, (height, width, conv.out_channels()), spare)?;
    Conv2d { weights: &weights, sampling, norm_silu, add: false }.run(cx.cpu, x.view(), out.view_mut())?;
    Ok(out)
}

fn plain_conv(cx: &Context<'_>, conv: &Conv, x: &PictureBuffer) -> Result<PictureBuffer> {
    convolve(cx, conv, Sampling::Same, None, x, None)
}
