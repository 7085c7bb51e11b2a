//! What the controller is told: by a file, and by options that outrank it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::pod::Launcher;

/// What the controller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How pods start machines.
    pub launcher: Launcher,
    /// The namespaces whose machines are reconciled; none means all.
    pub namespaces: Vec<String>,
    /// How many machines are reconciled at a time.
    pub concurrency: u16,
    /// Where health and metrics are served, if at all.
    pub listen: Option<SocketAddr>,
    /// The lease that one of several controllers holds, if there may be
    /// several.
    pub lease: Option<LeaseName>,
    /// Who this controller is among them.
    pub identity: String,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The file's contents; each may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct File {
    /// The launcher's image.
    pub launcher_image: Option<String>,
    /// Whether machines run without KVM.
    pub use_emulation: Option<bool>,
    /// Whether nodes have user namespaces.
    pub user_namespaces: Option<bool>,
    /// At which port of their pods launchers serve metrics; 0 for none.
    pub metrics_port: Option<u16>,
    /// Whether nodes have image volumes; true without it.
    pub image_volumes: Option<bool>,
    /// The namespaces whose machines are reconciled.
    pub namespaces: Option<Vec<String>>,
    /// How many machines are reconciled at a time.
    pub concurrency: Option<u16>,
    /// Where health and metrics are served.
    pub listen: Option<SocketAddr>,
    /// The lease that one of several controllers holds.
    pub lease: Option<LeaseName>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not understood.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no launcher.
    #[error("launcherImage is missing: set it in the file, or give --launcher-image")]
    NoImage,
    /// A number is out of range.
    #[error("concurrency: 0 machines at a time are none; leave it out for {DEFAULT_CONCURRENCY}")]
    NoConcurrency,
}

/// How many machines are reconciled at a time, unless it is said.
const DEFAULT_CONCURRENCY: u16 = 32;

/// At which port launchers serve metrics, unless it is said.
pub const DEFAULT_METRICS_PORT: u16 = 9478;

impl File {
    /// Reads a file in YAML.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        serde_saphyr::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// This, with what `other` says instead where it says something.
    #[must_use]
    pub fn overruled_by(self, other: Self) -> Self {
        Self {
            launcher_image: other.launcher_image.or(self.launcher_image),
            use_emulation: other.use_emulation.or(self.use_emulation),
            user_namespaces: other.user_namespaces.or(self.user_namespaces),
            metrics_port: other.metrics_port.or(self.metrics_port),
            image_volumes: other.image_volumes.or(self.image_volumes),
            namespaces: other.namespaces.or(self.namespaces),
            concurrency: other.concurrency.or(self.concurrency),
            listen: other.listen.or(self.listen),
            lease: other.lease.or(self.lease),
        }
    }

    /// The configuration, for a controller of this name.
    ///
    /// # Errors
    /// If something without a default is missing.
    pub fn complete(self, identity: String) -> Result<Config, ConfigError> {
        let concurrency = self.concurrency.unwrap_or(DEFAULT_CONCURRENCY);
        if concurrency == 0 {
            return Err(ConfigError::NoConcurrency);
        }
        let image = self.launcher_image.filter(|image| !image.is_empty());
        let mut namespaces = self.namespaces.unwrap_or_default();
        namespaces.sort();
        namespaces.dedup();
        Ok(Config {
            launcher: Launcher {
                image: image.ok_or(ConfigError::NoImage)?,
                emulation: self.use_emulation.unwrap_or(false),
                user_namespaces: self.user_namespaces.unwrap_or(true),
                metrics_port: Some(self.metrics_port.unwrap_or(DEFAULT_METRICS_PORT))
                    .filter(|port| *port > 0),
                image_volumes: self.image_volumes.unwrap_or(true),
            },
            namespaces,
            concurrency,
            listen: self.listen,
            lease: self.lease,
            identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        File::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_nowhere_has_a_default() {
        let config = parse("launcherImage: example.com/bootwright:1\n").unwrap();
        let config = config.complete("me".into()).unwrap();
        assert!(config.launcher.user_namespaces && !config.launcher.emulation);
        assert_eq!((config.concurrency, config.lease), (32, None));
        assert_eq!(config.launcher.metrics_port, Some(DEFAULT_METRICS_PORT));
    }

    #[test]
    fn options_outrank_the_file() {
        let file =
            parse("launcherImage: a\nuseEmulation: true\nnamespaces: [b, a, b]\nmetricsPort: 0\n");
        let options = File {
            launcher_image: Some("b".into()),
            ..File::default()
        };
        let config = file.unwrap().overruled_by(options).complete("me".into());
        let config = config.unwrap();
        assert_eq!(config.launcher.image, "b");
        assert!(config.launcher.emulation);
        assert_eq!(config.launcher.metrics_port, None);
        assert_eq!(config.namespaces, ["a", "b"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = parse("launcherImages: a\n").unwrap_err();
        assert!(error.contains("launcherImages"), "{error}");
        let error = File::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nowhere"), "{error}");
        let error = File::default().complete("me".into()).unwrap_err();
        assert!(error.to_string().contains("launcherImage"), "{error}");
    }
}
