//! A tokenizer in a form that is used where it lies: numbers of 4 bytes, little-endian, sorted for searching.
//!
//! ```text
//! u32 version | u8 ignore_merges | text pattern | text pad_token
//! u32 a | a x (u8 special, text content)         added tokens in their order
//! u32 n | n x u32                                ids, ascending; added tokens among them
//! n x u32                                        where the text of each ends
//! n x u32                                        places of the tokens in the order of their texts
//! u32 m | m x (u32 left, u32 right, u32 rank, u32 union)    merges by the ids of their parts, ascending
//! texts, one behind the other
//! text = u32 length | UTF-8
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use bonsai_kernels::SharedBytes;

use super::files::{Added, MAX_ID, Parts, is_tame};
use crate::{Error, ErrorKind, Result};

const VERSION: u32 = 2;
/// Bytes of a number, and of a merge.
const NUMBER: usize = 4;
const MERGE: usize = 4 * NUMBER;

impl Parts {
    pub(super) fn to_tables(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let number = |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&(n as u32).to_le_bytes());
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        number(&mut out, VERSION as usize);
        out.push(self.ignore_merges.into());
        text(&mut out, &self.pattern);
        text(&mut out, &self.pad_token);
        number(&mut out, self.added.len());
        for added in &self.added {
            out.push(added.special.into());
            text(&mut out, &added.content);
        }
        let mut tokens: Vec<(u32, &str)> =
            self.vocab.iter().map(|(token, &id)| (id, token.as_str())).collect();
        tokens.sort_unstable();
        number(&mut out, tokens.len());
        tokens.iter().for_each(|(id, _)| number(&mut out, *id as usize));
        let mut end = 0;
        for (_, token) in &tokens {
            end += token.len();
            number(&mut out, end);
        }
        let mut by_text: Vec<usize> = (0..tokens.len()).collect();
        by_text.sort_unstable_by_key(|&place| tokens[place].1);
        by_text.iter().for_each(|&place| number(&mut out, place));
        let mut union = String::new();
        // of a pair that stands there twice the last one counts
        let mut merges = BTreeMap::new();
        for (rank, (a, b)) in self.merges.iter().enumerate() {
            union.clear();
            union.push_str(a);
            union.push_str(b);
            merges.insert((self.vocab[a], self.vocab[b]), (rank, self.vocab[&union]));
        }
        number(&mut out, merges.len());
        for ((left, right), (rank, union)) in merges {
            [left as usize, right as usize, rank, union as usize]
                .into_iter()
                .for_each(|n| number(&mut out, n));
        }
        tokens.iter().for_each(|(_, token)| out.extend_from_slice(token.as_bytes()));
        out
    }
}

/// What stands in front of the tables.
pub(super) struct Head {
    pub(super) pattern: String,
    pub(super) pad_token: String,
    pub(super) added: Vec<Added>,
}

/// Tokens and merges.
pub(super) struct Tables {
    bytes: SharedBytes,
    ignore_merges: bool,
    ids: Range<usize>,
    ends: Range<usize>,
    by_text: Range<usize>,
    merges: Range<usize>,
    texts: Range<usize>,
}

impl Tables {
    /// Checks so much that no search can go wrong; the order of texts and merges is not among it.
    pub(super) fn open(bytes: SharedBytes) -> Result<(Head, Self)> {
        let all = bytes.as_slice();
        let mut r = Reader { all, at: 0 };
        let version = r.number()?;
        if version != VERSION {
            return Err(bad(&format!("version {version}, not {VERSION}: convert the model again")));
        }
        let ignore_merges = r.flag()?;
        let (pattern, pad_token) = (r.text()?.to_owned(), r.text()?.to_owned());
        if !is_tame(&pattern) {
            return Err(bad("a pattern that is long or repeats by count"));
        }
        let count = r.count(1 + NUMBER)?;
        let added = (0..count)
            .map(|_| Ok(Added { special: r.flag()?, content: r.text()?.to_owned() }))
            .collect::<Result<_>>()?;
        let tokens = r.count(3 * NUMBER)?;
        let mut table = |len: usize| r.range(len);
        let (ids, ends, by_text) =
            (table(tokens * NUMBER)?, table(tokens * NUMBER)?, table(tokens * NUMBER)?);
        let merges = r.count(MERGE)?;
        let merges = r.range(merges * MERGE)?;
        let texts = r.at..all.len();
        let tables = Self { ignore_merges, ids, ends, by_text, merges, texts, bytes: bytes.clone() };
        tables.check()?;
        Ok((Head { pattern, pad_token, added }, tables))
    }

