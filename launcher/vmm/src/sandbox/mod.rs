//! Confinement of the threads.

/// Confines the calling thread to what a vCPU does.
pub(crate) fn enter_vcpu() {}

/// Confines the calling thread, and those that it starts, to what devices do.
pub(crate) fn enter_devices() {}
