//! What went wrong but stops nothing, on standard error.
//!
//! A guest can cause such messages, so their number is limited.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

const LIMIT: u32 = 100;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Says so, unless too much was said already.
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    match COUNT.fetch_add(1, Ordering::Relaxed) {
        0..LIMIT => eprintln!("warning: {message}"),
        LIMIT => eprintln!("warning: further warnings are not shown"),
        _ => {}
    }
}
