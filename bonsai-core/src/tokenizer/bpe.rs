//! Byte-level BPE over [`Tables`], in the way of the `tokenizers` crate, whose own model would build three hash maps of
//! all tokens and merges first. Ranks, ties and results are the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model, Token};

use super::tables::Tables;

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
        let letters = ByteLevel::alphabet().into_iter().filter_map(letter).collect();
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
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        if self.tables.ignore_merges()
            && let Some(id) = self.tables.id_of(word)
        {
            return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
        }
        let token = |piece: Piece| {
            let value = self.tables.text_of(piece.id).ok_or("a merge to a token that is not there")?;
            Ok(Token::new(piece.id, value.to_owned(), (piece.start, piece.end)))
        };
        self.merged(self.pieces(word)).into_iter().map(token).collect()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tables.id_of(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tables.text_of(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.tables.iter().map(|(id, text)| (text.to_owned(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.tables.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("these tables are written by `Parts`".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
