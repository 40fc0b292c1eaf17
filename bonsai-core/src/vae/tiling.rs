use ndarray::{ArrayView3, ArrayViewMut3, s};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::nn::PictureBuffer;

/// Overlapping tiles with a linear cross-fade, as diffusers cuts them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Side of a tile in pixels.
    pub sample_size: usize,
    /// Side of a tile in latent pixels.
    pub latent_size: usize,
    /// Part of a tile that its neighbour covers too.
    pub overlap: f64,
}

/// How one direction (decode or encode) walks over its input and output.
struct Walk {
    /// Side of an input tile.
    tile: usize,
    /// Input pixels from one tile to the next.
    step: usize,
    /// Output pixels of the cross-fade.
    blend: usize,
    /// Output pixels of a tile that stay.
    keep: usize,
}

impl Walk {
    fn new(tile: usize, out_tile: usize, overlap: f64) -> Self {
        let blend = (out_tile as f64 * overlap) as usize;
        Self { tile, step: (tile as f64 * (1.0 - overlap)) as usize, blend, keep: out_tile - blend }
    }

    fn run(
        &self,
        cx: &mut Context<'_>,
        input: ArrayView3<'_, f32>,
        mut code: impl FnMut(&mut Context<'_>, ArrayView3<'_, f32>) -> Result<PictureBuffer>,
    ) -> Result<PictureBuffer> {
        let (height, width, _) = input.dim();
        let (rows, columns) = (height.div_ceil(self.step), width.div_ceil(self.step));
        let mut above: Vec<PictureBuffer> = Vec::new();
        let mut bands: Vec<Vec<PictureBuffer>> = Vec::new();
        for i in (0..height).step_by(self.step) {
            let mut row: Vec<PictureBuffer> = Vec::new();
            for j in (0..width).step_by(self.step) {
                let (bottom, right) = (height.min(i + self.tile), width.min(j + self.tile));
                // progress counts tiles here, not the parts of each
                let mut inner = Context { cpu: cx.cpu, probe: None, on_part: None };
                let mut tile = code(&mut inner, input.slice(s![i..bottom, j..right, ..]))?;
                if let Some(above) = above.get(row.len()) {
                    blend_down(above.view(), tile.view_mut(), self.blend);
                }
                if let Some(left) = row.last() {
                    // the same fade with rows and columns exchanged
                    let (left, tile) = (left.view().permuted_axes([1, 0, 2]), tile.view_mut());
                    blend_down(left, tile.permuted_axes([1, 0, 2]), self.blend);
                }
                row.push(tile);
                cx.part_done(bands.len() * columns + row.len(), rows * columns)?;
            }
            let kept = |tile: &PictureBuffer| {
                let (h, w, _) = tile.dim();
                PictureBuffer::copy_of(
                    cx.cpu,
                    tile.view().slice(s![..h.min(self.keep), ..w.min(self.keep), ..]),
                )
            };
            bands.push(row.iter().map(kept).collect::<Result<_>>()?);
            above = row;
        }
        drop(above);
        join(cx, &bands)
    }
}

/// `b[y] = a[end - extent + y] * (1 - y / extent) + b[y] * (y / extent)` for the first rows of `b`, where `a` lies above.
fn blend_down(a: ArrayView3<'_, f32>, mut b: ArrayViewMut3<'_, f32>, extent: usize) {
    let extent = extent.min(a.dim().0).min(b.dim().0);
    let width = a.dim().1.min(b.dim().1);
    let start = a.dim().0 - extent;
    for y in 0..extent {
        let t = y as f64 / extent as f64;
        let (keep, fade) = ((1.0 - t) as f32, t as f32);
        let above = a.slice(s![start + y, ..width, ..]);
        b.slice_mut(s![y, ..width, ..]).zip_mut_with(&above, |b, &a| *b = a * keep + *b * fade);
    }
}

fn join(cx: &Context<'_>, bands: &[Vec<PictureBuffer>]) -> Result<PictureBuffer> {
    let height = bands.iter().filter_map(|b| b.first()).map(|t| t.dim().0).sum();
    let width = bands.first().map_or(0, |b| b.iter().map(|t| t.dim().1).sum());
    let channels = bands.first().and_then(|b| b.first()).map_or(0, |t| t.dim().2);
    let mut whole = PictureBuffer::zeros(cx.cpu, (height, width, channels))?;
    let mut y = 0;
    for band in bands {
        let mut x = 0;
        let mut rows = 0;
        for tile in band {
            let (h, w, _) = tile.dim();
            whole.view_mut().slice_mut(s![y..y + h, x..x + w, ..]).assign(&tile.view());
            (x, rows) = (x + w, h);
        }
        y += rows;
    }
    Ok(whole)
}

impl Tiling {
    pub(super) fn check(&self) -> Result<()> {
        let sound = self.latent_size >= 2
            && self.sample_size >= self.latent_size
            && self.overlap > 0.0
            && self.overlap <= 0.5
            && (self.latent_size as f64 * (1.0 - self.overlap)) as usize > 0;
        if sound {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{self:?}: expected tiles of at least 2 latent pixels and an overlap of 0 to 0.5"
        )))
    }

    pub(super) fn decode(
        &self,
        cx: &mut Context<'_>,
        latent: ArrayView3<'_, f32>,
        code: impl FnMut(&mut Context<'_>, ArrayView3<'_, f32>) -> Result<PictureBuffer>,
    ) -> Result<PictureBuffer> {
        Walk::new(self.latent_size, self.sample_size, self.overlap).run(cx, latent, code)
    }

    pub(super) fn encode(
        &self,
        cx: &mut Context<'_>,
        picture: ArrayView3<'_, f32>,
        code: impl FnMut(&mut Context<'_>, ArrayView3<'_, f32>) -> Result<PictureBuffer>,
    ) -> Result<PictureBuffer> {
        Walk::new(self.sample_size, self.latent_size, self.overlap).run(cx, picture, code)
    }
}
