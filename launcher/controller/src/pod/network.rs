//! The interface and its ports.

use k8s_openapi::api::core::v1::ContainerPort;

use super::METRICS_PORT;
use crate::api::devices::{self, Protocol};
use crate::api::instance::InstanceSpec;
use crate::machine;

/// The name of the network that a machine without interfaces is connected to.
const DEFAULT_NETWORK: &str = "default";

/// The interface to the pod's network, unless there is none.
pub(super) fn interface(spec: &InstanceSpec, uid: &str) -> Option<machine::Interface> {
    let devices = &spec.domain.devices;
    let Some(interface) = devices.interfaces.first() else {
        return (devices.autoattach_pod_interface.unwrap_or(true)).then(|| machine::Interface {
            name: DEFAULT_NETWORK.into(),
            mac: mac(uid),
            tcp: None,
            udp: None,
        });
    };
    let listed = |protocol: Protocol| {
        let ports = (interface.ports.iter())
            .filter(|port| of(port) == protocol)
            .map(|port| port.port);
        (!interface.ports.is_empty()).then(|| ports.collect())
    };
    Some(machine::Interface {
        name: interface.name.clone(),
        mac: match &interface.mac_address {
            Some(mac) => mac.replace('-', ":").to_ascii_lowercase(),
            None => mac(uid),
        },
        tcp: listed(Protocol::Tcp),
        udp: listed(Protocol::Udp),
    })
}

/// A hardware address of local administration whose other bytes are the first
/// of the machine's UUID, which are random ones (RFC 9562, section 5.4).
fn mac(uid: &str) -> String {
    let mut digits: Vec<_> = (uid.chars().filter(char::is_ascii_hexdigit))
        .map(|digit| digit.to_ascii_lowercase())
        .take(10)
        .collect();
    digits.resize(10, '0');
    let bytes = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    let bytes: Vec<String> = std::iter::once("02".to_owned()).chain(bytes).collect();
    bytes.join(":")
}

fn of(port: &devices::Port) -> Protocol {
    port.protocol.unwrap_or(Protocol::Tcp)
}

/// The port at which the launcher serves metrics: none if the guest has it, or
/// its name.
pub(super) fn metrics_port(spec: &InstanceSpec, port: Option<u16>) -> Option<u16> {
    let mut ports = (spec.domain.devices.interfaces.iter()).flat_map(|i| &i.ports);
    port.filter(|metrics| {
        !ports.any(|port| {
            (port.port == *metrics && of(port) == Protocol::Tcp)
                || port.name.as_deref() == Some(METRICS_PORT)
        })
    })
}

/// The ports that Services, probes and monitors may name.
pub(super) fn ports(spec: &InstanceSpec, metrics: Option<u16>) -> Vec<ContainerPort> {
    let ports = (spec.domain.devices.interfaces.iter()).flat_map(|i| &i.ports);
    let ports = ports.map(|port| ContainerPort {
        container_port: i32::from(port.port),
        name: port.name.clone(),
        protocol: Some(of(port).word().into()),
        ..ContainerPort::default()
    });
    let metrics = metrics.map(|port| ContainerPort {
        container_port: i32::from(port),
        name: Some(METRICS_PORT.into()),
        protocol: Some(Protocol::Tcp.word().into()),
        ..ContainerPort::default()
    });
    ports.chain(metrics).collect()
}