    fn check(&self) -> Result<()> {
        let ids = numbers(self.part(&self.ids));
        if !ids.is_sorted_by(|a, b| a < b) || self.last_id().is_some_and(|last| last > MAX_ID) {
            return Err(bad("ids that do not ascend, or an absurd one"));
        }
        let places = self.len() as u32;
        if numbers(self.part(&self.by_text)).any(|place| place >= places) {
            return Err(bad("a place of no token"));
        }
        let texts =
            std::str::from_utf8(self.part(&self.texts)).map_err(|_| bad("texts that are not UTF-8"))?;
        let mut begin = 0;
        for end in numbers(self.part(&self.ends)) {
            let end = end as usize;
            if end <= begin || !texts.is_char_boundary(end) {
                return Err(bad("a text that is empty or cut"));
            }
            begin = end;
        }
        if begin != texts.len() {
            return Err(bad("texts of no token"));
        }
        Ok(())
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes.as_slice()[range.clone()]
    }

    /// Tokens.
    pub(super) fn len(&self) -> usize {
        self.ids.len() / NUMBER
    }

    pub(super) fn ignore_merges(&self) -> bool {
        self.ignore_merges
    }

    /// The largest id.
    pub(super) fn last_id(&self) -> Option<u32> {
        numbers(self.part(&self.ids)).next_back()
    }

    /// All tokens, by ascending ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        numbers(self.part(&self.ids)).enumerate().map(|(place, id)| (id, self.text_at(place)))
    }

    /// Rank and parts of every merge, in no order.
    pub(super) fn merges(&self) -> impl Iterator<Item = (u32, (u32, u32))> {
        let (merges, _) = self.part(&self.merges).as_chunks::<MERGE>();
        merges.iter().map(|merge| (number_at(merge, 2), (number_at(merge, 0), number_at(merge, 1))))
    }

    fn text_at(&self, place: usize) -> &str {
        let ends = self.part(&self.ends);
        let begin = place.checked_sub(1).map_or(0, |before| number_at(ends, before) as usize);
        let text = &self.part(&self.texts)[begin..number_at(ends, place) as usize];
        // `check` has seen to it
        std::str::from_utf8(text).unwrap_or("")
    }

    pub(super) fn text_of(&self, id: u32) -> Option<&str> {
        let ids = self.part(&self.ids);
        let place = search(self.len(), |place| number_at(ids, place).cmp(&id))?;
        Some(self.text_at(place))
    }

    pub(super) fn id_of(&self, token: &str) -> Option<u32> {
        let by_text = self.part(&self.by_text);
        let place = |i| number_at(by_text, i) as usize;
        let found = search(self.len(), |i| self.text_at(place(i)).cmp(token))?;
        Some(number_at(self.part(&self.ids), place(found)))
    }

    /// Rank and union of a pair of ids.
    pub(super) fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let merges = self.part(&self.merges);
        let pair = |i| (number_at(merges, 4 * i), number_at(merges, 4 * i + 1));
        let found = search(merges.len() / MERGE, |i| pair(i).cmp(&(left, right)))?;
        Some((number_at(merges, 4 * found + 2), number_at(merges, 4 * found + 3)))
    }
}

/// The place among `count` sorted ones that compares as equal.
fn search(count: usize, compare: impl Fn(usize) -> std::cmp::Ordering) -> Option<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(middle) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(middle),
        }
    }
    None
}

fn numbers(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u32> + '_ {
    bytes.as_chunks::<NUMBER>().0.iter().map(|b| u32::from_le_bytes(*b))
}

fn number_at(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks::<NUMBER>().0[index])
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::Tokenizer, format!("tokenizer tables: found {what}"))
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn range(&mut self, len: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.all.len());
        let range = self.at..end.ok_or_else(|| bad("an early end"))?;
        self.at = range.end;
        Ok(range)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let range = self.range(len)?;
        Ok(&self.all[range])
    }

    fn number(&mut self) -> Result<u32> {
        self.take(NUMBER).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A number of entries of at least `bytes` bytes.
    fn count(&mut self, bytes: usize) -> Result<usize> {
        let count = self.number()? as usize;
        let left = self.all.len() - self.at;
        if count <= left / bytes { Ok(count) } else { Err(bad("more entries than bytes")) }
    }

    fn flag(&mut self) -> Result<bool> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(bad("a flag that is neither 0 nor 1")),
        }
    }

    fn text(&mut self) -> Result<&'a str> {
        let len = self.number()? as usize;
        std::str::from_utf8(self.take(len)?).map_err(|_| bad("text that is not UTF-8"))
    }
}
