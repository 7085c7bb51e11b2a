//! Local virtual machines: how they are described, where they are kept, and
//! the process that runs one.
//!
//! `run` prepares a folder ([`place`]) with a description of the machine
//! ([`spec`]) and starts a process ([`process`]) that opens the disks, runs
//! the guest under KVM or QEMU, and tells what happens ([`events`]). No daemon
//! stays: each machine is a process of its own.

pub(crate) mod accel;
pub(crate) mod block;
pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod events;
pub(crate) mod exit;
pub(crate) mod kernel;
pub(crate) mod last_words;
pub(crate) mod network;
pub(crate) mod place;
pub(crate) mod probes;
pub(crate) mod process;
pub(crate) mod qcow2;
pub(crate) mod reach;
pub(crate) mod seed;
pub(crate) mod spec;
pub(crate) mod stored_plan;
