//! Disks to and from a real registry on the loopback, beside the programs that
//! do parts of the work.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xshell::{Shell, cmd};

use super::measure::command;
use super::report::{Report, Row};
use super::{Bench, add, remove};
use crate::image::Image;
use crate::proc::{self, Group};

/// Bytes of the application's layer.
const APPLICATION: usize = 1 << 20;

/// Measures pushing, and pulling a new version, with the Debian image.
pub(super) fn run(bench: &Bench, image: &Image, report: &mut Report) -> Result<()> {
    let push = Push {
        bench,
        images: [1, 2].map(|version| bench.at(&format!("version-{version}"))),
        store: bench.at("push-store"),
    };
    for (version, layout) in (1..).zip(&push.images) {
        with_application(&image.layout, layout, version)?;
    }
    push.first(report)?;
    push.changes(report)
}

struct Push<'a> {
    bench: &'a Bench,
    /// Two versions of an image, which differ in the topmost layer.
    images: [PathBuf; 2],
    store: PathBuf,
}

impl Push<'_> {
    fn bootwright(&self, arguments: &[&str], store: &Path) -> Command {
        let mut command = Command::new(&self.bench.binary);
        command.args(arguments).arg("--store").arg(store);
        command
    }

    fn push(&self, version: usize, to: &str, form: &str) -> Command {
        let from = format!("oci:{}:app", self.images[version].display());
        let arguments = ["push", &from, to, "--as", form, "--tls-verify=false"];
        let mut push = self.bootwright(&arguments, &self.store);
        push.arg("--json");
        push
    }

    /// The first push of an image, its layers known, beside compressing the
    /// same bytes and beside copying the compressed bytes.
    fn first(&self, report: &mut Report) -> Result<()> {
        let bench = self.bench;
        let layout = bench.at("pushed");
        // Reads the layers; not measured.
        let local = format!("oci:{}:disk", layout.display());
        proc::read(self.push(0, &local, "disk"))?;
        let tars = &self.tars(&layout)?;

        let first = bench.repeat("first push", || {
            self.forget()?;
            let registry = Registry::start(&bench.at("registry"))?;
            let to = registry.name("disk:1");
            command(self.push(0, &to, "disk"))
        })?;
        let what = "`push`, layers known, registry empty";
        let first = report.measure("first push", what, first);
        let sh = Shell::new()?;
        let zstd = bench.repeat("zstd", || {
            command(cmd!(sh, "zstd -3 -T2 --quiet --stdout {tars...}"))
        })?;
        let what = "`zstd -3 -T2` of the same tars to nowhere";
        let zstd = report.measure("zstd", what, zstd);
        let copy = bench.repeat("skopeo copy", || {
            let registry = Registry::start(&bench.at("registry"))?;
            let to = format!("docker://{}", registry.name("disk:1"));
            command(cmd!(
                sh,
                "skopeo --insecure-policy copy --quiet --dest-tls-verify=false {local} {to}"
            ))
        })?;
        let what = "`skopeo copy` of the pushed image from a layout, registry empty";
        let copy = report.measure("skopeo copy", what, copy);
        let sum = add(zstd.sample(), copy.sample());
        let both = report.measure("zstd + skopeo copy", "one after the other", sum);
        report.row(Row::ratio("first push / zstd -3 -T2", &first, &zstd, 1.2));
        report.row(Row::ratio(
            "first push / (zstd + skopeo copy)",
            &first,
            &both,
            1.0,
        ));
        report.row(Row::memory("peak memory, first push", &first, 128));
        Ok(())
    }

    /// The tars of a pushed image, unpacked from their blobs.
    fn tars(&self, layout: &Path) -> Result<Vec<PathBuf>> {
        let sh = Shell::new()?;
        let mut tars = Vec::new();
        for (number, blob) in blobs(layout)?.iter().enumerate() {
            let tar = self.bench.at(&format!("layer-{number}.tar"));
            proc::run(cmd!(sh, "zstd -d --quiet --force {blob} -o {tar}"))?;
            tars.push(tar);
        }
        Ok(tars)
    }

    /// A change of the application alone: what is sent, and what is fetched
    /// where the version before is.
    fn changes(&self, report: &mut Report) -> Result<()> {
        let registry = Registry::start(&self.bench.at("registry"))?;
        let (disk, other) = (registry.name("disk:1"), registry.name("vm:1"));
        let first = pushed(self.push(0, &disk, "disk"))?;
        let again = pushed(self.push(0, &disk, "disk"))?;
        let blobs = number(&again["uploaded_blobs"])?;
        report.row(Row::count("blobs sent by a second push", blobs, 0));

        // The machine that pulls has the first version.
        let puller = self.bench.at("pull-store");
        let inspect = ["inspect", &disk, "--json", "--tls-verify=false"];
        proc::read(self.bootwright(&inspect, &puller))?;
        let before = registry.fetched()?;

        let size = number(&first["images"][0]["disk_size"])?;
        let most = (APPLICATION as u64) * 11 / 10 + size / 50;
        let changed = pushed(self.push(1, &disk, "disk"))?;
        let sent = number(&changed["uploaded_bytes"])?;
        report.row(Row::count(
            "bytes sent for a changed 1 MiB layer",
            sent,
            most,
        ));
        proc::read(self.bootwright(&inspect, &puller))?;
        let fetched = registry.fetched()? - before;
        report.row(Row::count("bytes fetched for the same", fetched, most));

        pushed(self.push(0, &other, "containerdisk"))?;
        let whole = pushed(self.push(1, &other, "containerdisk"))?;
        let whole = number(&whole["uploaded_bytes"])?;
        report.row(Row::count("the same beside a containerDisk", sent, whole));
        Ok(())
    }

    /// Makes the store forget what layers become.
    fn forget(&self) -> Result<()> {
        let mut left = vec![self.store.clone()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|e| e == "note") {
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Runs a push; what it says.
fn pushed(push: Command) -> Result<Value> {
    Ok(serde_json::from_str(&proc::read(push)?)?)
}

fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("not a number: {value}"))
}

