use std::sync::{Mutex, PoisonError};

use bonsai_kernels::SharedBytes;
use bonsai_kernels::weights::{FloatType, Weights as Matrix};

use crate::nn::Conv;

/// Something that a model asked of its file.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A matrix, under the name of its layer.
    Matrix(Matrix),
    /// A tensor of floats, under its whole name.
    Values(SharedBytes, FloatType, Vec<usize>),
    /// The weights of a convolution, under the name of its layer; the bias is an item of its own.
    Conv(Conv),
}

/// Keeps what a model asks for while it is built.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<(String, Item)>>);

impl Recorder {
    pub(crate) fn push(&self, name: String, item: Item) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, item));
    }

    pub(crate) fn take(&self) -> Vec<(String, Item)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
