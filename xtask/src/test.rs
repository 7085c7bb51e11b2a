//! Everything that must hold before a change lands.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::setup::{self, Purpose};
use crate::{binary, book, cluster, demo, generate, image, lab, paths, proc, referees, registries};

/// The version of cargo-deny that deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

/// Points tests at the demo's image, as `oci:DIR:TAG`.
const IMAGE_VARIABLE: &str = "BOOTWRIGHT_TEST_IMAGE";

/// How long the tests of all crates may take, compiling included: several
/// times what they do, so that one that hangs fails and the others are told.
const UNIT_LIMIT: Duration = Duration::from_mins(40);

/// A part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The code is formatted
    Fmt,
    /// clippy has nothing to say
    Clippy,
    /// Man pages, completions and definitions are up to date
    Generated,
    /// Unit, property and integration tests of all crates
    Unit,
    /// The API documentation builds without warnings
    Doc,
    /// The links of the book lead somewhere
    Book,
    /// Licences and origins of the dependencies
    Deny,
    /// The programs that own the formats accept the Debian image's disks
    Referees,
    /// The Debian image boots and answers, from the plan and from a disk with firmware
    Boot,
    /// Debian's kernels run under KVM on an emulated machine
    Lab,
    /// A Kubernetes API server takes the definitions and makes their rules hold
    Cluster,
    /// Virtual machines boot and live on a whole Kubernetes node (as root)
    Node,
}

/// Runs the given parts, or all that this user can run if none is given, and
/// tells them all apart at the end.
pub(crate) fn run(parts: &[Part], set_up: bool) -> Result<()> {
    let mut all = Part::value_variants().to_vec();
    let parts = if parts.is_empty() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("the part `node` is left out, as only root can run it");
            all.retain(|part| *part != Part::Node);
        }
        &all
    } else {
        parts
    };
    if set_up {
        set_up_for(parts)?;
    }
    std::thread::scope(|scope| {
        // Many tests leave a processor idle: Kubernetes is compiled meanwhile.
        let needs_it = |part: &Part| matches!(part, Part::Cluster | Part::Node);
        let early = parts.len() > 1 && parts.iter().any(needs_it);
        let mut kubernetes = early.then(|| scope.spawn(cluster::prepare));
        run_parts(parts, |part| {
            if let Some(thread) = kubernetes.take_if(|_| needs_it(&part)) {
                // What failed is tried again, and then told.
                let _ = thread.join();
            }
            run_part(part)
        })
    })
}

fn run_parts(parts: &[Part], mut work: impl FnMut(Part) -> Result<()>) -> Result<()> {
    let mut outcomes = Vec::new();
    for &part in parts {
        eprintln!("\n== {} ==", name(part));
        let start = Instant::now();
        let result = work(part);
        proc::check_interrupt()?;
        if let Err(error) = &result {
            eprintln!("{} failed: {}", name(part), proc::explained(error));
        }
        outcomes.push((part, result.is_ok(), start.elapsed()));
    }
    summary(&outcomes)
}

fn set_up_for(parts: &[Part]) -> Result<()> {
    let mut purposes = Vec::new();
    for part in parts {
        match part {
            Part::Unit => purposes.extend([Purpose::Image, Purpose::Referees]),
            Part::Referees => purposes.extend([Purpose::Image, Purpose::Referees]),
            Part::Lab => purposes.extend([Purpose::Image, Purpose::Lab]),
            Part::Cluster => purposes.extend([Purpose::Image, Purpose::Cluster]),
            Part::Node => purposes.extend([Purpose::Image, Purpose::Lab, Purpose::Node]),
            Part::Boot => purposes.extend([Purpose::Image, Purpose::Boot]),
            Part::Fmt | Part::Clippy | Part::Generated | Part::Doc | Part::Book | Part::Deny => {}
        }
    }
    setup::packages(&purposes)
}

fn run_part(part: Part) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    match part {
        Part::Fmt => proc::run(cmd!(sh, "cargo fmt --all --check")),
        Part::Clippy => proc::run(cmd!(
            sh,
            "cargo clippy --workspace --all-targets --locked --quiet -- -D warnings"
        )),
        Part::Generated => generate::run(true),
        Part::Unit => {
            sh.set_var(IMAGE_VARIABLE, image::debian()?.reference);
            for (variable, program) in registries::variables()? {
                sh.set_var(variable, program);
            }
            proc::run_within(
                cmd!(sh, "cargo test --workspace --locked --quiet --no-fail-fast"),
                UNIT_LIMIT,
            )
        }
        Part::Doc => {
            sh.set_var("RUSTDOCFLAGS", "-D warnings");
            proc::run(cmd!(
                sh,
                "cargo doc --workspace --no-deps --document-private-items --locked --quiet"
            ))
        }
        Part::Book => book::check(),
        Part::Deny => deny(&sh),
        Part::Referees => referees::run(&image::debian()?, &binary::build()?),
        Part::Boot => demo::test(),
        Part::Lab => lab::test(),
        Part::Cluster => cluster::test(),
        Part::Node => cluster::test_node(),
    }
}

/// Checks licences, duplicates and origins; the advisories too, unless their
/// database cannot be fetched.
fn deny(sh: &Shell) -> Result<()> {
    let tools = paths::product("tools");
    let binary = tools.join("bin/cargo-deny");
    let version = proc::read(cmd!(sh, "{binary} --version")).unwrap_or_default();
    if !version.ends_with(CARGO_DENY) {
        // Unoptimised: it takes seconds to run and minutes to optimise.
        proc::run(cmd!(
            sh,
            "cargo install --quiet --debug --locked --root {tools} --version {CARGO_DENY} cargo-deny"
        ))?;
    }
    proc::run(cmd!(
        sh,
        "{binary} --log-level error check licenses bans sources"
    ))?;
    match proc::output(cmd!(sh, "{binary} fetch db"))?
        .status
        .success()
    {
        true => proc::run(cmd!(sh, "{binary} check --disable-fetch advisories")),
        false => {
            eprintln!("advisories not checked: their database cannot be fetched from here");
            Ok(())
        }
    }
}

fn name(part: Part) -> String {
    part.to_possible_value()
        .map_or_else(String::new, |v| v.get_name().to_owned())
}

/// Prints what passed and what did not; the last line is the tally.
fn summary(outcomes: &[(Part, bool, Duration)]) -> Result<()> {
    println!();
    for (part, passed, time) in outcomes {
        let word = if *passed { "ok" } else { "FAILED" };
        println!(
            "{:<10} {word:<7} {:>6.0} s",
            name(*part),
            time.as_secs_f64()
        );
    }
    let failed = outcomes.iter().filter(|o| !o.1).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    if failed > 0 {
        bail!("not all parts passed");
    }
    Ok(())
}
