//! Where packages come from: the mirror that this machine itself uses.

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::proc;

/// The sources that the image itself is to have: none, as only the machine it
/// runs on knows a mirror near it.
pub(crate) const UNSET: &str = "# No mirror is set. sources.list(5) tells what to write here.\n";

/// This machine's Debian mirrors and how far it trusts their dates.
#[derive(Debug)]
pub(crate) struct Mirror {
    main: String,
    security: Option<String>,
    /// Lines for each stanza, such as `Check-Valid-Until: no`.
    options: String,
}

impl Mirror {
    /// Asks apt.
    ///
    /// # Errors
    /// apt knows no Debian mirror.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let sh = Shell::new()?;
        let mut targets = known(&sh)?;
        // apt tells only of the lists that it has.
        if targets.is_empty() && rustix::process::geteuid().is_root() {
            proc::run(cmd!(sh, "apt-get --quiet update"))?;
            targets = known(&sh)?;
        }
        let find = |label: &str| {
            targets.lines().find_map(|line| {
                let (found, uri) = line.split_once(' ')?;
                (found == label).then(|| uri.trim_end_matches('/').to_owned())
            })
        };
        let mut options = String::new();
        for option in ["Check-Valid-Until", "Check-Date"] {
            let (format, name) = ("%v%n", format!("Acquire::{option}"));
            let value = proc::read(cmd!(sh, "apt-config dump --format {format} {name}"))?;
            if ["false", "no", "0", "off"].contains(&value.as_str()) {
                options += &format!("{option}: no\n");
            }
        }
        Ok(Self {
            main: find("Debian").context(
                "apt knows no Debian mirror here; name one in /etc/apt/sources.list.d and run apt-get update",
            )?,
            security: find("Debian-Security"),
            options,
        })
    }

    /// The sources of `suite` from these mirrors, as sources.list(5) has them
    /// in deb822 style.
    pub(crate) fn sources(&self, suite: &str) -> String {
        let options = &self.options;
        let stanza = |uri: &str, suites: &str| {
            format!(
                "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n{options}"
            )
        };
        let mut text = stanza(&self.main, &format!("{suite} {suite}-updates"));
        if let Some(security) = &self.security {
            text += &format!("\n{}", stanza(security, &format!("{suite}-security")));
        }
        text
    }
}

/// Lines of label and address, one for each list of packages that apt has.
fn known(sh: &Shell) -> Result<String> {
    let format = "$(LABEL) $(REPO_URI)";
    let (packages, debian) = ("Created-By: Packages", "Origin: Debian");
    proc::read(cmd!(
        sh,
        "apt-get indextargets --format {format} {packages} {debian}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_carry_mirror_and_options_in_every_stanza() {
        let mirror = Mirror {
            main: "http://mirror.example/debian".into(),
            security: Some("http://mirror.example/security".into()),
            options: "Check-Date: no\n".into(),
        };
        let text = mirror.sources("trixie");
        assert_eq!(text.matches("Check-Date: no").count(), 2);
        assert!(text.contains("URIs: http://mirror.example/security\nSuites: trixie-security\n"));
    }
}
