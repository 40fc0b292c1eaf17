//! What a picture was made from, in the form it is written into its file.

use serde::{Deserialize, Serialize};

use crate::noise::NoiseSource;
use crate::{Error, ErrorKind, Result};

/// All that decides the pixels of a picture, and nothing else: no times, dates, threads or host, so that equal
/// recipes give equal files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Version of this layout: [`Recipe::SCHEMA`].
    pub schema: u32,
    /// The engine and its version: [`Recipe::ENGINE`].
    pub engine: String,
    /// The weights.
    pub model: RecipeModel,
    /// The prompt as it was given.
    pub prompt: String,
    /// Tokens of the prompt in its template, padding not counted.
    pub tokens_used: usize,
    /// Whether the prompt was cut to `max_sequence_length`.
    pub truncated: bool,
    /// Seed of the noise.
    pub seed: u64,
    /// Whose random numbers the seed stands for.
    pub noise_source: NoiseSource,
    /// Denoising steps.
    pub steps: usize,
    /// Noise levels, one more than steps.
    pub sigmas: Vec<f32>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Scale of classifier-free guidance; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Class of instruction sets with bit-equal results.
    pub isa_class: String,
    /// Arithmetic of the model's linears.
    pub precision: String,
    /// Text tokens, padding included.
    pub max_sequence_length: usize,
    /// Layers of the text encoder whose outputs condition the picture.
    pub text_encoder_out_layers: Vec<usize>,
    /// Whether the VAE decoded in tiles.
    pub vae_tiling: bool,
}

/// The model of a [`Recipe`]: a name for people, SHA-256 digests (hex) of the parts where they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeModel {
    /// Name and variant, for example `bonsai-image-4b-1bit`.
    pub name: String,
    /// Digest of the transformer's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformer: Option<String>,
    /// Digest of the text encoder's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<String>,
    /// Digest of the VAE's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// Digest of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
}

impl Recipe {
    /// The layout that this version writes and reads.
    pub const SCHEMA: u32 = 1;
    /// This engine and its version.
    pub const ENGINE: &str = concat!("bonsai-core ", env!("CARGO_PKG_VERSION"));
    /// Keyword of the PNG text that holds [`to_json`](Self::to_json).
    pub const JSON_KEYWORD: &str = "bonsai";
    /// Keyword of the PNG text that holds [`to_parameters_text`](Self::to_parameters_text).
    pub const PARAMETERS_KEYWORD: &str = "parameters";

    /// Both texts with their keywords, as [`write_png`](super::write_png) takes them.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub fn to_png_text(&self) -> Result<Vec<(String, String)>> {
        Ok(vec![
            (Self::PARAMETERS_KEYWORD.to_owned(), self.to_parameters_text()),
            (Self::JSON_KEYWORD.to_owned(), self.to_json()?),
        ])
    }

    /// The recipe as one line of JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the serializer fails.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::new(ErrorKind::Internal, "recipe to JSON").with_source(error))
    }

    /// Reads [`to_json`](Self::to_json)'s text. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for another schema; [`ErrorKind::ModelFormat`], with the field or the place,
    /// for anything else that is no recipe.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let format = |error: serde_json::Error| Error::format("recipe JSON").with_source(error);
        // A later layout may lack or retype any field, so its number is looked at first.
        let Version { schema } = serde_json::from_str(text).map_err(format)?;
        if schema != Self::SCHEMA {
            let known = Self::SCHEMA;
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("recipe schema {schema}: expected {known}"),
            ));
        }
        serde_json::from_str(text).map_err(format)
    }

    /// The `parameters` text of the A1111 web UI, which most viewers and galleries read: the prompt, then one
    /// line of `Key: value` pairs.
    pub fn to_parameters_text(&self) -> String {
        let mut pairs = vec![
            ("Steps", self.steps.to_string()),
            ("Sampler", "Euler".to_owned()),
            ("Schedule type", "FLUX.2".to_owned()),
            ("CFG scale", self.guidance.unwrap_or(1.0).to_string()),
            ("Seed", self.seed.to_string()),
            ("Size", format!("{}x{}", self.width, self.height)),
        ];
        if let Some(digest) = &self.model.transformer {
            // The web UI's short hash.
            pairs.push(("Model hash", digest.chars().take(10).collect()));
        }
        let rng = match self.noise_source {
            NoiseSource::TorchCpu => "cpu",
            NoiseSource::Mlx => "mlx",
        };
        pairs.push(("Model", self.model.name.clone()));
        pairs.push(("RNG", rng.to_owned()));
        pairs.push(("Version", self.engine.clone()));
        let line: Vec<String> =
            pairs.into_iter().map(|(key, value)| format!("{key}: {}", quote(value))).collect();
        format!("{}\n{}", self.prompt, line.join(", "))
    }
}

