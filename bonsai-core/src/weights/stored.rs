use std::ops::Range;

use super::dtype::Dtype;

/// One tensor as it stands in a file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// How its elements are written.
    pub dtype: Dtype,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes stand in the file.
    pub range: Range<usize>,
}
