//! Whole runs: text to image, editing, inpainting. Every step is compared, then the picture.

use bonsai_core::latents::{Latents, PIXELS_PER_TOKEN};
use bonsai_core::scheduler::{FlowMatchEuler, Step, scale_noise};
use bonsai_core::transformer::{Position, image_positions};
use bonsai_core::{Image, Pipeline, PipelineOptions, PromptEmbeds, Request};
use ndarray::Array2;
use serde::Deserialize;

use crate::compare::{ENCODER_FLOOR, END_TO_END_SHARE, PICTURE_SHARE, Report, TRANSFORMER_FLOOR};
use crate::manifest::{Tensor, TensorSet};
use crate::vae::planes;
use crate::{Failure, Rig};

/// References of more pixels are scaled down to as many.
const MAX_REFERENCE_AREA: usize = 1024 * 1024;

/// What every kind of run says of itself.
#[derive(Deserialize)]
pub struct Run {
    model: String,
    prompt: String,
    negative_prompt: Option<String>,
    taps: Vec<usize>,
    max_sequence_length: usize,
    width: usize,
    height: usize,
    steps: usize,
    guidance: f32,
    image: Option<String>,
}

#[derive(Deserialize)]
pub struct EditCase {
    #[serde(flatten)]
    run: Run,
    references: Vec<String>,
}

#[derive(Deserialize)]
pub struct InpaintCase {
    #[serde(flatten)]
    run: Run,
    source: String,
    mask: String,
    strength: f64,
}

/// A run in progress.
struct Stage<'a> {
    rig: &'a Rig<'a>,
    run: &'a Run,
    file: TensorSet<'a>,
    pipeline: Pipeline,
    prompt: PromptEmbeds,
    /// Of the negative prompt, where it has a weight.
    negative: Option<PromptEmbeds>,
}

impl<'a> Stage<'a> {
    fn open(rig: &'a Rig<'a>, file: &str, run: &'a Run) -> Result<Self, Failure> {
        let options = PipelineOptions {
            text_encoder_out_layers: Some(run.taps.clone()),
            max_sequence_length: Some(run.max_sequence_length),
            threads: Some(rig.threads),
            isa: Some(rig.cpu.isa()),
            precision: rig.cpu.precision(),
            ..PipelineOptions::default()
        };
        let pipeline = Pipeline::open_with(rig.golden.path(&run.model), &options)?;
        let prompt = pipeline.encode_prompt_with(&run.prompt, &run.taps, run.max_sequence_length)?;
        let negative = if run.guidance > 1.0 {
            Some(pipeline.encode_prompt(run.negative_prompt.as_deref().unwrap_or(""))?)
        } else {
            None
        };
        Ok(Self { rig, run, file: rig.golden.tensors(file)?, pipeline, prompt, negative })
    }

    fn grid(&self) -> (usize, usize) {
        (self.run.height / PIXELS_PER_TOKEN, self.run.width / PIXELS_PER_TOKEN)
    }

    /// Latents recorded as planes `[1, channels, height, width]`.
    fn recorded(&self, name: &str, report: &mut Report) -> Result<Latents, Failure> {
        let tensor = self.file.get(name)?;
        let (channels, height, width) = tensor.planes_shape()?;
        report.exact(&format!("{name}: grid"), &[(height, width)], &[self.grid()]);
        Ok(Latents::from_planes(height, width, channels, &tensor.floats()?)?)
    }

    /// The whole schedule, compared with the recorded one.
    fn schedule(&self, report: &mut Report) -> Result<FlowMatchEuler, Failure> {
        let (height, width) = self.grid();
        let schedule = FlowMatchEuler::new(self.run.steps, height * width)?;
        report.exact_floats(self.file.get("sigmas")?, schedule.sigmas());
        Ok(schedule)
    }

