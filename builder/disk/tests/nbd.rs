//! The NBD server: clients of others see the disk as it is, and what no
//! client should send does no harm.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{self, BufReader};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use bootwright_disk::nbd::{self, Export, WriteAt};
use bootwright_disk::reader::ReadAt;
use bootwright_disk::sink::Format;
use common::{Piece, Sample, What, nasty, run, samples};
use proptest::prelude::*;

fn export(disk: &dyn ReadAt) -> Export<'_> {
    Export {
        name: "disk",
        description: "a disk to test with",
        disk,
        writer: None,
        warn: &|_| {},
    }
}

/// Runs `clients` with the URI of a server of `disk` that takes so many
/// connections.
fn served(disk: &dyn ReadAt, connections: usize, clients: impl FnOnce(&str)) {
    let serve = |stream: &UnixStream| {
        // Clients may hang up as they like.
        let _ = nbd::serve(BufReader::new(stream), stream, &export(disk));
    };
    served_by(&serve, connections, clients);
}

/// The same for a server that treats a connection as `serve` does.
fn served_by(serve: &(dyn Fn(&UnixStream) + Sync), connections: usize, clients: impl FnOnce(&str)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut taken = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(std::time::Duration::from_millis(1));
                    continue;
                };
                taken += 1;
                assert!(taken <= connections, "more connections than expected");
                stream.set_nonblocking(false).unwrap();
                scope.spawn(move || serve(&stream));
            }
        });
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| clients(&uri)));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// QEMU and libnbd copy the disk as it is.
fn check(sample: &Sample) {
    let raw = sample.write("disk.raw", Format::Raw);
    served(&sample.reader(), 20, |uri| {
        run("qemu-img", &["compare", "-q", "-f", "raw", uri, utf8(&raw)]);
        let back = sample.path("back.raw");
        run("nbdcopy", &[uri, utf8(&back)]);
        assert!(std::fs::read(&back).unwrap() == sample.bytes());
        std::fs::remove_file(&back).unwrap();
        run("qemu-img", &["convert", "-O", "raw", uri, utf8(&back)]);
        assert!(std::fs::read(&back).unwrap() == sample.bytes());
        std::fs::remove_file(&back).unwrap();
    });
}

