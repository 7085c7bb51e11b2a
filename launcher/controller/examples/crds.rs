//! Writes the definitions of the custom resources to the given folder:
//! `cargo run --example crds -- templates/cluster/crds`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("which folder?"))?;
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder)?;
    for (name, text) in bootwright_controller::api::crd::all()? {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
