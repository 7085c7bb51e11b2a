//! The whole way of an image, from packages to an answer over the network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use xshell::{Shell, cmd};

use crate::binary::Profile;
use crate::boot::{Accel, Guest};
use crate::launch::Machine;
use crate::setup::Purpose;
use crate::{binary, image, paths, proc, setup};

/// How long after power-on the guest may take to answer, emulated on a slow
/// and busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(480);

/// Kernel arguments for an emulated machine on a busy host, where systemd's
/// 90 seconds may not do for a service or a device.
const SLOW: &[&str] = &[
    "systemd.default_timeout_start_sec=300",
    "systemd.default_device_timeout_sec=300",
];

/// Runs the demo and says what happened.
pub(crate) fn run() -> Result<()> {
    with_image(Profile::Demo, launch)
}

/// The demo with the released binary, and then the same image as a disk that
/// firmware boots.
pub(crate) fn test() -> Result<()> {
    with_image(Profile::Release, |image, binary, steps| {
        launch(image, binary, steps)?;
        boot(image, binary, steps)
    })
}

fn with_image(
    profile: Profile,
    work: impl FnOnce(&image::Image, &Path, &mut Steps) -> Result<()>,
) -> Result<()> {
    let mut steps = Steps::default();
    steps.time("packages", || {
        setup::packages(&[Purpose::Image, Purpose::Boot])?;
        Ok(String::new())
    })?;
    let (image, binary) = image_and_binary(profile, &mut steps)?;
    work(&image, &binary, &mut steps)?;
    eprintln!();
    println!("{steps}");
    Ok(())
}

/// Makes the image while cargo compiles.
pub(crate) fn image_and_binary(
    profile: Profile,
    steps: &mut Steps,
) -> Result<(image::Image, PathBuf)> {
    eprintln!(
        "making the image (log: {})",
        paths::product("image.log").display()
    );
    let (image, binary) = std::thread::scope(|scope| {
        let image = scope.spawn(|| timed(image::debian));
        let binary = timed(|| binary::build_as("bootwright", profile));
        (
            image.join().map_err(|_| anyhow!("the image's thread died")),
            binary,
        )
    });
    let ((image, image_time), (binary, binary_time)) = (image??, binary?);
    let cached = if image.cached {
        "kept from an earlier run"
    } else {
        "from Debian packages"
    };
    steps.add(
        "image",
        image_time,
        format!("{} layers, {cached}", layers(&image)?),
    );
    let size = fs::metadata(&binary)?.len() >> 20;
    steps.add(
        "bootwright",
        binary_time,
        match profile {
            Profile::Release => format!("static release binary, {size} MiB"),
            Profile::Demo => format!("static binary, {size} MiB, compiled in a hurry"),
        },
    );
    Ok((image, binary))
}

/// Boots the image with `bootwright run` as an ordinary user, asks it a few
/// questions and turns it off by its power button.
fn launch(image: &image::Image, binary: &Path, steps: &mut Steps) -> Result<()> {
    let desk = Desk::new(image, binary)?;
    eprintln!("booting with bootwright run");
    let machine = Machine::boot(desk.0.path(), BOOT_LIMIT)?;
    let accel = machine.accel()?;
    let what = format!("{accel}, by an ordinary user without capabilities; no disk written");
    steps.add("run", machine.ready(), what);
    let asked = Instant::now();
    let page = machine.http_get()?;
    steps.add("http", asked.elapsed(), format!("port 80 says: {page}"));
    if !page.ends_with("version 1") {
        bail!("the application is not the one of the image: {page}");
    }
    let asked = Instant::now();
    let kernel = machine.ssh("uname -r")?;
    let state = machine.ssh("systemctl is-system-running || true")?;
    let name = machine.ssh("hostname")?;
    steps.add(
        "ssh",
        asked.elapsed(),
        format!("{name}, kernel {kernel}, {state}"),
    );
    if state != "running" {
        let failed = machine.ssh("systemctl --failed --plain --no-legend --no-pager")?;
        bail!("the system is {state}; failed units:\n{failed}");
    }
    if name != "demo" {
        bail!("the guest's name is {name}");
    }
    // What systemd leaves out to break a cycle differs from boot to boot.
    let cycles =
        machine.ssh("journalctl --boot --quiet --no-pager --grep 'ordering cycle' || true")?;
    if !cycles.is_empty() {
        bail!("units wait for each other:\n{cycles}");
    }
    let off = machine.stop(Duration::from_secs(120))?;
    steps.add("power off", off, String::new());
    Ok(())
}

