//! Platforms: which of an index's images is wanted.
//!
//! A [`Platform`] is read from `--platform`, from an index's entries and from
//! an image's config, normalised the way containerd does so that `aarch64`,
//! `arm64` and `arm64/v8` are the same, and compared by [`Platform::rank`].
//! Only variants are ever substituted for one another, never architectures:
//! a disk boots on one.

use std::fmt;
use std::str::FromStr;

/// An operating system, an architecture and its variant, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Text that is no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a platform; expected OS/ARCH[/VARIANT] or ARCH, for example linux/arm64")]
pub struct PlatformError(pub String);

impl Platform {
    /// A platform with its names normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.unwrap_or_default().to_ascii_lowercase();
        // containerd platforms/database.go, normalizeArch.
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "386" | "i686", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "v9" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le", v) => ("ppc64le", v),
            ("loongarch64", v) => ("loong64", v),
            (a, v) => (a, v),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
        }
    }

    /// A platform from parts that came with an image.
    ///
    /// # Errors
    /// A part is empty or has characters no platform has.
    pub fn from_parts(
        os: &str,
        architecture: &str,
        variant: Option<&str>,
    ) -> Result<Self, PlatformError> {
        let variant = variant.filter(|v| !v.is_empty());
        let parts = [Some(os), Some(architecture), variant];
        if !parts.into_iter().flatten().all(is_part) {
            let text = format!("{os}/{architecture}/{}", variant.unwrap_or_default());
            return Err(PlatformError(text.chars().take(200).collect()));
        }
        Ok(Self::new(os, architecture, variant))
    }

    /// Linux on the architecture this program was built for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// The operating system: `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture: `amd64`, `arm64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant; `None` for an architecture's base line (`amd64/v1`,
    /// `arm64/v8`).
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether this is what build tools write for attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// How well `offered` runs where `self` is asked for: 0 is best, `None`
    /// not at all. An older variant of the same architecture will do.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if self.variant == offered.variant {
            return Some(0);
        }
        let wanted = self.level()?;
        let have = offered.level()?;
        // Tenths apart: v8.2 is nearer to v8.1 than to v8.
        wanted.checked_sub(have).filter(|apart| *apart > 0)
    }

    /// The variant as a number of tenths: `v8.2` is 82.
    fn level(&self) -> Option<u32> {
        let variant = match (self.architecture.as_str(), self.variant.as_deref()) {
            ("amd64", None) => "v1",
            ("arm64", None) => "v8",
            (_, None) => return None,
            (_, Some(variant)) => variant,
        };
        let (major, minor) = match variant.strip_prefix('v')?.split_once('.') {
            Some((major, minor)) => (major, minor),
            None => (variant.strip_prefix('v')?, "0"),
        };
        let digit = |text: &str| text.parse::<u8>().ok().filter(|n| *n < 10).map(u32::from);
        Some(digit(major)? * 10 + digit(minor)?)
    }
}

/// Whether this can be a part of a platform's name.
fn is_part(part: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !part.is_empty() && part.len() <= 64 && part.chars().all(valid)
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError(text.chars().take(200).collect());
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| is_part(part)) {
            return Err(error());
        }
        match parts.as_slice() {
            // An operating system alone says nothing about the architecture.
            ["linux" | "windows" | "darwin" | "freebsd"] => Err(error()),
            [architecture] => Ok(Self::new("linux", architecture, None)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_same_platform_are_equal() {
        for (text, full) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm", "linux/arm/v7"),
            ("armel", "linux/arm/v6"),
            ("Linux/ARM64", "linux/arm64"),
            ("riscv64", "linux/riscv64"),
            ("i386", "linux/386"),
        ] {
            let parsed: Platform = text.parse().unwrap();
            assert_eq!(parsed.to_string(), full, "{text}");
            assert_eq!(full.parse(), Ok(parsed), "{full}");
        }
    }

    #[test]
    fn text_that_is_no_platform_is_refused() {
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/am d64",
            "linux//v8",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_older_variant_will_do_and_the_nearest_is_best() {
        for (wanted, offered, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(10)),
            ("linux/amd64/v3", "linux/amd64", Some(20)),
            ("linux/amd64/v3", "linux/386", None),
            ("linux/arm/v7", "linux/arm/v6", Some(10)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/arm64/v8.2", "linux/arm64", Some(2)),
            ("linux/arm64/v9", "linux/arm64", Some(10)),
            ("linux/arm64", "windows/arm64", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("linux/ppc64le/power9", "linux/ppc64le/power8", None),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            let offered: Platform = offered.parse().unwrap();
            assert_eq!(wanted.rank(&offered), rank, "{wanted} gets {offered}");
        }
    }
}
