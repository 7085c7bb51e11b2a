//! The schema that the API server enforces has the fields that people write.

#![allow(clippy::unwrap_used)]

use bootwright_controller::api::crd;
use serde_json::Value;

/// The schema of a spec in a definition.
fn schema(file: &str, root: &[&str]) -> Value {
    let all = crd::all().unwrap();
    let (_, text) = all.iter().find(|(name, _)| *name == file).unwrap();
    let definition: Value = serde_saphyr::from_str(text).unwrap();
    let pointer = "/spec/versions/0/schema/openAPIV3Schema";
    let mut schema = definition.pointer(pointer).unwrap().clone();
    for name in root {
        schema = schema["properties"][name].clone();
    }
    schema
}

/// Whether a schema has a field; `[]` is each of a list.
fn has(schema: &Value, path: &str) -> bool {
    path.split('.')
        .try_fold(schema, |schema, part| {
            let name = part.trim_end_matches("[]");
            let child = schema.get("properties")?.get(name)?;
            match part.ends_with("[]") {
                true => child.get("items"),
                false => Some(child),
            }
        })
        .is_some()
}

/// Fields of KubeVirt's `VirtualMachineSpec`, groups of which share a parent.
const WRITTEN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "running",
            "runStrategy",
            "instancetype",
            "preference",
            "template.metadata.labels",
            "template.metadata.annotations",
            "dataVolumeTemplates",
        ],
    ),
    (
        "template.spec.",
        &[
            "domain",
            "nodeSelector",
            "affinity",
            "tolerations",
            "topologySpreadConstraints",
            "priorityClassName",
            "schedulerName",
            "evictionStrategy",
            "startStrategy",
            "terminationGracePeriodSeconds",
            "volumes",
            "networks",
            "livenessProbe.httpGet",
            "readinessProbe.tcpSocket",
            "readinessProbe.exec",
            "readinessProbe.guestAgentPing",
            "hostname",
            "subdomain",
            "dnsPolicy",
            "dnsConfig",
            "accessCredentials",
            "architecture",
            "networks[].pod",
            "networks[].multus",
        ],
    ),
    (
        "template.spec.domain.",
        &[
            "cpu.cores",
            "cpu.sockets",
            "cpu.threads",
            "cpu.model",
            "cpu.maxSockets",
            "memory.guest",
            "memory.maxGuest",
            "memory.hugepages",
            "resources.requests",
            "resources.limits",
            "machine",
            "firmware.uuid",
            "firmware.serial",
            "firmware.bootloader",
            "firmware.kernelBoot",
            "features",
            "clock",
            "devices.rng",
            "devices.autoattachPodInterface",
            "devices.autoattachSerialConsole",
            "devices.logSerialConsole",
            "devices.autoattachVSOCK",
            "devices.blockMultiQueue",
        ],
    ),
    (
        "template.spec.domain.devices.disks[].",
        &[
            "name",
            "disk.bus",
            "disk.readonly",
            "cdrom.bus",
            "cdrom.readonly",
            "lun",
            "bootOrder",
            "serial",
            "cache",
            "io",
        ],
    ),
    (
        "template.spec.domain.devices.interfaces[].",
        &[
            "name",
            "model",
            "bridge",
            "masquerade",
            "passtBinding",
            "binding.name",
            "ports[].port",
            "macAddress",
        ],
    ),
    (
        "template.spec.volumes[].",
        &[
            "name",
            "bootableContainer.image",
            "containerDisk.image",
            "containerDisk.imagePullSecret",
            "containerDisk.path",
            "containerDisk.imagePullPolicy",
            "cloudInitNoCloud.userData",
            "cloudInitNoCloud.userDataBase64",
            "cloudInitNoCloud.secretRef",
            "cloudInitConfigDrive.networkData",
            "emptyDisk.capacity",
            "persistentVolumeClaim.claimName",
            "dataVolume.name",
            "ephemeral.persistentVolumeClaim",
            "configMap",
            "secret",
            "serviceAccount",
            "downwardAPI",
        ],
    ),
];

#[test]
fn every_field_that_people_write_is_in_both_definitions() {
    let machine = schema("virtualmachines.yaml", &["spec"]);
    let pool = ["spec", "virtualMachineTemplate", "spec"];
    let pool = schema("virtualmachinepools.yaml", &pool);
    for (parent, fields) in WRITTEN {
        for field in *fields {
            let path = format!("{parent}{field}");
            assert!(has(&machine, &path), "{path}");
            assert!(has(&pool, &path), "{path} in a pool's");
        }
    }
    assert!(!has(&machine, "template.spec.nowhere"));
}

#[test]
fn descriptions_and_defaults_reach_the_definitions() {
    let machine = schema("virtualmachines.yaml", &["spec", "template", "spec"]);
    let at = |path: &str| machine.pointer(path).unwrap_or(&Value::Null).clone();
    assert_eq!(at("/properties/terminationGracePeriodSeconds/default"), 30);
    assert_eq!(
        at("/properties/readinessProbe/properties/periodSeconds/default"),
        10
    );
    assert_eq!(
        at("/properties/volumes/x-kubernetes-list-map-keys/0"),
        "name"
    );
    let gpus = "/properties/domain/properties/devices/properties/gpus/description";
    let expected = "Not supported: devices of the node are not passed on.";
    assert_eq!(at(gpus), expected);
}
