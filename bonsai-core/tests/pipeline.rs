//! The pipeline as a guest: cancelled from another thread, on the host's own pool, with the host's own allocator.

use std::alloc::Layout;
use std::ops::ControlFlow;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bonsai_core::kernels::{Allocator, ParallelFor, SystemAllocator};
use bonsai_core::{CancelToken, ErrorKind, Event, Pipeline, PipelineOptions, Request};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

fn request() -> Request {
    Request::new("An icy bonsai tree, in a rainy forest").seed(7)
}

#[test]
fn cancel_from_another_thread_and_paint_again() {
    let pipeline = Pipeline::open(MODEL).unwrap();
    let want = pipeline.generate(&request()).unwrap().image;
    let token = CancelToken::new();
    let cancellable = pipeline.with_cancel(token.clone());
    // far more work than the wait
    let long = request().size(1024, 1024).steps(200);
    let (asked, result) = std::thread::scope(|scope| {
        let canceller = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(400));
            token.cancel();
            Instant::now()
        });
        let result = cancellable.generate(&long);
        (canceller.join().unwrap(), result)
    });
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    // still set, then usable again
    assert_eq!(cancellable.generate(&request()).unwrap_err().kind(), ErrorKind::Cancelled);
    token.reset();
    assert_eq!(cancellable.generate(&request()).unwrap().image, want);
}

#[test]
fn an_observer_may_stop_and_sees_every_stage_in_order() {
    let pipeline = Pipeline::open(MODEL).unwrap();
    let mut events = Vec::new();
    let mut watch = |event| {
        events.push(event);
        ControlFlow::Continue(())
    };
    pipeline.generate_with(&request().steps(2), &mut watch).unwrap();
    let stage = |event: &Event| match *event {
        Event::TextEncode { layer, .. } => (0, layer),
        Event::Step { step, block, .. } => (1 + step, block),
        Event::Decode { part, .. } => (10, part),
        _ => unreachable!("no other event for this prompt"),
    };
    assert!(events.is_sorted_by(|a, b| stage(a) < stage(b)));
    assert!(matches!(events.last(), Some(Event::Decode { part, parts }) if part == parts));

    let mut stop = |event| match event {
        Event::Step { step: 1, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let stopped = pipeline.generate_with(&request(), &mut stop).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
}

/// Counts what is taken and given back.
#[derive(Default)]
struct Counting {
    taken: AtomicUsize,
    returned: AtomicUsize,
}

// SAFETY: passes through to the system's allocator.
#[allow(unsafe_code)]
unsafe impl Allocator for Counting {
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.taken.fetch_add(layout.size(), Ordering::Relaxed);
        SystemAllocator.allocate_zeroed(layout)
    }
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.returned.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: this allocator's own contract
        unsafe { SystemAllocator.deallocate(ptr, layout) }
    }
}

/// A host without a pool: new threads for each call.
struct Scoped;

impl ParallelFor for Scoped {
    fn threads(&self) -> usize {
        3
    }
    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| (0..count).for_each(|i| drop(scope.spawn(move || body(i)))));
    }
}

#[test]
fn pools_and_allocators_of_the_host_change_no_byte() {
    let want = Pipeline::open(MODEL).unwrap().generate(&request()).unwrap().image;
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap());
    let counting = Arc::new(Counting::default());
    let variants = [
        PipelineOptions { threads: Some(1), ..PipelineOptions::default() },
        PipelineOptions::default().pool(pool),
        PipelineOptions { parallel_for: Some(Arc::new(Scoped)), ..PipelineOptions::default() },
        PipelineOptions { allocator: Some(counting.clone()), ..PipelineOptions::default() },
    ];
    for options in variants {
        let pipeline = Pipeline::open_with(MODEL, &options).unwrap();
        assert_eq!(pipeline.generate(&request()).unwrap().image, want, "{options:?}");
    }
    let taken = counting.taken.load(Ordering::Relaxed);
    assert!(taken > 1 << 20, "large buffers come from the allocator");
    assert_eq!(taken, counting.returned.load(Ordering::Relaxed));
}

/// Refuses everything above a limit.
struct Poor;

// SAFETY: passes through to the system's allocator, or refuses.
#[allow(unsafe_code)]
unsafe impl Allocator for Poor {
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        (layout.size() <= 1 << 14).then(|| SystemAllocator.allocate_zeroed(layout))?
    }
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: this allocator's own contract
        unsafe { SystemAllocator.deallocate(ptr, layout) }
    }
}

#[test]
fn lacking_memory_is_an_error() {
    let options = PipelineOptions { allocator: Some(Arc::new(Poor)), ..PipelineOptions::default() };
    let pipeline = Pipeline::open_with(MODEL, &options).unwrap();
    let error = pipeline.generate(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
}

#[test]
fn one_pipeline_serves_several_threads() {
    let pipeline = Pipeline::open(MODEL).unwrap();
    let want: Vec<_> = (0..3).map(|seed| pipeline.generate(&request().seed(seed)).unwrap().image).collect();
    let got: Vec<_> = std::thread::scope(|scope| {
        let paint = |seed| pipeline.generate(&request().seed(seed)).unwrap().image;
        let threads: Vec<_> = (0..3).map(|seed| scope.spawn(move || paint(seed))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(got, want);
}
