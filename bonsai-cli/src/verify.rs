//! `bonsai verify`: a picture painted again from its own recipe.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bonsai_core::ActivationPrecision;
use bonsai_core::image::{Image, Recipe, read_png_text};
use bonsai_core::{Isa, Request, Schedule};
use clap::Args;

use crate::engine::{EngineArgs, Loaded};
use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::print;
use crate::progress::Progress;

/// Another instruction set rounds otherwise: so many levels of 255 on so large a share of the samples.
struct Allowance {
    levels: u8,
    share: f64,
}

impl Allowance {
    /// With f32 activations only the order of sums differs. Integer ones round to the other side where such a
    /// difference meets the middle between two codes.
    fn of(precision: ActivationPrecision) -> Self {
        match precision {
            ActivationPrecision::F32 => Self { levels: 1, share: 0.001 },
            _ => Self { levels: 2, share: 0.05 },
        }
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The picture, as bonsai wrote it
    #[arg(value_name = "IMAGE.png")]
    image: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// No progress and no notes
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let recipe = recipe_of(&args.image)?;
    let recorded = Image::load(&args.image).map_err(|e| Failure::in_files(&e))?;
    let (width, height) = (recipe.width, recipe.height);
    let in_recipe =
        |what: String| Failure::new(Code::Model, format!("{}: recipe: {what}", args.image.display()));
    let precision = ActivationPrecision::named(&recipe.precision)
        .ok_or_else(|| in_recipe(format!("precision {:?} is not known", recipe.precision)))?;
    if (recorded.width(), recorded.height()) != (width, height) {
        return Err(Failure::new(
            Code::Failed,
            format!(
                "{}: the picture is {}x{}, its recipe paints {width}x{height}: it was resized or cut",
                args.image.display(),
                recorded.width(),
                recorded.height()
            ),
        ));
    }
    let request = request_of(&recipe);
    request.check().map_err(|e| in_recipe(e.to_string()))?;

    let interrupt = Interrupt::install()?;
    let mut progress = Progress::new(args.quiet, false);
    let (isa, same_isa) = isa_for(&recipe)?;
    let allowance = Allowance::of(precision);
    if !same_isa {
        progress.note(&format!(
            "note: painted with {}, which is not to be had here; painting with {}: {} on {} % of the samples may differ",
            recipe.isa_class,
            isa.name(),
            print::count(allowance.levels.into(), "level"),
            allowance.share * 100.0
        ));
    }
    let choice = args.engine.choose()?;
    progress.stage("loading the model");
    let Loaded { pipeline, .. } = args.engine.load(&choice, isa, precision, None)?;
    progress.done("load");
    if pipeline.name() != recipe.model.name {
        progress.note(&format!(
            "note: the recipe names the model {:?}, this one is {:?}",
            recipe.model.name,
            pipeline.name()
        ));
    }
    let pipeline = pipeline.with_cancel(interrupt.token.clone());
    interrupt.orderly();
    progress.picture(0, 1);
    let painted = pipeline
        .generate_with(&request, &mut |event| {
            progress.event(event);
            ControlFlow::Continue(())
        })
        .map_err(|e| {
            let failure = Failure::in_files(&e);
            if failure.code == Code::Model { in_recipe(e.to_string()) } else { failure }
        })?;
    drop(progress);
    verdict(&args.image, &recorded, &painted.image, same_isa, &allowance)
}

/// The recipe's instruction set and true, or else the best that may be used. `BONSAI_ISA` bounds both.
fn isa_for(recipe: &Recipe) -> Result<(Isa, bool), Failure> {
    let best = Isa::from_env().map_err(|e| Failure::usage(e.to_string()))?;
    let allowed = Isa::available().into_iter().take_while(|&isa| isa != best).chain([best]);
    let same = allowed.into_iter().find(|isa| isa.name() == recipe.isa_class);
    Ok((same.unwrap_or(best), same.is_some()))
}

/// The recipe that a PNG file holds.
pub fn recipe_of(path: &Path) -> Result<Recipe, Failure> {
    let text = read_png_text(path).map_err(|e| Failure::in_files(&e))?;
    let json = text.iter().find(|(keyword, _)| keyword == Recipe::JSON_KEYWORD).ok_or_else(|| {
        Failure::new(Code::Model, format!("{}: holds no recipe of bonsai", path.display()))
            .hint("pictures lose it when another program saves them, or with --no-metadata")
    })?;
    Recipe::from_json(&json.1).map_err(|e| Failure::in_files(&e.context(path.display())))
}

fn request_of(recipe: &Recipe) -> Request {
    Request {
        size: Some((recipe.width, recipe.height)),
        steps: Some(recipe.steps),
        noise_source: recipe.noise_source,
        schedule: Schedule::Sigmas(recipe.sigmas.clone()),
        text_encoder_out_layers: Some(recipe.text_encoder_out_layers.clone()),
        max_sequence_length: Some(recipe.max_sequence_length),
        guidance: recipe.guidance,
        vae_tiling: recipe.vae_tiling,
        ..Request::new(recipe.prompt.clone()).seed(recipe.seed)
    }
}

fn verdict(
    path: &Path,
    recorded: &Image,
    painted: &Image,
    same_isa: bool,
    allowance: &Allowance,
) -> Result<(), Failure> {
    let pairs = || recorded.rgb().iter().zip(painted.rgb());
    let differ = pairs().filter(|(a, b)| a != b).count();
    let largest = pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    let total = recorded.rgb().len();
    let path = path.display();
    if differ == 0 {
        return print::stdout(&format!("{path}: identical"));
    }
    let share = differ as f64 / total as f64;
    let found = format!(
        "{differ} of {total} samples differ ({:.3} %), the largest by {largest} levels",
        share * 100.0
    );
    if !same_isa && largest <= allowance.levels && share <= allowance.share {
        return print::stdout(&format!(
            "{path}: equal within the rounding of another instruction set: {found}"
        ));
    }
    Err(Failure::new(Code::Failed, format!("{path}: not the picture that its recipe paints: {found}")))
}