/// A registry without anything in it; gone when this is dropped.
struct Registry {
    _process: Group,
    port: u16,
    log: PathBuf,
}

impl Registry {
    fn start(dir: &Path) -> Result<Self> {
        remove(dir)?;
        fs::create_dir_all(dir)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (config, log) = (dir.join("config.yml"), dir.join("log"));
        let data = dir.join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: \
                 {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
                data.display()
            ),
        )?;
        let file = File::create(&log)?;
        let mut process = Group::spawn(
            Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdout(Stdio::from(file.try_clone()?))
                .stderr(file),
        )?;
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if process.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(20) {
                bail!("the registry does not start: {}", proc::tail(&log, 10));
            }
            proc::sleep(Duration::from_millis(20))?;
        }
        Ok(Self {
            _process: process,
            port,
            log,
        })
    }

    fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/bench/{name}", self.port)
    }

    /// Bytes of blobs that were fetched, by the log of accesses.
    fn fetched(&self) -> Result<u64> {
        let log = fs::read_to_string(&self.log)?;
        let lengths = log.lines().filter_map(|line| {
            let (_, request) = line.split_once("\"GET ")?;
            let (path, answer) = request.split_once("\" ")?;
            let mut words = answer.split(' ');
            let is_blob = path.contains("/blobs/") && words.next()?.starts_with("20");
            is_blob.then(|| words.next()?.parse::<u64>().ok()).flatten()
        });
        Ok(lengths.sum())
    }
}

/// The layers' blobs of the only image of a layout.
fn blobs(layout: &Path) -> Result<Vec<PathBuf>> {
    let (manifest, _) = image_of(layout)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    layers.iter().map(|l| blob(layout, &l["digest"])).collect()
}

fn blob(layout: &Path, digest: &Value) -> Result<PathBuf> {
    let digest = digest.as_str().context("no digest")?;
    Ok(layout.join("blobs").join(digest.replacen(':', "/", 1)))
}

fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Manifest and config of the only image of a layout.
fn image_of(layout: &Path) -> Result<(Value, Value)> {
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(layout, &index["manifests"][0]["digest"])?)?;
    let config = read(&blob(layout, &manifest["config"]["digest"])?)?;
    Ok((manifest, config))
}

/// Copies an image's layout and adds a layer with a file that does not
/// compress, another one for each version. The tag is `app`.
fn with_application(from: &Path, to: &Path, version: u64) -> Result<()> {
    remove(to)?;
    let sh = Shell::new()?;
    proc::run(cmd!(sh, "cp --recursive --reflink=auto {from} {to}"))?;
    let (mut manifest, mut config) = image_of(to)?;
    let put = |media_type: &str, bytes: &[u8]| -> Result<Value> {
        let hash = Sha256::digest(bytes);
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        fs::write(to.join("blobs/sha256").join(&hex), bytes)?;
        let digest = format!("sha256:{hex}");
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    };
    let mut state = version | 1 << 40;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(APPLICATION)
    .collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(noise.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, "usr/local/bin/application", &noise[..])?;
    let layer = put("application/vnd.oci.image.layer.v1.tar", &tar.into_inner()?)?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array_mut();
    diff_ids
        .context("no diff ids")?
        .push(layer["digest"].clone());
    // One with fewer steps than layers would be refused.
    config["history"] = json!([]);
    let layers = manifest["layers"].as_array_mut();
    layers.context("no layers")?.push(layer);
    let media_type = "application/vnd.oci.image.config.v1+json";
    manifest["config"] = put(media_type, &serde_json::to_vec(&config)?)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut entry = put(media_type, &serde_json::to_vec(&manifest)?)?;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "app"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(to.join("index.json"), index.to_string())?;
    Ok(())
}
