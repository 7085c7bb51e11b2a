//! The filter of system calls that the profile `RuntimeDefault` stands for.
//!
//! Podman's list, in Docker's form, is on Debian's systems as a file. What
//! containerd's own refuses beyond it, is taken out: such a launcher has to do
//! with less than either allows.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where Debian keeps Podman's list.
const LIST: &str = "/usr/share/containers/seccomp.json";

/// Calls that containerd's list has not, or only with capabilities that no
/// launcher has (containerd 2.4, contrib/seccomp/seccomp_default.go).
const REFUSED: [&str; 20] = [
    "clone",
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "setns",
    "syslog",
    "umount",
    "umount2",
    "unshare",
];

/// The flags of clone(2) that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;

/// errno(3).
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The filter of a process with these capabilities, in the form of the OCI
/// runtime specification ("Seccomp").
pub(super) fn filter(capabilities: &[String]) -> Result<Value> {
    let text = fs::read_to_string(LIST).with_context(|| format!("cannot read {LIST}"))?;
    let list = serde_json::from_str(&text).with_context(|| LIST.to_owned())?;
    Ok(of_list(&list, capabilities))
}

fn of_list(list: &Value, capabilities: &[String]) -> Value {
    let mut rules = Vec::new();
    for rule in list["syscalls"].as_array().into_iter().flatten() {
        if !applies(rule, capabilities) {
            continue;
        }
        let names = words(&rule["names"]).filter(|name| !REFUSED.contains(name));
        let names: Vec<_> = names.collect();
        if names.is_empty() {
            continue;
        }
        let mut kept = json!({ "names": names, "action": rule["action"] });
        for (key, value) in [("args", &rule["args"]), ("errnoRet", &rule["errnoRet"])] {
            if !value.is_null() {
                kept[key] = value.clone();
            }
        }
        rules.push(kept);
    }
    let no_namespace = json!({ "index": 0, "value": NAMESPACES, "valueTwo": 0,
                               "op": "SCMP_CMP_MASKED_EQ" });
    rules.push(json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespace] }));
    // Its flags are in memory, where no filter looks: the C library is to take
    // the call above.
    rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

/// Whether a rule is one for this architecture and such a process.
fn applies(rule: &Value, capabilities: &[String]) -> bool {
    let has = |name: &str| capabilities.iter().any(|own| own == name);
    let architectures = &rule["includes"]["arches"];
    (architectures.is_null() || words(architectures).any(|name| name == "amd64"))
        && words(&rule["includes"]["caps"]).all(has)
        && !words(&rule["excludes"]["caps"]).any(has)
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_chosen_by_capabilities_and_namespaces_cannot_be_made() {
        let list = json!({ "syscalls": [
            { "names": ["read", "mount"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["umount2"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["other"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm64"] } },
            { "names": ["acct"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_PACCT"] } },
            { "names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
              "excludes": { "caps": ["CAP_SYS_PACCT"] } },
        ] });
        let rules = |capabilities: &[&str]| {
            let capabilities: Vec<_> = capabilities.iter().map(|&c| c.to_owned()).collect();
            let rules = of_list(&list, &capabilities)["syscalls"].clone();
            let rules = rules.as_array().unwrap().iter();
            let shown = rules.map(|rule| {
                let names: Vec<_> = words(&rule["names"]).collect();
                format!("{} {}", rule["action"].as_str().unwrap(), names.join(" "))
            });
            shown.collect::<Vec<_>>()
        };
        let always = ["SCMP_ACT_ALLOW clone", "SCMP_ACT_ERRNO clone3"];
        for (capabilities, acct) in [
            (&[][..], "SCMP_ACT_ERRNO acct"),
            (&["CAP_SYS_PACCT"], "SCMP_ACT_ALLOW acct"),
        ] {
            let expect = [&["SCMP_ACT_ALLOW read", acct][..], &always].concat();
            assert_eq!(rules(capabilities), expect);
        }
    }
}
