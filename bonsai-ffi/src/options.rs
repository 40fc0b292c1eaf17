use std::ffi::{c_char, c_void};
use std::sync::Arc;

use bonsai_core::kernels::gemm::ActivationPrecision;
use bonsai_core::kernels::{OVERRIDE, UnknownIsa};
use bonsai_core::{ErrorKind, Isa, PipelineOptions, VaePath};

use crate::guard::{Access, Failure, Outcome, status};
use crate::host::{HostAllocator, HostThreads, Pool, UserData};
use crate::log::bonsai_log_fn;
use crate::structs::{self, Versioned};
use crate::{BONSAI_LOG_WARN, bonsai_cancel, bonsai_status, handle, text};

/// Takes memory: `size` bytes, never 0, at a multiple of `alignment`, a power of two. NULL when there is none. Called on
/// any thread.
pub type bonsai_alloc_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, size: usize, alignment: usize) -> *mut c_void>;

/// Takes back what a bonsai_alloc_fn gave, with the same size and alignment. Called on any thread.
pub type bonsai_dealloc_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, pointer: *mut c_void, size: usize, alignment: usize)>;

/// Calls `body(context, i)` for `i` from 0 to `count - 1`, on whatever threads, and returns when all calls have returned.
/// `body` may be called from any thread, and several times at once; neither it nor `context` may be used afterwards. What is
/// painted does not depend on how this is done.
pub type bonsai_parallel_for_fn = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        count: usize,
        body: unsafe extern "C" fn(context: *mut c_void, index: usize),
        context: *mut c_void,
    ),
>;

/// How a pipeline runs. Fill it with bonsai_options_init.
#[repr(C)]
pub struct bonsai_options {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// 0.
    pub reserved_flags: u32,
    /// Threads that work: the one that calls and those of a pool of the pipeline's own; 0: as many as the system offers. Not used
    /// with parallel_for.
    pub threads: u32,
    /// How many runs may go on at once; further ones wait. 1 at first.
    pub max_concurrent_runs: u32,
    /// The least important of the messages that log receives: one of BONSAI_LOG_....
    pub log_level: i32,
    /// Threads that parallel_for uses at once; at least 1 with parallel_for.
    pub parallel_threads: u32,
    /// 1: a run that would have to wait returns BONSAI_E_BUSY instead.
    pub fail_when_busy: u8,
    /// 0.
    pub reserved: [u8; 7],
    /// The most memory that this process may have resident while a picture is made, in bytes: the plan keeps it or the
    /// request is refused with BONSAI_E_MEMORY_BUDGET. 0: no budget.
    pub max_memory_bytes: u64,
    /// The instruction set by its name, as bonsai_cpu_features lists them; NULL: the best, or the lower one that the
    /// environment variable BONSAI_ISA names. With a zero byte at its end.
    pub isa: *const c_char,
    /// Arithmetic of the activations by its name, as the command's --precision lists them; NULL: the default. With a zero byte
    /// at its end.
    pub precision: *const c_char,
    /// Receives messages of loading and of runs that have no log of their own; may be NULL.
    pub log: bonsai_log_fn,
    /// Handed to log.
    pub log_user_data: *mut c_void,
    /// Where large buffers come from; NULL: Rust's allocator. Together with dealloc. Valid until the pipeline and all its
    /// results are freed.
    pub alloc: bonsai_alloc_fn,
    /// Where they go.
    pub dealloc: bonsai_dealloc_fn,
    /// Handed to alloc and dealloc.
    pub alloc_user_data: *mut c_void,
    /// The host's own threads instead of a pool; may be NULL. Valid until the pipeline is freed.
    pub parallel_for: bonsai_parallel_for_fn,
    /// Handed to parallel_for.
    pub parallel_user_data: *mut c_void,
    /// Ends the opening with BONSAI_E_CANCELLED when it is requested; may be NULL. Runs have a token of their own.
    pub cancel: *const bonsai_cancel,
    /// A TAEF2 that paints previews, as large as the picture: its file, its folder, or "tiny" for the one in the model's
    /// directory; with a zero byte at its end. NULL: previews are a pixel for each of the latent, and cost next to nothing.
    pub preview_decoder: *const c_char,
}

// SAFETY: `repr(C)`, fields in descending alignment with explicit padding, all of them integers and nullable pointers.
unsafe impl Versioned for bonsai_options {
    const NAME: &'static str = "bonsai_options";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved_flags: 0,
            threads: 0,
            max_concurrent_runs: 1,
            log_level: BONSAI_LOG_WARN,
            parallel_threads: 0,
            fail_when_busy: 0,
            reserved: [0; 7],
            max_memory_bytes: 0,
            isa: std::ptr::null(),
            precision: std::ptr::null(),
            log: None,
            log_user_data: std::ptr::null_mut(),
            alloc: None,
            dealloc: None,
            alloc_user_data: std::ptr::null_mut(),
            parallel_for: None,
            parallel_user_data: std::ptr::null_mut(),
            cancel: std::ptr::null(),
            preview_decoder: std::ptr::null(),
        }
    }
}

