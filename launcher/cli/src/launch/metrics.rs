//! Numbers of the pod for Prometheus.
//!
//! In: what the machine's process answers on its control socket, and what the
//! kernel says of the processes of this pod. Out: both as text, over HTTP at a
//! port of the pod; nothing else is answered there, and nothing can be done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::vms::client;
use crate::vms::place::Place;

/// Longest request, in bytes.
const MAX_REQUEST: usize = 8 << 10;

/// How long a client may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most clients at once.
const MAX_CLIENTS: usize = 8;

/// Listens at a port of all of the pod's addresses.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    // Linux takes IPv4 there, too, unless net.ipv6.bindv6only is set.
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
}

/// Answers for as long as this process lives.
pub(super) fn serve(listener: TcpListener, place: Place) -> io::Result<()> {
    let (clients, place) = (Arc::new(AtomicUsize::new(0)), Arc::new(place));
    let serve = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // There may be no descriptor left for a while.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
                clients.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (counted, place) = (Arc::clone(&clients), Arc::clone(&place));
            let work = move || {
                // That a client leaves is its own business.
                let _ = talk(stream, || text(&place));
                counted.fetch_sub(1, Ordering::Relaxed);
            };
            let thread = thread::Builder::new().name("metrics-client".into());
            if thread.spawn(work).is_err() {
                clients.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    let thread = thread::Builder::new().name("metrics".into());
    thread.spawn(serve).map(drop)
}

fn talk(mut stream: TcpStream, text: impl FnOnce() -> String) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let until = Instant::now() + PATIENCE;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    let answer = loop {
        // Of the whole request, so that bytes that trickle do not count anew.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut buffer)?;
        request.extend(buffer.get(..count).unwrap_or_default());
        if request.len() > MAX_REQUEST {
            break Err("431 Request Header Fields Too Large");
        }
        match asked(&request) {
            Some(answer) => break answer,
            None if count == 0 => return Ok(()),
            None => {}
        }
    };
    let (status, body) = match answer {
        Ok(()) => ("200 OK", text()),
        Err(status) => (status, format!("{status}\n")),
    };
    // Prometheus, "Text-based format".
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// What becomes of a request: nothing yet, the metrics, or the status of an
/// error.
fn asked(request: &[u8]) -> Option<Result<(), &'static str>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let path = parsed.path.unwrap_or_default();
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            Some(match (parsed.method, path) {
                (Some("GET"), "/metrics") => Ok(()),
                (_, "/metrics") => Err("405 Method Not Allowed"),
                _ => Err("404 Not Found"),
            })
        }
        Err(_) => Some(Err("400 Bad Request")),
    }
}

/// All there is to say: of the guest only while it runs.
fn text(place: &Place) -> String {
    let mut text = client::request(place, "GET", "/metrics", None).unwrap_or_default();
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry.file_name();
        if let Some(process) = id
            .to_str()
            .and_then(|id| id.parse().ok())
            .and_then(Process::read)
        {
            all.push(process);
        }
    }
    let ticks = rustix::param::clock_ticks_per_second();
    say(&mut text, &Total::of(std::process::id(), &all), ticks);
    text
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    /// Memory that is its own and in no file, a guest's included, in bytes.
    own: u64,
    /// What it holds of the node's reserve of huge pages, in bytes.
    reserved: u64,
    /// Processor time in ticks, with that of children that were waited for: in
    /// user mode without guests, in the kernel, and in guests.
    user: u64,
    system: u64,
    guest: u64,
}

impl Process {
    fn read(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        Self::parse(id, &stat, &status)
    }

    /// Both files as proc_pid_stat(5) and proc_pid_status(5) describe them.
    fn parse(id: u32, stat: &str, status: &str) -> Option<Self> {
        // A program's name may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<u64> = (fields.split_whitespace().skip(1))
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // Fields are counted from 1, and the third is skipped.
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
        let both = |own: usize, waited: usize| field(own).saturating_add(field(waited));
        let guest = both(43, 44);
        let memory = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib << 10)
        };
        Some(Self {
            id,
            parent: u32::try_from(field(4)).ok()?,
            // A process that has ended and was not waited for has none.
            own: memory("RssAnon:").unwrap_or(0),
            reserved: memory("HugetlbPages:").unwrap_or(0),
            user: both(14, 16).saturating_sub(guest),
            system: both(15, 17),
            guest,
        })
    }
}

/// Processes together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Total {
    own: u64,
    reserved: u64,
    user: u64,
    system: u64,
    guest: u64,
}

impl Total {
    /// A process with its children and theirs.
    fn of(root: u32, all: &[Process]) -> Self {
        let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
        for process in all {
            children.entry(process.parent).or_default().push(process);
        }
        let mut left: Vec<_> = all.iter().filter(|process| process.id == root).collect();
        let (mut total, mut seen) = (Self::default(), BTreeSet::new());
        while let Some(process) = left.pop() {
            // Ids can change hands while they are read.
            if !seen.insert(process.id) {
                continue;
            }
            total.own += process.own;
            total.reserved += process.reserved;
            total.user += process.user;
            total.system += process.system;
            total.guest += process.guest;
            left.extend(children.remove(&process.id).unwrap_or_default());
        }
        total
    }
}

