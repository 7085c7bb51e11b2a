//! x86-64: where things lie, what a processor says of itself, and how it
//! enters the kernel.

pub mod cpuid;
pub mod gdt;
pub mod layout;
pub mod msr;
pub mod regs;
pub mod reset;
