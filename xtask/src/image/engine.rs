//! Building images: mmdebstrap makes the base, buildah the rest, with a storage
//! of its own under `target/xtask/containers`. Neither needs a daemon.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::mirror::{self, Mirror};
use super::root::Root;
use crate::{paths, proc};

/// Makes an image of mmdebstrap's output.
pub(super) const BASE_CONTAINERFILE: &str = "FROM scratch\nADD base.tar /\nCMD [\"/bin/bash\"]\n";

/// Takes out of the new system (`$1`) what comes from the machine that makes
/// it, and gives it the names that a container engine may not provide.
pub(super) const SETTLE: &str = r#"rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* \
    "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/var/log/apt "$1"/var/log/*.log
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > "$1"/etc/hosts
: > "$1"/etc/machine-id"#;

/// buildah with a storage of its own, which needs no daemon and no systemd.
pub(super) struct Engine {
    sh: Shell,
    storage: PathBuf,
    log: PathBuf,
    suite: &'static str,
    mirror: Mirror,
    root: Root,
}

impl Engine {
    pub(super) fn new(suite: &'static str) -> Result<Self> {
        let storage = paths::product("containers");
        fs::create_dir_all(&storage)?;
        let log = paths::product("image.log");
        fs::write(&log, "")?;
        Ok(Self {
            suite,
            sh: Shell::new()?,
            mirror: Mirror::of_this_machine()?,
            root: Root::new(&storage.join("mount"))?,
            storage,
            log,
        })
    }

    /// Removes what interrupted builds left and images of former inputs.
    pub(super) fn tidy(&self, keep: &[String]) -> Result<()> {
        proc::run_logged(self.buildah().args(["rm", "--all"]), &self.log)?;
        let format = "{{.Name}}:{{.Tag}}";
        let list = self
            .buildah()
            .args(["images", "--noheading", "--format", format]);
        for tag in proc::read(list)?
            .lines()
            .filter(|tag| !keep.iter().any(|k| k == tag))
        {
            proc::run_logged(self.buildah().args(["rmi", "--force", tag]), &self.log)?;
        }
        Ok(())
    }

    fn buildah(&self) -> xshell::Cmd<'_> {
        let Self { sh, storage, .. } = self;
        let (program, first) = self.root.command("buildah");
        let (root, run) = (storage.join("root"), storage.join("run"));
        cmd!(
            sh,
            "{program} {first...} --root {root} --runroot {run} --storage-driver vfs"
        )
    }

    pub(super) fn has(&self, tag: &str) -> Result<bool> {
        let inspect = self.buildah().args(["inspect", "--type", "image", tag]);
        Ok(proc::output(inspect)?.status.success())
    }

    /// Makes the base image of packages.
    pub(super) fn base(&self, tag: &str) -> Result<()> {
        let Self { sh, log, .. } = self;
        let work = tempfile::tempdir_in(&self.storage)?;
        let (tar, context) = (work.path().join("base.tar"), work.path());
        let sources = work.path().join("mirror.sources");
        let unset = work.path().join("debian.sources");
        fs::write(&sources, self.mirror.sources(self.suite))?;
        fs::write(&unset, mirror::UNSET)?;
        let upload = format!(
            "upload {} /etc/apt/sources.list.d/debian.sources",
            unset.display()
        );
        proc::run_logged(
            cmd!(
                sh,
                "mmdebstrap --variant=minbase --format=tar --skip=output/dev"
            )
            .arg(format!("--customize-hook={SETTLE}"))
            .arg(format!("--customize-hook={upload}"))
            .args([self.suite.as_ref(), tar.as_path(), sources.as_path()]),
            log,
        )?;
        fs::write(work.path().join("Containerfile"), BASE_CONTAINERFILE)?;
        self.build(tag, context, &[])
    }

    /// Builds a folder with a Containerfile. Packages come from this
    /// machine's mirror through a mount, which leaves nothing in the image.
    pub(super) fn build(&self, tag: &str, context: &Path, build_args: &[String]) -> Result<()> {
        let sources = tempfile::Builder::new()
            .suffix(".sources")
            .tempfile_in(&self.storage)?;
        fs::write(&sources, self.mirror.sources(self.suite))?;
        make_readable(sources.path())?;
        let volume = format!(
            "{}:/etc/apt/sources.list.d/debian.sources:ro",
            sources.path().display()
        );
        let mut build = self.buildah().args(["build", "--isolation", "chroot"]);
        if !build_args.is_empty() {
            build = build.args(["--volume", &volume]);
        }
        for arg in build_args {
            build = build.args(["--build-arg", arg]);
        }
        proc::run_logged(build.args(["--tag", tag]).arg(context), &self.log)
    }

    /// Writes the image as an OCI layout with gzip layers, in place of
    /// `layout`.
    pub(super) fn export(&self, tag: &str, layout: &Path, name: &str) -> Result<()> {
        let new = layout.with_extension("new");
        let _ = fs::remove_dir_all(&new);
        let to = format!("oci:{}:{name}", new.display());
        proc::run_logged(
            self.buildah().args(["push", "--format", "oci", tag, &to]),
            &self.log,
        )?;
        if !new.join("index.json").is_file() {
            bail!("buildah wrote no index.json to {}", new.display());
        }
        let _ = fs::remove_dir_all(layout);
        fs::rename(&new, layout).with_context(|| format!("cannot rename to {}", layout.display()))
    }
}

/// apt reads its sources as the user `_apt`.
fn make_readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o644),
    )?)
}
