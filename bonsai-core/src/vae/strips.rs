//! A resnet behind an upsampling, without ever holding the upsampled picture: at the finest level it would be the
//! largest buffer of the whole decoder. Every number is formed as in the plain order, so that the result is the same.

use std::ops::Range;

use bonsai_kernels::Cpu;
use bonsai_kernels::conv2d::{Conv2d, Sampling};
use bonsai_kernels::norm::ChannelSums;
use ndarray::{ArrayViewMut3, s};

use super::resnet_block::ResnetBlock;
use crate::context::Context;
use crate::error::Result;
use crate::nn::{Conv, PictureBuffer};
use crate::page_allocator::MAPPED_BYTES;

/// Upsampled rows of one strip, about.
const STRIP_ROWS: usize = 16;
/// Bytes of a band, at least: enough to leave memory as soon as it is freed.
pub(super) const BAND_BYTES: usize = 2 * MAPPED_BYTES;

/// Rows of a strip of an upsampled picture.
pub(super) fn strip_rows(width: usize, channels: usize) -> usize {
    STRIP_ROWS.next_multiple_of(2 * ChannelSums::rows_per_block(width, channels))
}

impl ResnetBlock {
    /// `forward(upsample(x))`; `spare` holds a picture that nobody needs then.
    pub(super) fn forward_upsampled(
        &self,
        cx: &Context<'_>,
        x: PictureBuffer,
        upsample: &Conv,
        spare: &mut Option<PictureBuffer>,
    ) -> Result<PictureBuffer> {
        let cpu = cx.cpu;
        let (height, width, _) = x.dim();
        let (height, width, channels) = (2 * height, 2 * width, upsample.out_channels());
        let strip = strip_rows(width, channels);
        let starts = (0..height).step_by(strip).map(|start| start..height.min(start + strip));
        let upsample = upsample.prepare()?;
        let upsample =
            Conv2d { weights: &upsample, sampling: Sampling::UpsampleNearest, norm_silu: None, add: false };

        // the last two rows of the strip before, then the strip
        let mut window = PictureBuffer::zeros(cpu, (2 + height.min(strip), width, channels))?;
        let mut sums = ChannelSums::new(channels);
        for rows in starts.clone() {
            upsample.run_rows(cpu, x.view(), rows.start, window.picture_rows_mut(0..rows.len()))?;
            sums.add(cpu, window.picture_rows(0..rows.len()))?;
        }
        let norm = self.norm1.finish(&sums);

        let mut x = Bands::new(cpu, x)?;
        let conv1 = self.conv1.prepare()?;
        let shortcut = self.shortcut.as_ref().map(Conv::prepare).transpose()?;
        let same = |weights| Conv2d { weights, sampling: Sampling::Same, norm_silu: None, add: false };
        let conv1 = Conv2d { norm_silu: Some(&norm), ..same(&conv1) };
        let mut hidden = PictureBuffer::zeros(cpu, (height, width, self.conv1.out_channels()))?;
        let mut out = PictureBuffer::zeros(cpu, hidden.dim())?;
        let mut convolved = 0;
        for rows in starts {
            let above = if rows.start == 0 { 0 } else { 2 };
            if above > 0 {
                window.copy_rows(strip..strip + 2, 0);
            }
            x.upsampled(cpu, &upsample, rows.clone(), window.picture_rows_mut(2..2 + rows.len()))?;
            let seen = window.picture_rows(2 - above..2 + rows.len());
            // the last row waits for the one below it
            let ready = if rows.end == height { height } else { rows.end - 1 };
            let (first, at) = (convolved + above - rows.start, convolved..ready);
            conv1.run_rows(cpu, seen, first, hidden.picture_rows_mut(at))?;
            convolved = ready;
            match &shortcut {
                Some(shortcut) => {
                    same(shortcut).run_rows(cpu, seen, above, out.picture_rows_mut(rows))?;
                }
                None => out.picture_rows_mut(rows).assign(&seen.slice(s![above.., .., ..])),
            }
        }
        drop((x, window));
        self.finish(cx, hidden, out, spare)
    }
}

/// A picture in parts that leave memory one by one.
struct Bands {
    bands: Vec<Option<PictureBuffer>>,
    /// Rows of each band but the last.
    rows: usize,
    height: usize,
}

impl Bands {
    fn new(cpu: &Cpu, x: PictureBuffer) -> Result<Self> {
        let (height, width, channels) = x.dim();
        let rows = BAND_BYTES.div_ceil(4 * width * channels);
        let bands = if rows >= height {
            vec![Some(x)]
        } else {
            let band = |start| PictureBuffer::copy_of(cpu, x.picture_rows(start..height.min(start + rows)));
            (0..height).step_by(rows).map(|start| band(start).map(Some)).collect::<Result<_>>()?
        };
        Ok(Self { bands, rows, height })
    }

    /// Rows `rows` of the upsampled picture; those above will not be asked for again.
    fn upsampled(
        &mut self,
        cpu: &Cpu,
        upsample: &Conv2d<'_>,
        rows: Range<usize>,
        out: ArrayViewMut3<'_, f32>,
    ) -> Result<()> {
        let needed = (rows.start / 2).saturating_sub(1)..self.height.min(rows.end.div_ceil(2) + 1);
        self.bands[..needed.start / self.rows].fill_with(|| None);
        let band = |row: usize| self.bands[row / self.rows].as_ref().expect("rows are asked for in order");
        let (_, width, channels) = band(needed.start).dim();
        let mut input = PictureBuffer::zeros(cpu, (needed.len(), width, channels))?;
        for (i, row) in needed.clone().enumerate() {
            let within = row % self.rows;
            input.picture_rows_mut(i..i + 1).assign(&band(row).picture_rows(within..within + 1));
        }
        Ok(upsample.run_rows(cpu, input.view(), rows.start - 2 * needed.start, out)?)
    }
}
