//! The options that a disk image says it was made with.
//!
//! `push` records the options that shape a disk where they are not the
//! defaults. [`apply`] turns them back into arguments. Of files of the host
//! only a digest or a name was recorded, so those have to be given again.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use bootwright_image::Timestamp;
use clap::ValueEnum as _;

use crate::args::{BootMode, ByteSize, PlanArgs};

/// Sets what was recorded and is not given in `args`; gives the time that was
/// recorded, too.
///
/// # Errors
/// An option was recorded whose value has to be given, or one that is not
/// known.
pub(super) fn apply(
    recorded: &BTreeMap<String, String>,
    args: &mut PlanArgs,
) -> anyhow::Result<Option<Timestamp>> {
    let mut time = None;
    // Either excludes the other.
    let sized = args.size.is_some() || args.free.is_some();
    for (name, value) in recorded {
        let context = || format!("the disk says that it was made with --{name} {value}");
        let size = || value.parse::<ByteSize>().map_err(anyhow::Error::msg);
        let boot = &mut args.boot;
        let customize = &mut args.customize;
        match name.as_str() {
            "size" if !sized => args.size = Some(size().with_context(context)?),
            "free" if !sized => args.free = Some(size().with_context(context)?),
            "size" | "free" => {}
            "boot" if boot.boot.is_none() => {
                let mode = BootMode::from_str(value, false).map_err(anyhow::Error::msg);
                boot.boot = Some(mode.with_context(context)?);
            }
            "esp-size" if boot.esp_size.is_none() => {
                boot.esp_size = Some(size().with_context(context)?);
            }
            "boot" | "esp-size" => {}
            "karg" => fill(&mut boot.kargs, words(value)),
            "karg-delete" => fill(&mut boot.karg_deletes, words(value)),
            "hostname" => customize.hostname = customize.hostname.take().or(Some(value.clone())),
            "user" => fill(&mut customize.users, words(value)),
            "stub" => must_be_given(name, value, boot.stub.is_some())?,
            "loader" => must_be_given(name, value, boot.loader.is_some())?,
            "ssh-key" => must_be_given(name, value, !customize.ssh_keys.is_empty())?,
            "root-password-file" => {
                must_be_given(name, value, customize.root_password_file.is_some())?;
            }
            "file" => must_be_given(name, value, !customize.files.is_empty())?,
            // The file that it was pushed from, whoever made that.
            "disk" => {}
            "source-date-epoch" => {
                let secs = value.parse().with_context(context)?;
                time = Some(Timestamp { secs, nanos: 0 });
            }
            _ => bail!(
                "the disk says that it was made with an option {name} ({value}), which this \
                 program does not know; update bootwright"
            ),
        }
    }
    Ok(time)
}

fn fill(list: &mut Vec<String>, recorded: Vec<String>) {
    if list.is_empty() {
        *list = recorded;
    }
}

fn must_be_given(name: &str, value: &str, given: bool) -> anyhow::Result<()> {
    if !given {
        bail!(
            "the disk was made with --{name} ({value}); give --{name} with the same file to \
             verify it"
        );
    }
    Ok(())
}

/// Words between spaces that are not quoted, as kernel arguments are.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match (c, words.last_mut()) {
            (' ', _) if !quoted => words.push(String::new()),
            (c, Some(word)) => {
                quoted ^= c == '"';
                word.push(c);
            }
            (_, None) => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(more: &[&str]) -> PlanArgs {
        let line = ["bootwright", "build", "image", "-o", "disk"];
        let cli = Cli::try_parse_from(line.iter().chain(more)).unwrap();
        let Command::Build(build) = cli.command else {
            unreachable!("build");
        };
        build.plan
    }

    fn recorded(options: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = options.iter();
        pairs.map(|(n, v)| ((*n).into(), (*v).into())).collect()
    }

    #[test]
    fn recorded_options_are_applied_unless_others_are_given() {
        let recorded = recorded(&[
            ("free", "16777216"),
            ("boot", "none"),
            ("karg", "quiet dyndbg=\"file a.c +p\""),
            ("hostname", "web"),
            ("source-date-epoch", "7"),
        ]);
        let mut plain = args(&[]);
        let time = apply(&recorded, &mut plain).unwrap();
        assert_eq!(time.map(|t| t.secs), Some(7));
        assert_eq!(plain.free, Some(ByteSize(16 << 20)));
        assert_eq!(plain.boot.boot, Some(BootMode::None));
        assert_eq!(plain.boot.kargs, ["quiet", "dyndbg=\"file a.c +p\""]);
        assert_eq!(plain.customize.hostname.as_deref(), Some("web"));

        let mut given = args(&["--size", "2G", "--karg", "debug", "--hostname", "db"]);
        apply(&recorded, &mut given).unwrap();
        assert_eq!((given.size, given.free), (Some(ByteSize(2 << 30)), None));
        assert_eq!(given.boot.kargs, ["debug"]);
        assert_eq!(given.customize.hostname.as_deref(), Some("db"));
    }

    #[test]
    fn what_was_not_recorded_has_to_be_given() {
        for (name, words) in [
            ("ssh-key", "give --ssh-key with the same file"),
            ("file", "give --file"),
            ("turbo", "does not know; update bootwright"),
        ] {
            let recorded = recorded(&[(name, "x")]);
            let error = apply(&recorded, &mut args(&[])).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let recorded = recorded(&[("ssh-key", "sha256:aa")]);
        apply(&recorded, &mut args(&["--ssh-key", "key.pub"])).unwrap();
    }
}
