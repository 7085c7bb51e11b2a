//! `bootwright node`.

use std::path::PathBuf;

use clap::Args;

/// `bootwright node`.
#[derive(Debug, Args)]
#[command(after_help = "\
Runs on each node of a cluster, as a DaemonSet. It needs the kubelet's folder for plugins and the
device, and no privilege besides them.")]
pub struct NodeArgs {
    /// How many virtual machines of the node can have the device at once
    #[arg(long, value_name = "N", default_value_t = bootwright_node::DEVICES,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(bootwright_node::MAX_DEVICES)))]
    pub devices: u32,
    /// The device that is handed out
    #[arg(long, value_name = "PATH", default_value = bootwright_node::DEVICE, value_hint = clap::ValueHint::FilePath)]
    pub device: String,
    /// The resource's name
    #[arg(long, value_name = "NAME", default_value = bootwright_node::RESOURCE, value_parser = resource)]
    pub resource: String,
    /// The kubelet's folder for plugins
    #[arg(long, value_name = "DIR", default_value = bootwright_node::PLUGINS, value_hint = clap::ValueHint::DirPath)]
    pub plugins: PathBuf,
}

/// The name of an extended resource: a domain, and a name in it.
fn resource(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let whole = |part: &str| (1..=63).contains(&part.len()) && part.chars().all(good);
    match text.split_once('/') {
        Some((domain, name)) if whole(domain) && whole(name) => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} is no DOMAIN/NAME, such as bootwright.dev/kvm"
        )),
    }
}
