//! A byte-level BPE vocabulary made of plausible letter groups, with chosen words at chosen ids.

use std::collections::{HashMap, HashSet};

const BYTES: u32 = 256;

/// Letters by how often English uses them.
const BY_FREQUENCY: &[u8; 26] = b"etaoinshrdlcumwfgypbvkjxqz";

/// Merged before all else, in this order, so that `user` and `assistant` are two tokens each until their own
/// merge comes.
const STEMS: [&str; 9] = ["as", "ass", "assi", "assis", "assist", "an", "ant", "us", "er"];

/// Tokens and merges; token `256 + rank` is what the merge of that rank makes.
pub(super) struct Vocabulary {
    /// In the printable alphabet of byte-level BPE, by id.
    pub(super) tokens: Vec<String>,
    /// Ids of the two parts, by rank.
    pub(super) merges: Vec<(u32, u32)>,
    union: HashMap<(u32, u32), u32>,
    known: HashSet<String>,
    byte_ids: [u32; 256],
}

impl Vocabulary {
    /// The 256 byte tokens and `merges` merges, of which those in `pinned` (rank, word) have their fixed rank.
    pub(super) fn new(merges: usize, pinned: &[(usize, &str)]) -> Self {
        let mut vocabulary = Self::bytes();
        let mut pins = pinned.iter().peekable();
        let reserved: HashSet<&[u8]> = pinned.iter().map(|(_, word)| word.as_bytes()).collect();
        for word in candidates() {
            while let Some((_, word)) = pins.next_if(|(rank, _)| *rank == vocabulary.merges.len()) {
                vocabulary.merge(word.as_bytes());
            }
            if vocabulary.merges.len() >= merges {
                break;
            }
            if !reserved.contains(word.as_slice()) {
                vocabulary.merge(&word);
            }
        }
        vocabulary
    }

    /// The byte tokens in GPT-2's order: first the bytes that print as themselves.
    fn bytes() -> Self {
        let prints = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
        let (plain, hidden): (Vec<u8>, Vec<u8>) = (0..=255).partition(prints);
        let mut tokens = Vec::with_capacity(BYTES as usize);
        let mut byte_ids = [0; 256];
        let letters = plain.iter().map(|&b| char::from(b)).chain('\u{100}'..);
        for ((id, &byte), letter) in (0..).zip(plain.iter().chain(&hidden)).zip(letters) {
            byte_ids[usize::from(byte)] = id;
            tokens.push(letter.to_string());
        }
        Self { tokens, merges: Vec::new(), union: HashMap::new(), known: HashSet::new(), byte_ids }
    }

    /// Makes one token of `word` if that takes exactly one more merge.
    fn merge(&mut self, word: &[u8]) {
        let &[a, b] = self.encode(word).as_slice() else { return };
        let token = [self.tokens[a as usize].as_str(), &self.tokens[b as usize]].concat();
        if self.known.insert(token.clone()) {
            self.union.insert((a, b), self.tokens.len() as u32);
            self.merges.push((a, b));
            self.tokens.push(token);
        }
    }

    /// Ids of `word`: again and again the merge of the lowest rank, which is the one that makes the lowest id.
    fn encode(&self, word: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = word.iter().map(|&b| self.byte_ids[usize::from(b)]).collect();
        loop {
            let unions = ids.windows(2).enumerate().filter_map(|(i, pair)| {
                let id = self.union.get(&(pair[0], pair[1]))?;
                Some((*id, i))
            });
            let Some((id, i)) = unions.min() else { return ids };
            ids[i] = id;
            ids.remove(i + 1);
        }
    }
}

/// Words in the order in which they ask for a token: shorter ones first, so that each finds its parts.
fn candidates() -> impl Iterator<Item = Vec<u8>> {
    let groups = |length| letter_groups(length).into_iter();
    let stems = STEMS.iter().map(|s| s.as_bytes().to_vec());
    stems
        .chain(groups(1).map(spaced))
        .chain(groups(2))
        .chain(groups(1).map(capital).map(spaced))
        .chain(groups(2).flat_map(|word| [spaced(word.clone()), capital(word)]))
        .chain([b"  ".to_vec(), b"    ".to_vec()])
        .chain([3, 4].into_iter().flat_map(letter_groups).flat_map(|word| [spaced(word.clone()), word]))
}

fn spaced(word: Vec<u8>) -> Vec<u8> {
    [b" ", word.as_slice()].concat()
}

fn capital(mut word: Vec<u8>) -> Vec<u8> {
    if let Some(first) = word.first_mut() {
        first.make_ascii_uppercase();
    }
    word
}

/// All groups of `length` letters, the likelier in English the earlier.
fn letter_groups(length: u32) -> Vec<Vec<u8>> {
    let mut groups: Vec<(u32, u32)> =
        (0..26_u32.pow(length)).map(|number| (unlikeliness(number, length), number)).collect();
    groups.sort_unstable();
    let spell = |(_, number)| digits(number, length).map(|d| BY_FREQUENCY[d as usize]).collect();
    groups.into_iter().map(spell).collect()
}

/// Rare letters, and two vowels or two consonants in a row.
fn unlikeliness(number: u32, length: u32) -> u32 {
    const CLASH: u32 = 6;
    let vowel = |d: u32| b"aeiouy".contains(&BY_FREQUENCY[d as usize]);
    let rarity: u32 = digits(number, length).sum();
    let neighbours = digits(number, length).zip(digits(number, length).skip(1));
    let clashes = neighbours.filter(|&(a, b)| vowel(a) == vowel(b)).count();
    rarity + CLASH * clashes as u32
}

fn digits(number: u32, length: u32) -> impl Iterator<Item = u32> {
    (0..length).map(move |place| number / 26_u32.pow(place) % 26)
}
