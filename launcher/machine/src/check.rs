//! Reading a machine, and what is wrong with one.

use std::collections::BTreeSet;

use crate::{Data, Disk, Exec, MAX_DISKS, Machine, Probes, Source};

/// The longest text of a machine, in bytes: what etcd takes of an object.
const MAX_TEXT: usize = 3 << 19;

/// The most words of a command, and the most bytes of all of them: SMBIOS,
/// which hands it on, has 64 KiB for everything.
const MAX_WORDS: usize = 64;
const MAX_COMMAND: usize = 4096;

/// The longest path.
const MAX_PATH: usize = 4096;

/// The longest reference of an image.
const MAX_REFERENCE: usize = 1024;

/// The longest label of a file system of files: ISO 9660's.
const MAX_LABEL: usize = 32;

/// The longest serial number of a disk or a machine.
const MAX_SERIAL: usize = 64;

/// What huge pages there are.
const PAGES: [u64; 3] = [0, 2 << 20, 1 << 30];

/// A machine that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// It is no JSON, or not a machine's.
    #[error("this is no machine that this launcher can start: {0}")]
    Json(String),
    /// A field that makes no sense.
    #[error("{field}: {why}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong with it.
        why: String,
    },
}

fn wrong(field: impl Into<String>, why: impl Into<String>) -> MachineError {
    MachineError::Field {
        field: field.into(),
        why: why.into(),
    }
}

impl Machine {
    /// Reads and checks a machine.
    ///
    /// # Errors
    /// If it is none, or a field makes no sense; the message names the field.
    pub fn from_json(json: &[u8]) -> Result<Self, MachineError> {
        if json.len() > MAX_TEXT {
            let text = format!("{} bytes of at most {MAX_TEXT}", json.len());
            return Err(MachineError::Json(text));
        }
        let machine: Self =
            serde_json::from_slice(json).map_err(|e| MachineError::Json(e.to_string()))?;
        machine.check()?;
        Ok(machine)
    }

    /// Checks that the fields make sense, each by itself.
    ///
    /// # Errors
    /// If one does not.
    pub fn check(&self) -> Result<(), MachineError> {
        name("name", &self.name, 253)?;
        if let Some(uuid) = &self.uuid {
            let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
            let hex = uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
            if !hex || lengths != [8, 4, 4, 4, 12] {
                return Err(wrong("uuid", format!("{uuid:?} is no UUID")));
            }
        }
        serial("serial", self.serial.as_deref())?;
        self.cpus_and_memory()?;
        if let Some(kernel) = &self.kernel {
            absolute("kernel.folder", &kernel.folder)?;
            within("kernel.path", &kernel.path)?;
            if let Some(path) = &kernel.initramfs {
                within("kernel.initramfs", path)?;
            }
            text("kernel.commandLine", &kernel.command_line, MAX_PATH)?;
        }
        self.disks()?;
        if let Some(interface) = &self.interface {
            self::text("interface.name", &interface.name, 63)?;
            if mac(&interface.mac).is_none() {
                let why = format!("{:?} is no hardware address", interface.mac);
                return Err(wrong("interface.mac", why));
            }
            for (field, ports) in [("tcp", &interface.tcp), ("udp", &interface.udp)] {
                if ports.iter().flatten().any(|port| *port == 0) {
                    return Err(wrong(format!("interface.{field}"), "0 is no port"));
                }
            }
        }
        if let Some(port) = self.metrics_port {
            let listed = self.interface.as_ref().and_then(|i| i.tcp.as_ref());
            if port == 0 || listed.is_some_and(|ports| ports.contains(&port)) {
                let why = format!("{port} is no port, or one of the guest's");
                return Err(wrong("metricsPort", why));
            }
        }
        for (index, keys) in self.keys.iter().enumerate() {
            absolute(format!("keys[{index}].folder"), &keys.folder)?;
        }
        self.probes.check()
    }

