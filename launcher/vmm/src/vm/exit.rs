//! Why a guest ended.

use std::fmt;

/// Why a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It turned itself off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// Its kernel panicked, and its driver for pvpanic said so.
    Panicked,
    /// It cannot go on.
    Crashed(Crash),
    /// Someone ended it from outside.
    Killed,
}

/// Why a guest cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crash {
    /// A fault while handling a fault while handling a fault.
    TripleFault,
    /// KVM met an instruction that it cannot emulate.
    Emulation,
    /// KVM met an error of its own, by its number.
    Internal(u32),
    /// The processor refused to enter the guest.
    Entry(u64),
    /// Running failed.
    Run(String),
    /// A thread could not be confined.
    Sandbox(String),
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("the guest met a triple fault"),
            Self::Emulation => f.write_str(
                "KVM could not emulate an instruction of the guest: this host's /dev/kvm runs on \
                 no hardware virtualisation or a broken one; try --accel tcg",
            ),
            Self::Internal(code) => write!(f, "KVM met internal error {code}"),
            Self::Entry(reason) => write!(
                f,
                "the processor refused to enter the guest (reason {reason:#x})"
            ),
            Self::Sandbox(error) => write!(f, "a thread cannot be confined: {error}"),
            Self::Run(error) => write!(f, "KVM could not run the guest: {error}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest turned itself off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::Crashed(crash) => crash.fmt(f),
            Self::Killed => f.write_str("ended from outside"),
        }
    }
}
