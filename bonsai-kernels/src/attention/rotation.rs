use ndarray::ArrayView2;

use super::Heads;
use crate::isa::{Token, Work};
use crate::norm::rms_norm_row;
use crate::rope::{RopePairs, rotate};
use crate::rows::row_of;

/// What becomes of each head of queries and keys before they meet: an RMS norm, then a rotation by the token's angles. The
/// bits are those of [`rms_norm_heads`](crate::norm::rms_norm_heads) and [`rope`](crate::rope::rope).
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// The norms in the order of tokens; none where queries and keys come normed.
    pub norms: &'a [HeadNorms<'a>],
    /// `[keys, dim / 2]`: an angle for each pair. Queries are those of the last tokens, or of all.
    pub cos: ArrayView2<'a, f32>,
    /// The same.
    pub sin: ArrayView2<'a, f32>,
    /// Which channels are pairs.
    pub pairs: RopePairs,
}

/// RMS norms of the heads of queries and keys, up to the token where the next ones begin.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// The first token.
    pub from: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Weight for queries, `[dim]`.
    pub query: &'a [f32],
    /// Weight for keys, `[dim]`.
    pub key: &'a [f32],
}

/// Whose norm is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Query,
    Key,
}

impl Rotation<'_> {
    pub(super) fn check(&self, queries: usize, keys: usize, heads: Heads) {
        let Self { norms, cos, sin, .. } = self;
        assert!(queries <= keys && cos.nrows() == keys && cos.dim() == sin.dim(), "angles of the tokens");
        assert_eq!(2 * cos.ncols(), heads.dim, "angles of a head");
        for norms in *norms {
            assert!([norms.query.len(), norms.key.len()] == [heads.dim; 2], "lengths of the norms' weights");
        }
    }
}

/// One head of a token as it meets others: `x` itself, or what `rotation` makes of it in `spare`.
#[inline(always)]
pub(super) fn turned<'a, T: Token>(
    t: T,
    rotation: Option<&Rotation<'_>>,
    side: Side,
    token: usize,
    x: &'a [f32],
    spare: &'a mut [f32],
) -> &'a [f32] {
    let Some(Rotation { norms, cos, sin, pairs }) = rotation else { return x };
    spare.copy_from_slice(x);
    let norm = norms.iter().rfind(|norms| norms.from <= token);
    let norm =
        norm.map(|norms| (norms.eps, if matches!(side, Side::Query) { norms.query } else { norms.key }));
    t.work(Turn { norm, cos: row_of(cos, token), sin: row_of(sin, token), pairs: *pairs, head: &mut *spare });
    spare
}

struct Turn<'a> {
    norm: Option<(f32, &'a [f32])>,
    cos: &'a [f32],
    sin: &'a [f32],
    pairs: RopePairs,
    head: &'a mut [f32],
}

impl Work for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { norm, cos, sin, pairs, head } = self;
        if let Some((eps, weight)) = norm {
            rms_norm_row(head, eps, weight);
        }
        rotate(head, cos, sin, pairs);
    }
}
