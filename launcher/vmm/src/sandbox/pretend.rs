//! Programs that insist on namespaces where a container has none to give.
//!
//! passt confines itself in namespaces of its own and ends if it cannot have
//! them. The system call filter of a container's runtime refuses them, as it
//! should; there, the container is what passt would have made for itself.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::SandboxError;

/// What makes namespaces and changes what is mounted in them.
const CALLS: [libc::c_long; 4] = [
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
];

/// Has the calling thread, and the program that it becomes, believe that it
/// gets namespaces and mounts: the system calls for them do nothing and
/// succeed. It gains nothing by it, but the right to new privileges is gone.
///
/// Filters add up, and of two that refuse a call with an error number, the one
/// installed last gives the number (seccomp(2)); here, the number is 0. So it
/// works under the filter of a container's runtime, too.
///
/// # Errors
/// If the kernel refuses the filter.
pub fn pretend_namespaces() -> Result<(), SandboxError> {
    let failed = |error: &dyn std::fmt::Display| SandboxError::Calls(error.to_string());
    let rules: BTreeMap<_, _> = CALLS.map(|call| (call, Vec::new())).into();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(0),
        TargetArch::x86_64,
    );
    let program = filter
        .and_then(BpfProgram::try_from)
        .map_err(|e| failed(&e))?;
    seccompiler::apply_filter(&program).map_err(|e| failed(&e))
}
