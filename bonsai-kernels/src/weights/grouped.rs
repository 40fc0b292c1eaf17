use std::ops::Range;

use super::codes::CodeRows;
use super::{Scales, SizeError};
use crate::SharedBytes;
use crate::isa::Token;

/// Codes with one scale for each group of a row's inputs: what binary, ternary and affine weights share.
#[derive(Debug, Clone)]
pub(super) struct GroupedCodes {
    pub(super) codes: CodeRows,
    pub(super) scales: Scales,
    pub(super) group_size: usize,
}

impl GroupedCodes {
    pub(super) fn new(
        rows: usize,
        cols: usize,
        bits: u32,
        group_size: usize,
        codes: SharedBytes,
        scales: Scales,
    ) -> Result<Self, SizeError> {
        assert!(group_size > 0, "a group of no inputs");
        let codes = CodeRows::new(codes, rows, cols, bits)?;
        scales.expect_len("scales", rows.saturating_mul(cols.div_ceil(group_size)))?;
        Ok(Self { codes, scales, group_size })
    }

    pub(super) fn rows(&self) -> usize {
        self.codes.rows()
    }

    pub(super) fn cols(&self) -> usize {
        self.codes.cols()
    }

    /// Groups of one row.
    pub(super) fn groups(&self) -> usize {
        self.cols().div_ceil(self.group_size)
    }

    /// Where the value of a group stands among all groups.
    #[inline(always)]
    pub(super) fn group_index(&self, row: usize, group: usize) -> usize {
        row * self.groups() + group
    }

    #[inline(always)]
    pub(super) fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.get(self.group_index(row, group))
    }

    /// The values of one group for rows `first_row..`; what lies beyond the last row stays as it is.
    #[inline(always)]
    pub(super) fn gather<T: Token>(
        &self,
        t: T,
        values: &Scales,
        first_row: usize,
        group: usize,
        out: &mut [f32],
    ) {
        let rows = self.rows().saturating_sub(first_row).min(out.len());
        values.gather(t, self.group_index(first_row, group), self.groups(), &mut out[..rows]);
    }

    /// One value of `values`, which has one for each group, for `W` neighbouring rows; 0 beyond the last row.
    #[inline(always)]
    pub(super) fn lanes<const W: usize>(&self, values: &Scales, first_row: usize, group: usize) -> [f32; W] {
        std::array::from_fn(|lane| {
            let row = first_row + lane;
            if row < self.rows() { values.get(self.group_index(row, group)) } else { 0.0 }
        })
    }

    /// The scales of groups `first_group..` of one row, as many as `out` holds.
    #[inline(always)]
    pub(super) fn copy_scales(&self, row: usize, first_group: usize, out: &mut [f32]) {
        self.scales.copy_to(self.group_index(row, first_group), out);
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.byte_len() + self.scales.byte_len()
    }

    pub(super) fn slice_rows(&self, rows: Range<usize>) -> Self {
        Self {
            scales: self.scales.slice(self.group_range(&rows)),
            codes: self.codes.slice_rows(rows),
            group_size: self.group_size,
        }
    }

    /// Groups of these rows among all groups.
    pub(super) fn group_range(&self, rows: &Range<usize>) -> Range<usize> {
        self.group_index(rows.start, 0)..self.group_index(rows.end, 0)
    }
}

/// The face that all kinds with groups have.
macro_rules! grouped_shape {
    ($($field:ident).+) => {
        /// Output features.
        pub fn rows(&self) -> usize {
            self.$($field).+.rows()
        }

        /// Input features.
        pub fn cols(&self) -> usize {
            self.$($field).+.cols()
        }

        /// Inputs that share a scale.
        pub fn group_size(&self) -> usize {
            self.$($field).+.group_size
        }

        /// Groups of one row.
        pub fn groups(&self) -> usize {
            self.$($field).+.groups()
        }

        /// Scale of one group.
        pub fn scale(&self, row: usize, group: usize) -> f32 {
            self.$($field).+.scale(row, group)
        }

        /// The scales of one group for rows `first_row..`; what lies beyond the last row stays as it is.
        #[inline(always)]
        pub(crate) fn gather_scales<T: $crate::isa::Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]) {
            let codes = &self.$($field).+;
            codes.gather(t, &codes.scales, first_row, group, out);
        }

        /// The scales of all groups, one row behind the other.
        #[cfg(target_arch = "x86_64")]
        #[allow(dead_code, reason = "not all kinds are asked")]
        pub(crate) fn scales(&self) -> &$crate::weights::Scales {
            &self.$($field).+.scales
        }

        /// The packed codes of all rows, one behind the other.
        #[inline]
        pub(crate) fn codes(&self) -> &[u8] {
            self.$($field).+.codes.as_slice()
        }

        /// The packed codes of one row.
        #[inline]
        pub fn row_codes(&self, row: usize) -> &[u8] {
            self.$($field).+.codes.row_bytes(row)
        }
    };
}
pub(super) use grouped_shape;