/// Builds a disk as an ordinary user, boots it, asks it a few questions and
/// shuts it down.
pub(crate) fn boot(image: &image::Image, binary: &Path, steps: &mut Steps) -> Result<()> {
    let dir = paths::product("demo");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let key = dir.join("key");
    let sh = Shell::new()?;
    proc::read(cmd!(sh, "ssh-keygen -q -t ed25519 -N '' -C demo -f {key}"))?;

    let accel = Accel::best();
    let disk = dir.join("disk.qcow2");
    steps.time("build", || {
        let desk = Desk::new(image, binary)?;
        desk.add_key(&key.with_extension("pub"))?;
        desk.build(&disk, accel)?;
        let size = fs::metadata(&disk)?.len() >> 20;
        Ok(format!(
            "disk.qcow2, {size} MiB, by an ordinary user without capabilities"
        ))
    })?;

    eprintln!(
        "booting under {accel} (log: {})",
        dir.join("console.log").display()
    );
    let mut guest = Guest::boot(&disk, &key, &dir, accel)?;
    let page = guest.wait_for("answer over HTTP", BOOT_LIMIT, Guest::http_get)?;
    steps.add(
        "boot",
        guest.age(),
        format!("{accel}; port 80 says: {page}"),
    );
    if !page.ends_with("version 1") {
        bail!("the application is not the one of the image: {page}");
    }
    let login = Instant::now();
    let kernel = guest.wait_for("login over ssh", BOOT_LIMIT, |g| g.ssh("uname -r"))?;
    steps.add("ssh", login.elapsed(), format!("kernel {kernel}"));

    let answers = Instant::now();
    // Waits for the boot to finish; its exit status says "degraded" too.
    let output = guest.ssh_output("systemctl is-system-running --wait")?;
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if state != "running" {
        let failed = guest.ssh("systemctl --failed --plain --no-legend --no-pager")?;
        bail!(guest.explain(anyhow!("the system is {state}; failed units:\n{failed}")));
    }
    let root = guest.ssh("findmnt --noheadings --output SOURCE,FSTYPE,SIZE,OPTIONS /")?;
    steps.add("system", answers.elapsed(), format!("{state}; / is {root}"));
    let off = guest.power_off(Duration::from_secs(120))?;
    steps.add("power off", off, String::new());
    Ok(())
}

/// A folder that an ordinary user can reach and write to, whatever the mode
/// of the folders around the workspace.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new(image: &image::Image, binary: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("bootwright-demo.")
            .tempdir_in("/var/tmp")?;
        let at = |name: &str| dir.path().join(name);
        fs::copy(binary, at("bootwright")).context("cannot copy the binary")?;
        let sh = Shell::new()?;
        let (layout, copy) = (&image.layout, at("image"));
        proc::read(cmd!(sh, "cp --recursive --reflink=auto {layout} {copy}"))?;
        proc::read(cmd!(sh, "chmod --recursive a+rX {copy}"))?;
        if rustix::process::geteuid().is_root() {
            let uid = Some(proc::UNPRIVILEGED);
            std::os::unix::fs::chown(dir.path(), uid, uid)?;
        }
        Ok(Self(dir))
    }

    fn add_key(&self, key: &Path) -> Result<()> {
        let copy = self.0.path().join("key.pub");
        fs::copy(key, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    fn build(&self, disk: &Path, accel: Accel) -> Result<()> {
        let at = |name: &str| self.0.path().join(name);
        let mut build = proc::unprivileged(&at("bootwright"));
        build
            .arg("build")
            .arg("oci:image:debian")
            .current_dir(self.0.path());
        build.args([
            "--output",
            "disk.qcow2",
            "--format",
            "qcow2",
            "--size",
            "4G",
        ]);
        build.args([
            "--store",
            "store",
            "--hostname",
            "demo",
            "--ssh-key",
            "key.pub",
        ]);
        if accel == Accel::Tcg {
            build.args(SLOW.iter().flat_map(|karg| ["--karg", karg]));
        }
        proc::run(build)?;
        let sh = Shell::new()?;
        let built = at("disk.qcow2");
        proc::read(cmd!(sh, "cp --reflink=auto {built} {disk}"))?;
        Ok(())
    }
}

fn layers(image: &image::Image) -> Result<usize> {
    let read = |digest: &str| -> Result<serde_json::Value> {
        let path = image
            .layout
            .join("blobs")
            .join(digest.replacen(':', "/", 1));
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(image.layout.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .context("no manifest")?;
    Ok(read(digest)?["layers"].as_array().map_or(0, Vec::len))
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed()))
}

/// What was done and how long it took.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<(&'static str, Duration, String)>);

impl Steps {
    /// Notes a step.
    pub(crate) fn add(&mut self, name: &'static str, time: Duration, what: String) {
        eprintln!("{name}: {:.1} s  {what}", time.as_secs_f64());
        self.0.push((name, time, what));
    }

    fn time(&mut self, name: &'static str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        let (what, time) = timed(work)?;
        self.add(name, time, what);
        Ok(())
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, time, what) in &self.0 {
            writeln!(f, "{name:<11} {:>7.1} s  {what}", time.as_secs_f64())?;
        }
        Ok(())
    }
}
