//! `bootwright launch`: the machine of a pod runs, its end is told, and what
//! cannot run says why in one line.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod control;
mod ends;
#[path = "../../../../builder/image/tests/common/mod.rs"]
mod image_tests;
mod inputs;
mod metrics;
mod pod;
mod probes;
