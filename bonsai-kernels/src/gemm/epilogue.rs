/// What happens to a finished product on its way into the output.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Epilogue<'a> {
    /// `out = product`
    Store,
    /// `out = product + bias[column]`
    Bias(&'a [f32]),
    /// `out += product`
    Add,
    /// `out += bias[column] + product`
    AddBias(&'a [f32]),
}

impl Epilogue<'_> {
    pub(crate) fn check(self, columns: usize) {
        if let Self::Bias(bias) | Self::AddBias(bias) = self {
            assert_eq!(bias.len(), columns, "length of a bias");
        }
    }

    /// Writes `scale * product`, whose first element belongs to column `column`.
    #[inline(always)]
    pub(crate) fn store(self, product: &[f32], scale: f32, column: usize, out: &mut [f32]) {
        match self {
            Self::Store => {
                for (o, p) in out.iter_mut().zip(product) {
                    *o = p * scale;
                }
            }
            Self::Bias(bias) => {
                for ((o, p), b) in out.iter_mut().zip(product).zip(&bias[column..]) {
                    *o = p * scale + b;
                }
            }
            Self::Add => {
                for (o, p) in out.iter_mut().zip(product) {
                    *o += p * scale;
                }
            }
            Self::AddBias(bias) => {
                for ((o, p), b) in out.iter_mut().zip(product).zip(&bias[column..]) {
                    *o += p * scale + b;
                }
            }
        }
    }
}
