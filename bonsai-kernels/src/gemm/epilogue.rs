/// Values that are written at once: half a line of a cache, for stores that cross from line to line cost more.
const AT_ONCE: usize = 8;

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
    /// `out += gate[column] * product`
    AddGated(&'a [f32]),
}

impl Epilogue<'_> {
    pub(crate) fn check(self, columns: usize) {
        if let Self::Bias(bias) | Self::AddBias(bias) = self {
            assert_eq!(bias.len(), columns, "length of a bias");
        }
        if let Self::AddGated(gate) = self {
            assert_eq!(gate.len(), columns, "length of a gate");
        }
    }

    /// Writes `scale * product`, whose first element belongs to column `column`.
    #[inline(always)]
    pub(crate) fn store(self, product: &[f32], scale: f32, column: usize, out: &mut [f32]) {
        let product = &product[..out.len()];
        macro_rules! each {
            (|$o:ident, $p:ident| $value:expr) => {{
                let (lines, rest) = out.as_chunks_mut::<AT_ONCE>();
                let (products, products_left) = product.as_chunks::<AT_ONCE>();
                for (line, products) in lines.iter_mut().zip(products) {
                    let mut values = *line;
                    for ($o, &$p) in values.iter_mut().zip(products) {
                        *$o = $value;
                    }
                    *line = values;
                }
                for ($o, &$p) in rest.iter_mut().zip(products_left) {
                    *$o = $value;
                }
            }};
        }
        match self {
            Self::Store => each!(|o, p| p * scale),
            Self::Add => each!(|o, p| *o + p * scale),
            Self::Bias(bias) => {
                for ((o, p), b) in out.iter_mut().zip(product).zip(&bias[column..]) {
                    *o = p * scale + b;
                }
            }
            Self::AddBias(bias) => {
                for ((o, p), b) in out.iter_mut().zip(product).zip(&bias[column..]) {
                    *o += p * scale + b;
                }
            }
            Self::AddGated(gate) => {
                for ((o, p), g) in out.iter_mut().zip(product).zip(&gate[column..]) {
                    *o += g * (p * scale);
                }
            }
        }
    }
}