    fn cpus_and_memory(&self) -> Result<(), MachineError> {
        let cpus = self.cpus;
        let counts = [cpus.sockets, cpus.cores, cpus.threads];
        let count = counts.iter().try_fold(1u32, |a, b| a.checked_mul(*b));
        if !count.is_some_and(|count| (1..=254).contains(&count)) {
            return Err(wrong("cpus", format!("{counts:?}: there can be 1 to 254")));
        }
        if cpus.max_sockets < cpus.sockets {
            return Err(wrong(
                "cpus.maxSockets",
                "fewer than there are at the start",
            ));
        }
        let memory = self.memory;
        if memory.bytes == 0 || memory.max_bytes < memory.bytes {
            let why = format!("{} bytes of at most {}", memory.bytes, memory.max_bytes);
            return Err(wrong("memory.bytes", why));
        }
        if !PAGES.contains(&memory.page_bytes) {
            let why = format!("there are no huge pages of {} bytes", memory.page_bytes);
            return Err(wrong("memory.pageBytes", why));
        }
        Ok(())
    }

    fn disks(&self) -> Result<(), MachineError> {
        if self.disks.is_empty() && self.kernel.is_none() {
            return Err(wrong("disks", "there is none, and no kernel either"));
        }
        if self.disks.len() > MAX_DISKS {
            let why = format!("{} of at most {MAX_DISKS}", self.disks.len());
            return Err(wrong("disks", why));
        }
        let names: BTreeSet<_> = self.disks.iter().map(|disk| &disk.name).collect();
        if names.len() < self.disks.len() {
            return Err(wrong("disks", "two have the same name"));
        }
        let mut disks = self.disks.iter().enumerate();
        disks.try_for_each(|(n, disk)| one_disk(n, disk))
    }
}

impl Probes {
    /// Checks that the commands can be handed on.
    ///
    /// # Errors
    /// If one cannot.
    pub fn check(&self) -> Result<(), MachineError> {
        let probes = [("liveness", &self.liveness), ("readiness", &self.readiness)];
        for (name, exec) in probes {
            if let Some(exec) = exec {
                exec.check(name)?;
            }
        }
        Ok(())
    }
}

impl Exec {
    fn check(&self, name: &str) -> Result<(), MachineError> {
        let field = format!("probes.{name}.command");
        if self.command.first().is_none_or(String::is_empty) {
            return Err(wrong(field, "it names no program"));
        }
        let bytes: usize = self.command.iter().map(String::len).sum();
        if self.command.len() > MAX_WORDS || bytes > MAX_COMMAND {
            let why = format!("more than {MAX_WORDS} words or {MAX_COMMAND} bytes");
            return Err(wrong(field, why));
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return Err(wrong(field, "there is a zero byte in it"));
        }
        match self.timeout_seconds {
            0 => Err(wrong(format!("probes.{name}.timeoutSeconds"), "it is 0")),
            _ => Ok(()),
        }
    }
}

fn one_disk(index: usize, disk: &Disk) -> Result<(), MachineError> {
    let field = |name: &str| format!("disks[{index}].{name}");
    name(field("name"), &disk.name, 63)?;
    serial(field("serial"), disk.serial.as_deref())?;
    match &disk.source {
        Source::Root { folder } => absolute(field("source.root.folder"), folder),
        Source::ContainerDisk { folder, path } => {
            absolute(field("source.containerDisk.folder"), folder)?;
            match path {
                Some(path) => within(field("source.containerDisk.path"), path),
                None => Ok(()),
            }
        }
        Source::Image {
            reference,
            auth_file,
            ..
        } => {
            if reference.is_empty() {
                return Err(wrong(field("source.image.reference"), "it is empty"));
            }
            text(field("source.image.reference"), reference, MAX_REFERENCE)?;
            match auth_file {
                Some(path) => absolute(field("source.image.authFile"), path),
                None => Ok(()),
            }
        }
        Source::Device { path, .. } => absolute(field("source.device.path"), path),
        Source::Empty { bytes } => match bytes {
            // 64 TiB, the most that an overlay holds.
            512..=0x4000_0000_0000 => Ok(()),
            _ => Err(wrong(field("source.empty.bytes"), format!("{bytes}"))),
        },
        Source::CloudInit {
            user_data,
            network_data,
            ..
        } => {
            for (name, data) in [("userData", user_data), ("networkData", network_data)] {
                if let Some(Data::File(path)) = data {
                    absolute(field(&format!("source.cloudInit.{name}.file")), path)?;
                }
            }
            Ok(())
        }
        Source::Files { folder, label } => {
            absolute(field("source.files.folder"), folder)?;
            match label {
                Some(label) => text(field("source.files.label"), label, MAX_LABEL),
                None => Ok(()),
            }
        }
    }
}

