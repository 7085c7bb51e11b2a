//! Speed and memory of the builder beside the floor and beside the programs
//! that do parts of its work, all in one run on one machine; of booting and of
//! guests' devices, in the lab; of devices without a guest; and of the cluster's
//! controller.

mod boot;
mod cluster;
mod devices;
mod floor;
mod guest;
mod known;
mod measure;
mod page;
mod pod;
mod push;
mod report;
mod synthetic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::binary::Profile;
use crate::image::Image;
use crate::setup::{self, Purpose};
use crate::{demo, paths, proc};
use measure::{Sample, command, median};
use report::{Report, Row};

/// How `cargo xtask bench` was asked to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(value_enum, default_value_t = Subject::Build)]
    subject: Subject,
    /// Runs of each measurement; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Boot with this static binary instead of building the release
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Work in DIR instead of target/xtask/bench, for example on a tmpfs
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write the results into docs/src/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// The builder
    Build,
    /// The machine monitor, booting a stock kernel in the lab
    Boot,
    /// The cluster's controller, with a Kubernetes API server
    Cluster,
    /// The machine monitor's disks and network, without a guest
    Devices,
    /// A guest's disks and network, in the lab
    Guest,
}

/// Measures everything and prints it.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.subject == Subject::Boot {
        setup::packages(&[Purpose::Image, Purpose::Lab, Purpose::Referees])?;
        let report = boot::run(options.runs.max(1), options.binary.as_deref())?;
        if options.write {
            page::renew("boot", &report.section())?;
        }
        println!(
            "{}",
            if options.json {
                report.json()?
            } else {
                report.table()
            }
        );
        return Ok(());
    }
    if options.subject == Subject::Guest {
        setup::packages(&[Purpose::Lab, Purpose::Bench])?;
        let section = guest::run(options.runs.max(1), options.binary.as_deref())?;
        if options.write {
            page::renew("guest", &section)?;
        }
        println!("{section}");
        return Ok(());
    }
    if options.subject == Subject::Devices {
        setup::packages(&[Purpose::Lab, Purpose::Bench])?;
        let section = devices::run()?;
        if options.write {
            page::renew("devices", &section)?;
        }
        println!("{section}");
        return Ok(());
    }
    if options.subject == Subject::Cluster {
        setup::packages(&[Purpose::Cluster])?;
        return cluster::run(options.write);
    }
    if cfg!(debug_assertions) {
        return optimised();
    }
    setup::packages(&[Purpose::Image, Purpose::Bench])?;
    let mut steps = demo::Steps::default();
    let (image, binary) = demo::image_and_binary(Profile::Release, &mut steps)?;
    let dir = options
        .dir
        .clone()
        .unwrap_or_else(|| paths::product("bench"));
    fs::create_dir_all(&dir)?;
    let work = tempfile::Builder::new().prefix("run.").tempdir_in(&dir)?;
    let bench = Bench {
        runs: options.runs.max(1),
        binary,
        dir: work.path().to_owned(),
    };
    let layout = paths::product("synthetic");
    synthetic::write(&layout)?;

    let mut report = Report::new(bench.runs)?;
    bench.debian(&image, &mut report)?;
    push::run(&bench, &image, &mut report)?;
    bench.synthetic(&format!("oci:{}:synthetic", layout.display()), &mut report)?;

    let json = report.json()?;
    fs::write(paths::product("bench.json"), &json)?;
    if options.write {
        page::renew("build", &report.section())?;
    }
    println!("{}", if options.json { json } else { report.table() });
    Ok(())
}

/// Runs this very command again, compiled with optimisation: the floor is
/// code of our own.
fn optimised() -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    let arguments = std::env::args_os().skip(1);
    proc::run(
        cmd!(
            sh,
            "cargo run --release --quiet --locked --package xtask --"
        )
        .args(arguments),
    )
}

struct Bench {
    runs: usize,
    binary: PathBuf,
    dir: PathBuf,
}

