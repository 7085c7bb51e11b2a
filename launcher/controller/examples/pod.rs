//! Writes the pod of a VirtualMachine as JSON:
//! `cargo run --example pod -- testdata/pods/bootable-container.yaml`.
//!
//! It is the pod of a node with KVM, user namespaces and image volumes.

use std::collections::BTreeMap;
use std::error::Error;
use std::{env, fs, io};

use bootwright_controller::api::VirtualMachine;
use bootwright_controller::pod::{self, Launcher};

/// Where launchers serve metrics unless the controller is told otherwise.
const METRICS_PORT: u16 = 9478;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("which manifest?"))?;
    let mut vm: VirtualMachine = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
    // What an API server adds.
    let (namespace, uid) = ("default", "4b8f6a52-91d2-4c67-a7d5-0d4d4f8c2b11");
    vm.metadata
        .namespace
        .get_or_insert_with(|| namespace.into());
    vm.metadata.uid.get_or_insert_with(|| uid.into());
    let launcher = Launcher {
        image: "bootwright-launcher".into(),
        emulation: false,
        user_namespaces: true,
        metrics_port: Some(METRICS_PORT),
        image_volumes: true,
    };
    let pod = pod::pod(&vm, &launcher, &BTreeMap::new())?;
    serde_json::to_writer(io::stdout(), &pod)?;
    Ok(())
}
