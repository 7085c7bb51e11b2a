//! A breach of each rule of a machine.

use serde_json::{Value, json};

/// Where a rule is, words of its message, and what to change in a good
/// machine to breach it: JSON pointers and values, `null` to remove.
pub(crate) type Breach = (&'static str, &'static str, Vec<(&'static str, Value)>);

/// For each rule of a machine, by where it is and the words of its breach, a
/// change that breaches it.
pub(crate) fn breaches() -> Vec<Breach> {
    let user = json!({ "userData": "a", "userDataBase64": "YQ==" });
    let network = json!({ "networkData": "a", "networkDataBase64": "YQ==" });
    let volume = |name: &str, source: &str, value: &Value| json!({ "name": name, source: value });
    let image = json!({ "image": "web:1" });
    // What a bootableContainer need not have.
    let root = volume("root", "containerDisk", &image);
    let root = ("/spec/template/spec/volumes/0", root);
    let account = json!({ "serviceAccountName": "a" });
    let keys = |method: &str| {
        json!([{ "sshPublicKey": { "source": { "secret": { "secretName": "a" } },
            "propagationMethod": { method: {} } } }])
    };
    let one = |pointer, value| vec![(pointer, value)];
    let domain = "template.spec.domain";
    vec![
        (
            "",
            "set exactly one of runStrategy",
            one("/spec/running", json!(true)),
        ),
        (
            "template.spec",
            "nothing to boot",
            vec![
                ("/spec/template/spec/volumes", Value::Null),
                ("/spec/template/spec/domain/devices/disks", Value::Null),
            ],
        ),
        (
            "template.spec",
            "one bootableContainer",
            one(
                "/spec/template/spec/volumes/1",
                volume("b", "bootableContainer", &image),
            ),
        ),
        (
            "template.spec",
            "one serviceAccount",
            one(
                "/spec/template/spec/volumes",
                json!([
                    volume("root", "bootableContainer", &image),
                    volume("a", "serviceAccount", &account),
                    volume("b", "serviceAccount", &account)
                ]),
            ),
        ),
        (
            "template.spec",
            "name of a volume",
            one(
                "/spec/template/spec/domain/devices/disks/1",
                json!({ "name": "none" }),
            ),
        ),
        (
            "template.spec",
            "name of a network",
            one(
                "/spec/template/spec/domain/devices/interfaces/1",
                json!({ "name": "none" }),
            ),
        ),
        (
            "template.spec",
            "name of an interface",
            one(
                "/spec/template/spec/networks/1",
                json!({ "name": "none", "pod": {} }),
            ),
        ),
        (
            "template.spec",
            "at most one is the pod's own",
            one(
                "/spec/template/spec/networks/1",
                json!({ "name": "other", "pod": {} }),
            ),
        ),
        (
            "template.spec",
            "needs a volume cloudInitNoCloud",
            vec![
                root.clone(),
                ("/spec/template/spec/accessCredentials", keys("noCloud")),
            ],
        ),
        (
            "template.spec",
            "needs a volume cloudInitConfigDrive",
            vec![
                root.clone(),
                ("/spec/template/spec/accessCredentials", keys("configDrive")),
            ],
        ),
        (
            "template.spec.networks[]",
            "a network is the pod's own",
            one(
                "/spec/template/spec/networks/0",
                json!({ "name": "default" }),
            ),
        ),
        (
            "template.spec.livenessProbe",
            "one of httpGet",
            one(
                "/spec/template/spec/livenessProbe",
                json!({ "httpGet": { "port": 1 }, "tcpSocket": { "port": 1 } }),
            ),
        ),
        (
            "template.spec.livenessProbe",
            "must be 1",
            one(
                "/spec/template/spec/livenessProbe",
                json!({ "tcpSocket": { "port": 1 }, "successThreshold": 2 }),
            ),
        ),
        (
            "template.spec.readinessProbe",
            "one of httpGet",
            one("/spec/template/spec/readinessProbe", json!({})),
        ),
        (
            "template.spec.accessCredentials[]",
            "is missing",
            one("/spec/template/spec/accessCredentials", json!([{}])),
        ),
        (
            "template.spec.accessCredentials[].sshPublicKey.propagationMethod",
            "exactly one",
            one(
                "/spec/template/spec/accessCredentials",
                json!([{ "sshPublicKey": {
                "source": { "secret": { "secretName": "a" } }, "propagationMethod": {} } }]),
            ),
        ),
        (
            domain,
            "set it, or",
            one("/spec/template/spec/domain/memory", Value::Null),
        ),
        (
            "template.spec.domain.cpu",
            "at most 254",
            one(
                "/spec/template/spec/domain/cpu",
                json!({ "sockets": 16, "cores": 16 }),
            ),
        ),
        (
            "template.spec.domain.cpu",
            "less than sockets",
            one(
                "/spec/template/spec/domain/cpu",
                json!({ "sockets": 4, "maxSockets": 2 }),
            ),
        ),
        (
            "template.spec.domain.firmware.kernelBoot",
            "is missing",
            one(
                "/spec/template/spec/domain/firmware",
                json!({ "kernelBoot": {} }),
            ),
        ),
        (
            "template.spec.domain.firmware.kernelBoot.container",
            "is missing",
            one(
                "/spec/template/spec/domain/firmware",
                json!({ "kernelBoot": { "container": { "image": "a" } } }),
            ),
        ),
        (
            "template.spec.domain.devices",
            "same bootOrder",
            vec![
                (
                    "/spec/template/spec/volumes/1",
                    volume("b", "containerDisk", &image),
                ),
                (
                    "/spec/template/spec/domain/devices/disks",
                    json!([{ "name": "root", "bootOrder": 1 }, { "name": "b", "bootOrder": 1 }]),
                ),
            ],
        ),
        (
            "template.spec.domain.devices.disks[]",
            "at most one of disk and cdrom",
            one(
                "/spec/template/spec/domain/devices/disks/0",
                json!({ "name": "root", "disk": {}, "cdrom": {} }),
            ),
        ),
        (
            "template.spec.domain.devices.interfaces[]",
            "at most one of masquerade",
            one(
                "/spec/template/spec/domain/devices/interfaces/0",
                json!({ "name": "default", "bridge": {}, "masquerade": {} }),
            ),
        ),
        (
            "template.spec.domain.devices.interfaces[]",
            "each port once",
            one(
                "/spec/template/spec/domain/devices/interfaces/0",
                json!({ "name": "default",
                "ports": [{ "port": 80 }, { "port": 80, "protocol": "TCP" }] }),
            ),
        ),
        (
            "template.spec.volumes[]",
            "exactly one source",
            one("/spec/template/spec/volumes/0", json!({ "name": "root" })),
        ),
        (
            "template.spec.volumes[]",
            "are reserved",
            one(
                "/spec/template/spec/volumes/1",
                volume("bootwright-x", "containerDisk", &image),
            ),
        ),
        (
            "template.spec.volumes[].cloudInitNoCloud",
            "of userData",
            one(
                "/spec/template/spec/volumes/1",
                volume("b", "cloudInitNoCloud", &user),
            ),
        ),
        (
            "template.spec.volumes[].cloudInitNoCloud",
            "of networkData",
            one(
                "/spec/template/spec/volumes/1",
                volume("b", "cloudInitNoCloud", &network),
            ),
        ),
        (
            "template.spec.volumes[].cloudInitConfigDrive",
            "of userData",
            one(
                "/spec/template/spec/volumes/1",
                volume("b", "cloudInitConfigDrive", &user),
            ),
        ),
        (
            "template.spec.volumes[].cloudInitConfigDrive",
            "of networkData",
            one(
                "/spec/template/spec/volumes/1",
                volume("b", "cloudInitConfigDrive", &network),
            ),
        ),
    ]
}
