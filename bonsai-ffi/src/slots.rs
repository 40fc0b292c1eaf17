//! How many runs a pipeline lets go on at once.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use bonsai_core::ErrorKind;

use crate::guard::{Failure, Outcome};

/// How long a waiting run may overlook that it is cancelled.
const PATIENCE: Duration = Duration::from_millis(20);

pub(crate) struct Slots {
    free: Mutex<u32>,
    freed: Condvar,
    fail_when_busy: bool,
}

/// A run's place; another takes it when this is dropped.
pub(crate) struct Slot<'a>(&'a Slots);

impl Slots {
    pub(crate) fn new(count: u32, fail_when_busy: bool) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new(), fail_when_busy }
    }

    /// Waits for a place, as long as `go_on` is fine with it.
    pub(crate) fn take(&self, mut go_on: impl FnMut() -> Outcome) -> Outcome<Slot<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if self.fail_when_busy {
                return Err(Failure::new(
                    ErrorKind::Busy,
                    "as many runs as the pipeline allows are going on",
                ));
            }
            go_on()?;
            free = self.freed.wait_timeout(free, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Ok(Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
