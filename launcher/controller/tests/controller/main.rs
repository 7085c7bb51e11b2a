//! The controller, as a program, with a real API server. A few lines of test
//! code are scheduler and kubelet. `cargo xtask test cluster` starts the
//! server and runs these.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../argocd/mod.rs"]
mod argocd;
mod faults;
mod fences;
#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../../../cli/tests/common/guest.rs"]
mod guest;
mod install;
mod kubelet;
mod lives;
mod monitoring;
mod pools;
#[path = "../prometheus/mod.rs"]
mod prometheus;
mod tekton;
mod world;