impl Bench {
    fn debian(&self, image: &Image, report: &mut Report) -> Result<()> {
        let reference = image.reference.as_str();
        let layers = floor::layers(&image.layout)?;
        let floor = self.repeat("floor", || measure::code(|| floor::run(&layers)))?;
        let floor = report.measure("floor", "hash and inflate every layer, two threads", floor);

        let (raw, store) = (self.at("disk.raw"), self.at("store"));
        let cold = self.repeat("cold build", || {
            remove(&store)?;
            remove(&raw)?;
            command(self.build(reference, &raw, &["--format", "raw"]))
        })?;
        let cold = report.measure("cold build", "`build --format raw`, empty store", cold);
        report.row(Row::ratio("cold build / floor", &cold, &floor, 1.3));
        remove(&store)?;
        for name in ["cold build", "warm build"] {
            report.stages(name, &self.stages(reference, &raw)?);
        }

        let peers = self.repeat("umoci + mke2fs", || self.peers(reference))?;
        let peers = report.measure("peers", "`umoci unpack`, then `mke2fs -d`", peers);
        report.row(Row::ratio(
            "cold build / (umoci + mke2fs)",
            &cold,
            &peers,
            0.25,
        ));

        let plan = self.repeat("plan", || command(self.inspect(reference)))?;
        let plan = report.measure("plan", "`inspect --json`, layers known", plan);
        report.row(Row::time("plan of the Debian image", &plan, 100));

        let warm = self.repeat("warm build", || {
            // As for cp: deleting the disk of the run before is not measured.
            remove(&raw)?;
            command(self.build(reference, &raw, &["--format", "raw"]))
        })?;
        let warm = report.measure("warm build", "`build --format raw`, layers known", warm);
        let copy = self.repeat("cp", || self.copy(&raw))?;
        let copy = report.measure(
            "cp",
            "`cp --sparse=always` and `sync` of the raw disk",
            copy,
        );
        report.row(Row::ratio("warm build / cp", &warm, &copy, 1.2));

        self.formats(reference, &raw, report)?;
        report.row(Row::memory("peak memory, cold build", &cold, 64));
        report.row(Row::memory("peak memory, warm build", &warm, 64));
        Ok(())
    }

    /// Every format beside a conversion of the raw disk to the same.
    fn formats(&self, reference: &str, raw: &Path, report: &mut Report) -> Result<()> {
        for (name, ours, theirs) in [
            ("qcow2 plain", &["qcow2"][..], &["qcow2"][..]),
            (
                "qcow2 zstd",
                &["qcow2", "--compress", "zstd"],
                &["qcow2", "-c", "-o", "compression_type=zstd"],
            ),
            (
                "vmdk",
                &["vmdk"],
                &["vmdk", "-o", "subformat=streamOptimized"],
            ),
            ("vhd", &["vhd"], &["vpc", "-o", "force_size=on"]),
            (
                "vhd-fixed",
                &["vhd-fixed"],
                &["vpc", "-o", "subformat=fixed,force_size=on"],
            ),
            ("vhdx", &["vhdx"], &["vhdx"]),
        ] {
            let disk = self.at("disk.other");
            let options = [&["--format"][..], ours].concat();
            let build = self.repeat(name, || {
                remove(&disk)?;
                command(self.build(reference, &disk, &options))
            })?;
            let sh = Shell::new()?;
            let convert = self.repeat(&format!("qemu-img, {name}"), || {
                remove(&disk)?;
                let convert = cmd!(sh, "qemu-img convert -f raw -O {theirs...} {raw} {disk}");
                Ok(add(command(convert)?, command(cmd!(sh, "sync {disk}"))?))
            })?;
            let build = report.measure(name, "`build`, layers known", build);
            let what = "`qemu-img convert` of the raw disk and `sync`";
            let convert = report.measure(&format!("qemu-img {name}"), what, convert);
            let row = format!("{name} / qemu-img convert");
            report.row(Row::ratio(&row, &build, &convert, 1.0));
            let row = format!("peak memory, {name}");
            report.row(Row::memory(&row, &build, 64));
        }
        Ok(())
    }

