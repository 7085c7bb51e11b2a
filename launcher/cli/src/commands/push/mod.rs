//! `bootwright push`: a disk becomes an image in a registry.

mod describe;
mod destination;
mod report;
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, bail};
use bootwright_delivery::artifact::{self, ARTIFACT_TYPE};
use bootwright_delivery::container_disk::{self, DEFAULT_INSTANCETYPE, DEFAULT_PREFERENCE};
use bootwright_delivery::disk_image::{self, Pushed};
use bootwright_delivery::frames::ZSTD_LEVEL;
use bootwright_delivery::metadata::DiskInfo;
use bootwright_delivery::oci::{Descriptor, Index, empty_config};
use bootwright_delivery::{
    BlobSink, Codec, DeliveryError, Work, raw_image, repositories, shows_packs,
};
use bootwright_disk::gpt::types::ESP;
use bootwright_disk::reader::{self, DiskFile, PlanReader, ReadAt, data_len};
use bootwright_disk::sink::{Compression, Format};
use bootwright_image::store::Store;
use bootwright_image::{ImageReference, Platform};

use self::destination::{Destination, How};
use self::report::{Image, Report};
use crate::args::{Form, ImageArgs, LayerCompression, PushArgs};
use crate::image::{self, Loaded, Stored};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::Timings;

/// The level of gzip unless another is asked for; as everywhere.
const GZIP_LEVEL: u32 = 6;

/// Repositories that blobs are mounted from without being asked to.
const MAX_MOUNT_FROM: usize = 3;

/// A disk to push.
struct Prepared {
    disk: Disk,
    info: DiskInfo,
    platform: Platform,
    /// RFC 3339.
    created: Option<String>,
    /// What an artifact is a referrer of.
    subject: Option<Descriptor>,
}

/// Where its bytes are.
enum Disk {
    /// In layers of the store, which stay locked meanwhile.
    Image(Box<Loaded>, PlanReader),
    File(DiskFile),
}

impl Prepared {
    fn reader(&self) -> &dyn ReadAt {
        match &self.disk {
            Disk::Image(_, reader) => reader,
            Disk::File(file) => file,
        }
    }

    /// The layers that the disk shows, if it can be pushed as those.
    fn stored(&self) -> Option<(&Stored, &PlanReader)> {
        let Disk::Image(loaded, reader) = &self.disk else {
            return None;
        };
        let stored = loaded.stored.as_ref()?;
        shows_packs(reader.plan()).then_some((stored, reader))
    }
}

/// Runs the command.
pub(crate) fn run(args: &PushArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let messages = Messages::new(args.output.quiet);
    let mut timings = Timings::start();
    let codec = codec(args)?;
    let format = disk_format(args)?;
    if args.refer && args.form != Form::Artifact {
        bail!("--refer is for --as artifact");
    }
    let destination = Destination::parse(&args.destination)?;
    if let Some(path) = &args.digest_file {
        // Said before all the work and not after it.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
            bail!("--digest-file: there is no directory {}", dir.display());
        }
    }

    let mut warnings = Vec::new();
    let disks = prepare(args, &destination, &messages, interrupt, &mut timings)?;
    for prepared in &disks {
        if let Disk::Image(loaded, _) = &prepared.disk {
            warnings.extend(loaded.tree.warnings().iter().cloned());
        }
    }
    warnings.iter().for_each(|w| messages.warn(w));

    let spool = spool(args, &disks)?;
    let mount_from = mount_from(args, &destination, &disks, codec);
    let total = disks
        .iter()
        .map(|d| data_len(d.reader()))
        .sum::<Result<_, _>>()?;
    let task = messages.task("compressing", total);
    let how = How {
        registry: &args.image.registry,
        spool: spool.clone(),
        mount_from,
        messages: &messages,
        interrupt,
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = Work {
        threads,
        progress: &|bytes| task.advance(bytes),
        cancel: interrupt.flag(),
    };
    let one = disks.len() == 1;
    let name = artifact::label(&destination.short());
    let (top, images) = destination.with(how, |sink| {
        let mut images = Vec::new();
        let mut manifests: Vec<Descriptor> = Vec::new();
        for prepared in &disks {
            let put = Put {
                args,
                prepared,
                codec,
                format,
                place: destination.place(),
                name: &name,
                spool: &spool,
            };
            let pushed = put.put(sink, one, &work)?;
            let source = prepared.info.source.as_ref();
            images.push(Image::new(
                &pushed,
                prepared.info.size,
                source.map(|source| source.reference.clone()),
                sink,
            ));
            manifests.push(pushed.manifest);
        }
        let top = match manifests.pop() {
            Some(only) if manifests.is_empty() => only,
            last => {
                manifests.extend(last);
                let mut index = Index::new(manifests);
                if args.form == Form::Artifact {
                    index.artifact_type = Some(ARTIFACT_TYPE.to_owned());
                }
                let (descriptor, bytes) = index.encode()?;
                sink.manifest(&descriptor, &bytes, true)?;
                descriptor
            }
        };
        Ok((top, images))
    })?;
    task.finish();
    timings.end("push");

    if let Some(path) = &args.digest_file {
        write_digest(path, &top.digest.to_string())?;
    }
    let mut report = Report {
        reference: destination.name(),
        form: match args.form {
            Form::Disk => "disk",
            Form::ContainerDisk => "containerdisk",
            Form::Artifact => "artifact",
        },
        digest: top.digest.to_string(),
        media_type: top.media_type,
        images,
        uploaded_bytes: 0,
        uploaded_blobs: 0,
        warnings,
        timings_ms: timings,
    };
    report.count();
    if args.output.json {
        return super::print_json(&report);
    }
    messages.note(report.text().trim_end());
    Ok(())
}

