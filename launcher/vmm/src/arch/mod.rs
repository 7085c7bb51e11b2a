//! What depends on the processor.
//!
//! Only x86-64 so far; the rest of the crate names this module, not the
//! processor, so that another can be put beside it.

pub mod x86_64;

pub use x86_64::layout;