/// A name as Kubernetes' objects have them.
fn name(field: impl Into<String>, name: &str, most: usize) -> Result<(), MachineError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    match !name.is_empty() && name.len() <= most && name.chars().all(good) {
        true => Ok(()),
        false => Err(wrong(field, format!("{name:?} is no name"))),
    }
}

/// Printable text of one line.
fn text(field: impl Into<String>, text: &str, most: usize) -> Result<(), MachineError> {
    match text.len() <= most && !text.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(wrong(
            field,
            format!("it has to be one line of at most {most} bytes"),
        )),
    }
}

fn serial(field: impl Into<String>, serial: Option<&str>) -> Result<(), MachineError> {
    match serial {
        Some(serial) => text(field, serial, MAX_SERIAL),
        None => Ok(()),
    }
}

/// A path of the pod's.
fn absolute(field: impl Into<String>, path: &str) -> Result<(), MachineError> {
    match path.starts_with('/') && is_path(path) {
        true => Ok(()),
        false => Err(wrong(
            field,
            format!("{path:?} is no absolute path without .."),
        )),
    }
}

/// A path within a folder, with or without a slash before it.
fn within(field: impl Into<String>, path: &str) -> Result<(), MachineError> {
    match is_path(path) {
        true => Ok(()),
        false => Err(wrong(field, format!("{path:?} is no path without .."))),
    }
}

fn is_path(path: &str) -> bool {
    !path.trim_matches('/').is_empty()
        && path.len() <= MAX_PATH
        && !path.contains('\0')
        && path.split('/').all(|part| part != "..")
}

