//! [`Cpu`]: the one handle that every operation takes.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::aligned::{AlignedBuf, Allocator, Element, SystemAllocator};
use crate::error::{KernelError, Result};
use crate::gemm::ActivationPrecision;
use crate::isa::Isa;
use crate::spare::{SpareBuf, SpareBuffers};
use crate::threads::{ParallelFor, Serial};

/// A flag that ends running work from any thread. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work that polls this token to end soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the token usable again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Counts what the linears did: multiply-accumulates and the wall time that they took.
#[derive(Debug, Default)]
pub struct Meter {
    macs: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Meter {
    /// Multiply-accumulates so far.
    pub fn macs(&self) -> u64 {
        self.macs.load(Ordering::Relaxed)
    }

    /// Wall time spent in linears so far.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    pub(crate) fn add(&self, macs: u64, elapsed: Duration) {
        self.macs.fetch_add(macs, Ordering::Relaxed);
        self.nanoseconds.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// What to compute with: the instruction set, the threads, where buffers come from, and when to stop.
///
/// Cheap to clone. Results never depend on the threads.
#[derive(Clone)]
pub struct Cpu {
    isa: Isa,
    precision: ActivationPrecision,
    threads: Arc<dyn ParallelFor>,
    allocator: Arc<dyn Allocator>,
    cancel: CancelToken,
    meter: Option<Arc<Meter>>,
    spare: Arc<SpareBuffers>,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("isa", &self.isa.name())
            .field("precision", &self.precision.name())
            .field("threads", &self.threads.threads())
            .finish()
    }
}

impl Cpu {
    /// This instruction set on the caller's thread alone, with activations in f32.
    pub fn new(isa: Isa) -> Self {
        Self {
            isa,
            precision: ActivationPrecision::F32,
            threads: Arc::new(Serial),
            allocator: Arc::new(SystemAllocator),
            cancel: CancelToken::new(),
            meter: None,
            spare: Arc::default(),
        }
    }

    /// The same, whose linears take activations in this precision. Attention and convolutions follow it as
    /// [`DotPrecision::chosen`](crate::DotPrecision::chosen) says.
    pub fn with_precision(self, precision: ActivationPrecision) -> Self {
        Self { precision, ..self }
    }

    /// The same with these threads.
    pub fn with_threads(self, threads: Arc<dyn ParallelFor>) -> Self {
        Self { threads, ..self }
    }

    /// The same with this source of large buffers.
    pub fn with_allocator(self, allocator: Arc<dyn Allocator>) -> Self {
        Self { allocator, spare: Arc::default(), ..self }
    }

    /// The same, polling this token.
    pub fn with_cancel(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }

    /// The same, counting into this meter.
    pub fn with_meter(self, meter: Arc<Meter>) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// The instruction set that kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How activations enter linears.
    pub fn precision(&self) -> ActivationPrecision {
        self.precision
    }

    /// How many threads work at once.
    pub fn threads(&self) -> usize {
        self.threads.threads().max(1)
    }

    pub(crate) fn meter(&self) -> Option<&Meter> {
        self.meter.as_deref()
    }

    /// Fails when the cancel token is set.
    ///
    /// # Errors
    /// [`KernelError::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(KernelError::Cancelled) } else { Ok(()) }
    }

