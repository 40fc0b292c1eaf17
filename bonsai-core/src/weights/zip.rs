//! The ZIP container as `torch.save` writes it: entries are stored, never compressed, so that tensors are read where
//! they lie. Sizes and places come from the central directory.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: usize = 22;
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LEN: usize = 20;
const END_64: &[u8; 4] = b"PK\x06\x06";
const END_64_LEN: usize = 56;
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_LEN: usize = 30;
const MAX_COMMENT: usize = u16::MAX as usize;

/// A record at a place of the file; out of its bounds is an error.
struct Record<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Record<'a> {
    fn at(file: &'a [u8], at: u64, len: usize, magic: &[u8; 4], what: &'static str) -> Result<Self> {
        let bytes = usize::try_from(at).ok().and_then(|at| file.get(at..at.checked_add(len)?));
        match bytes {
            Some(bytes) if bytes.starts_with(magic) => Ok(Self { bytes, what }),
            _ => Err(Error::format(format!("zip: no {what} at byte {at}")).at_byte(at)),
        }
    }

    fn u16(&self, at: usize) -> Result<usize> {
        self.number::<2>(at).map(|v| v as usize)
    }

    fn u32(&self, at: usize) -> Result<u64> {
        self.number::<4>(at)
    }

    fn u64(&self, at: usize) -> Result<u64> {
        self.number::<8>(at)
    }

    fn number<const N: usize>(&self, at: usize) -> Result<u64> {
        let part = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
        let part = part.ok_or_else(|| Error::format(format!("zip: {} ends early", self.what)))?;
        Ok(part.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}

/// Where the central directory lies, and how many entries it has.
fn directory(file: &[u8]) -> Result<(Range<usize>, u64)> {
    let no_end = || Error::format("expected a zip file, found no end of its directory");
    let last = file.len().checked_sub(END_LEN).ok_or_else(no_end)?;
    let is_end = |at: &usize| {
        let comment = file.len() - at - END_LEN;
        file[*at..].starts_with(END)
            && usize::from(u16::from_le_bytes([file[at + 20], file[at + 21]])) == comment
    };
    let at = (last.saturating_sub(MAX_COMMENT)..=last).rev().find(is_end).ok_or_else(no_end)?;
    let end = Record::at(file, at as u64, END_LEN, END, "end")?;
    let (mut count, mut size, mut start) = (end.u16(10)? as u64, end.u32(12)?, end.u32(16)?);
    let mut limit = at;
    if let Some(locator_at) = at.checked_sub(LOCATOR_LEN)
        && let Ok(locator) = Record::at(file, locator_at as u64, LOCATOR_LEN, LOCATOR, "ZIP64 locator")
    {
        let place = locator.u64(8)?;
        let end = Record::at(file, place, END_64_LEN, END_64, "ZIP64 end")?;
        let (ones_16, ones_32) = (u64::from(u16::MAX), u64::from(u32::MAX));
        let wide = [(count, ones_16, 32), (size, ones_32, 40), (start, ones_32, 48)];
        // all ones stand for the wide number
        for (short, ones, at) in wide {
            if short != ones && short != end.u64(at)? {
                return Err(Error::format("zip: the two ends of its directory disagree"));
            }
        }
        (count, size, start) = (end.u64(32)?, end.u64(40)?, end.u64(48)?);
        limit = place as usize;
    }
    let range = start
        .checked_add(size)
        .filter(|&end| end <= limit as u64)
        .map(|end| start as usize..end as usize)
        .ok_or_else(|| {
            let message =
                format!("zip: a directory of {size} bytes at byte {start} of a file of {}", file.len());
            Error::format(message).at_byte(start)
        })?;
    if count > (range.len() / CENTRAL_LEN) as u64 {
        return Err(Error::format(format!("zip: {count} entries in a directory of {} bytes", range.len())));
    }
    Ok((range, count))
}

/// The entries by name, with the place of their bytes in the file.
pub(super) fn entries(file: &[u8]) -> Result<BTreeMap<&str, Range<usize>>> {
    let (directory, count) = directory(file)?;
    let (limit, end) = (directory.start, directory.end);
    let mut left = &file[directory];
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let at = (end - left.len()) as u64;
        let central = Record::at(&file[..end], at, CENTRAL_LEN, CENTRAL, "entry in the directory")?;
        let (flags, method) = (central.u16(8)?, central.u16(10)?);
        let (mut packed, mut size) = (central.u32(20)?, central.u32(24)?);
        let (name_len, extra_len, comment_len) = (central.u16(28)?, central.u16(30)?, central.u16(32)?);
        let mut place = central.u32(42)?;
        let rest = &left[CENTRAL_LEN..];
        let ends = || Error::format("zip: an entry of the directory ends early");
        let name = rest.get(..name_len).ok_or_else(ends)?;
        let extra = rest.get(name_len..name_len + extra_len).ok_or_else(ends)?;
        left = rest.get(name_len + extra_len + comment_len..).ok_or_else(ends)?;
        let name = std::str::from_utf8(name)
            .map_err(|e| Error::format("zip: a name that is not UTF-8").with_source(e))?;
        let named = |e: Error| e.context(format_args!("zip entry {name:?}"));
        wide_sizes(extra, [&mut size, &mut packed, &mut place]).map_err(named)?;
        if flags & 1 != 0 {
            return Err(named(Error::new(ErrorKind::Unsupported, "encrypted")));
        }
        if method != 0 || packed != size {
            let message = "compressed; files that torch.save writes hold their entries as they are";
            return Err(named(Error::new(ErrorKind::Unsupported, message)));
        }
        let local = Record::at(file, place, LOCAL_LEN, LOCAL, "entry").map_err(named)?;
        let head = LOCAL_LEN + local.u16(26)? + local.u16(28)?;
        let range = place
            .checked_add(head as u64)
            .and_then(|begin| Some((begin, begin.checked_add(size)?)))
            .filter(|&(_, end)| end <= limit as u64)
            .map(|(begin, end)| begin as usize..end as usize)
            .ok_or_else(|| named(Error::format(format!("{size} bytes lie outside the file"))))?;
        if found.insert(name, range).is_some() {
            return Err(named(Error::format("there twice")));
        }
    }
    refuse_overlap(&found)?;
    Ok(found)
}

/// Replaces sizes of all ones by those of the ZIP64 field, which come in this order.
fn wide_sizes(mut extra: &[u8], sizes: [&mut u64; 3]) -> Result<()> {
    let mut wide: &[u8] = &[];
    while let Some(&[a, b, c, d]) = extra.first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([c, d]));
        let field = extra.get(4..4 + len).ok_or_else(|| Error::format("an extra field ends early"))?;
        if u16::from_le_bytes([a, b]) == 1 {
            wide = field;
        }
        extra = &extra[4 + len..];
    }
    for size in sizes.into_iter().filter(|size| **size == u64::from(u32::MAX)) {
        let value = wide.first_chunk::<8>().ok_or_else(|| Error::format("no ZIP64 field"))?;
        *size = u64::from_le_bytes(*value);
        wide = &wide[8..];
    }
    Ok(())
}

fn refuse_overlap(entries: &BTreeMap<&str, Range<usize>>) -> Result<()> {
    let mut ranges: Vec<_> = entries.iter().filter(|(_, range)| !range.is_empty()).collect();
    ranges.sort_by_key(|(_, range)| range.start);
    for pair in ranges.windows(2) {
        if pair[0].1.end > pair[1].1.start {
            return Err(Error::format(format!("zip entries {:?} and {:?} overlap", pair[0].0, pair[1].0)));
        }
    }
    Ok(())
}
