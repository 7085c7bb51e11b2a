//! What the end-to-end tests share: images made by hand, the program under
//! test, and a comparison of directory trees.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

pub mod answers;
pub mod compare;
pub mod guest;
pub mod images;
pub mod layout;
pub mod tarball;

use std::path::Path;
use std::process::{Command, Output};

/// The program under test with a store of its own.
pub fn bootwright(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootwright"));
    command
        .env("BOOTWRIGHT_STORE", store)
        // Only unpacked kernels go there, of which those who run them have some.
        .env("XDG_CACHE_HOME", store.with_extension("cache"));
    command
}

/// Runs a command that must succeed and gives its standard output.
pub fn ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must fail with status 1 and gives what it said.
pub fn fails(command: &mut Command) -> String {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Runs a command; a missing program is the test's failure, by name.
pub fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!(
            "cannot run {:?}: {error}; `cargo xtask setup` installs what the tests need",
            command.get_program()
        ),
    }
}

/// A command with arguments.
pub fn command(line: &[&str]) -> Command {
    let mut command = Command::new(line[0]);
    command.args(&line[1..]);
    command
}

/// Whether the tests run as root and may mount.
pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}
