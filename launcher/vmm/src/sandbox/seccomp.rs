//! Which system calls a thread may make.

use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::SandboxError;

/// A condition on an argument.
#[derive(Debug, Clone, Copy)]
pub(super) enum If {
    /// Any.
    Always,
    /// This argument is one of these numbers.
    OneOf(u8, &'static [u64]),
    /// This argument has none of these bits.
    Without(u8, u64),
}

/// System calls, with the conditions under which they are allowed.
type Calls = &'static [(libc::c_long, If)];

/// What some kind of thread may do.
#[derive(Debug)]
pub(super) struct List {
    calls: &'static [Calls],
    /// Compiled for the first thread of the kind.
    program: OnceLock<BpfProgram>,
}

impl List {
    const fn new(calls: &'static [Calls]) -> Self {
        Self {
            calls,
            program: OnceLock::new(),
        }
    }
}

const ALWAYS: If = If::Always;
/// Memory that can be executed is nothing that any thread makes.
const NO_CODE: If = If::Without(2, libc::PROT_EXEC as u64);

/// What the standard library, its allocator and its locks need anywhere, and
/// what ends a thread or the process.
const COMMON: Calls = &[
    (libc::SYS_brk, ALWAYS),
    (libc::SYS_clock_gettime, ALWAYS),
    (libc::SYS_clock_nanosleep, ALWAYS),
    (libc::SYS_close, ALWAYS),
    (libc::SYS_exit, ALWAYS),
    (libc::SYS_exit_group, ALWAYS),
    (libc::SYS_futex, ALWAYS),
    (libc::SYS_getpid, ALWAYS),
    (libc::SYS_getrandom, ALWAYS),
    (libc::SYS_gettid, ALWAYS),
    (libc::SYS_gettimeofday, ALWAYS),
    (libc::SYS_madvise, ALWAYS),
    (libc::SYS_mmap, NO_CODE),
    (libc::SYS_mprotect, NO_CODE),
    (libc::SYS_mremap, ALWAYS),
    (libc::SYS_munmap, ALWAYS),
    (libc::SYS_nanosleep, ALWAYS),
    (libc::SYS_poll, ALWAYS),
    (libc::SYS_ppoll, ALWAYS),
    (libc::SYS_restart_syscall, ALWAYS),
    (libc::SYS_rt_sigprocmask, ALWAYS),
    (libc::SYS_rt_sigreturn, ALWAYS),
    (libc::SYS_sched_yield, ALWAYS),
    (libc::SYS_sigaltstack, ALWAYS),
    (libc::SYS_tgkill, ALWAYS),
    (libc::SYS_write, ALWAYS),
    (libc::SYS_writev, ALWAYS),
    // Rust's write to a socket, where serial output may go.
    (libc::SYS_sendto, If::OneOf(5, &[0])),
    (libc::SYS_eventfd2, ALWAYS),
    (
        libc::SYS_fcntl,
        If::OneOf(
            1,
            &[
                libc::F_DUPFD_CLOEXEC as u64,
                libc::F_GETFD as u64,
                libc::F_GETFL as u64,
                libc::F_SETFL as u64,
            ],
        ),
    ),
];

/// KVM's requests that processors make (include/uapi/linux/kvm.h): KVM_RUN,
/// KVM_KVMCLOCK_CTRL; and, as the guest sets up devices, KVM_SET_GSI_ROUTING
/// and KVM_IOEVENTFD.
const VCPU_REQUESTS: &[u64] = &[0xae80, 0xaead, 0x4008_ae6a, 0x4040_ae79];

/// What virtual processors do.
pub(super) static VCPU: List =
    List::new(&[COMMON, &[(libc::SYS_ioctl, If::OneOf(1, VCPU_REQUESTS))]]);

/// Requests of devices: TUNSETOFFLOAD, TUNSETVNETHDRSZ and TUNSETQUEUE
/// (include/uapi/linux/if_tun.h); FIONREAD and FIONBIO; BLKDISCARD, BLKZEROOUT
/// and BLKGETSIZE64 (include/uapi/linux/fs.h).
const DEVICE_REQUESTS: &[u64] = &[
    0x4004_54d0,
    0x4004_54d8,
    0x4004_54d9,
    0x541b,
    0x5421,
    0x1277,
    0x127f,
    0x8008_1272,
];

/// Input and output on descriptors, whatever they are.
const DESCRIPTORS: Calls = &[
    (libc::SYS_accept4, ALWAYS),
    (libc::SYS_connect, ALWAYS),
    (libc::SYS_epoll_create1, ALWAYS),
    (libc::SYS_epoll_ctl, ALWAYS),
    (libc::SYS_epoll_pwait, ALWAYS),
    (libc::SYS_epoll_wait, ALWAYS),
    (libc::SYS_fallocate, ALWAYS),
    (libc::SYS_fdatasync, ALWAYS),
    (libc::SYS_fstat, ALWAYS),
    (libc::SYS_fsync, ALWAYS),
    (libc::SYS_ftruncate, ALWAYS),
    (libc::SYS_getsockopt, ALWAYS),
    (libc::SYS_io_uring_enter, ALWAYS),
    (libc::SYS_lseek, ALWAYS),
    // How the C library asks for the size of an open file.
    (
        libc::SYS_newfstatat,
        If::OneOf(3, &[libc::AT_EMPTY_PATH as u64]),
    ),
    (libc::SYS_pread64, ALWAYS),
    (libc::SYS_preadv, ALWAYS),
    (libc::SYS_preadv2, ALWAYS),
    (libc::SYS_pwrite64, ALWAYS),
    (libc::SYS_pwritev, ALWAYS),
    (libc::SYS_pwritev2, ALWAYS),
    (libc::SYS_read, ALWAYS),
    (libc::SYS_readv, ALWAYS),
    (libc::SYS_recvfrom, ALWAYS),
    (libc::SYS_recvmsg, ALWAYS),
    (libc::SYS_sendmsg, ALWAYS),
    (libc::SYS_shutdown, ALWAYS),
    (libc::SYS_socket, If::OneOf(0, &[libc::AF_UNIX as u64])),
    // The size of a file, by its descriptor.
    (libc::SYS_statx, If::OneOf(2, &[libc::AT_EMPTY_PATH as u64])),
    (libc::SYS_sync_file_range, ALWAYS),
    (libc::SYS_timerfd_create, ALWAYS),
    (libc::SYS_timerfd_settime, ALWAYS),
];

/// What devices do.
pub(super) static DEVICE: List = List::new(&[
    COMMON,
    DESCRIPTORS,
    &[(libc::SYS_ioctl, If::OneOf(1, DEVICE_REQUESTS))],
]);

/// What devices do that open files when the guest reads them.
pub(super) static DEVICE_WITH_FILES: List = List::new(&[
    COMMON,
    DESCRIPTORS,
    &[(libc::SYS_ioctl, If::OneOf(1, DEVICE_REQUESTS))],
    // Both: which one a library takes is its own affair.
    &[(libc::SYS_open, ALWAYS), (libc::SYS_openat, ALWAYS)],
]);

/// What the memory device does: KVM_SET_USER_MEMORY_REGION, too.
pub(super) static MEMORY_DEVICE: List = List::new(&[
    COMMON,
    DESCRIPTORS,
    &[(libc::SYS_ioctl, If::OneOf(1, &[0x4020_ae46]))],
]);

/// What making and controlling machines takes: files by name (which Landlock
/// restricts), threads, sockets, and any request to KVM or a terminal.
///
/// Threads of processors and devices are started by this thread and inherit its
/// list, so all of theirs is in it.
pub(super) static CONTROL: List = List::new(&[COMMON, DESCRIPTORS, CONTROL_ONLY]);

/// See [`CONTROL`].
const CONTROL_ONLY: Calls = &[
    (libc::SYS_accept, ALWAYS),
    (libc::SYS_bind, ALWAYS),
    (libc::SYS_capget, ALWAYS),
    (libc::SYS_capset, ALWAYS),
    (libc::SYS_clone, ALWAYS),
    (libc::SYS_clone3, ALWAYS),
    (libc::SYS_fcntl, ALWAYS),
    (libc::SYS_flock, ALWAYS),
    (libc::SYS_getcwd, ALWAYS),
    (libc::SYS_getdents64, ALWAYS),
    (libc::SYS_geteuid, ALWAYS),
    (libc::SYS_getuid, ALWAYS),
    (libc::SYS_ioctl, ALWAYS),
    (libc::SYS_kill, ALWAYS),
    (libc::SYS_landlock_add_rule, ALWAYS),
    (libc::SYS_landlock_create_ruleset, ALWAYS),
    (libc::SYS_landlock_restrict_self, ALWAYS),
    (libc::SYS_listen, ALWAYS),
    (libc::SYS_lstat, ALWAYS),
    (libc::SYS_memfd_create, ALWAYS),
    (libc::SYS_mkdir, ALWAYS),
    (libc::SYS_mkdirat, ALWAYS),
    (libc::SYS_newfstatat, ALWAYS),
    (libc::SYS_open, ALWAYS),
    (libc::SYS_openat, ALWAYS),
    (libc::SYS_pipe2, ALWAYS),
    (libc::SYS_prctl, ALWAYS),
    (libc::SYS_readlink, ALWAYS),
    (libc::SYS_readlinkat, ALWAYS),
    (libc::SYS_rename, ALWAYS),
    (libc::SYS_renameat, ALWAYS),
    (libc::SYS_renameat2, ALWAYS),
    (libc::SYS_rmdir, ALWAYS),
    (libc::SYS_rseq, ALWAYS),
    (libc::SYS_rt_sigaction, ALWAYS),
    (libc::SYS_rt_sigtimedwait, ALWAYS),
    (libc::SYS_sched_getaffinity, ALWAYS),
    (libc::SYS_seccomp, ALWAYS),
    (libc::SYS_set_robust_list, ALWAYS),
    (libc::SYS_setsockopt, ALWAYS),
    (libc::SYS_signalfd4, ALWAYS),
    (libc::SYS_socketpair, ALWAYS),
    (libc::SYS_stat, ALWAYS),
    (libc::SYS_statx, ALWAYS),
    (libc::SYS_uname, ALWAYS),
    (libc::SYS_unlink, ALWAYS),
    (libc::SYS_unlinkat, ALWAYS),
    (libc::SYS_wait4, ALWAYS),
    (libc::SYS_waitid, ALWAYS),
];

/// Confines the calling thread to a list.
pub(super) fn enter(list: &'static List) -> Result<(), SandboxError> {
    let program = match list.program.get() {
        Some(program) => program,
        None => {
            let program = compile(list.calls)?;
            list.program.get_or_init(|| program)
        }
    };
    seccompiler::apply_filter(program).map_err(|e| SandboxError::Calls(e.to_string()))
}

fn compile(list: &[Calls]) -> Result<BpfProgram, SandboxError> {
    let failed = |error: seccompiler::BackendError| SandboxError::Calls(error.to_string());
    let mut rules = std::collections::BTreeMap::new();
    for (call, condition) in list.iter().copied().flatten() {
        let conditions = rules_of(*condition).map_err(failed)?;
        match conditions.is_empty() {
            // No rules at all allow any arguments; a later entry may widen an
            // earlier one.
            true => drop(rules.insert(*call, conditions)),
            false => rules
                .entry(*call)
                .or_insert_with(Vec::new)
                .extend(conditions),
        }
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(failed)
}

fn rules_of(condition: If) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |argument, operator, value| {
        let width = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(argument, width, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    match condition {
        If::Always => Ok(Vec::new()),
        If::OneOf(argument, values) => values
            .iter()
            .map(|value| rule(argument, SeccompCmpOp::Eq, *value))
            .collect(),
        If::Without(argument, bits) => Ok(vec![rule(argument, SeccompCmpOp::MaskedEq(bits), 0)?]),
    }
}
