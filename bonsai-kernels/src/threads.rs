//! How work is split: one trait that a host can implement, a rayon pool, and none at all.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// How long a caller that has done its part waits for the others before it sleeps: waking it takes some 15 microseconds, as long as a
/// small product.
const AWAKE: Duration = Duration::from_micros(50);

/// Runs a body several times, at once where it can.
///
/// Kernels do not rely on the indices that a host passes: every call of the body takes the next piece of work
/// itself, so a host that calls it too often, too seldom or in any order still gets right results.
pub trait ParallelFor: Send + Sync {
    /// How many bodies can run at once; at least 1.
    fn threads(&self) -> usize;
    /// Calls `body` with 0, 1, .. `count - 1` and returns when all calls have ended.
    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync));
}

/// The caller's own thread and no other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl ParallelFor for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(body);
    }
}

/// A rayon pool: a private one, or one that the host shares. Never rayon's global pool.
#[derive(Debug, Clone)]
pub struct RayonThreads(Arc<ThreadPool>);

impl RayonThreads {
    /// A private pool of `threads` threads.
    ///
    /// # Errors
    /// When the system refuses to start them.
    pub fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool =
            ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|i| format!("bonsai-{i}"));
        Ok(Self(Arc::new(pool.build()?)))
    }

    /// The host's own pool.
    pub fn shared(pool: Arc<ThreadPool>) -> Self {
        Self(pool)
    }
}

impl ParallelFor for RayonThreads {
    fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        if count <= 1 {
            return (0..count).for_each(body);
        }
        // the caller works too: it is awake already
        let others = &AtomicUsize::new(count - 1);
        self.0.in_place_scope(|scope| {
            for index in 1..count {
                scope.spawn(move |_| {
                    body(index);
                    others.fetch_sub(1, Ordering::Release);
                });
            }
            body(0);
            // a thread of the pool has other work to look for, perhaps that of the others
            if self.0.current_thread_index().is_none() {
                let since = Instant::now();
                while others.load(Ordering::Acquire) > 0 && since.elapsed() < AWAKE {
                    hint::spin_loop();
                }
            }
        });
    }
}
