//! What the lab is made of: Debian's kernels and busybox, and our programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::image::Mirror;
use crate::{binary, paths, proc};

/// The target whose standard library can be linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Programs of the host that `bootwright run` calls.
const OF_HOST: [&str; 3] = ["passt", "ssh", "ssh-keygen"];

/// QEMU and what it loads where there is no firmware for a guest, on Debian.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const QEMU_IMAGE_TOOL: &str = "/usr/bin/qemu-img";
const QEMU_FIRMWARE: [&str; 5] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/lib/ipxe/qemu/efi-e1000e.rom",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];

impl Lab {
    /// Puts QEMU into L1 to compare with: `qemu -L /lab/files` and `qemu-img`.
    pub(crate) fn add_qemu(&mut self) {
        let programs = [("qemu", QEMU), ("qemu-img", QEMU_IMAGE_TOOL)];
        let programs = programs.map(|(name, path)| (name.to_owned(), path.into()));
        self.programs.extend(programs);
        self.files.extend(QEMU_FIRMWARE.map(PathBuf::from));
    }
}

/// A Debian release's kernel for clouds.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// `bookworm`, say.
    pub(crate) suite: &'static str,
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// The folder with its modules, `kernel` within.
    pub(crate) modules: PathBuf,
}

/// Everything that goes into L1.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where the lab keeps its files.
    pub(crate) dir: PathBuf,
    /// The kernel of L1, and the older one of L2.
    pub(crate) bookworm: Kernel,
    /// The newer one of L2.
    pub(crate) trixie: Kernel,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
    /// The release binary.
    pub(crate) binary: PathBuf,
    /// Programs that run in L1, and what they are called there.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// Other files, which are in `/lab/files` there.
    pub(crate) files: Vec<PathBuf>,
}

/// Fetches packages that are missing and builds the programs, but for the
/// release `binary` if there is one.
pub(crate) fn prepare(binary: Option<&Path>) -> Result<Lab> {
    let dir = paths::product("lab");
    let (bookworm, busybox) = suite(&dir, "bookworm")?;
    let (trixie, _) = suite(&dir, "trixie")?;
    let binary = match binary {
        Some(path) => fs::canonicalize(path)
            .with_context(|| format!("cannot find the binary {}", path.display()))?,
        None => binary::build()?,
    };
    let mut programs = tests(&dir)?;
    programs.push(("bootwright".into(), binary.clone()));
    let of_host = OF_HOST.map(|name| (name.to_owned(), Path::new("/usr/bin").join(name)));
    programs.extend(of_host);
    Ok(Lab {
        bookworm,
        trixie,
        busybox,
        binary,
        programs,
        files: Vec::new(),
        dir,
    })
}

/// A release's kernel and busybox, unpacked under the lab's folder.
fn suite(lab: &Path, suite: &'static str) -> Result<(Kernel, PathBuf)> {
    let root = lab.join(suite);
    if !root.join("complete").exists() {
        fetch(lab, suite, &root).with_context(|| format!("cannot get packages of {suite}"))?;
    }
    let image = one(&root.join("boot"), "vmlinuz-")?;
    let modules =
        one(&root.join("usr/lib/modules"), "").or_else(|_| one(&root.join("lib/modules"), ""))?;
    let busybox = [root.join("usr/bin/busybox"), root.join("bin/busybox")];
    let busybox = busybox.into_iter().find(|path| path.exists());
    let kernel = Kernel {
        suite,
        image,
        modules,
    };
    Ok((kernel, busybox.context("no busybox in its package")?))
}

fn one(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("no {prefix}* in {}", dir.display())
}

/// Downloads with apt, which has its state here and leaves the machine's own
/// alone.
fn fetch(lab: &Path, suite: &str, root: &Path) -> Result<()> {
    let state = lab.join("apt").join(suite);
    let _ = fs::remove_dir_all(&state);
    for folder in ["lists/partial", "archives/partial", "sources"] {
        fs::create_dir_all(state.join(folder))?;
    }
    let sources = Mirror::of_this_machine()?.sources(suite);
    fs::write(state.join("sources/lab.sources"), sources)?;
    fs::write(state.join("status"), "")?;
    let sh = Shell::new()?;
    sh.change_dir(&state);
    let at = |name: &str| state.join(name).display().to_string();
    let options = [
        format!("Dir::State={}", state.display()),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache={}", state.display()),
        "Dir::Etc::sourcelist=/dev/null".into(),
        format!("Dir::Etc::sourceparts={}", at("sources")),
        "APT::Architecture=amd64".into(),
        "APT::Architectures=amd64".into(),
        "APT::Sandbox::User=".into(),
        "Acquire::Languages=none".into(),
    ]
    .into_iter()
    .flat_map(|option| ["-o".to_owned(), option])
    .collect::<Vec<_>>();
    let options = &options;
    let log = lab.join("apt.log");
    proc::run_logged(cmd!(sh, "apt-get {options...} --quiet update"), &log)?;
    let depends = proc::read(cmd!(
        sh,
        "apt-cache {options...} depends --important linux-image-cloud-amd64"
    ))?;
    let kernel = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("linux-image-cloud-amd64 depends on no kernel")?;
    proc::run_logged(
        cmd!(
            sh,
            "apt-get {options...} --quiet download {kernel} busybox-static"
        ),
        &log,
    )?;
    let _ = fs::remove_dir_all(root);
    for entry in fs::read_dir(&state)? {
        let package = entry?.path();
        if package.extension().is_some_and(|e| e == "deb") {
            proc::run_logged(cmd!(sh, "dpkg-deb --extract {package} {root}"), &log)?;
            fs::remove_file(package)?;
        }
    }
    fs::write(root.join("complete"), "")?;
    Ok(())
}

/// Programs that measure, linked statically, with their names.
pub(crate) fn examples(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    let examples = names.iter().flat_map(|name| ["--example", *name]);
    sh.set_var("RUSTFLAGS", "-C target-feature=+crt-static");
    proc::run(cmd!(
        sh,
        "cargo build --release --locked --target {TARGET} --package bootwright-vmm {examples...}"
    ))?;
    let built = paths::target().join(TARGET).join("release/examples");
    let programs = names
        .iter()
        .map(|name| ((*name).to_owned(), built.join(name)));
    Ok(programs.collect())
}

/// The names of the tests that need KVM.
const TESTS: [&str; 2] = ["bootwright_vmm", "bare_metal"];

/// The tests that need KVM, compiled as all tests are.
fn tests(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    let built = proc::output(cmd!(
        sh,
        "cargo test --no-run --locked --workspace --lib --test bare_metal
         --message-format=json-render-diagnostics"
    ))?;
    if !built.status.success() {
        bail!(
            "cannot build the tests of bootwright-vmm:\n{}",
            String::from_utf8_lossy(&built.stderr)
        );
    }
    let mut programs = Vec::new();
    // One JSON object a line; those of programs say where they are.
    for line in built.stdout.split(|byte| *byte == b'\n') {
        let message: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
        let name = message["target"]["name"].as_str();
        let name = name.filter(|name| TESTS.contains(name));
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            // With symbols for debuggers they would fill L1's memory.
            let stripped = dir.join(name);
            proc::run(cmd!(sh, "strip --strip-debug -o {stripped} {path}"))?;
            programs.push((name.to_owned(), stripped));
        }
    }
    Ok(programs)
}
