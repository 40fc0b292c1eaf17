//! What is wrong with files that can be read: signs that weights are not those that were trained together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use super::Weights;
use super::dtype::{BlockType, Dtype};

impl Weights {
    /// Warnings about the matrices that were asked for so far.
    pub fn warnings(&self) -> Vec<String> {
        let kinds = self.kinds();
        let few_bits = kinds.iter().filter(|(_, kind)| ["binary", "ternary"].contains(kind));
        let few_bits: BTreeSet<&str> = few_bits.map(|(name, _)| name.as_str()).collect();
        let mut warnings: Vec<String> = self.mixed_files(&few_bits).into_iter().collect();

        let loose = kinds.values().filter(|kind| ["int1", "int2"].contains(kind)).count();
        if loose > 0 {
            warnings.push(format!(
                "{loose} of {} matrices have 1 or 2 bits and are neither binary nor ternary: a lossy re-quantisation, whose \
                 pictures are not those of the published model",
                kinds.len()
            ));
        }
        // the released models have one scale for 128 weights
        let is_coarse =
            |entry: &&super::Entry| matches!(entry.dtype, Dtype::Block(BlockType::TQ1_0 | BlockType::TQ2_0));
        let coarse = self.catalog.entries.values().filter(is_coarse).count();
        if coarse > 0 {
            warnings.push(format!(
                "{coarse} matrices have one scale for 256 weights, where the published ternary model has one for 128: a lossy \
                 re-quantisation"
            ));
        }
        let (across, bytes) = self.written_out(&kinds);
        if across > 0 {
            warnings.push(format!(
                "{across} matrices are HQQ packs whose groups run across the rows (axis 0), which no kernel reads: they are \
                 written out as f32, exactly, and take {bytes} bytes of memory"
            ));
        }
        warnings
    }

    /// How many HQQ matrices became f32, and their bytes.
    fn written_out(&self, kinds: &BTreeMap<String, &'static str>) -> (usize, u64) {
        let is_packed = |name: &str| self.catalog.entries.contains_key(&format!("{name}.W_q"));
        let dense = kinds.iter().filter(|(name, kind)| **kind == "f32" && is_packed(name));
        let shapes = dense.filter_map(|(name, _)| self.ints(&format!("{name}.shape")).ok().flatten());
        shapes.fold((0, 0), |(count, bytes), shape| {
            (count + 1, bytes + 4 * shape.iter().product::<i64>().unsigned_abs())
        })
    }

    /// Matrices of few bits from one file beside dense tensors from another.
    fn mixed_files(&self, few_bits: &BTreeSet<&str>) -> Option<String> {
        let claimed = self.catalog.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut packed, mut dense) = (BTreeSet::new(), BTreeSet::new());
        for name in claimed.iter() {
            let Some(entry) = self.catalog.entries.get(name) else { continue };
            let layer = name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer);
            let files = if few_bits.contains(layer) { &mut packed } else { &mut dense };
            files.insert(entry.file);
        }
        if packed.is_empty() || dense.is_empty() || !packed.is_disjoint(&dense) {
            return None;
        }
        let names = |files: &BTreeSet<usize>| {
            let name = |&file: &usize| self.catalog.files[file].path.display().to_string();
            files.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        Some(format!(
            "1-bit or ternary matrices from {} stand beside dense tensors from {}: those of Bonsai Image were trained anew and \
             do not fit FLUX.2 Klein's",
            names(&packed),
            names(&dense)
        ))
    }
}
