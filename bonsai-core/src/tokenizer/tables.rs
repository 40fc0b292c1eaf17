//! A tokenizer in a form that takes no parsing: lengths, bytes and numbers, all little-endian.
//!
//! ```text
//! u32 version | u8 ignore_merges | text pattern | text pad_token
//! u32 n | n x (u32 id, text token)            ids ascending, added tokens among them
//! u32 n | n x (u32, u32)                      merges: places of both parts among the tokens
//! u32 n | n x (u8 special, text content)      added tokens in their order
//! text = u32 length | UTF-8
//! ```

use std::collections::HashMap;

use super::files::{Added, MAX_ID, Parts, is_tame};
use crate::{Error, ErrorKind, Result};

const VERSION: u32 = 1;

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
        let mut tokens: Vec<(u32, &str)> =
            self.vocab.iter().map(|(token, &id)| (id, token.as_str())).collect();
        tokens.sort_unstable();
        let places: HashMap<&str, usize> =
            tokens.iter().enumerate().map(|(i, (_, token))| (*token, i)).collect();
        number(&mut out, tokens.len());
        for (id, token) in &tokens {
            number(&mut out, *id as usize);
            text(&mut out, token);
        }
        number(&mut out, self.merges.len());
        for part in self.merges.iter().flat_map(|(a, b)| [a, b]) {
            number(&mut out, places[part.as_str()]);
        }
        number(&mut out, self.added.len());
        for added in &self.added {
            out.push(added.special.into());
            text(&mut out, &added.content);
        }
        out
    }

    pub(super) fn from_tables(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader(bytes);
        if r.number()? != VERSION {
            return Err(bad("another version"));
        }
        let ignore_merges = r.flag()?;
        let (pattern, pad_token) = (r.text()?.to_owned(), r.text()?.to_owned());
        if !is_tame(&pattern) {
            return Err(bad("a pattern that is long or repeats by count"));
        }
        let count = r.count(8)?;
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            let id = r.number()?;
            if id > MAX_ID {
                return Err(bad("an absurd id"));
            }
            tokens.push((r.text()?, id));
        }
        let count = r.count(8)?;
        let mut merges = Vec::with_capacity(count);
        for _ in 0..count {
            let mut part = || -> Result<String> {
                let place = r.number()? as usize;
                tokens
                    .get(place)
                    .map(|(token, _)| (*token).to_owned())
                    .ok_or_else(|| bad("a merge of no token"))
            };
            merges.push((part()?, part()?));
        }
        let count = r.count(5)?;
        let added = (0..count)
            .map(|_| Ok(Added { special: r.flag()?, content: r.text()?.to_owned() }))
            .collect::<Result<_>>()?;
        if !r.0.is_empty() {
            return Err(bad("bytes behind the end"));
        }
        let vocab = tokens.into_iter().map(|(token, id)| (token.to_owned(), id)).collect();
        Ok(Self { vocab, merges, added, pattern, ignore_merges, pad_token })
    }
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::Tokenizer, format!("tokenizer tables: found {what}"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| bad("an early end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32> {
        self.take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A number of entries of at least `bytes` bytes.
    fn count(&mut self, bytes: usize) -> Result<usize> {
        let count = self.number()? as usize;
        if count <= self.0.len() / bytes { Ok(count) } else { Err(bad("more entries than bytes")) }
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
