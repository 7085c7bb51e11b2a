//! Virtual machines on a real node: containerd, runc, the kubelet and QEMU do
//! what they do in any cluster. `cargo xtask test node` starts the node, puts
//! the images in its registry, installs `templates/cluster`, and runs these
//! within the node's network.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cluster;
mod device;
mod images;
mod machine;
mod monitoring;
mod plugin;
mod pool;
#[path = "../prometheus/mod.rs"]
mod prometheus;
mod rights;
// The same as of the plugin's own tests, which send signals, too.
#[allow(dead_code)]
#[path = "../../../kubectl/tests/hostile/terminal.rs"]
mod terminal;
