//! The letters that stand for bytes in a byte-level vocabulary, as GPT-2 chose them: printable bytes for themselves, the
//! others, in their order, for the letters from U+0100 on.
//! Source: `bytes_to_unicode` of <https://github.com/openai/gpt-2/blob/master/src/encoder.py>.

/// One more than the last letter.
const END: usize = 0x144;

/// Letter of each byte, and byte of each letter.
const TABLES: ([char; 256], [Option<u8>; END]) = {
    let (mut letters, mut bytes) = (['\0'; 256], [None; END]);
    let (mut byte, mut other) = (0, 0x100);
    while byte < 256 {
        let letter = if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            byte
        } else {
            other += 1;
            other - 1
        };
        if let Some(c) = char::from_u32(letter) {
            letters[byte as usize] = c;
            bytes[letter as usize] = Some(byte as u8);
        }
        byte += 1;
    }
    (letters, bytes)
};

/// All of them, in the order of their bytes.
pub(super) fn alphabet() -> [char; 256] {
    TABLES.0
}

/// Bytes as letters.
pub(super) fn of_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| TABLES.0[usize::from(byte)]).collect()
}

/// Adds the bytes that the letters of a token stand for; its own where one of them stands for none.
pub(super) fn add_bytes(token: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for c in token.chars() {
        match TABLES.1.get(c as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(before);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}
