//! A prompt to a picture: `cargo run --release -p bonsai-examples --example text_to_image -- MODEL_DIR "a prompt"`.

use bonsai_core::{Pipeline, Request};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model").into());
    let prompt = args.next().unwrap_or_else(|| "a bonsai in a glass jar".into());

    let pipeline = Pipeline::open(model)?;
    let picture = pipeline.generate(&Request::new(prompt).seed(42))?;
    let path = std::env::temp_dir().join("text_to_image.png");
    picture.save_png(&path)?;
    println!("{}", path.display());
    Ok(())
}
