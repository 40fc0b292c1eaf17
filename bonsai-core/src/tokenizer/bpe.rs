//! Byte-level BPE over [`Tables`], where they lie. Ranks, ties and results are those of the `tokenizers` crate.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::letters;
use super::tables::Tables;
use crate::{Error, ErrorKind, Result};

/// The model: tokens, and which pairs of them are merged in which order.
pub(super) struct Bpe {
    tables: Tables,
    /// Ids of the letters that stand for bytes.
    letters: HashMap<char, u32>,
}

/// A token on its way: a part of the word.
#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    start: usize,
    end: usize,
    /// Neighbours; the piece itself at the ends. A piece that was merged into the one before it is empty.
    before: usize,
    behind: usize,
}

impl Piece {
    fn is_gone(&self) -> bool {
        self.start == self.end
    }
}

/// Two neighbours that may become one: rank, left piece, its id and that of the right one, id of the union.
type Merge = Reverse<(u32, usize, u32, u32, u32)>;

impl Bpe {
    pub(super) fn new(tables: Tables) -> Self {
        let mut text = [0; 4];
        let letter = |c: char| Some((c, tables.id_of(c.encode_utf8(&mut text))?));
        let letters = letters::alphabet().into_iter().filter_map(letter).collect();
        Self { tables, letters }
    }

    /// The letters of a word; those that are no token are left out.
    fn pieces(&self, word: &str) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(word.len());
        for (start, c) in word.char_indices() {
            if let Some(&id) = self.letters.get(&c) {
                let (at, end) = (pieces.len(), start + c.len_utf8());
                pieces.push(Piece { id, start, end, before: at.saturating_sub(1), behind: at + 1 });
            }
        }
        if let Some(last) = pieces.last_mut() {
            last.behind -= 1;
        }
        pieces
    }

    fn merge_of(&self, pieces: &[Piece], left: usize) -> Option<Merge> {
        let right = pieces[left].behind;
        if right == left {
            return None;
        }
        let (a, b) = (pieces[left].id, pieces[right].id);
        let (rank, union) = self.tables.merge(a, b)?;
        Some(Reverse((rank, left, a, b, union)))
    }

    /// Merges the pair of the lowest rank, the leftmost of equal ones, until there is none.
    fn merged(&self, mut pieces: Vec<Piece>) -> Vec<Piece> {
        let mut queue: BinaryHeap<Merge> =
            (0..pieces.len()).filter_map(|i| self.merge_of(&pieces, i)).collect();
        while let Some(Reverse((_, left, a, b, union))) = queue.pop() {
            let right = pieces[left].behind;
            let is_there =
                !pieces[left].is_gone() && right != left && (pieces[left].id, pieces[right].id) == (a, b);
            if !is_there {
                continue;
            }
            let Piece { end, behind, .. } = pieces[right];
            pieces[right].start = pieces[right].end;
            pieces[left].id = union;
            pieces[left].end = end;
            if behind == right {
                pieces[left].behind = left;
            } else {
                pieces[left].behind = behind;
                pieces[behind].before = left;
            }
            let before = pieces[left].before;
            if before != left {
                queue.extend(self.merge_of(&pieces, before));
            }
            queue.extend(self.merge_of(&pieces, left));
        }
        pieces.retain(|piece| !piece.is_gone());
        pieces
    }

    /// Adds the ids of a word of letters.
    ///
    /// # Errors
    /// When tables that are damaged merge to a token that is not there.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        if self.tables.ignore_merges()
            && let Some(id) = self.tables.id_of(word)
        {
            ids.push(id);
            return Ok(());
        }
        for piece in self.merged(self.pieces(word)) {
            if self.text_of(piece.id).is_none() {
                return Err(Error::new(ErrorKind::Tokenizer, "a merge to a token that is not there"));
            }
            ids.push(piece.id);
        }
        Ok(())
    }

    pub(super) fn text_of(&self, id: u32) -> Option<&str> {
        self.tables.text_of(id)
    }
}
