//! Starts a machine monitor and says how long its guest takes to say something,
//! and what memory it has then beside the guest's.
//!
//! `stopwatch TEXT GUEST-MEBIBYTES COMMAND...`. The guest's words are the
//! command's standard output. The monitor may be a child of the command: it is
//! the process with a mapping as large as the guest. Its memory is sampled
//! every 10 ms, as Firecracker's tests do, from the start to the text: the
//! resident part of all its other mappings. Prints milliseconds, KiB and, on
//! lines of their own, the processor time of the command and its children in
//! milliseconds, and the mappings in which most of the memory is.
//!
//! A guest that says `load: NAME` and later `load: end` has what the host spends
//! in between printed, too: processor time of the command and its children but
//! for what the guest's own processors ran, and the time on the clock. Exits
//! with the command's status.

use std::io::{BufRead, BufReader, Error};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What stands before the name of a load, and before its end.
const LOAD: &str = "load: ";

/// How many mappings are told of.
const MAPPINGS: usize = 12;

const INTERVAL: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    match watch() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

fn watch() -> Result<u8, Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [text, mebibytes, program, rest @ ..] = &arguments[..] else {
        return Err("usage: stopwatch TEXT GUEST-MEBIBYTES COMMAND...".into());
    };
    let guest = mebibytes.parse::<u64>()? << 10;
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let pid = child.id();
    let (done, peak) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new((0, Vec::new()))),
    );
    let sampler = {
        let (done, peak) = (Arc::clone(&done), Arc::clone(&peak));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                for process in family(pid) {
                    // It may have ended.
                    let beside = resident(process, guest).unwrap_or_default();
                    let total = beside.iter().map(|(kib, _)| kib).sum::<u64>();
                    let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
                    if total > peak.0 {
                        *peak = (total, beside);
                    }
                }
                std::thread::sleep(INTERVAL);
            }
        })
    };
    let mut found = None;
    let mut load: Option<(String, Instant, u64)> = None;
    let mut loads = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if found.is_none() && line.contains(text.as_str()) {
                let elapsed = start.elapsed();
                found = Some((elapsed, spent(pid)?.total));
                done.store(true, Ordering::Relaxed);
            }
            let Some((_, name)) = line.split_once(LOAD) else {
                continue;
            };
            let beside = spent(pid)?.beside;
            if let Some((name, start, before)) = load.take() {
                let elapsed = start.elapsed().as_millis();
                loads.push((name, beside.saturating_sub(before), elapsed));
            } else {
                load = Some((name.trim().to_owned(), Instant::now(), beside));
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    let status = child.wait()?;
    let _ = sampler.join();
    let Some((elapsed, processor)) = found else {
        return Err(format!("`{text}` never came; {status}").into());
    };
    let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{} ms, {} KiB", elapsed.as_millis(), peak.0);
    println!("{processor} ms of processor time");
    peak.1.sort_by_key(|(kib, _)| std::cmp::Reverse(*kib));
    for (kib, mapping) in peak.1.iter().take(MAPPINGS) {
        println!("memory: {kib} KiB {mapping}");
    }
    for (name, beside, elapsed) in loads {
        println!("load {name}: {beside} ms in {elapsed} ms");
    }
    Ok(status
        .code()
        .and_then(|code| code.try_into().ok())
        .unwrap_or(255))
}

/// The process and all that it has started, as far as they are there.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at) {
        // Each thread has its own children (proc_tid_children(5)).
        let threads = std::fs::read_dir(format!("/proc/{parent}/task"));
        let threads = threads.into_iter().flatten().flatten();
        let children = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|text| {
                let words = text.split_whitespace().map(str::parse);
                words.filter_map(Result::ok).collect::<Vec<_>>()
            })
            .collect();
        family.extend(children);
        at += 1;
    }
    family
}

/// KiB of resident memory in all mappings but the guest's memory, if it is there
/// (proc_pid_smaps(5)): a mapping as large as the guest. Guests this small have
/// none around the hole.
fn resident(pid: u32, guest: u64) -> Result<Vec<(u64, String)>, Error> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some((start, end)) = range(line) {
            mappings.push(Mapping {
                size: (end - start) >> 10,
                resident: 0,
                name: name(line),
            });
        } else if let (Some(rest), Some(last)) = (line.strip_prefix("Rss:"), mappings.last_mut()) {
            let word = rest.split_whitespace().next();
            last.resident = word.and_then(|word| word.parse().ok()).unwrap_or(0);
        }
    }
    let (guests, others): (Vec<_>, Vec<_>) =
        (mappings.into_iter()).partition(|mapping| mapping.size >= guest);
    let beside = others.into_iter().map(|other| (other.resident, other.name));
    Ok(match guests.is_empty() {
        true => Vec::new(),
        false => beside.collect(),
    })
}

/// What may be done with a mapping, and what it is of.
fn name(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let word = |at: usize| words.get(at).copied().unwrap_or("anonymous");
    format!("{} {}", word(1), word(5))
}

/// A mapping; sizes in KiB.
struct Mapping {
    size: u64,
    resident: u64,
    name: String,
}

/// The addresses at the start of a line, if it has some.
fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// Processor time in milliseconds.
#[derive(Default)]
struct Spent {
    /// All of it.
    total: u64,
    /// Without what ran as the guest's.
    beside: u64,
}

/// What the process and all that it has started have used so far.
fn spent(pid: u32) -> Result<Spent, Error> {
    let mut sum = Spent::default();
    for process in family(pid) {
        let one = processor_time(process)?;
        sum.total += one.total;
        sum.beside += one.beside;
    }
    Ok(sum)
}

/// What one process has used (proc_pid_stat(5): utime, stime and guest_time,
/// in hundredths of a second; the first contains the last).
fn processor_time(pid: u32) -> Result<Spent, Error> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, can hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |at: usize| -> u64 {
        let word = fields.split_whitespace().nth(at);
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let total = (ticks(11) + ticks(12)) * 10;
    let beside = total.saturating_sub(ticks(40) * 10);
    Ok(Spent { total, beside })
}