/// A hardware address as six bytes.
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        // Rust's own reading takes a sign as well.
        let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let part = parts.next().filter(hex)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // Frames to many are no one's own address (IEEE 802, 8.2).
    (parts.next().is_none() && bytes[0] & 1 == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn machine() -> Value {
        json!({
            "name": "web",
            "uuid": "4b8f6a52-91d2-4c67-a7d5-0d4d4f8c2b11",
            "emulated": false,
            "cpus": { "sockets": 1, "cores": 2, "threads": 1, "maxSockets": 4 },
            "memory": { "bytes": 1 << 30, "maxBytes": 1 << 30, "pageBytes": 0 },
            "disks": [
                { "name": "root", "readOnly": false,
                  "source": { "root": { "folder": "/run/root" } } },
                { "name": "data", "readOnly": true,
                  "source": { "containerDisk": { "folder": "/run/data", "path": "/a.img" } } },
            ],
            "interface": { "name": "default", "mac": "02:00:00:00:00:01", "tcp": [80] },
            "devices": { "console": true, "logConsole": true, "balloon": true, "vsock": true,
                         "diskQueues": false, "interfaceQueues": false },
            "graceSeconds": 30,
            "paused": false,
            "endsOnReboot": false,
        })
    }

    fn read(value: &Value) -> Result<Machine, MachineError> {
        Machine::from_json(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(read(&machine()).is_ok());
        let long = "a".repeat(70);
        let table = [
            ("/name", json!("We\nb"), "name: \"We\\nb\" is no name"),
            ("/name", json!(""), "name: \"\" is no name"),
            ("/uuid", json!("x"), "uuid: \"x\" is no UUID"),
            ("/serial", json!(long), "serial: it has to be one line"),
            ("/cpus/cores", json!(0), "cpus: [1, 0, 1]"),
            ("/cpus/cores", json!(u32::MAX), "cpus: [1, 4294967295, 1]"),
            ("/cpus/maxSockets", json!(0), "cpus.maxSockets"),
            ("/memory/bytes", json!(0), "memory.bytes"),
            ("/memory/maxBytes", json!(1), "memory.bytes"),
            ("/memory/pageBytes", json!(4096), "memory.pageBytes"),
            ("/disks", json!([]), "disks: there is none"),
            ("/disks/1/name", json!("root"), "two have the same name"),
            (
                "/disks/0/source",
                json!({ "root": { "folder": "relative" } }),
                "disks[0].source.root.folder: \"relative\" is no absolute path",
            ),
            (
                "/disks/0/source",
                json!({ "device": { "path": "/a/../../etc/shadow", "ephemeral": true } }),
                "disks[0].source.device.path",
            ),
            (
                "/disks/1/source/containerDisk/path",
                json!("../../../etc/shadow"),
                "disks[1].source.containerDisk.path",
            ),
            (
                "/disks/0/source",
                json!({ "empty": { "bytes": 0 } }),
                "disks[0].source.empty.bytes",
            ),
            (
                "/disks/0/source",
                json!({ "files": { "folder": "/x", "label": long } }),
                "disks[0].source.files.label",
            ),
            (
                "/disks/0/source",
                json!({ "cloudInit": { "kind": "noCloud", "userData": { "file": "x" } } }),
                "disks[0].source.cloudInit.userData.file",
            ),
            (
                "/disks/0/source",
                json!({ "image": { "reference": "", "holds": "root" } }),
                "disks[0].source.image.reference",
            ),
            (
                "/disks/0/source",
                json!({ "image": { "reference": "a", "holds": "disk", "authFile": "x" } }),
                "disks[0].source.image.authFile",
            ),
            ("/disks/0/source", json!({ "host": {} }), "unknown variant"),
            (
                "/disks/0/source",
                json!(null),
                "no machine that this launcher",
            ),
            (
                "/interface/mac",
                json!("03:00:00:00:00:01"),
                "interface.mac",
            ),
            ("/interface/mac", json!("02:00:00:00:01"), "interface.mac"),
            (
                "/interface/mac",
                json!("02:00:00:00:00:+1"),
                "interface.mac",
            ),
            ("/interface/tcp", json!([0]), "interface.tcp: 0 is no port"),
            (
                "/interface/tcp",
                json!([65536]),
                "no machine that this launcher",
            ),
            (
                "/kernel",
                json!({ "folder": "/k", "path": "..", "commandLine": "" }),
                "kernel.path",
            ),
            (
                "/kernel",
                json!({ "folder": "/k", "path": "/vmlinuz", "commandLine": "a\nb" }),
                "kernel.commandLine",
            ),
            (
                "/keys",
                json!([{ "folder": "", "kind": "noCloud" }]),
                "keys[0].folder",
            ),
            ("/metricsPort", json!(0), "metricsPort: 0 is no port"),
            ("/metricsPort", json!(80), "metricsPort: 80 is no port, or"),
            (
                "/probes",
                json!({ "liveness": { "command": ["a", "b\0"], "timeoutSeconds": 1 } }),
                "probes.liveness.command: there is a zero byte",
            ),
            (
                "/probes",
                json!({ "readiness": { "command": vec!["a"; 65], "timeoutSeconds": 1 } }),
                "probes.readiness.command: more than 64 words",
            ),
            (
                "/probes",
                json!({ "readiness": { "command": ["a".repeat(4097)], "timeoutSeconds": 1 } }),
                "or 4096 bytes",
            ),
            (
                "/probes",
                json!({ "readiness": { "command": [], "timeoutSeconds": 1 } }),
                "probes.readiness.command: it names no program",
            ),
            (
                "/probes",
                json!({ "liveness": { "command": [""], "timeoutSeconds": 1 } }),
                "probes.liveness.command: it names no program",
            ),
            (
                "/probes",
                json!({ "liveness": { "command": ["a"], "timeoutSeconds": 0 } }),
                "probes.liveness.timeoutSeconds",
            ),
            ("/more", json!(1), "unknown field `more`"),
        ];
        for (pointer, value, words) in table {
            let mut changed = machine();
            match changed.pointer_mut(pointer) {
                Some(place) => *place = value,
                None => {
                    changed[pointer.trim_start_matches('/')] = value;
                }
            }
            let error = read(&changed).unwrap_err().to_string();
            assert!(error.contains(words), "{pointer}: {error}");
        }
    }

    #[test]
    fn what_is_no_machine_is_said_in_one_line() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "null", "[]", "\u{0}", &deep, "{\"name\": 1}"] {
            let error = Machine::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
        let error = Machine::from_json(&vec![b' '; MAX_TEXT + 1]).unwrap_err();
        assert!(error.to_string().contains("at most"), "{error}");
    }
}