/// Fills options with what a pipeline does when nobody says otherwise. `struct_size` is sizeof(bonsai_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_options_init(
    options: *mut bonsai_options,
    struct_size: usize,
) -> bonsai_status {
    // SAFETY: null or writable for its size (the crate's contract); there is no error place.
    unsafe {
        status("bonsai_options_init", Access::Getter, std::ptr::null_mut(), || {
            structs::init(options, struct_size, "options")
        })
    }
}

impl bonsai_options {
    /// The same for core.
    ///
    /// # Safety
    /// The pointers are what the fields say.
    pub(crate) unsafe fn to_core(&self) -> Outcome<PipelineOptions> {
        expect_zero("options.reserved_flags", self.reserved_flags)?;
        self.reserved.iter().try_for_each(|&byte| expect_zero("options.reserved", u32::from(byte)))?;
        expect_flag("options.fail_when_busy", self.fail_when_busy)?;
        if !(1..=MAX_RUNS).contains(&self.max_concurrent_runs) {
            let found = self.max_concurrent_runs;
            return Err(Failure::invalid(format!(
                "options.max_concurrent_runs {found}: expected 1 to {MAX_RUNS}"
            )));
        }
        if self.threads > MAX_THREADS {
            return Err(Failure::invalid(format!(
                "options.threads {}: expected 0 to {MAX_THREADS}",
                self.threads
            )));
        }
        let isa = if self.isa.is_null() {
            None
        } else {
            // SAFETY: ends with a zero (contract).
            let name = unsafe { text::text(self.isa, usize::MAX, "options.isa") }?;
            // the kernels know the environment variable only
            let refused = |e: UnknownIsa| {
                Failure::invalid(e.to_string().replacen(&format!("{OVERRIDE}="), "options.isa ", 1))
            };
            Some(Isa::named(name).map_err(refused)?)
        };
        let precision = if self.precision.is_null() {
            ActivationPrecision::default()
        } else {
            // SAFETY: ends with a zero (contract).
            let name = unsafe { text::text(self.precision, usize::MAX, "options.precision") }?;
            ActivationPrecision::named(name).ok_or_else(|| {
                let known: Vec<_> = ActivationPrecision::ALL.iter().map(|p| p.name()).collect();
                let known = known.join(", ");
                Failure::invalid(format!("options.precision {name:?}: expected one of {known}"))
            })?
        };
        let mut options = PipelineOptions { isa, precision, ..PipelineOptions::default() };
        options.max_memory = (self.max_memory_bytes > 0).then_some(self.max_memory_bytes);
        match (self.alloc, self.dealloc) {
            (None, None) => {}
            (Some(alloc), Some(dealloc)) => {
                let user_data = UserData(self.alloc_user_data);
                options.allocator = Some(Arc::new(HostAllocator { alloc, dealloc, user_data }));
            }
            _ => return Err(Failure::invalid("options.alloc and options.dealloc: expected both or neither")),
        }
        // SAFETY: null or a live token (contract).
        let cancel = unsafe { handle::optional(self.cancel, "options.cancel") }?;
        options.cancel = cancel.map(|cancel| cancel.now.clone());
        if !self.preview_decoder.is_null() {
            // SAFETY: ends with a zero (contract).
            let path = unsafe { text::text(self.preview_decoder, usize::MAX, "options.preview_decoder") }?;
            let Ok(path) = path.parse::<VaePath>();
            options.preview_decoder = Some(path);
        }
        let Some(parallel_for) = self.parallel_for else {
            options.parallel_for = Some(Arc::new(Pool::new(self.threads as usize)?));
            return Ok(options);
        };
        if !(1..=MAX_THREADS).contains(&self.parallel_threads) {
            let found = self.parallel_threads;
            return Err(Failure::invalid(format!(
                "options.parallel_threads {found}: expected 1 to {MAX_THREADS} with parallel_for"
            )));
        }
        let user_data = UserData(self.parallel_user_data);
        let threads = self.parallel_threads as usize;
        options.parallel_for = Some(Arc::new(HostThreads { parallel_for, threads, user_data }));
        Ok(options)
    }
}

const MAX_THREADS: u32 = 1024;
const MAX_RUNS: u32 = 1024;

pub(crate) fn expect_zero(field: &str, value: u32) -> Outcome {
    if value == 0 {
        Ok(())
    } else {
        Err(Failure::new(ErrorKind::Unsupported, format!("{field} {value}: expected 0")))
    }
}

pub(crate) fn expect_flag(field: &str, value: u8) -> Outcome {
    if value <= 1 { Ok(()) } else { Err(Failure::invalid(format!("{field} {value}: expected 0 or 1"))) }
}
