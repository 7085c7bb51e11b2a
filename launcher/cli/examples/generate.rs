//! Writes the man pages and completion scripts below the given folder:
//! `cargo run --example generate -- docs/generated`.

use std::path::PathBuf;
use std::{env, fs, io};

use clap_complete::Shell;

fn main() -> io::Result<()> {
    let folder = PathBuf::from(
        env::args_os()
            .nth(1)
            .ok_or_else(|| io::Error::other("which folder?"))?,
    );
    let man = folder.join("man");
    let completions = folder.join("completions");
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(bootwright::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(
            shell,
            &mut bootwright::command(),
            "bootwright",
            &completions,
        )?;
    }
    Ok(())
}
