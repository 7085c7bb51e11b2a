//! Timing of commands and of code.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use wait4::Wait4;

use crate::proc;

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// From start to end.
    pub(super) wall: Duration,
    /// Processor time of the command, in user mode and in the kernel.
    pub(super) cpu: Duration,
    /// Most memory that was resident at once, in bytes.
    pub(super) peak: u64,
}

/// The processor time of a process, of its children, and of those that have
/// ended, in hundredths of a second (proc_pid_stat(5), utime to cstime).
pub(super) fn processor_ticks(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, can hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let own = fields.split_whitespace().skip(11).take(4);
    let mut ticks = own.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_whitespace() {
            ticks += processor_ticks(child.parse()?)?;
        }
    }
    Ok(ticks)
}

/// Runs a command to its end. It shares xtask's process group, so that an
/// interrupt from the terminal ends it too.
///
/// # Errors
/// If it fails; what it wrote to standard error is then shown.
pub(super) fn command(command: impl Into<Command>) -> Result<Sample> {
    proc::check_interrupt()?;
    let mut command = command.into();
    let log = tempfile::NamedTempFile::new()?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.reopen()?);
    let start = Instant::now();
    let ended = command.spawn()?.wait4()?;
    let wall = start.elapsed();
    if !ended.status.success() {
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let program = command.get_program().display();
        bail!(
            "`{program} {}` failed: {}",
            words.join(" "),
            proc::tail(log.path(), 20)
        );
    }
    Ok(Sample {
        wall,
        cpu: ended.rusage.utime + ended.rusage.stime,
        peak: ended.rusage.maxrss,
    })
}

/// Times a piece of code.
pub(super) fn code(work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    proc::check_interrupt()?;
    let start = Instant::now();
    work()?;
    Ok(Sample {
        wall: start.elapsed(),
        ..Sample::default()
    })
}

/// The middle of the runs' times, and the most memory any of them took.
pub(super) fn median(mut samples: Vec<Sample>) -> Sample {
    let peak = samples.iter().map(|s| s.peak).max().unwrap_or_default();
    samples.sort_by_key(|s| s.wall);
    let middle = samples.get(samples.len() / 2).copied().unwrap_or_default();
    Sample { peak, ..middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_measured_and_its_failure_shown() {
        let mut sleep = Command::new("sleep");
        sleep.arg("0.05");
        let sample = command(sleep).unwrap();
        assert!(sample.wall >= Duration::from_millis(50));
        assert!(sample.peak > 100 << 10, "{sample:?}");
        let mut fail = Command::new("sh");
        fail.args(["-c", "echo because >&2; exit 3"]);
        let error = command(fail).unwrap_err().to_string();
        assert!(error.contains("because"), "{error}");
    }

    #[test]
    fn the_median_is_not_moved_by_one_slow_run() {
        let at = |ms, peak| Sample {
            wall: Duration::from_millis(ms),
            peak,
            ..Sample::default()
        };
        let middle = median(vec![at(900, 1), at(10, 7), at(12, 2)]);
        assert_eq!((middle.wall, middle.peak), (Duration::from_millis(12), 7));
    }
}