    fn synthetic(&self, reference: &str, report: &mut Report) -> Result<()> {
        // The first run reads the layers; it is not measured.
        let json = proc::read(self.inspect(reference))?;
        let inspection: serde_json::Value = serde_json::from_str(&json)?;
        if inspection["plan"].is_null() {
            bail!("the synthetic image has no plan: {}", inspection["problem"]);
        }
        let plan = self.repeat("plan of 100,000", || command(self.inspect(reference)))?;
        let what = "`inspect --json` of 100,000 entries in 200 layers, layers known";
        let plan = report.measure("synthetic", what, plan);
        report.row(Row::time("plan of 100,000 entries", &plan, 500));
        report.row(Row::memory(
            "peak memory, plan of 100,000 entries",
            &plan,
            200,
        ));
        // With the layers read and the disk written as well.
        let (store, raw) = (self.at("store"), self.at("disk.raw"));
        let cold = self.repeat("cold build of 100,000", || {
            remove(&store)?;
            remove(&raw)?;
            command(self.build(reference, &raw, &["--format", "raw"]))
        })?;
        let what = "`build --format raw` of the same, empty store";
        let cold = report.measure("synthetic, cold", what, cold);
        let name = "peak memory, cold build of 100,000 entries";
        report.row(Row::memory(name, &cold, 200));
        Ok(())
    }

    fn build(&self, reference: &str, output: &Path, options: &[&str]) -> Command {
        let mut build = Command::new(&self.binary);
        build
            .arg("build")
            .arg(reference)
            .args(options)
            .args(["--force", "--quiet", "--output"]);
        build.arg(output).arg("--store").arg(self.at("store"));
        build
    }

    /// Where the time of one build to raw goes, in its own words.
    fn stages(&self, reference: &str, raw: &Path) -> Result<serde_json::Value> {
        let mut build = self.build(reference, raw, &["--format", "raw"]);
        build.arg("--json");
        let json = proc::read(build)?;
        let report: serde_json::Value = serde_json::from_str(&json)?;
        Ok(report["timings_ms"].clone())
    }

    fn inspect(&self, reference: &str) -> Command {
        let mut inspect = Command::new(&self.binary);
        inspect
            .arg("inspect")
            .arg(reference)
            .args(["--json", "--store"])
            .arg(self.at("store"));
        inspect
    }

    /// What builds a root file system without Bootwright: unpack, then copy
    /// into a file system. It still has no partitions and no boot loader.
    fn peers(&self, reference: &str) -> Result<Sample> {
        let (bundle, disk) = (self.at("bundle"), self.at("peer.img"));
        remove(&bundle)?;
        remove(&disk)?;
        let sh = Shell::new()?;
        let image = reference.trim_start_matches("oci:");
        let rootless = (!rustix::process::geteuid().is_root()).then_some("--rootless");
        let unpack = command(cmd!(
            sh,
            "umoci unpack {rootless...} --image {image} {bundle}"
        ))?;
        let root = bundle.join("rootfs");
        let format = command(cmd!(sh, "mke2fs -q -t ext4 -d {root} {disk} 2G"))?;
        Ok(add(unpack, format))
    }

    fn copy(&self, raw: &Path) -> Result<Sample> {
        let copy = self.at("copy.raw");
        remove(&copy)?;
        let sh = Shell::new()?;
        let written = command(cmd!(sh, "cp --sparse=always --reflink=never {raw} {copy}"))?;
        Ok(add(written, command(cmd!(sh, "sync {copy}"))?))
    }

    fn repeat(&self, name: &str, mut run: impl FnMut() -> Result<Sample>) -> Result<Sample> {
        let samples: Vec<_> = (0..self.runs).map(|_| run()).collect::<Result<_>>()?;
        let middle = median(samples);
        eprintln!("{name}: {:.3} s", middle.wall.as_secs_f64());
        Ok(middle)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// One command after the other.
fn add(a: Sample, b: Sample) -> Sample {
    Sample {
        wall: a.wall + b.wall,
        cpu: a.cpu + b.cpu,
        peak: a.peak.max(b.peak),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => Ok(fs::remove_dir_all(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
        Err(_) => Ok(()),
    }
}
