//! Panics on demand, to see that none leaves the library. Not in any release.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::BONSAI_OK;

thread_local! {
    static WHERE: Cell<i32> = const { Cell::new(0) };
}
/// Jobs run on threads that know nothing of the one that asked.
static IN_JOB: AtomicBool = AtomicBool::new(false);

/// The next function that is called panics as it is entered.
pub const BONSAI_INJECT_AT_ENTRY: i32 = 1;
/// The next run panics when its first part is done.
pub const BONSAI_INJECT_IN_RUN: i32 = 2;
/// The next piece of work of any pool panics.
pub const BONSAI_INJECT_IN_JOB: i32 = 3;

/// Tests only: makes the next call of this thread panic, or the next piece of work, once.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_test_inject_panic(place: i32) -> i32 {
    IN_JOB.store(place == BONSAI_INJECT_IN_JOB, Ordering::Relaxed);
    WHERE.set(place);
    BONSAI_OK
}

fn due(place: i32) -> bool {
    let due = WHERE.get() == place;
    if due {
        WHERE.set(0);
    }
    due
}

pub(crate) fn at_entry(function: &str) {
    assert!(!due(BONSAI_INJECT_AT_ENTRY), "injected into {function}");
}

pub(crate) fn in_job() {
    assert!(!IN_JOB.swap(false, Ordering::Relaxed), "injected into a job");
}

pub(crate) fn in_run() {
    assert!(!due(BONSAI_INJECT_IN_RUN), "injected into a run");
}
