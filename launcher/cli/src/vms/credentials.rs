//! What a guest is told without touching its disk: systemd credentials and
//! other strings, as SMBIOS strings of type 11 (systemd's
//! systemd.system-credentials(7)).

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use base64ct::{Base64, Encoding as _};

use super::accel::find_program;

/// A string of type 11 that systemd's UEFI stub adds to the command line;
/// here, where no stub runs, the launcher does.
const COMMAND_LINE: &str = "io.systemd.stub.kernel-cmdline-extra=";

/// The credential with the keys that may log in as root.
pub(crate) const ROOT_KEYS: &str = "ssh.authorized_keys.root";

/// A credential as it is passed on.
pub(crate) fn credential(name: &str, value: &[u8]) -> String {
    // Base64 can carry line breaks.
    let value = Base64::encode_string(value);
    format!("io.systemd.credential.binary:{name}={value}")
}

/// Splits `NAME=VALUE` of the command line.
pub(crate) fn parse(text: &str) -> anyhow::Result<(&str, &str)> {
    let Some((name, value)) = text.split_once('=') else {
        bail!("--credential {text}: it is not NAME=VALUE");
    };
    // systemd's credential_name_valid: what is a file name, and no more.
    let valid = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.chars().all(valid) {
        bail!("--credential {text}: {name:?} is no name for a credential");
    }
    Ok((name, value))
}

/// What the strings add to the command line.
pub(crate) fn command_line(strings: &[String]) -> impl Iterator<Item = &str> {
    strings.iter().filter_map(|s| s.strip_prefix(COMMAND_LINE))
}

/// Makes an ssh key at `path`, and one for the public half beside it, which
/// is returned.
pub(crate) fn make_key(path: &Path) -> anyhow::Result<String> {
    let public = path.with_extension("pub");
    if !path.exists() || !public.exists() {
        let program = find_program("ssh-keygen")
            .context("--ssh needs ssh and ssh-keygen (Debian, Ubuntu: openssh-client)")?;
        let output = Command::new(program)
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "bootwright", "-f"])
            .arg(path)
            .output()
            .context("cannot run ssh-keygen")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("ssh-keygen failed: {}", said.trim());
        }
    }
    std::fs::read_to_string(&public).with_context(|| format!("cannot read {}", public.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn credentials_carry_any_bytes() {
        assert_eq!(
            credential("a", b"x\ny"),
            "io.systemd.credential.binary:a=eAp5"
        );
    }

    #[test]
    fn names_of_credentials_are_checked() {
        assert_eq!(parse("a.b=c=d").unwrap(), ("a.b", "c=d"));
        for text in ["", "a", "=x", "a/b=x", ".a=x", "a b=x", "a:b=x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_stub_would_add_is_added() {
        let strings = [
            "other=1".to_owned(),
            "io.systemd.stub.kernel-cmdline-extra=a b".to_owned(),
        ];
        assert_eq!(command_line(&strings).collect::<Vec<_>>(), ["a b"]);
    }
}
