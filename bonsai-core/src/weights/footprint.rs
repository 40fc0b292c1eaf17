//! What tensors will take once they are loaded, from headers and the first row of each matrix.

use super::blocks::from_blocks;
use super::dtype::Dtype;
use super::{Entry, Weights, quantized};

/// Memory of some tensors of a loaded model, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Used where they lie in a mapped file: resident while they are read, and let go afterwards.
    pub mapped: u64,
    /// Copied, and resident as long as the model is loaded.
    pub copied: u64,
}

impl Weights {
    /// Memory of all tensors whose name begins with `prefix`.
    pub fn footprint(&self, prefix: &str) -> Footprint {
        let prefix = self.name(prefix);
        let entries = self.catalog.entries.range(prefix.clone()..);
        let mut sum = Footprint::default();
        for (name, entry) in entries.take_while(|(name, _)| name.starts_with(&prefix)) {
            let part = self.footprint_of(name, entry);
            sum = Footprint { mapped: sum.mapped + part.mapped, copied: sum.copied + part.copied };
        }
        sum
    }

    fn footprint_of(&self, name: &str, entry: &Entry) -> Footprint {
        let stored: u64 = entry.pieces.iter().map(|p| p.len() as u64).sum();
        let in_place = Footprint { mapped: stored, copied: 0 };
        let copied = |bytes: u64| Footprint { mapped: 0, copied: bytes };
        let in_place = if self.catalog.files[entry.file].map.is_mapped() { in_place } else { copied(stored) };
        if entry.pieces.len() > 1 {
            return copied(stored);
        }
        if let Some(footprint) = self.packed_footprint(name, entry, stored, in_place) {
            return footprint;
        }
        let scaled = name
            .strip_suffix(".weight")
            .is_some_and(|base| self.catalog.entries.contains_key(&format!("{base}.scales")));
        match (&entry.dtype, entry.shape.as_slice()) {
            (Dtype::Float(float_type), &[rows, cols])
                if name.ends_with(".weight") && !scaled && !self.is_native() =>
            {
                let row = self.first_row(entry, rows, stored);
                match row.map(|row| quantized::from_dense(1, cols, *float_type, row, &|| ())) {
                    Some(Ok(row)) if row.kind() != float_type.name() => copied((rows * row.bytes()) as u64),
                    _ => in_place,
                }
            }
            (Dtype::Block(block), &[rows, cols]) => {
                let row = self.first_row(entry, rows, stored);
                match row.and_then(|row| from_blocks(1, cols, *block, row.as_slice(), &|| ())) {
                    Some(Ok(row)) => copied((rows * row.bytes()) as u64),
                    _ => copied(stored),
                }
            }
            (Dtype::U8, _) if self.is_native() => in_place,
            (Dtype::U8 | Dtype::I32, _) => copied(stored),
            _ => in_place,
        }
    }

    /// Of the parts of gemlite and HQQ matrices; `None` for all others.
    fn packed_footprint(
        &self,
        name: &str,
        entry: &Entry,
        stored: u64,
        in_place: Footprint,
    ) -> Option<Footprint> {
        let (base, part) = name.rsplit_once('.')?;
        let has = |part: &str| self.catalog.entries.contains_key(&format!("{base}.{part}"));
        if !has("W_q") {
            return None;
        }
        let copied = |bytes: u64| Footprint { mapped: 0, copied: bytes };
        // as `Weights::transposed` has it
        let lies_turned =
            matches!(entry.shape.as_slice(), &[height, _] if entry.strides.as_deref() == Some(&[1, height]));
        match part {
            "W_q" | "scales" if has("scales") => Some(if lies_turned { in_place } else { copied(stored) }),
            // beside the codes of binary and ternary weights, zeros say nothing new
            "zeros" | "zero" => Some(Footprint::default()),
            "W_q" => {
                let int = |part: &str| self.ints(&format!("{base}.{part}")).ok().flatten()?.first().copied();
                let codes = 8 / int("nbits").unwrap_or(8).clamp(1, 8) as u64;
                if int("axis") == Some(0) {
                    return Some(copied(4 * codes * stored));
                }
                let scale = self.catalog.entries.get(&format!("{base}.scale"));
                let groups: usize = scale.map_or(0, |scale| scale.shape.iter().product());
                Some(copied(stored + 4 * groups as u64))
            }
            "scale" | "weight" | "bias" => None,
            // a few numbers
            _ => Some(Footprint::default()),
        }
    }

    fn first_row(&self, entry: &Entry, rows: usize, stored: u64) -> Option<bonsai_kernels::SharedBytes> {
        let bytes = self.bytes(entry).ok()?;
        bytes.slice(0..(stored as usize).checked_div(rows)?)
    }
}
