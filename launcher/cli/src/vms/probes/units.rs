//! Units for the guest's systemd, as credentials: systemd.system-credentials(7),
//! `systemd.extra-unit` and `systemd.unit-dropin`, from systemd 256 on.
//!
//! In: commands. Out: units that run one each time that they are asked, and
//! answer with the end of its output and, as the last line, its exit status.

use bootwright_machine::{Exec, Probes};

use super::{Kind, with_commands};
use crate::vms::credentials::credential;

/// How much of a command's output comes back, in bytes, with its status: the
/// end of it.
pub(super) const OUTPUT: usize = 1024;

/// What a shell does, in a unit, to run the command that its arguments are: all
/// that is printed is read, so that no command meets a closed pipe, and the
/// end of it, with the status, comes out when nobody can print any more.
const RUN: &str = "{ \"$$@\" 2>&1; s=$$?; echo; echo $$s; } | tail -c 1024";
const _: () = assert!(OUTPUT == 1024);

/// The credentials of a guest with a socket device: a socket, and a service
/// for each connection to it.
pub(crate) fn for_sockets(probes: &Probes) -> Vec<String> {
    let units = |(kind, exec): (Kind, &Exec)| {
        let (name, port, words) = (kind.name(), kind.vsock_port(), quoted(&exec.command));
        // Not in the initrd, whose kernel modules need not know vsock.
        let socket = format!(
            "[Unit]\n\
             Description=The host's {name} probe\n\
             ConditionPathExists=!/etc/initrd-release\n\
             [Socket]\n\
             ListenStream=vsock::{port}\n\
             Accept=yes\n\
             MaxConnections=4\n"
        );
        // Who has asked gives up a second before the command is ended. What it
        // has left running ends with it.
        let most = u64::from(exec.timeout_seconds) + 1;
        let service = format!(
            "[Unit]\n\
             Description=Answer the host's {name} probe\n\
             CollectMode=inactive-or-failed\n\
             [Service]\n\
             StandardInput=null\n\
             StandardOutput=socket\n\
             StandardError=null\n\
             RuntimeMaxSec={most}\n\
             TimeoutStopSec=1\n\
             LogLevelMax=warning\n\
             ExecStart=/bin/sh -c '{RUN}' {name} {words}\n"
        );
        [
            unit(name, "socket", &socket),
            unit(&format!("{name}@"), "service", &service),
            wanted_by("sockets.target", name, "socket"),
        ]
    };
    with_commands(probes).flat_map(units).collect()
}

/// The credentials of a guest without one, but with virtio ports: a service
/// that reads a number from the port, repeats it, runs the command, and
/// answers between that and the number again.
///
/// The port is closed while the command runs: that drops what was asked while
/// the guest stood still, which nobody waits for any more.
pub(crate) fn for_ports(probes: &Probes) -> Vec<String> {
    let units = |(kind, exec): (Kind, &Exec)| {
        let (name, words) = (kind.name(), quoted(&exec.command));
        let (port, most) = (kind.port_name(), exec.timeout_seconds);
        let service = format!(
            "[Unit]\n\
             Description=Answer the host's {name} probe\n\
             StartLimitIntervalSec=0\n\
             [Service]\n\
             StandardInput=null\n\
             StandardOutput=null\n\
             StandardError=null\n\
             LogLevelMax=warning\n\
             Restart=always\n\
             RestartSec=1\n\
             ExecStart=/bin/sh -c 'p=/dev/virtio-ports/{port}; run=$$1; shift; \
             until [ -c $$p ]; do sleep 1; done; exec 3<>$$p; \
             while read -r n <&3; do echo $$n >&3; exec 3>&-; \
             a=$$(timeout -k 1 {most} /bin/sh -c \"$$run\" {name} \"$$@\"); \
             exec 3<>$$p; printf \"%%s\\\\n%%s\\\\n\" \"$$a\" $$n >&3; done' \
             {name} '{RUN}' {words}\n"
        );
        [
            unit(name, "service", &service),
            wanted_by("multi-user.target", name, "service"),
        ]
    };
    with_commands(probes).flat_map(units).collect()
}

fn unit(name: &str, kind: &str, text: &str) -> String {
    credential(
        &format!("systemd.extra-unit.bootwright-{name}.{kind}"),
        text.as_bytes(),
    )
}

