//! Writes the man pages and completion scripts below the given folder:
//! `cargo run --example generate-plugin -- docs/generated`.

use std::path::PathBuf;
use std::{env, fs, io};

use clap_complete::Shell;

/// The program, as kubectl looks for it.
const PROGRAM: &str = "kubectl-bootwright";

/// What kubectl runs to complete its own command line; it must be in `PATH`
/// (<https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/>).
const COMPLETE: &str = "\
#!/bin/sh
# kubectl asks this what may follow `kubectl bootwright`.
exec kubectl-bootwright __complete -- \"$@\"
";

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1);
    let folder = PathBuf::from(folder.ok_or_else(|| io::Error::other("which folder?"))?);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(bootwright_kubectl::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = bootwright_kubectl::command();
        clap_complete::generate_to(shell, &mut command, PROGRAM, &completions)?;
    }
    fs::write(completions.join("kubectl_complete-bootwright"), COMPLETE)
}
