use std::ops::Range;

use bonsai_kernels::{AlignedBuf, Cpu};
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, s};

use crate::error::Result;

/// Rows of tokens, `[tokens, channels]`.
#[derive(Debug)]
pub struct TokenBuffer {
    data: AlignedBuf<f32>,
    tokens: usize,
    channels: usize,
}

impl TokenBuffer {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn zeros(cpu: &Cpu, tokens: usize, channels: usize) -> Result<Self> {
        let data = cpu.buffer(tokens.saturating_mul(channels))?;
        Ok(Self { data, tokens, channels })
    }

    /// Number of rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of columns.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// All values, row by row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// All values, row by row.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// All rows.
    pub fn view(&self) -> ArrayView2<'_, f32> {
        ArrayView2::from_shape((self.tokens, self.channels), &self.data)
            .expect("length was made for this shape")
    }

    /// All rows.
    pub fn view_mut(&mut self) -> ArrayViewMut2<'_, f32> {
        let shape = (self.tokens, self.channels);
        ArrayViewMut2::from_shape(shape, &mut self.data).expect("length was made for this shape")
    }

    /// Some rows.
    pub fn rows(&self, rows: Range<usize>) -> ArrayView2<'_, f32> {
        self.view().slice_move(s![rows, ..])
    }

    /// Some rows.
    pub fn rows_mut(&mut self, rows: Range<usize>) -> ArrayViewMut2<'_, f32> {
        self.view_mut().slice_move(s![rows, ..])
    }

    /// Some columns of some rows.
    pub fn block_mut(&mut self, rows: Range<usize>, channels: Range<usize>) -> ArrayViewMut2<'_, f32> {
        self.view_mut().slice_move(s![rows, channels])
    }
}

/// A picture or feature map, `[height, width, channels]`.
#[derive(Debug)]
pub struct PictureBuffer {
    data: AlignedBuf<f32>,
    shape: (usize, usize, usize),
}

impl PictureBuffer {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn zeros(cpu: &Cpu, (height, width, channels): (usize, usize, usize)) -> Result<Self> {
        let len = height.saturating_mul(width).saturating_mul(channels);
        Ok(Self { data: cpu.buffer(len)?, shape: (height, width, channels) })
    }

    /// `spare`, if it has this shape, with whatever it holds; else a buffer of zeros. Memory that is fresh from the system costs
    /// as much as a part of what is done in it.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub(crate) fn from_spare(
        cpu: &Cpu,
        shape: (usize, usize, usize),
        spare: Option<PictureBuffer>,
    ) -> Result<Self> {
        match spare {
            Some(spare) if spare.shape == shape => Ok(spare),
            _ => Self::zeros(cpu, shape),
        }
    }

    /// A copy of a view.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn copy_of(cpu: &Cpu, view: ArrayView3<'_, f32>) -> Result<Self> {
        let mut copy = Self::zeros(cpu, view.dim())?;
        copy.view_mut().assign(&view);
        Ok(copy)
    }

    /// Height, width, channels.
    pub fn dim(&self) -> (usize, usize, usize) {
        self.shape
    }

    /// All values, pixel by pixel.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// All values, pixel by pixel.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// All pixels.
    pub fn view(&self) -> ArrayView3<'_, f32> {
        ArrayView3::from_shape(self.shape, &self.data).expect("length was made for this shape")
    }

    /// All pixels.
    pub fn view_mut(&mut self) -> ArrayViewMut3<'_, f32> {
        ArrayViewMut3::from_shape(self.shape, &mut self.data).expect("length was made for this shape")
    }

    /// Some rows of pixels.
    pub fn picture_rows(&self, rows: Range<usize>) -> ArrayView3<'_, f32> {
        self.view().slice_move(s![rows, .., ..])
    }

    /// Some rows of pixels.
    pub fn picture_rows_mut(&mut self, rows: Range<usize>) -> ArrayViewMut3<'_, f32> {
        self.view_mut().slice_move(s![rows, .., ..])
    }

    /// Copies rows of pixels to those from `to` on.
    pub(crate) fn copy_rows(&mut self, rows: Range<usize>, to: usize) {
        let row = self.shape.1 * self.shape.2;
        self.data.copy_within(rows.start * row..rows.end * row, to * row);
    }

    /// Pixels as rows, `[height * width, channels]`.
    pub fn pixels(&self) -> ArrayView2<'_, f32> {
        let (height, width, channels) = self.shape;
        ArrayView2::from_shape((height * width, channels), &self.data)
            .expect("length was made for this shape")
    }

    /// Pixels as rows, `[height * width, channels]`.
    pub fn pixels_mut(&mut self) -> ArrayViewMut2<'_, f32> {
        let (height, width, channels) = self.shape;
        let shape = (height * width, channels);
        ArrayViewMut2::from_shape(shape, &mut self.data).expect("length was made for this shape")
    }
}
