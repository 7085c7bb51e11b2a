//! What a command is about, as kubectl's and virtctl's users write it:
//! `web`, `bvm/web`, `pool/web`, `vm/web/namespace`.

use std::fmt;
use std::str::FromStr;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A virtual machine.
    Machine,
    /// A pool of them.
    Pool,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its kind, if that is said.
    pub kind: Option<Kind>,
    /// Its name.
    pub name: String,
    /// Its namespace, if that is said.
    pub namespace: Option<String>,
}

impl Kind {
    /// Its resource, as kubectl prints it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Machine => "virtualmachine.bootwright.dev",
            Self::Pool => "virtualmachinepool.bootwright.dev",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Machine => "virtual machine",
            Self::Pool => "pool",
        }
    }

    /// Its short name.
    pub fn short(self) -> &'static str {
        match self {
            Self::Machine => "bvm",
            Self::Pool => "bvmpool",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix(".bootwright.dev").unwrap_or(text);
        match text {
            "bvm" | "vm" | "vms" | "vmi" | "vmis" | "virtualmachine" | "virtualmachines" => {
                Some(Self::Machine)
            }
            "bvmpool"
            | "pool"
            | "pools"
            | "vmpool"
            | "virtualmachinepool"
            | "virtualmachinepools" => Some(Self::Pool),
            _ => None,
        }
    }
}

impl Target {
    /// The kind; `default` if none is said.
    pub fn kind_or(&self, default: Kind) -> Kind {
        self.kind.unwrap_or(default)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{}/", kind.short())?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        let (kind, name, namespace) = match parts[..] {
            [name] => (None, name, None),
            [kind, name] => (Some(kind), name, None),
            [kind, name, namespace] => (Some(kind), name, Some(namespace)),
            _ => {
                return Err(format!(
                    "{text:?} is no NAME, TYPE/NAME or TYPE/NAME/NAMESPACE"
                ));
            }
        };
        let kind = match kind {
            None => None,
            Some(kind) => Some(Kind::parse(kind).ok_or_else(|| {
                format!(
                    "{kind:?} is no type: bvm (or vm) is a virtual machine, pool a pool of them"
                )
            })?),
        };
        // The API server would take a name with a slash or dots for a path.
        for (what, name) in [("name", Some(name)), ("namespace", namespace)] {
            let Some(name) = name else { continue };
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || name.len() > 63 || !name.chars().all(good) {
                return Err(format!(
                    "{name:?} is no {what}: it has 1 to 63 small letters, digits and hyphens"
                ));
            }
        }
        Ok(Self {
            kind,
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
        })
    }
}

/// A machine, and who logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTarget {
    /// The user, if that is said.
    pub user: Option<String>,
    /// The machine.
    pub target: Target,
}

impl FromStr for UserTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, target) = match text.rsplit_once('@') {
            Some((user, target)) => (Some(user), target),
            None => (None, text),
        };
        // ssh would take it for an option.
        if user.is_some_and(|user| user.is_empty() || user.starts_with('-')) {
            return Err(format!("{text:?} names no user before the @"));
        }
        Ok(Self {
            user: user.map(str::to_owned),
            target: target.parse()?,
        })
    }
}

/// A local port and one of a guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The local one; 0 is one that is free.
    pub local: u16,
    /// The guest's.
    pub remote: u16,
}

impl FromStr for Ports {
    type Err = String;

    /// `PORT`, `LOCAL:PORT`, `:PORT`; virtctl has `tcp/` in front.
    fn from_str(text: &str) -> Result<Self, String> {
        let ports = match text.split_once('/') {
            Some(("tcp", ports)) => ports,
            Some(("udp", _)) => {
                return Err("the API server forwards TCP only: use a Service for UDP".to_owned());
            }
            _ => text,
        };
        let port = |text: &str| {
            let port = text.parse().ok().filter(|port| *port > 0);
            port.ok_or_else(|| format!("{text:?} is no port"))
        };
        match ports.split_once(':') {
            None => port(ports).map(|port| Self {
                local: port,
                remote: port,
            }),
            Some((local, remote)) => Ok(Self {
                local: match local {
                    "" | "0" => 0,
                    local => port(local)?,
                },
                remote: port(remote)?,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn objects_are_named_as_in_kubectl_and_virtctl() {
        for (text, kind, name, namespace) in [
            ("web", None, "web", None),
            ("bvm/web", Some(Kind::Machine), "web", None),
            ("vmi/web", Some(Kind::Machine), "web", None),
            (
                "virtualmachines.bootwright.dev/web",
                Some(Kind::Machine),
                "web",
                None,
            ),
            ("pool/web", Some(Kind::Pool), "web", None),
            ("vm/web/shop", Some(Kind::Machine), "web", Some("shop")),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(
                (target.kind, &*target.name, target.namespace.as_deref()),
                (kind, name, namespace),
                "{text}"
            );
        }
        for text in ["", "pod/web", "vm/", "a/b/c/d", "Web", "../x", "vm/web/"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(" is no "), "{error}");
        }
    }

    #[test]
    fn ports_are_given_as_in_kubectl_and_virtctl() {
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
            ("tcp/8080:80", 8080, 80),
        ] {
            assert_eq!(text.parse(), Ok(Ports { local, remote }), "{text}");
        }
        for text in ["", "0", "x:80", "80:0", "udp/53", "70000", "1:2:3"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_user_stands_before_the_machine() {
        let target: UserTarget = "root@vm/web".parse().unwrap();
        assert_eq!(target.user.as_deref(), Some("root"));
        assert_eq!(target.target.name, "web");
        for text in ["@web", "-oProxyCommand=x@web", "root@"] {
            assert!(text.parse::<UserTarget>().is_err(), "{text}");
        }
    }
}
