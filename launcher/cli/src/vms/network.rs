//! A machine's network as the user asks for it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// What a machine's interface leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// passt, which needs no privilege.
    User,
    /// A tap interface that somebody has made.
    Tap(String),
    /// There is none.
    None,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "user" => Ok(Self::User),
            "none" => Ok(Self::None),
            other => match other.strip_prefix("tap:") {
                // IFNAMSIZ of linux/if.h, with the NUL.
                Some(name) if (1..16).contains(&name.len()) => Ok(Self::Tap(name.to_owned())),
                Some(_) => Err("an interface's name has 1 to 15 characters".to_owned()),
                None => Err(format!("{text:?} is neither user nor none nor tap:NAME")),
            },
        }
    }
}

/// A protocol whose ports are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The host's address, all of them if none.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not [ADDRESS:]HOST:GUEST[/tcp|/udp], such as 8080:80");
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(error()),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or_else(error)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                (Some(bare.unwrap_or(address)), host)
            }
        };
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        Ok(Self {
            address: match address {
                None => None,
                Some(address) => Some(address.parse().map_err(|_| error())?),
            },
            host: port(host).ok_or_else(error)?,
            guest: port(guest).ok_or_else(error)?,
            protocol,
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(address) => write!(f, "{address}:")?,
            None => {}
        }
        write!(f, "{}:{}", self.host, self.guest)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl Forward {
    /// A port of this host's loopback that nobody uses, to the guest's `guest`.
    pub(crate) fn to(guest: u16) -> anyhow::Result<Self> {
        let address = Ipv4Addr::LOCALHOST;
        let listener = TcpListener::bind((address, 0)).context("no port is free")?;
        Ok(Self {
            address: Some(address.into()),
            host: listener.local_addr()?.port(),
            guest,
            protocol: Protocol::Tcp,
        })
    }

    /// Refuses a port that somebody uses, before anything else is done.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let address = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let place = (address, self.host);
        let bound = match self.protocol {
            Protocol::Tcp => TcpListener::bind(place).map(drop),
            Protocol::Udp => UdpSocket::bind(place).map(drop),
        };
        bound.with_context(|| format!("--publish {self}: port {} cannot be used", self.host))
    }
}

/// Refuses two forwards of one port.
pub(crate) fn check_all(forwards: &[Forward]) -> anyhow::Result<()> {
    for (n, forward) in forwards.iter().enumerate() {
        forward.check()?;
        let rest = forwards.get(..n).unwrap_or_default();
        if let Some(other) = rest
            .iter()
            .find(|o| (o.host, o.protocol) == (forward.host, forward.protocol))
        {
            bail!("--publish {forward}: the port is that of --publish {other} already");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn forwards_are_read_as_podman_writes_them() {
        for (text, expect) in [
            ("8080:80", Some((None, 8080, 80, Protocol::Tcp))),
            ("53:53/udp", Some((None, 53, 53, Protocol::Udp))),
            (
                "127.0.0.1:1:2/tcp",
                Some((Some("127.0.0.1"), 1, 2, Protocol::Tcp)),
            ),
            ("[::1]:1:2", Some((Some("::1"), 1, 2, Protocol::Tcp))),
            ("80", None),
            ("0:80", None),
            ("80:65536", None),
            ("a:80", None),
            ("host:1:2", None),
            ("1:2/sctp", None),
            ("", None),
        ] {
            let forward = text.parse::<Forward>().ok();
            let expect = expect.map(|(address, host, guest, protocol)| Forward {
                address: address.map(|a: &str| a.parse().unwrap()),
                host,
                guest,
                protocol,
            });
            assert_eq!(forward, expect, "{text}");
            if let Some(forward) = forward {
                assert_eq!(forward.to_string().parse::<Forward>(), Ok(forward));
            }
        }
    }

    #[test]
    fn ports_in_use_are_refused() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let forward: Forward = format!("127.0.0.1:{port}:80").parse().unwrap();
        let error = crate::explained(&forward.check().unwrap_err());
        assert!(error.contains(&port.to_string()), "{error}");
        drop(taken);
        assert!(check_all(&[forward]).is_ok());
        assert!(check_all(&[forward, forward]).is_err());
    }

    #[test]
    fn networks_have_three_kinds() {
        assert_eq!("user".parse(), Ok(Network::User));
        assert_eq!("none".parse(), Ok(Network::None));
        assert_eq!("tap:t0".parse(), Ok(Network::Tap("t0".to_owned())));
        for text in ["", "tap:", "tap:0123456789abcdef", "bridge"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