    /// Walks along `schedule`; `after` may change the latents behind each step.
    fn walk(
        &self,
        mut latents: Latents,
        references: &[Latents],
        schedule: &FlowMatchEuler,
        mut after: impl FnMut(Step, &mut Latents),
        report: &mut Report,
    ) -> Result<Latents, Failure> {
        if let Some(want) = self.file.find("prompt_embeds") {
            report.close(want, self.prompt.embeds.as_slice(), ENCODER_FLOOR);
        }
        for step in schedule {
            let predict =
                |prompt| self.pipeline.velocity_with(&latents, references, prompt, step.sigma, None);
            let mut velocity = predict(&self.prompt)?;
            let want = self.file.get(&format!("v.{}", step.index))?;
            report.close(want, velocity.as_slice(), TRANSFORMER_FLOOR);
            if let Some(negative) = &self.negative {
                let unguided = predict(negative)?;
                let want = self.file.get(&format!("v_uncond.{}", step.index))?;
                report.close(want, unguided.as_slice(), TRANSFORMER_FLOOR);
                for (v, u) in velocity.as_mut_slice().iter_mut().zip(unguided.as_slice()) {
                    *v = u + self.run.guidance * (*v - u);
                }
            }
            latents.advance(&velocity, step.delta())?;
            after(step, &mut latents);
            let want = self.file.get(&format!("latents.{}", step.index + 1))?;
            report.close(want, latents.as_slice(), TRANSFORMER_FLOOR);
        }
        Ok(latents)
    }

    /// Latents to picture, as far as it was recorded.
    fn finish(&self, latents: &Latents, report: &mut Report) -> Result<(), Failure> {
        if let Some(want) = self.file.find("vae_input") {
            report.close(want, &planes(&self.pipeline.denormalise(latents)?), TRANSFORMER_FLOOR);
        }
        if let Some(want) = self.file.find("vae_output") {
            report.close(want, &planes(&self.pipeline.decode_picture(latents, None)?), TRANSFORMER_FLOOR);
        }
        let picture = self.pipeline.decode(latents)?;
        if let Some(name) = &self.run.image {
            let want = Image::load(self.rig.golden.path(name))?;
            report.picture("picture, end to end", &want, &picture, END_TO_END_SHARE);
            let decoded = self.file.get("vae_output")?.picture()?;
            let (height, width, _) = decoded.dim();
            let values = decoded.as_slice().ok_or("pixels in rows")?;
            let converted = Image::from_decoded(width, height, values);
            report.picture("picture, from the recorded vae_output", &want, &converted, PICTURE_SHARE);
        }
        report.keep_picture(picture);
        Ok(())
    }

    /// The parts that `walk` and `finish` are made of paint what `generate` paints.
    fn check_generate(&self, report: &mut Report) -> Result<(), Failure> {
        let request =
            Request::new(self.run.prompt.clone()).size(self.run.width, self.run.height).steps(self.run.steps);
        let mut latents = self.pipeline.noise(&request)?;
        for step in &FlowMatchEuler::new(self.run.steps, latents.tokens())? {
            let velocity = self.pipeline.velocity(&latents, &self.prompt, step.sigma)?;
            latents.advance(&velocity, step.delta())?;
        }
        let generated = self.pipeline.generate(&request)?;
        let same = self.pipeline.decode(&latents)? == generated.image;
        report.check("generate equals its unrolled steps", same, "another picture");
        Ok(())
    }
}

pub fn text_to_image(rig: &Rig<'_>, file: &str, run: &Run, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(rig, file, run)?;
    let latents = stage.recorded("latents.0", report)?;
    let schedule = stage.schedule(report)?;
    let latents = stage.walk(latents, &[], &schedule, |_, _| (), report)?;
    stage.finish(&latents, report)?;
    if stage.negative.is_none() {
        stage.check_generate(report)?;
    }
    Ok(())
}

pub fn edit(rig: &Rig<'_>, file: &str, case: &EditCase, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(rig, file, &case.run)?;
    let latents = stage.recorded("latents.0", report)?;
    let schedule = stage.schedule(report)?;
    let mut references = Vec::new();
    for (index, path) in case.references.iter().enumerate() {
        let image = Image::load(rig.golden.path(path))?;
        let image = image.resize_to_area(MAX_REFERENCE_AREA)?.crop_to_multiple_of(PIXELS_PER_TOKEN)?;
        if let Some(want) = stage.file.find(&format!("ref{index}.preprocessed")) {
            report.exact_floats(want, &image_planes(&image));
        }
        references.push(stage.pipeline.encode_image(&image)?);
    }
    check_references(&stage, "reference_tokens", &references, report)?;
    let latents = stage.walk(latents, &references, &schedule, |_, _| (), report)?;
    stage.finish(&latents, report)
}