#[test]
fn nasty_plans_are_served_as_they_are() {
    for (name, sample) in nasty() {
        println!("{name}");
        check(&sample);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn clients_of_others_read_what_the_plan_says(sample in samples()) {
        check(&sample);
    }
}

/// 200 GiB with a little at three places.
fn sparse() -> Sample {
    let size = 200 << 30;
    Sample::new(
        size,
        [5000, 70 << 30, size - 512].map(|start| Piece {
            start,
            len: 512,
            what: What::Literal(7),
        }),
    )
}

#[test]
fn holes_are_told_and_cost_nothing() {
    let sample = sparse();
    served(&sample.reader(), 30, |uri| {
        let info = run("nbdinfo", &[uri]);
        for words in [
            "newstyle-fixed",
            "using structured packets",
            "export-size: 214748364800",
            "description: a disk to test with",
            "base:allocation",
            "is_read_only: true",
            "can_multi_conn: true",
            "can_df: true",
            "block_size_maximum: 33554432",
        ] {
            assert!(info.contains(words), "{words:?} is not in: {info}");
        }
        assert!(run("nbdinfo", &["--list", uri]).contains("export=\"disk\""));
        let map = run("nbdinfo", &["--map", uri]);
        let rows: Vec<Vec<&str>> = map
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let data: Vec<_> = rows.iter().filter(|row| row[2] == "0").collect();
        let starts: Vec<&str> = data.iter().map(|row| row[0]).collect();
        assert_eq!(starts, ["4096", "75161927680", "214748360704"], "{map}");
        assert!(data.iter().all(|row| row[1] == "4096"), "{map}");
        assert!(
            rows.iter().all(|row| row[2] == "0" || row[2] == "3"),
            "{map}"
        );
        let back = sample.path("back.raw");
        run("nbdcopy", &[uri, utf8(&back)]);
        assert_eq!(back.metadata().unwrap().len(), 200 << 30);
        let raw = sample.write("disk.raw", Format::Raw);
        run("qemu-img", &["compare", "-q", utf8(&back), utf8(&raw)]);
    });
}

/// What a client sends, put together by hand.
#[derive(Debug, Default, Clone)]
struct Client(Vec<u8>);

impl Client {
    fn new(flags: u32) -> Self {
        Self(flags.to_be_bytes().into())
    }

    fn option(mut self, option: u32, data: &[u8]) -> Self {
        self.0.extend(b"IHAVEOPT");
        self.0.extend(option.to_be_bytes());
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(data);
        self
    }

    fn request(mut self, flags: u16, kind: u16, offset: u64, len: u32) -> Self {
        self.0.extend(0x2560_9513u32.to_be_bytes());
        self.0.extend(flags.to_be_bytes());
        self.0.extend(kind.to_be_bytes());
        self.0.extend(0x0102_0304_0506_0708u64.to_be_bytes());
        self.0.extend(offset.to_be_bytes());
        self.0.extend(len.to_be_bytes());
        self
    }

    /// What the server answers, and how it ends.
    fn talk(&self, disk: &dyn ReadAt) -> (Vec<u8>, Result<(), String>) {
        let mut output = Vec::new();
        let end = nbd::serve(&self.0[..], &mut output, &export(disk));
        (output, end.map_err(|e| e.to_string()))
    }
}

/// A name and nothing asked, as GO has it.
fn go(name: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend([0, 0]);
    data
}

/// A name and queries for metadata contexts.
fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

/// A client that wants everything and has said so.
fn ready() -> Client {
    Client::new(3)
        .option(8, &[])
        .option(10, &contexts("disk", &["base:allocation"]))
        .option(7, &go("disk"))
}

fn ends_with(client: &Client, tail: &[&[u8]]) {
    let sample = small();
    let (output, end) = client.talk(&sample.reader());
    end.unwrap();
    let tail = tail.concat();
    let shown = &output[output.len().saturating_sub(tail.len() + 16)..];
    assert!(output.ends_with(&tail), "{shown:02x?}");
}

/// One block of data, 1 MiB of zeros.
fn small() -> Sample {
    let what = What::Literal(7);
    let piece = Piece {
        start: 0,
        len: 4096,
        what,
    };
    Sample::new(1 << 20, [piece])
}

const SIMPLE: &[u8] = &[0x67, 0x44, 0x66, 0x98];
const CHUNK: &[u8] = &[0x66, 0x8e, 0x33, 0xef];
const COOKIE: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn what_changes_the_disk_is_refused_and_the_rest_goes_on() {
    for kind in [1, 4, 6] {
        let mut client = ready().request(0, kind, 0, 512);
        if kind == 1 {
            client.0.extend([0x25; 512]);
        }
        let client = client.request(0, 3, 0, 0);
        let refused = [SIMPLE, &[0, 0, 0, 1], COOKIE];
        let flushed = [SIMPLE, &[0; 4], COOKIE];
        ends_with(&client, &[&refused.concat(), &flushed.concat()]);
    }
}

#[test]
fn holes_come_as_holes_and_errors_as_errors() {
    let hole: &[&[u8]] = &[
        CHUNK,
        &[0, 1, 0, 2],
        COOKIE,
        &[0, 0, 0, 12],
        &8192u64.to_be_bytes(),
        &65536u32.to_be_bytes(),
    ];
    ends_with(&ready().request(0, 0, 8192, 65536), hole);
    let map: &[&[u8]] = &[
        CHUNK,
        &[0, 1, 0, 5],
        COOKIE,
        &[0, 0, 0, 20],
        &[0; 4],
        &4096u32.to_be_bytes(),
        &[0; 4],
        &((1u32 << 20) - 4096).to_be_bytes(),
        &[0, 0, 0, 3],
    ];
    ends_with(&ready().request(0, 7, 0, 1 << 20), map);
    // Only one extent.
    ends_with(
        &ready().request(8, 7, 0, 1 << 20),
        &map[..7]
            .iter()
            .enumerate()
            .map(|(n, part)| if n == 3 { &[0, 0, 0, 12] } else { *part })
            .collect::<Vec<_>>(),
    );
    for (offset, len) in [(1 << 20, 1), (u64::MAX, 1), (0, u32::MAX), (1, 1 << 20)] {
        let sample = small();
        let (output, end) = ready().request(0, 0, offset, len).talk(&sample.reader());
        end.unwrap();
        let error = [CHUNK, &[0, 1, 0x80, 1], COOKIE].concat();
        let at = output
            .windows(error.len())
            .position(|w| w == error)
            .unwrap();
        assert_eq!(output[at + 20..at + 24], [0, 0, 0, 22]);
    }
    // Of a request that nobody knows.
    ends_with(
        &ready().request(0, 99, 0, 0),
        &[SIMPLE, &[0, 0, 0, 22], COOKIE],
    );
}

#[test]
fn clients_of_all_ages_are_understood() {
    let sample = small();
    let data = &sample.bytes()[..512];
    // The oldest one: no options but the name, and padding.
    let client = Client::new(1).option(1, b"").request(0, 0, 0, 512);
    let (output, end) = client.talk(&sample.reader());
    end.unwrap();
    let size = (1u64 << 20).to_be_bytes();
    assert_eq!(output[18..26], size);
    assert_eq!(output[28..152], [0; 124]);
    assert_eq!(output[152..], [SIMPLE, &[0; 4], COOKIE, data].concat());
    // One without structured replies, and with an unknown option.
    let client = Client::new(3)
        .option(5, &[])
        .option(10, &contexts("", &["base:allocation"]))
        .option(7, &go(""))
        .request(0, 7, 0, 512)
        .request(0, 0, 0, 512)
        .request(0, 2, 0, 0);
    ends_with(
        &client,
        &[
            &[SIMPLE, &[0, 0, 0, 22], COOKIE].concat(),
            &[SIMPLE, &[0; 4], COOKIE, data].concat(),
        ],
    );
    // Contexts that were set for another name do not hold.
    let client = Client::new(3)
        .option(8, &[])
        .option(10, &contexts("", &["base:allocation"]))
        .option(7, &go("disk"))
        .request(0, 7, 0, 512);
    let (output, _) = client.talk(&sample.reader());
    assert!(output.windows(8).any(|w| w == [0, 1, 0x80, 1, 1, 2, 3, 4]));
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let write = ready().request(0, 1, 0, u32::MAX);
    let mut magic = ready();
    magic.0.extend([0; 28]);
    let mut huge = Client::new(3);
    huge.0.extend(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    let endless = (0..2000).fold(Client::new(3), |client, _| client.option(3, &[]));
    let mut cut = ready().request(0, 1, 0, 512);
    cut.0.extend([0; 100]);
    let disk = small();
    for (client, message) in [
        (Client::new(0x100), "flags that nobody offered"),
        (
            Client(b"\0\0\0\x01GET / HTTP/1.1\r\n\r\n".into()),
            "without its magic",
        ),
        (Client::new(3).option(1, b"other"), "not here"),
        (huge, "too many bytes"),
        (endless, "without end"),
        (write, "too many bytes"),
        (magic, "without its magic"),
        (cut, "connection broke"),
        (Client::new(3), "connection broke"),
    ] {
        let end = client.talk(&disk.reader()).1;
        assert!(
            end.clone().is_err_and(|e| e.contains(message)),
            "{message}: {end:?}"
        );
    }
    // Leaving is no breach, nor is hanging up between requests.
    for client in [
        Client::new(3).option(2, &[]),
        ready(),
        ready().request(0, 2, 0, 0),
    ] {
        assert_eq!(client.talk(&disk.reader()).1, Ok(()));
    }
}

#[test]
fn options_that_are_cut_short_or_mistaken_are_refused_alone() {
    let disk = small();
    let good = contexts("disk", &["base:allocation"]);
    let cases = [
        (3, vec![1]),
        (8, vec![1]),
        (7, vec![]),
        (7, vec![0xff; 6]),
        (7, [&go("disk")[..], &[0]].concat()),
        (10, good[..good.len() - 1].to_vec()),
        (10, vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        (7, go("other")),
        (6, go("other")),
        (10, contexts("other", &[])),
    ];
    for (option, data) in cases {
        let client = Client::new(3)
            .option(8, &[])
            .option(option, &data)
            .option(2, &[]);
        let (output, end) = client.talk(&disk.reader());
        end.unwrap();
        let errors = output.windows(12).filter(|w| {
            w[..8] == 0x0003_e889_0455_65a9u64.to_be_bytes() && w[8..12] == u32::to_be_bytes(option)
        });
        assert_eq!(errors.count(), if option == 8 { 2 } else { 1 }, "{option}");
        assert!(
            output.windows(4).any(|w| w[0] == 0x80 && w[1..3] == [0, 0]),
            "{option}"
        );
    }
}

/// A disk whose second MiB cannot be read.
#[derive(Debug)]
struct Broken;

impl ReadAt for Broken {
    fn size(&self) -> u64 {
        4 << 20
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range: Range<u64> = offset..offset + buf.len() as u64;
        if range.end > 1 << 20 && range.start < 2 << 20 {
            return Err(io::Error::other("/secret/path: it is broken"));
        }
        buf.fill(7);
        Ok(())
    }
}

#[test]
fn what_cannot_be_read_is_the_clients_error_and_the_servers_warning() {
    let warnings = Mutex::new(Vec::new());
    let warn = |text: &str| warnings.lock().unwrap().push(text.to_owned());
    let export = Export {
        warn: &warn,
        ..export(&Broken)
    };
    let simple = Client::new(3).option(7, &go(""));
    for (client, ends) in [
        (ready().request(0, 0, 1 << 20, 512), Ok(())),
        (ready().request(0, 0, 0, 2 << 20), Ok(())),
        (simple.clone().request(0, 0, 1 << 20, 512), Ok(())),
        (
            simple.request(0, 0, 0, 2 << 20),
            Err("in the middle of an answer"),
        ),
    ] {
        let mut output = Vec::new();
        let end = nbd::serve(&client.0[..], &mut output, &export);
        match ends {
            Ok(()) => end.unwrap(),
            Err(why) => assert!(end.unwrap_err().to_string().contains(why)),
        }
        assert!(!output.windows(7).any(|w| w == b"/secret"));
    }
    assert_eq!(warnings.lock().unwrap().len(), 4);
}

proptest! {
    /// Whatever single bytes differ, the conversation ends.
    #[test]
    fn a_client_with_a_defect_does_no_harm(
        changes in prop::collection::vec((0..300usize, any::<u8>()), 1..6),
        len in 0..400usize,
    ) {
        let mut client = ready()
            .request(0, 0, 0, 1 << 20)
            .request(4, 0, 4096, 512)
            .request(0, 7, 0, 1 << 20)
            .request(0, 1, 0, 16);
        client.0.extend([0; 16]);
        let mut client = client.request(0, 2, 0, 0);
        for (at, byte) in changes {
            if let Some(place) = client.0.get_mut(at) {
                *place = byte;
            }
        }
        client.0.truncate(len.max(200));
        let sample = small();
        let (output, _) = client.talk(&sample.reader());
        prop_assert!(output.len() < 8 << 20);
    }
}

/// A disk in memory.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn at(&self, range: Range<u64>, change: impl Fn(&mut [u8])) -> io::Result<()> {
        change(&mut self.0.lock().unwrap()[range.start as usize..range.end as usize]);
        Ok(())
    }
}

impl ReadAt for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        buf.copy_from_slice(&bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}

impl WriteAt for Memory {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        assert!(offset.is_multiple_of(512) && end.is_multiple_of(512));
        self.at(offset..end, |there| there.copy_from_slice(bytes))
    }

    fn write_zeroes(&self, range: Range<u64>, _unmap: bool) -> io::Result<()> {
        self.at(range, |there| there.fill(0))
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.at(range, |there| there.fill(0))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn clients_of_others_write_what_can_be_written() {
    let sample = nasty().remove(0).1;
    let raw = sample.write("disk.raw", Format::Raw);
    let size = std::fs::metadata(&raw).unwrap().len().next_multiple_of(512);
    std::fs::File::options()
        .write(true)
        .open(&raw)
        .unwrap()
        .set_len(size)
        .unwrap();
    let disk = Memory(Mutex::new(vec![0xaa; size as usize]));
    let serve = |clients: &dyn Fn(&str)| {
        let export = |stream: &UnixStream| {
            let export = Export {
                name: "disk",
                description: "",
                disk: &disk,
                writer: Some(&disk),
                warn: &|_| {},
            };
            let _ = nbd::serve(BufReader::new(stream), stream, &export);
        };
        served_by(&export, 20, clients);
    };
    serve(&|uri| {
        let info = run("nbdinfo", &[uri]);
        for words in [
            "is_read_only: false",
            "can_trim: true",
            "can_zero: true",
            "block_size_minimum: 512",
        ] {
            assert!(info.contains(words), "{words:?} is not in: {info}");
        }
        run(
            "qemu-img",
            &["convert", "-n", "-f", "raw", "-O", "raw", utf8(&raw), uri],
        );
    });
    assert!(*disk.0.lock().unwrap() == std::fs::read(&raw).unwrap());
    disk.0.lock().unwrap().fill(0xaa);
    serve(&|uri| drop(run("nbdcopy", &[utf8(&raw), uri])));
    assert!(*disk.0.lock().unwrap() == std::fs::read(&raw).unwrap());
}
