//! Adds a layer's blob to a store and compares the time with the floor: what
//! it takes two threads to hash the blob, decompress it and hash the tar.
//!
//! `cargo run --release -p bootwright-image --example ingest -- BLOB STORE [RUNS]`
//! prints the best of RUNS of each with the mean of the processor time, the
//! time to load the layer, and the process's peak memory. The layer is removed before each run.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use bootwright_image::digest::{Algorithm, Digest, Hasher};
use bootwright_image::store::{BlobInfo, Limits, PrunePolicy, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [blob, dir, runs @ ..] = args.as_slice() else {
        return Err("usage: ingest BLOB STORE [RUNS]".into());
    };
    let runs: u32 = runs.first().map_or(Ok(3), |runs| runs.parse())?;
    let size = std::fs::metadata(blob)?.len();
    let store = Store::open(Some(Path::new(dir)))?;
    let (mut floor_time, mut add_time, mut load_time) =
        (Duration::MAX, Duration::MAX, Duration::MAX);
    let (mut floor_cpu, mut add_cpu) = (0, 0);
    let (mut tar_len, mut entries) = (0, 0);
    for _ in 0..runs {
        let (start, cpu) = (Instant::now(), cpu_ticks()?);
        let (digest, diff_id) = floor(blob)?;
        floor_time = floor_time.min(start.elapsed());
        floor_cpu += cpu_ticks()? - cpu;

        store.prune(PrunePolicy::All, false)?;
        let info = BlobInfo {
            digest: Some(digest),
            size: Some(size),
        };
        let start = Instant::now();
        let layer = store.add_layer(
            &diff_id,
            &info,
            File::open(blob)?,
            &Limits::default(),
            &|_| (),
        )?;
        add_time = add_time.min(start.elapsed());
        add_cpu += cpu_ticks()? - cpu;
        tar_len = layer.index().tar_len();
        drop(layer);

        let start = Instant::now();
        let layer = store.layer(&diff_id)?.ok_or("the layer is gone")?;
        entries = layer
            .entries()
            .filter(|entry| !entry.path.is_empty())
            .count();
        load_time = load_time.min(start.elapsed());
    }
    for (name, time, cpu) in [("floor", floor_time, floor_cpu), ("add", add_time, add_cpu)] {
        let rate = tar_len as f64 / 1e6 / time.as_secs_f64();
        let cpu = f64::from(cpu) / 100.0 / f64::from(runs);
        println!("{name:<6} {time:>10.3?} {rate:>8.0} MB/s of tar, {cpu:.3} s of processor time");
    }
    println!(
        "ratio  {:>10.3}",
        add_time.as_secs_f64() / floor_time.as_secs_f64()
    );
    println!("load   {load_time:>10.3?} {entries:>8} entries");
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "{}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or_default()
    );
    Ok(())
}

/// Processor time of all threads so far, in hundredths of a second; see
/// proc_pid_stat(5).
fn cpu_ticks() -> Result<u32, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let [user, system] = fields.get(11..13).ok_or("no times")? else {
        return Err("no times".into());
    };
    Ok(user.parse::<u32>()? + system.parse::<u32>()?)
}

/// Hashes blob and tar; says both digests.
fn floor(blob: &str) -> Result<(Digest, Digest), Box<dyn Error>> {
    let (sender, receiver) = sync_channel::<Vec<u8>>(4);
    let (back, recycled) = sync_channel::<Vec<u8>>(8);
    let hashing = thread::spawn(move || {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for bytes in receiver {
            hasher.update(&bytes);
            let _ = back.try_send(bytes);
        }
        hasher.finish()
    });
    let hashed = Hashing {
        file: File::open(blob)?,
        hasher: Hasher::new(Algorithm::Sha256),
    };
    let mut buffered = BufReader::with_capacity(128 << 10, hashed);
    let zstd = io::BufRead::fill_buf(&mut buffered)?.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    {
        let mut tar: Box<dyn Read + '_> = match zstd {
            true => Box::new(zstd::stream::read::Decoder::with_buffer(&mut buffered)?),
            false => Box::new(flate2::bufread::MultiGzDecoder::new(&mut buffered)),
        };
        loop {
            let mut bytes = recycled.try_recv().unwrap_or_default();
            bytes.resize(256 << 10, 0);
            let mut filled = 0;
            while filled < bytes.len() {
                match tar.read(&mut bytes[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                break;
            }
            bytes.truncate(filled);
            sender.send(bytes)?;
        }
    }
    drop(sender);
    let diff_id = hashing.join().map_err(|_| "the hashing thread panicked")?;
    Ok((buffered.into_inner().hasher.finish(), diff_id))
}

struct Hashing {
    file: File,
    hasher: Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buf)?;
        self.hasher.update(&buf[..read]);
        Ok(read)
    }
}