/// Adds what the pod's processes take to what the machine says.
fn say(text: &mut String, total: &Total, ticks: u64) {
    let version = env!("CARGO_PKG_VERSION");
    // Known where the machine's process has it, and then as large as it was a
    // moment ago. What is of the reserve is no process's own.
    let guest: u64 = (text.lines())
        .find_map(|line| line.strip_prefix("bootwright_memory_resident_bytes "))
        .map_or(0, |bytes| bytes.parse().unwrap_or(0));
    let own = total
        .own
        .saturating_sub(guest.saturating_sub(total.reserved));
    let _ = write!(
        text,
        "# HELP bootwright_launcher_info The launcher's version.\n\
         # TYPE bootwright_launcher_info gauge\n\
         bootwright_launcher_info{{version=\"{version}\"}} 1\n\
         # HELP bootwright_launcher_memory_overhead_bytes Memory of the pod's processes that is their own.\n\
         # TYPE bootwright_launcher_memory_overhead_bytes gauge\n\
         bootwright_launcher_memory_overhead_bytes {own}\n\
         # HELP bootwright_cpu_usage_seconds_total Processor time of the pod's processes.\n\
         # TYPE bootwright_cpu_usage_seconds_total counter\n"
    );
    for (mode, time) in [
        ("guest", total.guest),
        ("system", total.system),
        ("user", total.user),
    ] {
        let seconds = time as f64 / ticks.max(1) as f64;
        let _ = writeln!(
            text,
            "bootwright_cpu_usage_seconds_total{{mode=\"{mode}\"}} {seconds}"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const STATUS: &str =
        "Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t 7 kB\nHugetlbPages:\t  64 kB\n";

    fn stat(name: &str) -> String {
        let mut fields = vec!["0".to_owned(); 52];
        for (number, value) in [
            (4, 1),
            (14, 50),
            (15, 7),
            (16, 5),
            (17, 3),
            (43, 30),
            (44, 2),
        ] {
            fields[number - 1] = value.to_string();
        }
        format!("9 ({name}) S {}", fields[3..].join(" "))
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let expect = Process {
            id: 9,
            parent: 1,
            own: 100 << 10,
            reserved: 64 << 10,
            user: 23,
            system: 10,
            guest: 32,
        };
        for name in ["bootwright", "a) R 5 (b", ""] {
            assert_eq!(Process::parse(9, &stat(name), STATUS), Some(expect.clone()));
        }
        let ended = Process::parse(9, &stat("z"), "Name:\tz\n").unwrap();
        assert_eq!((ended.own, ended.reserved), (0, 0));
        assert_eq!(Process::parse(9, "", STATUS), None);
        assert!(Process::read(std::process::id()).unwrap().own > 0);
    }

    #[test]
    fn only_this_pods_processes_count_and_each_once() {
        let process = |id, parent| Process {
            id,
            parent,
            own: 1 << id,
            ..Process::default()
        };
        let all = [
            process(1, 0),
            process(2, 1),
            process(3, 2),
            process(4, 9),
            // Ids that were used anew while they were read.
            process(5, 6),
            process(6, 5),
        ];
        assert_eq!(Total::of(1, &all).own, 0b1110);
        assert_eq!(Total::of(5, &all).own, (1 << 5) + (1 << 6));
        assert_eq!(Total::of(7, &all), Total::default());
    }

    #[test]
    fn the_guests_memory_is_not_the_pods_own() {
        let overhead = |guest: &str, own, reserved| {
            let mut text = guest.to_owned();
            let total = Total {
                own,
                reserved,
                ..Total::default()
            };
            say(&mut text, &total, 100);
            let name = "bootwright_launcher_memory_overhead_bytes ";
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().parse::<u64>().unwrap()
        };
        let guest = "bootwright_cpus 1\nbootwright_memory_resident_bytes 4096000\n";
        assert_eq!(overhead(guest, 5_096_000, 0), 1_000_000);
        assert_eq!(overhead(guest, 1_000_000, 4_096_000), 1_000_000);
        // It has come to more since then, or is another process's.
        assert_eq!(overhead(guest, 4_000_000, 0), 0);
        assert_eq!(overhead("", 1_000_000, 0), 1_000_000);
    }

    #[test]
    fn there_is_one_thing_to_ask_for() {
        for (request, expect) in [
            ("GET /metrics HTTP/1.1\r\n\r\n", Some(Ok(()))),
            ("GET /metrics?a=b HTTP/1.0\r\nA: b\r\n\r\n", Some(Ok(()))),
            ("GET /metrics HTTP/1.1\r\n", None),
            ("", None),
            (
                "POST /metrics HTTP/1.1\r\n\r\n",
                Some(Err("405 Method Not Allowed")),
            ),
            ("GET /v1/vm HTTP/1.1\r\n\r\n", Some(Err("404 Not Found"))),
            ("\0\0\r\n\r\n", Some(Err("400 Bad Request"))),
        ] {
            assert_eq!(asked(request.as_bytes()), expect, "{request:?}");
        }
    }

    #[test]
    fn a_client_is_answered_and_one_that_says_too_much_is_not_heard_out() {
        for (request, expect) in [
            (
                "GET /metrics HTTP/1.1\r\n\r\n".to_owned(),
                "HTTP/1.1 200 OK\r\n",
            ),
            (format!("GET /{}", "x".repeat(MAX_REQUEST)), "HTTP/1.1 431 "),
        ] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            client.write_all(request.as_bytes()).unwrap();
            talk(stream, || "up 1\n".into()).unwrap();
            let mut start = vec![0; expect.len()];
            client.read_exact(&mut start).unwrap();
            assert_eq!(String::from_utf8_lossy(&start), expect);
        }
    }
}
