//! What a command tells while it works: bars on a terminal, plain lines
//! elsewhere, nothing when quiet. All of it goes to standard error.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::ByteSize;

/// Where a command's messages go.
#[derive(Debug)]
pub(crate) struct Messages {
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Messages {
    /// Bars if standard error is a terminal, lines otherwise; only warnings
    /// when `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = (!quiet && terminal)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self { bars, quiet }
    }

    /// Tells something worth knowing; not when quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Tells something that may be wrong; always.
    pub(crate) fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }

    fn line(&self, text: &str) {
        let text = printable(text);
        match &self.bars {
            // Printing above the bars; a closed standard error is no reason to stop.
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Begins a piece of work of `total` bytes.
    pub(crate) fn task(&self, label: &str, total: u64) -> Task<'_> {
        let label = printable(label);
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            let style = "{prefix:28} [{bar:30}] {bytes:>11} / {total_bytes:<11} {bytes_per_sec}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(label.clone());
            bar
        });
        Task {
            messages: self,
            label,
            bar,
            done: AtomicU64::new(0),
            since: Instant::now(),
        }
    }
}

/// A piece of work under way. Several threads may advance it.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    messages: &'a Messages,
    label: String,
    bar: Option<ProgressBar>,
    done: AtomicU64,
    since: Instant,
}

impl Task<'_> {
    /// `bytes` more are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// `bytes` are done in all, which may be fewer than before.
    pub(crate) fn reach(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// All is done; nothing is told of what turned out to be no work.
    pub(crate) fn finish(self) {
        let bytes = ByteSize(self.done.load(Ordering::Relaxed));
        if bytes.0 == 0 {
            return;
        }
        let seconds = self.since.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.messages
            .note(&format!("{}: {bytes} in {seconds:.1} s", self.label));
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Text from images and registries must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