/// A value that would end early in the comma-separated line becomes a JSON string.
fn quote(value: String) -> String {
    if value.contains([',', ':', '"', '\n']) { serde_json::Value::String(value).to_string() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            schema: Recipe::SCHEMA,
            engine: "bonsai-core 1.2.3".to_owned(),
            model: RecipeModel {
                name: "bonsai-image-4b-1bit".to_owned(),
                transformer: Some("0123456789abcdef".to_owned()),
                ..RecipeModel::default()
            },
            prompt: "a tree,\n\"old\" \u{76c6}\u{683d}".to_owned(),
            tokens_used: 21,
            truncated: false,
            seed: u64::MAX,
            noise_source: NoiseSource::TorchCpu,
            steps: 4,
            sigmas: vec![1.0, 0.9580854, 0.8839818, 0.7174966, 0.0],
            width: 512,
            height: 256,
            guidance: None,
            isa_class: "x86-fma".to_owned(),
            precision: "f32".to_owned(),
            max_sequence_length: 512,
            text_encoder_out_layers: vec![9, 18, 27],
            vae_tiling: false,
        }
    }

    #[test]
    fn parameters_text() {
        let want = "a tree,\n\"old\" \u{76c6}\u{683d}\nSteps: 4, Sampler: Euler, Schedule type: FLUX.2, CFG scale: 1, \
            Seed: 18446744073709551615, Size: 512x256, Model hash: 0123456789, Model: bonsai-image-4b-1bit, \
            RNG: cpu, Version: bonsai-core 1.2.3";
        assert_eq!(recipe().to_parameters_text(), want);
    }

    #[test]
    fn awkward_values_are_quoted() {
        let mut recipe = recipe();
        recipe.model = RecipeModel { name: "my \"best\", v:2".to_owned(), ..RecipeModel::default() };
        recipe.guidance = Some(4.5);
        let text = recipe.to_parameters_text();
        assert!(text.contains("CFG scale: 4.5, "), "{text}");
        assert!(text.contains("Size: 512x256, Model: \"my \\\"best\\\", v:2\", RNG: cpu"), "{text}");
    }

    #[test]
    fn json_round_trips() {
        let mut recipe = recipe();
        assert_eq!(Recipe::from_json(&recipe.to_json().unwrap()).unwrap(), recipe);
        recipe.guidance = Some(4.0);
        recipe.noise_source = NoiseSource::Mlx;
        recipe.sigmas = (1..4000).map(|i| (i as f32 / 4000.0).sqrt()).collect();
        assert_eq!(Recipe::from_json(&recipe.to_json().unwrap()).unwrap(), recipe);
    }

    #[test]
    fn json_has_these_fields_in_this_order() {
        let json = recipe().to_json().unwrap();
        let start = "{\"schema\":1,\"engine\":\"bonsai-core 1.2.3\",\
            \"model\":{\"name\":\"bonsai-image-4b-1bit\",\"transformer\":\"0123456789abcdef\"},\"prompt\":";
        assert!(json.starts_with(start), "{json}");
        assert!(
            json.contains("\"noise_source\":\"torch-cpu\",\"steps\":4,\"sigmas\":[1.0,0.9580854,"),
            "{json}"
        );
        assert!(!json.contains("guidance"), "{json}");
    }

    #[test]
    fn bad_json_is_named() {
        let json = recipe().to_json().unwrap();
        let error = |text: &str| Recipe::from_json(text).unwrap_err();
        let missing = error(&json.replace("\"seed\":18446744073709551615,", ""));
        assert_eq!(missing.kind(), ErrorKind::ModelFormat);
        assert!(missing.to_string().contains("`seed`"), "{missing}");
        let retyped = error(&json.replace("\"steps\":4", "\"steps\":\"four\""));
        assert!(retyped.to_string().contains("\"four\""), "{retyped}");
        let newer = error(&json.replace("\"schema\":1", "\"schema\":2"));
        assert_eq!(newer.kind(), ErrorKind::Unsupported);
        for text in ["", "{", "[]", "null", "{\"schema\":-1}", &json[..json.len() - 1]] {
            assert_eq!(error(text).kind(), ErrorKind::ModelFormat, "{text}");
        }
    }
}
