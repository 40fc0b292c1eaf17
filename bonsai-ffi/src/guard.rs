//! The one way into the library: nothing unwinds out of it, nothing is entered from a callback, and every failure becomes
//! a number and, where the caller wants one, an error object.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

use bonsai_core::{Error, ErrorKind};

use crate::error::bonsai_error;
use crate::float_mode::FloatMode;
use crate::status::{BONSAI_E_PANIC, BONSAI_OK};

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    /// What was being done; the name of the function where nothing more is known.
    pub(crate) stage: Option<&'static str>,
    pub(crate) file: Option<String>,
    /// The byte of the file.
    pub(crate) offset: Option<u64>,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), stage: None, file: None, offset: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn stage(self, stage: &'static str) -> Self {
        Self { stage: Some(stage), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let file = error.file().map(|path| path.display().to_string());
        let offset = error.offset();
        Self { file, offset, ..Self::new(error.kind(), error.to_string()) }
    }
}

/// What a function may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It only looks, or sets a flag: allowed inside callbacks.
    Getter,
    /// It works: refused inside callbacks.
    Work,
}

thread_local! {
    /// How many callbacks of the host this thread is inside of.
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
    /// How many bodies this thread is inside of whose panics are caught and need not be printed.
    static BODIES: Cell<u32> = const { Cell::new(0) };
    /// Where the last panic of this thread happened.
    static PANIC_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Counts up until it is dropped.
struct Depth(&'static std::thread::LocalKey<Cell<u32>>);

impl Depth {
    fn enter(key: &'static std::thread::LocalKey<Cell<u32>>) -> Self {
        key.set(key.get() + 1);
        Self(key)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Runs code of the host: what it calls back into this library is refused unless it only looks.
pub(crate) fn call_out<R>(host: impl FnOnce() -> R) -> R {
    let _inside = Depth::enter(&CALLBACKS);
    host()
}

/// A panic becomes a status, but the standard library prints it before anybody can catch it, and tells where it happened to
/// its hook and to nobody else. So there is one hook, which is quiet about panics that are caught here; all others take the
/// way that they took before. It stays, for taking it away between calls would race with other threads.
fn hush_own_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if BODIES.get() == 0 {
                return previous(info);
            }
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            PANIC_AT.with(|at| at.try_borrow_mut().map(|mut at| *at = place).ok());
        }));
    });
}

/// A panic that was caught. It may go on on another thread.
pub(crate) struct Panic {
    // the payload's own drop may panic, outside of any net
    payload: ManuallyDrop<Box<dyn Any + Send>>,
    place: Option<String>,
}

impl Panic {
    /// Runs a body up to its end or its panic.
    pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T, Self> {
        hush_own_panics();
        let _inside = Depth::enter(&BODIES);
        // what a panic may leave half done is either dropped or, for pipelines, poisoned
        catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
            let place = PANIC_AT.with(|at| at.try_borrow_mut().ok().and_then(|mut at| at.take()));
            Self { payload: ManuallyDrop::new(payload), place }
        })
    }

    /// Goes on on this thread, as if it had happened here.
    pub(crate) fn resume(self) -> ! {
        PANIC_AT.with(|at| at.try_borrow_mut().map(|mut at| *at = self.place).ok());
        resume_unwind(ManuallyDrop::into_inner(self.payload))
    }

    fn text(&self) -> &str {
        let payload = self.payload.as_ref();
        let text = payload.downcast_ref::<&str>().copied();
        text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
    }
}

/// Runs a body whose panics become an error.
pub(crate) fn caught<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    Panic::catch(body).unwrap_or_else(|panic| {
        let place = panic.place.as_ref().map_or_else(String::new, |place| format!(" at {place}"));
        let message = format!("the library panicked{place}: {}", panic.text());
        Err(Failure::new(ErrorKind::Panic, message))
    })
}

/// The body of an export that returns a status.
///
/// # Safety
/// `error` is null or may be written to.
pub(crate) unsafe fn status(
    function: &'static str,
    access: Access,
    error: *mut *mut bonsai_error,
    body: impl FnOnce() -> Outcome,
) -> i32 {
    let outcome = caught(|| {
        // SAFETY: `error` is null or may be written to (contract of this function).
        unsafe { bonsai_error::clear(error) };
        if access == Access::Work && CALLBACKS.get() > 0 {
            let message = "called from a callback; only cancelling and looking are allowed there";
            return Err(Failure::new(ErrorKind::Reentrant, message));
        }
        let _mode = (access == Access::Work).then(FloatMode::plain);
        injected(function);
        body()
    });
    match outcome {
        Ok(()) => BONSAI_OK,
        Err(failure) => {
            let status = failure.kind.status();
            // SAFETY: as above.
            unsafe { bonsai_error::hand_out(error, failure, function) };
            status
        }
    }
}

/// The body of an export that returns something else; `fallback` if it panics.
pub(crate) fn value<T>(function: &'static str, fallback: T, body: impl FnOnce() -> T) -> T {
    caught(|| {
        injected(function);
        Ok(body())
    })
    .unwrap_or(fallback)
}

/// The body of an export that signal handlers may call: one that can't panic, allocate or wait. What [`caught`] does to hush
/// a panic is not fit for a handler, so it is there only where tests make this panic.
#[cfg(not(feature = "inject-panics"))]
pub(crate) fn bare(_: &'static str, body: impl FnOnce() -> i32) -> i32 {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(BONSAI_E_PANIC)
}

#[cfg(feature = "inject-panics")]
pub(crate) fn bare(function: &'static str, body: impl FnOnce() -> i32) -> i32 {
    value(function, BONSAI_E_PANIC, body)
}

#[cfg(feature = "inject-panics")]
fn injected(function: &'static str) {
    crate::inject::at_entry(function);
}

#[cfg(not(feature = "inject-panics"))]
fn injected(_: &'static str) {}