/// One disk on its way.
struct Put<'a> {
    args: &'a PushArgs,
    prepared: &'a Prepared,
    codec: Codec,
    format: Format,
    place: Option<String>,
    /// Of the VM in an artifact.
    name: &'a str,
    spool: &'a Path,
}

impl Put<'_> {
    fn put(
        &self,
        sink: &dyn BlobSink,
        top: bool,
        work: &Work<'_>,
    ) -> Result<Pushed, DeliveryError> {
        match self.args.form {
            Form::Disk => self.disk(sink, top, work),
            Form::ContainerDisk => self.container_disk(sink, top, work),
            Form::Artifact => self.artifact(sink, top, work),
        }
    }

    fn disk(
        &self,
        sink: &dyn BlobSink,
        top: bool,
        work: &Work<'_>,
    ) -> Result<Pushed, DeliveryError> {
        let prepared = self.prepared;
        let level = self.level();
        match prepared.stored() {
            Some((stored, reader)) => {
                let disk = disk_image::Disk {
                    plan: reader.plan(),
                    layers: &stored.layers,
                    config: &stored.config,
                    info: prepared.info.clone(),
                    store: Some(&stored.store),
                    place: self.place.clone(),
                };
                disk_image::push(&disk, level, sink, top, work)
            }
            None => {
                let mut config = empty_config(prepared.platform.clone());
                config.created.clone_from(&prepared.created);
                let disk = prepared.reader();
                raw_image::push(disk, &prepared.info, &config, level, sink, top, work)
            }
        }
    }

    /// The level of forms that are always compressed with zstd.
    fn level(&self) -> i32 {
        match self.codec {
            Codec::Zstd(level) => level,
            Codec::Gzip(_) => ZSTD_LEVEL,
        }
    }

    fn artifact(
        &self,
        sink: &dyn BlobSink,
        top: bool,
        work: &Work<'_>,
    ) -> Result<Pushed, DeliveryError> {
        let prepared = self.prepared;
        let names = &self.args.container_disk;
        let options = artifact::Options {
            level: self.level(),
            name: self.name.to_owned(),
            platform: prepared.platform.clone(),
            efi: prepared.info.partitions.iter().any(|p| p.type_guid == ESP),
            created: prepared.created.clone(),
            instancetype: names.instancetype.clone(),
            preference: names.preference.clone(),
            subject: prepared.subject.clone(),
        };
        let disk = prepared.reader();
        artifact::push(disk, &prepared.info, &options, sink, top, work)
    }

    fn container_disk(
        &self,
        sink: &dyn BlobSink,
        top: bool,
        work: &Work<'_>,
    ) -> Result<Pushed, DeliveryError> {
        let names = &self.args.container_disk;
        let env = [
            (DEFAULT_INSTANCETYPE, &names.instancetype),
            (DEFAULT_PREFERENCE, &names.preference),
        ];
        let env = env.into_iter().filter_map(|(name, value)| {
            let value = value.clone()?;
            Some((name.to_owned(), value))
        });
        let prepared = self.prepared;
        let options = container_disk::Options {
            format: self.format,
            compression: Compression::None,
            codec: self.codec,
            spool: self.spool.to_owned(),
            platform: prepared.platform.clone(),
            created: prepared.created.clone(),
            env: env.collect(),
            labels: BTreeMap::new(),
        };
        let disk = prepared.reader();
        container_disk::push(disk, &prepared.info, &options, sink, top, work)
    }
}