pub fn inpaint(rig: &Rig<'_>, file: &str, case: &InpaintCase, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(rig, file, &case.run)?;
    let (height, width) = stage.grid();
    let noise = stage.recorded("noise", report)?;
    let image = Image::load(rig.golden.path(&case.source))?;
    let mask = Image::load(rig.golden.path(&case.mask))?;
    for picture in [&image, &mask] {
        let expected = (case.run.width, case.run.height);
        report.exact("size of an input", &[expected], &[(picture.width(), picture.height())]);
    }
    let mask = binarised(&mask)?;
    report.exact_floats(stage.file.get("mask_binarised")?, mask.as_slice().ok_or("a mask in rows")?);
    let mask = bilinear(&mask, height, width);
    let mask = mask.as_slice().ok_or("a mask in rows")?;
    report.close(stage.file.get("mask_tokens")?, mask, ENCODER_FLOOR);

    // the picture is its own reference
    let clean = stage.pipeline.encode_image(&image)?;
    let references = [clean.clone()];
    check_references(&stage, "image_tokens", &references, report)?;
    let schedule = stage.schedule(report)?.starting_at(case.strength)?;
    let noised = |sigma| scale_noise(clean.as_slice(), noise.as_slice(), sigma);
    let start = noised(*schedule.sigmas().first().ok_or("an empty schedule")?);
    report.close(stage.file.get("start_latents")?, &start, ENCODER_FLOOR);
    let start = Latents::new(height, width, clean.channels(), start)?;
    let blend = |step: Step, latents: &mut Latents| {
        // at the last step the next sigma is 0, so that nothing is noised
        let keep = noised(step.next_sigma);
        let channels = latents.channels();
        for (n, (x, k)) in latents.as_mut_slice().iter_mut().zip(keep).enumerate() {
            let m = mask[n / channels];
            *x = (1.0 - m) * k + m * *x;
        }
    };
    let latents = stage.walk(start, &references, &schedule, blend, report)?;
    stage.finish(&latents, report)
}

/// Tokens of all references, and positions of latents and references.
fn check_references(
    stage: &Stage<'_>,
    tokens: &str,
    references: &[Latents],
    report: &mut Report,
) -> Result<(), Failure> {
    let joined: Vec<f32> = references.iter().flat_map(|r| r.as_slice()).copied().collect();
    report.close(stage.file.get(tokens)?, &joined, ENCODER_FLOOR);
    let (height, width) = stage.grid();
    let mut positions: Vec<Position> = image_positions(0, height, width);
    for (t, reference) in (10..).step_by(10).zip(references) {
        positions.extend(image_positions(t, reference.height(), reference.width()));
    }
    let flat: Vec<i64> = positions.into_iter().flatten().map(i64::from).collect();
    let want: &Tensor = stage.file.get("img_ids")?;
    report.exact(&want.name, &want.integers()?, &flat);
    Ok(())
}

/// A picture as planes `[3, height, width]` of -1 to 1.
fn image_planes(image: &Image) -> Vec<f32> {
    let values = image.to_signed_unit();
    (0..3).flat_map(|channel| values.iter().skip(channel).step_by(3).copied()).collect()
}

/// A grey picture as zeros and ones.
fn binarised(mask: &Image) -> Result<Array2<f32>, Failure> {
    let bit = |pixel: &[u8; 3]| if f32::from(pixel[0]) / 255.0 >= 0.5 { 1.0 } else { 0.0 };
    let bits = mask.rgb().as_chunks::<3>().0.iter().map(bit).collect();
    Ok(Array2::from_shape_vec((mask.height(), mask.width()), bits)?)
}

/// Bilinear resampling between pixel centres, without a wider filter for shrinking.
fn bilinear(source: &Array2<f32>, height: usize, width: usize) -> Array2<f32> {
    /// The two neighbours of output `i`, and the weight of the second.
    fn neighbours(i: usize, from: usize, to: usize) -> (usize, usize, f32) {
        let at = ((i as f32 + 0.5) * (from as f32 / to as f32) - 0.5).max(0.0);
        let first = (at as usize).min(from - 1);
        (first, (first + 1).min(from - 1), at - first as f32)
    }
    let (rows, columns) = source.dim();
    Array2::from_shape_fn((height, width), |(y, x)| {
        let (top, bottom, down) = neighbours(y, rows, height);
        let (left, right, across) = neighbours(x, columns, width);
        let row = |y: usize| (1.0 - across) * source[[y, left]] + across * source[[y, right]];
        (1.0 - down) * row(top) + down * row(bottom)
    })
}