fn wanted_by(target: &str, name: &str, kind: &str) -> String {
    credential(
        &format!("systemd.unit-dropin.{target}~bootwright-{name}"),
        format!("[Unit]\nWants=bootwright-{name}.{kind}\n").as_bytes(),
    )
}

/// Words as systemd reads them in a unit: quotes, escapes, specifiers and
/// variables (systemd.service(5), "Command lines"; systemd.syntax(7)).
fn quoted(words: &[String]) -> String {
    let word = |word: &String| {
        let mut text = String::from("\"");
        for c in word.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '%' => text.push_str("%%"),
                '$' => text.push_str("$$"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c => text.push(c),
            }
        }
        text.push('"');
        text
    };
    let words: Vec<_> = words.iter().map(word).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn probes() -> Probes {
        Probes {
            liveness: None,
            readiness: Some(Exec {
                command: vec!["test".into(), "-e".into(), "/run/$x 100%".into()],
                timeout_seconds: 5,
            }),
        }
    }

    /// The names and the contents of credentials.
    fn read(credentials: &[String]) -> Vec<(String, String)> {
        let read = |text: &String| {
            let rest = text.strip_prefix("io.systemd.credential.binary:").unwrap();
            let (name, value) = rest.split_once('=').unwrap();
            let value = String::from_utf8(STANDARD.decode(value).unwrap()).unwrap();
            (name.to_owned(), value)
        };
        credentials.iter().map(read).collect()
    }

    #[test]
    fn words_stay_what_they_are() {
        let words = ["sh", "-c", "echo \"$HOME\" %n\n\\'"].map(str::to_owned);
        assert_eq!(quoted(&words), r#""sh" "-c" "echo \"$$HOME\" %%n\x0a\\'""#);
    }

    #[test]
    fn only_commands_that_there_are_have_units() {
        let none = Probes::default();
        assert!(for_sockets(&none).is_empty() && for_ports(&none).is_empty());
        let names = |all: Vec<String>| -> Vec<String> {
            read(&all).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            names(for_sockets(&probes())),
            [
                "systemd.extra-unit.bootwright-readiness.socket",
                "systemd.extra-unit.bootwright-readiness@.service",
                "systemd.unit-dropin.sockets.target~bootwright-readiness",
            ]
        );
        assert_eq!(
            names(for_ports(&probes())),
            [
                "systemd.extra-unit.bootwright-readiness.service",
                "systemd.unit-dropin.multi-user.target~bootwright-readiness",
            ]
        );
    }

    /// What the shell of the units makes of a command.
    fn ran(words: &[&str]) -> String {
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &RUN.replace("$$", "$"), "liveness"])
            .args(words)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn the_end_of_the_output_and_the_status_come_back() {
        assert_eq!(ran(&["true"]), "\n0\n");
        assert_eq!(ran(&["printf", "a b"]), "a b\n0\n");
        let both = ran(&["sh", "-c", "echo out; echo err >&2; exit 7", "$HOME"]);
        assert_eq!(both, "out\nerr\n\n7\n");
        let missing = ran(&["/no/such/program"]);
        assert!(missing.ends_with("\n127\n"), "{missing}");
        // Megabytes are no reason to fail.
        let much = ran(&["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; exit 3"]);
        assert_eq!(much.len(), OUTPUT);
        assert!(much.starts_with("xxx") && much.ends_with("x\n3\n"));
        let killed = ran(&["sh", "-c", "kill -9 $$"]);
        assert!(killed.ends_with("\n137\n"), "{killed}");
    }

    /// The referee is systemd's own reading of units, where there is one.
    #[test]
    fn systemd_takes_the_units() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (name, text) in read(&[for_sockets(&probes()), for_ports(&probes())].concat()) {
            if let Some(name) = name.strip_prefix("systemd.extra-unit.") {
                // An instance of it can be verified.
                let file = dir.path().join(name.replace('@', "@1"));
                std::fs::write(dir.path().join(name), &text).unwrap();
                std::fs::write(&file, text).unwrap();
                files.push(file);
            }
        }
        let output = std::process::Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--generators=no"])
            .args(&files)
            .output();
        let Ok(output) = output else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours = |line: &&str| line.contains("bootwright-");
        let complaints: Vec<_> = said.lines().filter(ours).collect();
        assert!(complaints.is_empty(), "{said}");
    }
}
