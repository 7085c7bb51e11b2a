//! What disks of many makers boot.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod foreign;
mod hostile;
mod loader;
mod workshop;
