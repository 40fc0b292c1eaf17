//! Panics on demand, to see that none leaves the library. Not in any release.

use std::cell::Cell;

use crate::BONSAI_OK;

thread_local! {
    static WHERE: Cell<i32> = const { Cell::new(0) };
}

/// The next function that is called panics as it is entered.
pub const BONSAI_INJECT_AT_ENTRY: i32 = 1;
/// The next run panics when its first part is done.
pub const BONSAI_INJECT_IN_RUN: i32 = 2;

/// Tests only: makes the next call of this thread panic, once.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_test_inject_panic(place: i32) -> i32 {
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

pub(crate) fn in_run() {
    assert!(!due(BONSAI_INJECT_IN_RUN), "injected into a run");
}
