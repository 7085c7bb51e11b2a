//! The plugin, as a program, with a real API server and the real controller.
//! A few lines of test code are scheduler and kubelet. `cargo xtask test
//! cluster` starts the server and runs these.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../../controller/tests/controller/kubelet.rs"]
#[allow(dead_code)]
mod kubelet;
mod pools;
mod requests;
mod world;
