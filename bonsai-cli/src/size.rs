//! The size of a picture as people give it: `--size WxH`, or `-W` and `-H`.

use clap::Args;

#[derive(Debug, Args)]
pub struct SizeArgs {
    /// Width and height in pixels, multiples of 16; the model's own size where not given
    #[arg(long, value_name = "WxH", value_parser = parse, conflicts_with_all = ["width", "height"])]
    size: Option<(usize, usize)>,
    /// Width in pixels
    #[arg(short = 'W', long, value_name = "PIXELS", value_parser = side, allow_negative_numbers = true)]
    width: Option<usize>,
    /// Height in pixels
    #[arg(short = 'H', long, value_name = "PIXELS", value_parser = side, allow_negative_numbers = true)]
    height: Option<usize>,
}

impl SizeArgs {
    /// The size, with the sides of `default` where they were not given; `None` where nothing was.
    pub fn over(&self, default: (usize, usize)) -> Option<(usize, usize)> {
        match (self.width, self.height) {
            (None, None) => self.size,
            (width, height) => Some((width.unwrap_or(default.0), height.unwrap_or(default.1))),
        }
    }
}

fn side(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a number of pixels".to_owned())
}

fn parse(text: &str) -> Result<(usize, usize), String> {
    let (width, height) = text.split_once(['x', 'X']).ok_or("expected WIDTHxHEIGHT, for example 512x512")?;
    Ok((side(width)?, side(height)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("624x416"), Ok((624, 416)));
        for text in ["", "512", "512x", "x512", "-16x16", "1.5x2", "1x2x3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_side_keeps_the_other() {
        let args = SizeArgs { size: None, width: Some(32), height: None };
        assert_eq!(args.over((96, 64)), Some((32, 64)));
        assert_eq!(SizeArgs { size: None, width: None, height: None }.over((96, 64)), None);
    }
}
