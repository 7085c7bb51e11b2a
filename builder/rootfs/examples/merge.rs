//! Merges 100,000 entries in 200 layers and says how long it took and how
//! much memory it needed: `cargo run --release --example merge`.

use bootwright_disk::{Source, SourceId, SourceKind};
use bootwright_image::{Entry, EntryKind, Segment, Timestamp};
use bootwright_rootfs::tree::Tree;

const LAYERS: u32 = 200;
const ENTRIES: u32 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let labels = std::env::args().any(|arg| arg == "--labels");
    let paths: Vec<Vec<String>> = (0..LAYERS)
        .map(|layer| (0..ENTRIES).map(|n| path(layer, n)).collect())
        .collect();
    let before = peak_kib()?;
    let start = cpu_ms()?;
    let sources = (0..LAYERS)
        .map(|layer| Source {
            kind: SourceKind::Pack {
                diff_id: format!("sha256:{layer:064x}"),
            },
            path: format!("packs/{layer:064x}").into(),
            len: u64::from(ENTRIES) * 8192,
        })
        .collect();
    let mut tree = Tree::new(sources);
    for (layer, paths) in (0..).zip(&paths) {
        let entries = (0..).zip(paths).map(|(n, path)| entry(n, path, labels));
        tree.apply_layer(SourceId(layer), entries)?;
    }
    let merged = cpu_ms()? - start;
    let start = cpu_ms()?;
    let mut walk = tree.walk();
    let mut names = 0;
    while walk.next_borrowed().is_some() {
        names += 1;
    }
    println!(
        "{} entries: merged in {:.1} ms of CPU, {names} names walked in {:.1} ms, {} KiB more at the peak",
        LAYERS * ENTRIES,
        merged,
        cpu_ms()? - start,
        peak_kib()? - before
    );
    Ok(())
}

/// As packages are: some files of each layer in directories that many share,
/// most in one of its own; every tenth replaces a file of the layer below.
fn path(layer: u32, n: u32) -> String {
    match n % 10 {
        0 => format!("usr/lib/x86_64-linux-gnu/lib{layer}-{n}.so.1"),
        1 if layer > 0 => format!("usr/share/app{}/data/d{}/file-{n}", layer - 1, n / 50),
        2 => format!("usr/bin/tool{layer}-{n}"),
        _ => format!("usr/share/app{layer}/data/d{}/file-{n}", n / 50),
    }
}

fn entry(n: u32, path: &str, labels: bool) -> Entry<'_> {
    let xattrs = if labels {
        let value: &[u8] = match n % 3 {
            0 => b"system_u:object_r:usr_t:s0\0",
            1 => b"system_u:object_r:lib_t:s0\0",
            _ => b"system_u:object_r:bin_t:s0\0",
        };
        vec![(&b"security.selinux"[..], value)]
    } else {
        Vec::new()
    };
    Entry {
        path: path.as_bytes(),
        kind: EntryKind::Regular {
            size: 5000,
            segments: vec![Segment {
                file_offset: 0,
                pack_offset: u64::from(n) * 8192,
                len: 5000,
            }],
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs,
    }
}

/// Peak resident memory of this process, from proc_pid_status(5).
fn peak_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let number = line.and_then(|l| l.split_whitespace().nth(1));
    Ok(number.ok_or("no VmHWM")?.parse()?)
}

/// Time on a CPU of this process, which other processes do not disturb, from
/// the first field of /proc/PID/schedstat (nanoseconds).
fn cpu_ms() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanos: f64 = stat.split(' ').next().ok_or("no time")?.parse()?;
    Ok(nanos / 1e6)
}
