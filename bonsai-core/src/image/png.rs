//! PNG files: equal pixels and equal text give equal bytes, and a file is either whole or not there.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use ::png::text_metadata::{ITXtChunk, TEXtChunk};
use ::png::{
    BitDepth, ColorType, Decoder, DecodingError, DeflateCompression, Encoder, EncodingError, Filter, Limits,
    SrgbRenderingIntent,
};

use super::Image;
use crate::{Error, ErrorKind, Result};

/// Compression is fixed: it may not follow a default that changes.
const DEFLATE: DeflateCompression = DeflateCompression::Level(6);
const FILTER: Filter = Filter::Paeth;
/// Most bytes of text, packed or unpacked, that are taken from one file.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// `image` as a PNG file with these (keyword, text) pairs before the pixels.
///
/// A text becomes a `tEXt` chunk if it is printable Latin-1, else an uncompressed `iTXt` chunk.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a keyword that is not 1 to 79 printable Latin-1 characters without
/// spaces at its ends, or a side that PNG cannot hold.
pub fn encode_png(image: &Image, text: &[(String, String)]) -> Result<Vec<u8>> {
    let side = |pixels: usize| {
        u32::try_from(pixels).map_err(|_| Error::invalid(format!("PNG of {pixels} pixels a side")))
    };
    let (width, height) = (side(image.width())?, side(image.height())?);
    if let Some((keyword, _)) = text.iter().find(|(keyword, _)| !is_keyword(keyword)) {
        return Err(Error::invalid(format!(
            "PNG text keyword {keyword:?}: expected 1 to 79 Latin-1 characters"
        )));
    }
    encode(width, height, image.rgb(), text)
        .map_err(|error| Error::new(ErrorKind::Internal, "PNG encoder").with_source(error))
}

fn encode(
    width: u32,
    height: u32,
    rgb: &[u8],
    text: &[(String, String)],
) -> std::result::Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_deflate_compression(DEFLATE);
    encoder.set_filter(FILTER);
    encoder.set_source_srgb(SrgbRenderingIntent::Perceptual);
    let mut writer = encoder.write_header()?;
    for (keyword, text) in text {
        if text.chars().all(|c| c == '\n' || is_printable_latin_1(c)) {
            writer.write_text_chunk(&TEXtChunk::new(keyword, text))?;
        } else {
            writer.write_text_chunk(&ITXtChunk::new(keyword, text))?;
        }
    }
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}

fn is_keyword(keyword: &str) -> bool {
    (1..=79).contains(&keyword.chars().count())
        && keyword.chars().all(is_printable_latin_1)
        && keyword.trim_matches(' ') == keyword
}

fn is_printable_latin_1(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a1}'..='\u{ff}')
}

/// Writes [`encode_png`]'s bytes to `path`, over any file there.
///
/// They go to a temporary file in the same folder, which takes the name only when it is complete.
///
/// # Errors
/// Those of [`encode_png`]; [`ErrorKind::NotFound`] or [`ErrorKind::Io`] naming `path` if the system refuses,
/// with no file left behind and what was at `path` untouched.
pub fn write_png(path: &Path, image: &Image, text: &[(String, String)]) -> Result<()> {
    replace_file(path, &encode_png(image, text)?).map_err(|error| Error::io(path, error))
}

fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (temporary, mut file) = create_beside(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    let result = written.and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The first error is the one to report; the leftover is only tidied up.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Creates a new file in the folder of `path`, under a name that no other writer uses.
fn create_beside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    let mut count = 0u64;
    loop {
        let temporary = path.with_file_name(format!(".bonsai-{}-{count}.tmp", std::process::id()));
        match File::create_new(&temporary) {
            // another thread's, or a leftover of a dead process with this id: the next name
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => count += 1,
            result => return result.map(|file| (temporary, file)),
        }
    }
}

/// The (keyword, text) pairs before the pixels of a PNG file: its `tEXt`, then `zTXt`, then `iTXt` chunks.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::Io`] from the system, [`ErrorKind::ModelFormat`] if the file is no
/// PNG, is broken before its pixels or holds more than 16 MiB of text.
pub fn read_png_text(path: &Path) -> Result<Vec<(String, String)>> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    text_chunks(BufReader::new(file)).map_err(|error| match error {
        DecodingError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::io(path, error)
        }
        error => Error::format(format!("{}", path.display())).with_source(error),
    })
}

