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

/// Threads of a rayon pool: the caller's own and those of a private pool, or a pool that the host shares. Never rayon's global pool.
#[derive(Debug, Clone)]
pub struct RayonThreads(Pool);

#[derive(Debug, Clone)]
enum Pool {
    /// One thread less than there are to be: the caller, who would have to wait for them, is the other.
    Private(Arc<ThreadPool>),
    /// The host may have told its threads apart from others, so that all work is for them.
    Shared(Arc<ThreadPool>),
    /// No thread but the caller's.
    None,
}

impl RayonThreads {
    /// `threads` threads, of which the caller's is one.
    ///
    /// # Errors
    /// When the system refuses to start them.
    pub fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        // of no thread, rayon would make one for each core
        if threads <= 1 {
            return Ok(Self(Pool::None));
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|i| format!("bonsai-{i}"));
        Ok(Self(Pool::Private(Arc::new(pool.build()?))))
    }

    /// The host's own pool.
    pub fn shared(pool: Arc<ThreadPool>) -> Self {
        Self(Pool::Shared(pool))
    }
}

impl ParallelFor for RayonThreads {
    fn threads(&self) -> usize {
        match &self.0 {
            Pool::Private(pool) => pool.current_num_threads() + 1,
            Pool::Shared(pool) => pool.current_num_threads(),
            Pool::None => 1,
        }
    }

    fn parallel_for(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        match &self.0 {
            Pool::Private(pool) if count > 1 => beside_caller(pool, count, body),
            Pool::Shared(pool) if count > 1 => pool.scope(|scope| {
                for index in 1..count {
                    scope.spawn(move |_| body(index));
                }
                body(0);
            }),
            _ => (0..count).for_each(body),
        }
    }
}

/// Calls `body` here and on the pool's threads.
fn beside_caller(pool: &ThreadPool, count: usize, body: &(dyn Fn(usize) + Sync)) {
    let others = &AtomicUsize::new(count - 1);
    pool.in_place_scope(|scope| {
        for index in 1..count {
            scope.spawn(move |_| {
                body(index);
                others.fetch_sub(1, Ordering::Release);
            });
        }
        body(0);
        // a thread of the pool itself, which called from inside a body, has the others' work to do where nobody else does
        if pool.current_thread_index().is_none() {
            let since = Instant::now();
            while others.load(Ordering::Acquire) > 0 && since.elapsed() < AWAKE {
                hint::spin_loop();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn every_index_is_called_once_also_from_inside() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let private = |threads| RayonThreads::new(threads).unwrap();
        for (threads, count) in
            [(private(0), 1), (private(1), 1), (private(3), 3), (RayonThreads::shared(Arc::new(pool)), 2)]
        {
            assert_eq!(threads.threads(), count);
            let called = AtomicUsize::new(0);
            threads.parallel_for(4, &|i| {
                threads.parallel_for(4, &|j| {
                    called.fetch_add(1 << (4 * i + j), Ordering::Relaxed);
                });
            });
            assert_eq!(called.into_inner(), 0xffff);
        }
    }

    #[test]
    fn the_caller_works_too_and_hears_of_panics() {
        let (threads, caller, worked) =
            (RayonThreads::new(2).unwrap(), thread::current().id(), AtomicBool::new(false));
        let panics = || {
            threads.parallel_for(2, &|i| {
                assert_eq!(i, 0, "the other body");
                worked.store(thread::current().id() == caller, Ordering::Relaxed);
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert!(worked.into_inner());
    }
}
