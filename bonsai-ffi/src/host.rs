//! The host's memory and threads, and a pool where it brings none.

use std::alloc::Layout;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use bonsai_core::ErrorKind;
use bonsai_core::kernels::{Allocator, ParallelFor, RayonThreads};

use crate::float_mode::FloatMode;
use crate::guard::{Failure, Outcome, Panic, call_out};

/// A pointer of the host's, passed through and never looked at.
#[derive(Clone, Copy)]
pub(crate) struct UserData(pub(crate) *mut c_void);

// SAFETY: this library never looks at it; that the host's functions bear being called on any thread is their contract.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

pub(crate) struct HostAllocator {
    pub(crate) alloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    pub(crate) dealloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize),
    pub(crate) user_data: UserData,
}

// SAFETY: the memory is the host's by the contract of `bonsai_alloc_fn`; it is cleared here, and refused when misaligned.
unsafe impl Allocator for HostAllocator {
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the size is not 0 (contract of `Allocator`); the function is the host's.
        let memory = call_out(|| unsafe { (self.alloc)(self.user_data.0, layout.size(), layout.align()) });
        let memory = NonNull::new(memory.cast::<u8>())?;
        if !memory.addr().get().is_multiple_of(layout.align()) {
            // SAFETY: it came from `alloc` a line above.
            unsafe { self.deallocate(memory, layout) };
            return None;
        }
        // SAFETY: `layout.size()` bytes that are ours (contract of `bonsai_alloc_fn`).
        unsafe { memory.as_ptr().write_bytes(0, layout.size()) };
        Some(memory)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let pointer = ptr.as_ptr().cast();
        // SAFETY: it came from `alloc` with this layout (contract of this method).
        call_out(|| unsafe { (self.dealloc)(self.user_data.0, pointer, layout.size(), layout.align()) });
    }
}

pub(crate) struct HostThreads {
    pub(crate) parallel_for:
        unsafe extern "C" fn(*mut c_void, usize, unsafe extern "C" fn(*mut c_void, usize), *mut c_void),
    pub(crate) threads: usize,
    pub(crate) user_data: UserData,
}

/// What threads work on together.
struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    /// The first panic of the body. It may not cross the frames of a host or a pool, and goes on behind them.
    panic: Mutex<Option<Panic>>,
}

impl<'a> Job<'a> {
    fn new(body: &'a (dyn Fn(usize) + Sync)) -> Self {
        Self { body, panic: Mutex::new(None) }
    }

    fn run(&self, index: usize) {
        let outcome = Panic::catch(|| {
            #[cfg(feature = "inject-panics")]
            crate::inject::in_job();
            (self.body)(index);
        });
        if let Err(panic) = outcome {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// To be called when all of it has run.
    fn finish(self) {
        if let Some(panic) = self.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            panic.resume();
        }
    }
}

/// # Safety
/// `context` is a live `Job`.
unsafe extern "C" fn run(context: *mut c_void, index: usize) {
    // SAFETY: the contract of this function.
    let job = unsafe { &*context.cast::<Job<'_>>() };
    let _mode = FloatMode::plain();
    job.run(index);
}

impl ParallelFor for HostThreads {
    fn threads(&self) -> usize {
        self.threads
    }

    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        let job = Job::new(body);
        let context = (&raw const job).cast_mut().cast::<c_void>();
        // SAFETY: `run` gets a `Job` that lives until the host's function returns, after which the host may not use it
        // (contract of `bonsai_parallel_for_fn`); it is only shared.
        call_out(|| unsafe { (self.parallel_for)(self.user_data.0, count, run, context) });
        job.finish();
    }
}

/// The calling thread and a private pool.
pub(crate) struct Pool(RayonThreads);

impl Pool {
    /// As many threads as the system offers, when `threads` is 0.
    pub(crate) fn new(threads: usize) -> Outcome<Self> {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let pool = RayonThreads::new(if threads == 0 { all() } else { threads });
        pool.map(Self).map_err(|e| Failure::new(ErrorKind::Io, format!("threads could not be started: {e}")))
    }
}

impl ParallelFor for Pool {
    fn threads(&self) -> usize {
        self.0.threads()
    }

    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        let job = Job::new(body);
        self.0.parallel_for(count, &|index| job.run(index));
        job.finish();
    }
}
