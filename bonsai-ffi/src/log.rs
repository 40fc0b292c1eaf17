use std::ffi::{CString, c_char, c_void};
use std::fmt::Write;

use bonsai_core::ErrorKind;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use crate::guard::{Failure, Outcome, call_out};
use crate::host::UserData;

/// Something failed.
pub const BONSAI_LOG_ERROR: i32 = 1;
/// Something is other than was asked for.
pub const BONSAI_LOG_WARN: i32 = 2;
/// Something worth telling.
pub const BONSAI_LOG_INFO: i32 = 3;
/// What is loaded, and how runs are set up.
pub const BONSAI_LOG_DEBUG: i32 = 4;
/// Everything.
pub const BONSAI_LOG_TRACE: i32 = 5;

/// Receives a message: its level, the part of the library that it comes from, and the text, both valid during the call.
/// Called on the thread that called this library.
pub type bonsai_log_fn = Option<
    unsafe extern "C" fn(user_data: *mut c_void, level: i32, target: *const c_char, message: *const c_char),
>;

struct Log {
    log: unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char),
    user_data: UserData,
    level: LevelFilter,
}

/// Where messages of a pipeline or a run go: to its own function and nowhere else.
pub(crate) fn dispatch(log: bonsai_log_fn, user_data: *mut c_void, level: i32) -> Outcome<Option<Dispatch>> {
    let level = match level {
        BONSAI_LOG_ERROR => LevelFilter::ERROR,
        BONSAI_LOG_WARN => LevelFilter::WARN,
        BONSAI_LOG_INFO => LevelFilter::INFO,
        BONSAI_LOG_DEBUG => LevelFilter::DEBUG,
        BONSAI_LOG_TRACE => LevelFilter::TRACE,
        other => {
            let message = format!("log_level {other}: expected one of BONSAI_LOG_...");
            return Err(Failure::new(ErrorKind::InvalidArgument, message));
        }
    };
    Ok(log.map(|log| Dispatch::new(Log { log, user_data: UserData(user_data), level })))
}

/// Runs a body whose messages go there.
pub(crate) fn heard_by<T>(dispatch: Option<&Dispatch>, body: impl FnOnce() -> T) -> T {
    match dispatch {
        Some(dispatch) => tracing::dispatcher::with_default(dispatch, body),
        None => body(),
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => BONSAI_LOG_ERROR,
            Level::WARN => BONSAI_LOG_WARN,
            Level::INFO => BONSAI_LOG_INFO,
            Level::DEBUG => BONSAI_LOG_DEBUG,
            Level::TRACE => BONSAI_LOG_TRACE,
        };
        let target = CString::new(event.metadata().target()).unwrap_or_default();
        let message =
            CString::new((text.message + &text.fields).replace('\0', "\u{fffd}")).unwrap_or_default();
        // SAFETY: the host's function, with text that lives during the call.
        call_out(|| unsafe { (self.log)(self.user_data.0, level, target.as_ptr(), message.as_ptr()) });
    }

    // no span of ours is worth a message
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // writing to a string does not fail
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
