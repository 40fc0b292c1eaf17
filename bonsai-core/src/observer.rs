use std::ops::ControlFlow;

use ndarray::ArrayView3;

use crate::image::Image;
use crate::pipeline::Event;

/// Who watches a picture being made. Closures that take an [`Event`] are observers.
pub trait Observer {
    /// Something is done; `Break` ends the work.
    fn event(&mut self, event: Event) -> ControlFlow<()>;

    /// Whether a preview is wanted after this step, from 0, of so many.
    fn wants_preview(&self, step: usize, steps: usize) -> bool {
        let _ = (step, steps);
        false
    }

    /// The preview that was wanted; `Break` ends the work.
    fn preview(&mut self, preview: &Preview) -> ControlFlow<()> {
        let _ = preview;
        ControlFlow::Continue(())
    }

    /// The decoded picture `[height, width, 3]`, about -1 to 1, before it is rounded to bytes.
    fn decoded(&mut self, picture: ArrayView3<'_, f32>) {
        let _ = picture;
    }
}

impl<F: FnMut(Event) -> ControlFlow<()>> Observer for F {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        self(event)
    }
}

/// What the picture would be if the last velocity were right to the end, roughly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The step that was just done, from 0.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// As large as the picture, where there is a preview decoder; else one pixel for each pixel of the latent, with the
    /// VAE of FLUX.2 an eighth of the picture's sides.
    pub image: Image,
}
