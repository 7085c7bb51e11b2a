//! Processors and memory of a machine that runs.
//!
//! In: what the spec asks for, and what the launcher was told last. Out:
//! whether that is the same, can be had without a restart, or cannot.

use serde::Deserialize;

use crate::api::VirtualMachine;
use crate::api::domain::{Cpu, Memory as ApiMemory};
use crate::machine::{Cpus, Memory};
use crate::pod;

/// The reason of a machine's condition `RestartRequired` where it cannot have
/// its new size while it runs.
pub const CHANGED: &str = "SizeChanged";

/// What the launcher of a pod was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Given {
    /// The processors.
    pub cpus: Cpus,
    /// The memory.
    pub memory: Memory,
    /// Whether instructions are emulated.
    pub emulated: bool,
}

/// What a machine that runs is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Sockets.
    pub sockets: u32,
    /// Memory in bytes.
    pub bytes: u64,
}

/// What becomes of the size that a spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// The machine has it.
    Same,
    /// The machine can have it while it runs.
    Running(Size),
    /// The machine can have it from its next start on, and why not before.
    Restart(String),
}

/// Compares what a machine's spec asks for with what its pod was given.
pub fn fit(vm: &VirtualMachine, given: &Given) -> Fit {
    // What no machine can have is refused when the next pod is made.
    let Ok((cpus, memory)) = pod::size(&vm.spec.template.spec.domain) else {
        return Fit::Same;
    };
    let more_cpus = cpus.sockets != given.cpus.sockets;
    let more_memory = memory.bytes != given.memory.bytes;
    let other = Cpus {
        sockets: given.cpus.sockets,
        max_sockets: given.cpus.max_sockets,
        ..cpus
    };
    if other != given.cpus || memory.page_bytes != given.memory.page_bytes {
        // That is the template's business.
        return Fit::Same;
    }
    let most = given.cpus.max_sockets;
    let why = match (more_cpus, more_memory) {
        (false, false) => return Fit::Same,
        (true, _) if given.emulated => {
            "an emulated machine keeps the processors that it has".to_owned()
        }
        (true, _) if cpus.sockets > most => format!(
            "it was started with at most {most} sockets (domain.cpu.maxSockets), and is to have {}",
            cpus.sockets
        ),
        (_, true) if memory.page_bytes > 0 => "memory of huge pages stays as it is".to_owned(),
        (_, true) if memory.bytes > given.memory.max_bytes => format!(
            "it was started with at most {} of memory (domain.memory.maxGuest), and is to have {}",
            crate::quantity::bytes(given.memory.max_bytes).0,
            crate::quantity::bytes(memory.bytes).0
        ),
        _ => {
            return Fit::Running(Size {
                sockets: cpus.sockets,
                bytes: memory.bytes,
            });
        }
    };
    Fit::Restart(why)
}

/// A machine without what can be changed while it runs.
pub(super) fn without(vm: &VirtualMachine) -> crate::api::virtual_machine::InstanceTemplate {
    let mut template = vm.spec.template.clone();
    let domain = &mut template.spec.domain;
    if let Some(cpu) = &mut domain.cpu {
        cpu.sockets = None;
    }
    if let Some(memory) = &mut domain.memory {
        memory.guest = None;
    }
    // Nothing else may be in there.
    domain.cpu = domain.cpu.take().filter(|cpu| *cpu != Cpu::default());
    let memory = domain.memory.take();
    domain.memory = memory.filter(|memory| *memory != ApiMemory::default());
    template
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn machine(domain: &Value) -> VirtualMachine {
        let mut domain = domain.clone();
        domain["devices"] = json!({});
        serde_json::from_value(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": "web" },
            "spec": { "runStrategy": "Always",
                "template": { "spec": { "domain": domain, "volumes": [] } } },
        }))
        .unwrap()
    }

    fn given() -> Given {
        Given {
            cpus: Cpus {
                sockets: 2,
                cores: 2,
                threads: 1,
                max_sockets: 4,
            },
            memory: Memory {
                bytes: 1 << 30,
                max_bytes: 4 << 30,
                page_bytes: 0,
            },
            emulated: false,
        }
    }

    fn fits(sockets: u32, guest: &str, given: &Given) -> Fit {
        let cpu = json!({ "sockets": sockets, "cores": 2, "maxSockets": 4 });
        let memory = json!({ "guest": guest, "maxGuest": "8Gi" });
        fit(&machine(&json!({ "cpu": cpu, "memory": memory })), given)
    }

    #[test]
    fn what_is_within_the_limits_is_given_while_the_machine_runs() {
        let size = |sockets, bytes| Fit::Running(Size { sockets, bytes });
        assert_eq!(fits(2, "1Gi", &given()), Fit::Same);
        assert_eq!(fits(4, "1Gi", &given()), size(4, 1 << 30));
        assert_eq!(fits(1, "3Gi", &given()), size(1, 3 << 30));
        assert_eq!(fits(2, "512Mi", &given()), size(2, 512 << 20));
    }

    #[test]
    fn what_is_not_takes_a_restart_and_says_why() {
        let says = |fit: Fit, words: &str| match fit {
            Fit::Restart(why) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}, not {words}"),
        };
        says(
            fits(5, "1Gi", &given()),
            "at most 4 sockets (domain.cpu.maxSockets)",
        );
        says(
            fits(2, "5Gi", &given()),
            "at most 4Gi of memory (domain.memory.maxGuest)",
        );
        let emulated = Given {
            emulated: true,
            ..given()
        };
        says(fits(3, "1Gi", &emulated), "emulated");
        assert!(matches!(fits(2, "2Gi", &emulated), Fit::Running(_)));
        let mut huge = given();
        huge.memory.page_bytes = 2 << 20;
        let memory = json!({ "guest": "2Gi", "maxGuest": "4Gi",
            "hugepages": { "pageSize": "2Mi" } });
        let cpu = json!({ "sockets": 2, "cores": 2, "maxSockets": 4 });
        let vm = machine(&json!({ "cpu": cpu, "memory": memory }));
        says(fit(&vm, &huge), "huge pages");
    }

    #[test]
    fn only_sockets_and_memory_are_left_out_of_the_template() {
        let of = |domain: Value| without(&machine(&domain));
        let plain = of(json!({}));
        let sized = json!({ "cpu": { "sockets": 3 }, "memory": { "guest": "2Gi" } });
        assert_eq!(of(sized), plain);
        for other in [
            json!({ "cpu": { "cores": 2 } }),
            json!({ "cpu": { "maxSockets": 8 } }),
            json!({ "memory": { "maxGuest": "8Gi" } }),
        ] {
            assert_ne!(of(other.clone()), plain, "{other}");
        }
    }
}
