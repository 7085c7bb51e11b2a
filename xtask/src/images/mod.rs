//! The images that run in a cluster, made from nothing: the released binaries,
//! the few programs of Debian's that they start, and their libraries.
//!
//! In: packages from this machine's mirror, and the binaries. Out: an OCI
//! layout in `target/xtask/images` with an index for each image, so that
//! manifests of further platforms can stand beside. Same inputs, same bytes.

mod files;
mod layout;
pub(crate) mod small;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::{binary, packages, paths};
pub(crate) use files::Files;
use layout::{Image, Layout};

/// The platform of this machine's packages and binaries.
const ARCHITECTURE: &str = "amd64";

/// The user that the images run as by themselves.
const USER: &str = "65532:65532";

/// The Debian packages that programs are taken from.
const PACKAGES: [&str; 4] = ["ca-certificates", "passt", "qemu-system-x86", "util-linux"];

/// An image.
struct Recipe {
    /// Its tag in the layout.
    tag: &'static str,
    /// What it is, for people.
    title: &'static str,
    /// The name of the binary, and of its package.
    binary: &'static str,
    /// What else is in it. Libraries are found.
    files: &'static [&'static str],
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        tag: "bootwright-controller",
        title: "Bootwright: controller",
        binary: "bootwright-controller",
        files: &[],
    },
    Recipe {
        tag: LAUNCHER,
        title: "Bootwright: launcher and device plugin",
        binary: "bootwright",
        files: &["usr/bin/passt", "usr/bin/passt.avx2"],
    },
    Recipe {
        tag: EMULATION,
        title: "Bootwright: launcher that can emulate processors",
        binary: "bootwright",
        files: &[
            "usr/bin/passt",
            "usr/bin/passt.avx2",
            "usr/bin/qemu-system-x86_64",
            // QEMU is to end with the process that starts it.
            "usr/bin/setpriv",
            // What a machine with a kernel of its own takes of QEMU's data.
            "usr/share/qemu/efi-virtio.rom",
            "usr/share/qemu/kvmvapic.bin",
            "usr/share/qemu/linuxboot_dma.bin",
            "usr/share/qemu/pvh.bin",
            "usr/share/seabios/bios-256k.bin",
        ],
    },
];

/// The tag of the launcher.
const LAUNCHER: &str = "bootwright-launcher";

/// The tag of the launcher that does without KVM.
pub(crate) const EMULATION: &str = "bootwright-launcher-emulation";

#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Take this binary, static and called bootwright or bootwright-controller,
    /// and do not build it
    #[arg(long = "binary", value_name = "FILE")]
    binaries: Vec<PathBuf>,
}

impl Options {
    /// The binary of this name: given, or built.
    fn binary(&self, name: &str) -> Result<PathBuf> {
        let named = |path: &&PathBuf| path.file_name().is_some_and(|file| file == name);
        match self.binaries.iter().find(named) {
            Some(path) => {
                binary::check_static(path)?;
                Ok(path.clone())
            }
            None if name == "bootwright" => binary::build(),
            None => binary::build_as(name, binary::Profile::Release),
        }
    }

    fn check(&self) -> Result<()> {
        for path in &self.binaries {
            let name = path.file_name().unwrap_or_default();
            if !RECIPES.iter().any(|recipe| name == recipe.binary) {
                bail!(
                    "{} is called neither bootwright nor bootwright-controller",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

/// Makes all images; returns the layout's folder.
pub(crate) fn make(options: &Options) -> Result<PathBuf> {
    options.check()?;
    let dir = paths::product("images");
    let root = packages::unpack("images", &PACKAGES)?;
    let mut layout = Layout::new(&dir)?;
    for recipe in &RECIPES {
        let binary = options.binary(recipe.binary)?;
        let layers = layers(recipe, &root, &binary)
            .with_context(|| format!("cannot make {}", recipe.tag))?;
        let size = layers.iter().map(Vec::len).sum::<usize>() >> 20;
        layout.add(&Image {
            tag: recipe.tag,
            architecture: ARCHITECTURE,
            layers,
            config: json!({
                "User": USER,
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": [format!("/usr/bin/{}", recipe.binary)],
                "Labels": { "org.opencontainers.image.title": recipe.title },
            }),
        })?;
        eprintln!("{}: {size} MiB", recipe.tag);
    }
    layout.finish()?;
    Ok(dir)
}

/// The layers of the launcher's image, with this static binary.
pub(crate) fn launcher(binary: &Path) -> Result<Vec<Vec<u8>>> {
    let root = packages::unpack("images", &PACKAGES)?;
    let mut recipes = RECIPES.iter().filter(|recipe| recipe.tag == LAUNCHER);
    let recipe = recipes.next().context("there is no launcher")?;
    layers(recipe, &root, binary)
}

/// The tars of an image: what seldom changes, and the binary.
fn layers(recipe: &Recipe, root: &Path, binary: &Path) -> Result<Vec<Vec<u8>>> {
    let mut system = Files::default();
    for name in recipe.files {
        system.take(root, name)?;
    }
    system.certificates(root)?;
    system.settle();
    let mut program = Files::default();
    let content =
        std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    program.add(&format!("usr/bin/{}", recipe.binary), 0o755, content);
    Ok(vec![system.tar()?, program.tar()?])
}

/// Makes the images and prints their references.
pub(crate) fn run(options: &Options) -> Result<()> {
    let dir = make(options)?;
    for recipe in &RECIPES {
        println!("oci:{}:{}", dir.display(), recipe.tag);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_known_by_their_names_and_must_be_static() {
        let own = std::env::current_exe().unwrap();
        let with = |path: &Path| Options {
            binaries: vec![path.to_owned()],
        };
        assert!(with(&own).check().is_err());
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("bootwright");
        std::fs::copy(own, &named).unwrap();
        with(&named).check().unwrap();
        let error = with(&named).binary("bootwright").unwrap_err().to_string();
        assert!(error.ends_with("is linked dynamically"), "{error}");
    }
}
