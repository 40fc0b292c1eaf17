//! Ctrl-C: the first ends the work soon and in good order, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_core::CancelToken;

use crate::failure::{Code, Failure};

pub struct Interrupt {
    pub token: CancelToken,
    orderly: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C. Until [`Interrupt::orderly`] it ends the process, since nothing would poll the token.
    pub fn install() -> Result<Self, Failure> {
        let interrupt = Self { token: CancelToken::new(), orderly: Arc::default() };
        let (token, orderly) = (interrupt.token.clone(), Arc::clone(&interrupt.orderly));
        let stop = move || {
            if token.is_cancelled() || !orderly.load(Ordering::Relaxed) {
                std::process::exit(Code::Cancelled as i32);
            }
            token.cancel();
        };
        ctrlc::set_handler(stop).map_err(|e| Failure::new(Code::Failed, format!("Ctrl-C handler: {e}")))?;
        Ok(interrupt)
    }

    /// From here on the token is polled.
    pub fn orderly(&self) {
        self.orderly.store(true, Ordering::Relaxed);
    }
}