    /// A zeroed buffer from this handle's allocator.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn buffer<T: Element>(&self, len: usize) -> Result<AlignedBuf<T>> {
        AlignedBuf::zeroed(&self.allocator, len)
    }

    /// A buffer of numbers that are whatever an earlier operation left there.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub(crate) fn spare<T: Element + bytemuck::Pod>(&self, len: usize) -> Result<SpareBuf<T>> {
        self.spare.take(&self.allocator, len)
    }

    /// Gives back the buffers that operations leave to the next ones, which are as much memory as one of them needs. They also
    /// go with the last clone of this handle.
    pub fn release_buffers(&self) {
        self.spare.release();
    }

    /// Works `items` off on all threads, each item once; every thread that joins makes one state with `init`.
    /// The cancel token is polled before each item.
    ///
    /// # Errors
    /// The first error of `init` or `body`, or [`KernelError::Cancelled`].
    pub fn for_each<I: Send, S>(
        &self,
        items: Vec<I>,
        init: impl Fn() -> Result<S> + Sync,
        body: impl Fn(&mut S, I) -> Result<()> + Sync,
    ) -> Result<()> {
        let slots = slots(items);
        self.share_out(slots.len(), &|next| {
            let mut state = None;
            while let Some(index) = next()? {
                if let Some(item) = taken(&slots[index]) {
                    let state = match &mut state {
                        Some(state) => state,
                        none => none.insert(init()?),
                    };
                    body(state, item)?;
                }
            }
            Ok(())
        })
    }

    /// Runs `work` on all threads; each call of it asks for the next index until there is none. Not generic: this is
    /// the part that is the same for all kernels.
    fn share_out(&self, count: usize, work: &Worker<'_>) -> Result<()> {
        self.check()?;
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<KernelError>> = Mutex::new(None);
        let guarded = || {
            let outcome = work(&|| {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(None);
                }
                self.check()?;
                Ok(Some(index))
            });
            if let Err(error) = outcome {
                // the others stop at their next item
                next.store(count, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        };
        let workers = self.threads().min(count);
        if workers > 1 {
            self.threads.parallel_for(workers, &|_| guarded());
        }
        // a host that ran fewer bodies than asked leaves work over
        guarded();
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// A place for each item, from which one thread takes it. Generic over no more than items, as is what follows.
#[inline(never)]
fn slots<I>(items: Vec<I>) -> Vec<Mutex<Option<I>>> {
    items.into_iter().map(|item| Mutex::new(Some(item))).collect()
}

#[inline(never)]
fn taken<I>(slot: &Mutex<Option<I>>) -> Option<I> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Works off what it is given, one index after the other.
type Worker<'a> = dyn Fn(&dyn Fn() -> Result<Option<usize>>) -> Result<()> + Sync + 'a;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::RayonThreads;

    struct Lazy;
    impl ParallelFor for Lazy {
        fn threads(&self) -> usize {
            4
        }
        fn parallel_for(&self, _: usize, _: &(dyn Fn(usize) + Sync)) {}
    }

    struct Eager;
    impl ParallelFor for Eager {
        fn threads(&self) -> usize {
            2
        }
        fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|s| (0..3 * count).for_each(|i| drop(s.spawn(move || body(i % 2)))));
        }
    }

    fn sum_over(threads: Arc<dyn ParallelFor>) -> u64 {
        let cpu = Cpu::new(Isa::best()).with_threads(threads);
        let sum = AtomicU64::new(0);
        let add = |_: &mut (), i: u64| {
            sum.fetch_add(i, Ordering::Relaxed);
            Ok(())
        };
        cpu.for_each((0..1000u64).collect(), || Ok(()), add).unwrap();
        sum.into_inner()
    }

    #[test]
    fn every_item_runs_once_whatever_the_host_does() {
        for threads in [
            Arc::new(Serial) as Arc<dyn ParallelFor>,
            Arc::new(Lazy),
            Arc::new(Eager),
            Arc::new(RayonThreads::new(3).unwrap()),
        ] {
            assert_eq!(sum_over(threads), 499_500);
        }
    }

    #[test]
    fn cancel_stops_the_rest() {
        let token = CancelToken::new();
        let cpu = Cpu::new(Isa::best()).with_cancel(token.clone());
        let mut done = 0;
        let counter = Mutex::new(&mut done);
        let result = cpu.for_each(
            (0..10).collect(),
            || Ok(()),
            |(), i| {
                **counter.lock().unwrap() += 1;
                if i == 3 {
                    token.cancel();
                }
                Ok(())
            },
        );
        assert_eq!(result, Err(KernelError::Cancelled));
        assert_eq!(done, 4);
    }
}
