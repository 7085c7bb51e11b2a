//! The project's own chores: `cargo xtask help`.
//!
//! Each command installs what it needs, works in `target/xtask`, and leaves
//! nothing running and nothing mounted behind, also when it is interrupted.

mod bench;
mod binary;
mod book;
mod boot;
mod cluster;
mod demo;
mod generate;
mod go;
mod image;
mod images;
mod lab;
mod launch;
mod packages;
mod paths;
mod pod;
mod proc;
mod programs;
mod referees;
mod registries;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_flag = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the Debian packages that the other commands use (as root)
    Setup,
    /// Build the demo's container image from Debian packages
    Image,
    /// Build an image and boot it with `bootwright run`, as an ordinary user
    Demo,
    /// Make the images that run in a cluster, as an OCI layout
    Images(images::Options),
    /// Run all tests, or the given parts of them
    Test {
        /// Parts to run, in this order
        #[arg(value_enum)]
        parts: Vec<test::Part>,
        /// Run the part `node`, after those that are given
        #[arg(long)]
        cluster: bool,
        /// Install nothing
        #[arg(long)]
        no_setup: bool,
    },
    /// Run guests under KVM on an emulated machine that has it
    Lab(lab::Options),
    /// Start and end a Kubernetes API server, or a whole node, to try things with
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Measure speed and memory
    Bench(bench::Options),
    /// Write the man pages, completions and definitions kept in the repository
    Generate {
        /// Write nothing; fail if a file would change
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", proc::explained(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    proc::catch_signals()?;
    match command {
        Command::Setup => setup::packages(setup::Purpose::ALL),
        Command::Image => {
            setup::packages(&[setup::Purpose::Image])?;
            println!("{}", image::debian()?.reference);
            Ok(())
        }
        Command::Demo => demo::run(),
        Command::Images(options) => {
            setup::packages(&[setup::Purpose::Image])?;
            images::run(&options)
        }
        Command::Test {
            mut parts,
            cluster,
            no_setup,
        } => {
            parts.extend(cluster.then_some(test::Part::Node));
            test::run(&parts, !no_setup)
        }
        Command::Lab(options) => {
            setup::packages(&[setup::Purpose::Image, setup::Purpose::Lab])?;
            lab::run(&options)
        }
        Command::Cluster { action } => cluster::run(action),
        Command::Bench(options) => bench::run(&options),
        Command::Generate { check } => generate::run(check),
    }
}
