//! The binaries, as they are released and as a demo needs them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{paths, proc};

/// The target whose standard library can be linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The most that `bootwright` may weigh.
const LIMIT: u64 = 15 << 20;

/// Program header types that only dynamically linked programs have (System V
/// ABI, "Program Header"): the interpreter.
const PT_INTERP: u32 = 3;

/// How they are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As they are released, which takes its time.
    Release,
    /// For a look at them, in a fraction of that.
    Demo,
}

/// Builds `bootwright` as it is released, and checks that it is small.
pub(crate) fn build() -> Result<PathBuf> {
    let binary = build_as("bootwright", Profile::Release)?;
    let size = fs::metadata(&binary)?.len();
    if size > LIMIT {
        let name = binary.display();
        bail!("{name} has {size} bytes, more than {LIMIT}");
    }
    Ok(binary)
}

/// Builds the binary that has its package's name, statically linked, and
/// checks that it is.
pub(crate) fn build_as(package: &str, profile: Profile) -> Result<PathBuf> {
    let name = match profile {
        Profile::Release => "release",
        Profile::Demo => "demo",
    };
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    // With --target, build scripts and procedural macros are spared the flags.
    sh.set_var("RUSTFLAGS", "-C target-feature=+crt-static");
    // Relocations of position-independent code as a bitmap: 0.7 MB less. The
    // program relocates itself, so no loader has to know of it.
    let relocations = "link-arg=-Wl,-z,pack-relative-relocs";
    proc::run(cmd!(
        sh,
        "cargo rustc --profile {name} --locked --target {TARGET} --package {package}
         --bin {package} -- -C {relocations}"
    ))?;
    let binary = paths::target().join(TARGET).join(name).join(package);
    check_static(&binary)?;
    Ok(binary)
}

/// Fails unless a program runs without a dynamic linker.
pub(crate) fn check_static(binary: &Path) -> Result<()> {
    let name = binary.display();
    let bytes = fs::read(binary).with_context(|| format!("cannot read {name}"))?;
    match interpreter(&bytes) {
        Some(false) => Ok(()),
        Some(true) => bail!("{name} is linked dynamically"),
        None => bail!("{name} is no ELF"),
    }
}

/// Whether an ELF asks for a dynamic linker.
fn interpreter(elf: &[u8]) -> Option<bool> {
    let at = |offset: usize, len: usize| elf.get(offset..offset.checked_add(len)?);
    let half = |offset| Some(u16::from_le_bytes(at(offset, 2)?.try_into().ok()?));
    if at(0, 5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(at(32, 8)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    for index in 0..usize::from(count) {
        let offset = table.checked_add(index * usize::from(size))?;
        if u32::from_le_bytes(at(offset, 4)?.try_into().ok()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_recognised() {
        // This test is one.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(interpreter(&own), Some(true));
        assert_eq!(interpreter(b"#!/bin/sh"), None);
        assert_eq!(interpreter(&own[..100]), None);
        let mut none = own;
        none[56..58].fill(0);
        assert_eq!(interpreter(&none), Some(false));
    }
}