/// Loads and plans all that is to be pushed.
fn prepare(
    args: &PushArgs,
    destination: &Destination,
    messages: &Messages,
    interrupt: &Interrupt,
    timings: &mut Timings,
) -> anyhow::Result<Vec<Prepared>> {
    let options = describe::options(&args.plan)?;
    if let Some(path) = super::disk_file(&args.target)? {
        if let Some(name) = options.keys().find(|name| *name != "source-date-epoch") {
            bail!(
                "--{name} shapes the disk of an image; {} is a disk",
                args.target
            );
        }
        let disk = reader::open_disk(path)?;
        if args.refer {
            bail!(
                "--refer: {} is a disk and no image in a registry",
                args.target
            );
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        return Ok(vec![Prepared {
            info: describe::of_disk(&disk, &name.to_string_lossy()),
            platform: args.image.platform()?.unwrap_or_else(Platform::host),
            created: None,
            subject: None,
            disk: Disk::File(disk),
        }]);
    }
    let image_args = source_args(args, destination)?;
    let mut wanted: Vec<Vec<String>> = image_args
        .platforms
        .iter()
        .map(|platform| vec![platform.clone()])
        .collect();
    if wanted.is_empty() {
        wanted.push(Vec::new());
    }
    let mut disks: Vec<Prepared> = Vec::new();
    for platforms in wanted {
        let image_args = ImageArgs {
            platforms,
            ..image_args.clone()
        };
        let mut loaded = image::load(&args.target, &image_args, messages, interrupt, timings)?;
        if let Some(twice) = disks.iter().find(|d| d.platform == loaded.platform) {
            bail!("--platform {} is there twice", twice.platform);
        }
        let disk = super::build::plan(&mut loaded, &args.plan, 1)?;
        timings.end("plan");
        disk.warnings.iter().for_each(|w| messages.warn(w));
        disks.push(Prepared {
            info: describe::of_image(&loaded, &disk, options.clone()),
            platform: loaded.platform.clone(),
            created: Some(rfc3339(loaded.time.secs)?),
            subject: match args.refer {
                true => Some(subject::find(
                    args,
                    destination,
                    &loaded,
                    messages,
                    interrupt,
                )?),
                false => None,
            },
            disk: Disk::Image(Box::new(loaded), PlanReader::new(disk.plan)),
        });
    }
    Ok(disks)
}

fn rfc3339(secs: i64) -> anyhow::Result<String> {
    Ok(jiff::Timestamp::from_second(secs)?.to_string())
}

/// How the image is read: what was said of the destination's registry counts
/// for that one alone.
fn source_args(args: &PushArgs, destination: &Destination) -> anyhow::Result<ImageArgs> {
    let mut image = args.image.clone();
    let reference: ImageReference = args.target.parse()?;
    if let ImageReference::Registry(reference) = reference
        && Some(reference.registry()) != destination.host()
    {
        image.registry.tls_verify = args.source.src_tls_verify;
        image
            .registry
            .cert_dir
            .clone_from(&args.source.src_cert_dir);
        image.registry.creds.clone_from(&args.source.src_creds);
    }
    Ok(image)
}

/// How layers are compressed.
fn codec(args: &PushArgs) -> anyhow::Result<Codec> {
    let level = args.compression_level;
    match args.compression.unwrap_or(LayerCompression::Zstd) {
        LayerCompression::Zstd => Ok(Codec::Zstd(level.map_or(ZSTD_LEVEL, i32::from))),
        LayerCompression::Gzip if args.form != Form::ContainerDisk => bail!(
            "--compression gzip: only containerDisks can have it; what is read in parts is always \
             compressed with zstd"
        ),
        LayerCompression::Gzip => match level.map_or(GZIP_LEVEL, u32::from) {
            level @ 1..=9 => Ok(Codec::Gzip(level)),
            level => bail!("--compression-level {level}: gzip has 1 to 9"),
        },
    }
}

/// The format of a containerDisk's file.
fn disk_format(args: &PushArgs) -> anyhow::Result<Format> {
    let names = &args.container_disk;
    if names.format.is_some() && args.form != Form::ContainerDisk {
        bail!("--format is for --as containerdisk");
    }
    if args.form == Form::Disk {
        for (name, given) in [
            ("instancetype", &names.instancetype),
            ("preference", &names.preference),
        ] {
            if given.is_some() {
                bail!("--{name} is for --as containerdisk and --as artifact");
            }
        }
    }
    Ok(names.format.unwrap_or(Format::Qcow2))
}

/// Where blobs wait for their upload: beside the store, which has room for
/// such, and is on no tmpfs.
fn spool(args: &PushArgs, disks: &[Prepared]) -> anyhow::Result<PathBuf> {
    let stored = disks.iter().find_map(|prepared| match &prepared.disk {
        Disk::Image(loaded, _) => loaded.stored.as_ref(),
        Disk::File(_) => None,
    });
    match stored {
        Some(stored) => Ok(stored.store.path().to_owned()),
        None => Ok(Store::open(args.image.store.store.as_deref())?
            .path()
            .to_owned()),
    }
}

/// Repositories that blobs may be mounted from: those given, and those that
/// the layers were pushed to from this machine.
fn mount_from(
    args: &PushArgs,
    destination: &Destination,
    disks: &[Prepared],
    codec: Codec,
) -> Vec<String> {
    let Destination::Registry(to) = destination else {
        return Vec::new();
    };
    let mut all = args.mount_from.clone();
    if args.form == Form::Disk {
        for (stored, _) in disks.iter().filter_map(Prepared::stored) {
            let (registry, name) = (to.registry(), to.repository());
            let (store, layers) = (&stored.store, &stored.layers);
            let found = repositories(store, layers, codec, registry, name, MAX_MOUNT_FROM);
            for name in found {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
    }
    all
}

/// Writes the digest file whole or not at all.
fn write_digest(path: &Path, digest: &str) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, digest)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("--digest-file: cannot write {}", path.display()))
}