fn text_chunks(file: BufReader<File>) -> std::result::Result<Vec<(String, String)>, DecodingError> {
    let reader = Decoder::new_with_limits(file, Limits { bytes: MAX_TEXT_BYTES }).read_info()?;
    let info = reader.info();
    let mut pairs: Vec<_> = info
        .uncompressed_latin1_text
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()))
        .collect();
    // A packed text may unpack to a thousand times its size, so what is left of the budget bounds each.
    let mut budget = MAX_TEXT_BYTES;
    for mut chunk in info.compressed_latin1_text.iter().cloned() {
        chunk.decompress_text_with_limit(budget)?;
        let text = chunk.get_text()?;
        budget = budget.saturating_sub(text.len());
        pairs.push((chunk.keyword, text));
    }
    for mut chunk in info.utf8_text.iter().cloned() {
        chunk.decompress_text_with_limit(budget)?;
        let text = chunk.get_text()?;
        budget = budget.saturating_sub(text.len());
        pairs.push((chunk.keyword, text));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Image {
        let rgb = (0..3 * 17 * 9).map(|i| (i * 37 % 256) as u8).collect();
        Image::new(17, 9, rgb).unwrap()
    }

    fn pair(keyword: &str, text: &str) -> (String, String) {
        (keyword.to_owned(), text.to_owned())
    }

    /// Names of the chunks of a PNG file.
    fn chunk_names(mut bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        bytes = &bytes[8..];
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            names.push(String::from_utf8(rest[..4].to_vec()).unwrap());
            bytes = &rest[4 + u32::from_be_bytes(*length) as usize + 4..];
        }
        names
    }

    fn file_names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn pixels_and_text_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let text = [
            pair("parameters", "caf\u{e9}, two\nlines"),
            pair("empty", ""),
            pair("bonsai", "{\"prompt\":\"\u{76c6}\u{683d} \u{1f333}\"}"),
            pair("control", "tab\tnul\0end"),
        ];
        write_png(&path, &picture(), &text).unwrap();
        assert_eq!(Image::load(&path).unwrap(), picture());
        assert_eq!(read_png_text(&path).unwrap(), text);
        assert_eq!(file_names(folder.path()), ["a.png"]);
    }

    #[test]
    fn chunks_are_these_in_this_order() {
        let text = [pair("parameters", "plain"), pair("bonsai", "\u{2603}")];
        let bytes = encode_png(&picture(), &text).unwrap();
        assert_eq!(chunk_names(&bytes), ["IHDR", "sRGB", "tEXt", "iTXt", "IDAT", "IEND"]);
        assert_eq!(bytes, encode_png(&picture(), &text).unwrap());
    }

    #[test]
    fn bad_keywords_are_errors() {
        for keyword in ["", " a", "a ", "snow \u{2603}", "a\0b", &"k".repeat(80)] {
            let error = encode_png(&picture(), &[pair(keyword, "")]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{keyword:?}");
        }
    }

    #[test]
    fn failures_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();

        let missing = folder.path().join("missing").join("a.png");
        let error = write_png(&missing, &picture(), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&missing.display().to_string()), "{error}");

        // A folder in the way lets the temporary be written and the rename fail.
        let taken = folder.path().join("taken.png");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("inside"), "kept").unwrap();
        let error = write_png(&taken, &picture(), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("taken.png"), "{error}");
        assert_eq!(file_names(folder.path()), ["taken.png"]);

        let kept = folder.path().join("kept.png");
        fs::write(&kept, "old").unwrap();
        assert!(write_png(&kept, &picture(), &[pair("", "")]).is_err());
        assert_eq!(fs::read(&kept).unwrap(), b"old");
        write_png(&kept, &picture(), &[]).unwrap();
        assert_eq!(Image::load(&kept).unwrap(), picture());
    }

    #[test]
    fn broken_files_are_errors_and_never_panics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let text = [pair("parameters", "plain"), pair("bonsai", "\u{2603}")];
        let whole = encode_png(&picture(), &text).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            if let Err(error) = read_png_text(&path) {
                assert_eq!(error.kind(), ErrorKind::ModelFormat, "{error}");
            }
            assert!(Image::load(&path).is_err() || len >= whole.len() - 12);
        }
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 0xff;
            fs::write(&path, &bytes).unwrap();
            let _ = (read_png_text(&path), Image::load(&path));
        }
        assert_eq!(read_png_text(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn text_bombs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, 1, 1);
        encoder.add_ztxt_chunk("bomb".to_owned(), "0".repeat(MAX_TEXT_BYTES + 1)).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read_png_text(&path).unwrap_err().kind(), ErrorKind::ModelFormat);
    }
}
