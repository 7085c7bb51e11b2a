//! The controller, as a program, with a real API server. A few lines of test
//! code are scheduler and kubelet. `cargo xtask test cluster` starts the
//! server and runs these.

#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
mod fences;
mod install;
mod kubelet;
mod lives;
mod pools;
mod world;
