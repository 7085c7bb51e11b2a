//! What must hold of a spec beyond the types of its fields.
//!
//! Rules are in CEL, which the API server evaluates for every object that is
//! written:
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>.

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Where `self` is, from the spec; `[]` is each of a list.
    pub at: &'static str,
    /// The field of `self` that a breach is about.
    pub field: &'static str,
    /// What must be true.
    pub cel: &'static str,
    /// What a breach says, after the field's name.
    pub message: &'static str,
}

const fn rule(
    at: &'static str,
    field: &'static str,
    cel: &'static str,
    message: &'static str,
) -> Rule {
    Rule {
        at,
        field,
        cel,
        message,
    }
}

/// The name of a machine's pod is four characters longer than its own, and
/// both are host names.
pub const MACHINE_NAME: Rule = rule(
    "",
    "metadata.name",
    "size(self.metadata.name) <= 59 && \
     self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "at most 59 characters, small letters, digits and -",
);

/// The names of a pool's machines are its own, the digest of a template and a
/// number of up to five digits, in 59 characters.
pub const POOL_NAME: Rule = rule(
    "",
    "metadata.name",
    "size(self.metadata.name) <= 44 && \
     self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "at most 44 characters, small letters, digits and -",
);

/// Rules for the spec of a `VirtualMachine`, also within a pool's.
#[rustfmt::skip]
pub const MACHINE: &[Rule] = &[
    rule("", "runStrategy",
        "has(self.running) != has(self.runStrategy)",
        "set exactly one of runStrategy and running"),
    rule("template.spec", "volumes",
        "(has(self.volumes) && size(self.volumes) > 0) || \
         (has(self.domain.firmware) && has(self.domain.firmware.kernelBoot))",
        "there is nothing to boot from"),
    rule("template.spec", "volumes",
        "!has(self.volumes) || self.volumes.filter(v, has(v.bootableContainer)).size() <= 1",
        "at most one bootableContainer"),
    rule("template.spec", "volumes",
        "!has(self.volumes) || self.volumes.filter(v, has(v.serviceAccount)).size() <= 1",
        "at most one serviceAccount"),
    rule("template.spec", "domain.devices.disks",
        "!has(self.domain.devices.disks) || self.domain.devices.disks.all(d, \
         has(self.volumes) && self.volumes.exists(v, v.name == d.name))",
        "each disk has the name of a volume"),
    rule("template.spec", "domain.devices.interfaces",
        "!has(self.domain.devices.interfaces) || self.domain.devices.interfaces.all(i, \
         has(self.networks) && self.networks.exists(n, n.name == i.name))",
        "each interface has the name of a network"),
    rule("template.spec", "networks",
        "!has(self.networks) || self.networks.all(n, has(self.domain.devices.interfaces) && \
         self.domain.devices.interfaces.exists(i, i.name == n.name))",
        "each network has the name of an interface"),
    rule("template.spec", "networks",
        "!has(self.networks) || self.networks.filter(n, has(n.pod)).size() <= 1",
        "at most one is the pod's own"),
    rule("template.spec", "accessCredentials",
        "!has(self.accessCredentials) || self.accessCredentials.all(c, \
         !has(c.sshPublicKey) || !has(c.sshPublicKey.propagationMethod.noCloud) || \
         (has(self.volumes) && self.volumes.exists(v, \
         has(v.cloudInitNoCloud) || has(v.bootableContainer))))",
        "noCloud needs a volume cloudInitNoCloud, or a bootableContainer"),
    rule("template.spec", "accessCredentials",
        "!has(self.accessCredentials) || self.accessCredentials.all(c, \
         !has(c.sshPublicKey) || !has(c.sshPublicKey.propagationMethod.configDrive) || \
         (has(self.volumes) && self.volumes.exists(v, \
         has(v.cloudInitConfigDrive) || has(v.bootableContainer))))",
        "configDrive needs a volume cloudInitConfigDrive, or a bootableContainer"),
    rule("template.spec.networks[]", "pod",
        "has(self.pod)",
        "a network is the pod's own"),
    rule("template.spec.livenessProbe", "httpGet",
        "[has(self.httpGet), has(self.tcpSocket), has(self.guestAgentPing), has(self.exec)].filter(x, x).size() == 1",
        "set exactly one of httpGet, tcpSocket, guestAgentPing and exec"),
    rule("template.spec.livenessProbe", "successThreshold",
        "!has(self.successThreshold) || self.successThreshold == 1",
        "must be 1"),
    rule("template.spec.readinessProbe", "httpGet",
        "[has(self.httpGet), has(self.tcpSocket), has(self.guestAgentPing), has(self.exec)].filter(x, x).size() == 1",
        "set exactly one of httpGet, tcpSocket, guestAgentPing and exec"),
    rule("template.spec.accessCredentials[]", "sshPublicKey",
        "has(self.sshPublicKey)",
        "is missing"),
    rule("template.spec.accessCredentials[].sshPublicKey.propagationMethod", "noCloud",
        "has(self.noCloud) != has(self.configDrive)",
        "set exactly one of noCloud and configDrive"),
    rule("template.spec.domain", "memory.guest",
        "(has(self.memory) && has(self.memory.guest)) || (has(self.resources) && \
         ((has(self.resources.requests) && 'memory' in self.resources.requests) || \
         (has(self.resources.limits) && 'memory' in self.resources.limits)))",
        "set it, or resources.requests.memory"),
    rule("template.spec.domain.cpu", "cores",
        "(has(self.sockets) ? self.sockets : 1) * (has(self.cores) ? self.cores : 1) * \
         (has(self.threads) ? self.threads : 1) <= 254",
        "sockets times cores times threads is at most 254"),
    rule("template.spec.domain.cpu", "maxSockets",
        "!has(self.maxSockets) || self.maxSockets >= (has(self.sockets) ? self.sockets : 1)",
        "is less than sockets"),
    rule("template.spec.domain.firmware.kernelBoot", "container",
        "has(self.container)",
        "is missing: kernelArgs are those of its kernel"),
    rule("template.spec.domain.firmware.kernelBoot.container", "kernelPath",
        "has(self.kernelPath)",
        "is missing"),
    rule("template.spec.domain.devices", "disks",
        "!has(self.disks) || self.disks.all(d, !has(d.bootOrder) || \
         self.disks.filter(e, has(e.bootOrder) && e.bootOrder == d.bootOrder).size() == 1)",
        "no two have the same bootOrder"),
    rule("template.spec.domain.devices.disks[]", "disk",
        "!(has(self.disk) && has(self.cdrom))",
        "set at most one of disk and cdrom"),
    rule("template.spec.domain.devices.interfaces[]", "masquerade",
        "[has(self.masquerade), has(self.bridge), has(self.passt), has(self.passtBinding), \
         has(self.binding)].filter(set, set).size() <= 1",
        "set at most one of masquerade, bridge, passt, passtBinding and binding"),
    rule("template.spec.domain.devices.interfaces[]", "ports",
        "!has(self.ports) || self.ports.all(p, self.ports.filter(q, q.port == p.port && \
         (has(q.protocol) ? q.protocol : 'TCP') == (has(p.protocol) ? p.protocol : 'TCP'))\
         .size() == 1)",
        "each port once"),
    rule("template.spec.volumes[]", "name",
        "[has(self.bootableContainer), has(self.containerDisk), \
         has(self.persistentVolumeClaim), has(self.dataVolume), has(self.ephemeral), \
         has(self.emptyDisk), has(self.cloudInitNoCloud), has(self.cloudInitConfigDrive), \
         has(self.configMap), has(self.secret), has(self.downwardAPI), \
         has(self.serviceAccount)].filter(set, set).size() == 1",
        "a volume has exactly one source"),
    rule("template.spec.volumes[]", "name",
        "!self.name.startsWith('bootwright-')",
        "names that begin with bootwright- are reserved"),
    rule("template.spec.volumes[].cloudInitNoCloud", "userData",
        "[has(self.userData), has(self.userDataBase64), has(self.secretRef)]\
         .filter(set, set).size() <= 1",
        "set at most one of userData, userDataBase64 and secretRef"),
    rule("template.spec.volumes[].cloudInitNoCloud", "networkData",
        "[has(self.networkData), has(self.networkDataBase64), has(self.networkDataSecretRef)]\
         .filter(set, set).size() <= 1",
        "set at most one of networkData, networkDataBase64 and networkDataSecretRef"),
    rule("template.spec.volumes[].cloudInitConfigDrive", "userData",
        "[has(self.userData), has(self.userDataBase64), has(self.secretRef)]\
         .filter(set, set).size() <= 1",
        "set at most one of userData, userDataBase64 and secretRef"),
    rule("template.spec.volumes[].cloudInitConfigDrive", "networkData",
        "[has(self.networkData), has(self.networkDataBase64), has(self.networkDataSecretRef)]\
         .filter(set, set).size() <= 1",
        "set at most one of networkData, networkDataBase64 and networkDataSecretRef"),
];

/// Rules for the spec of a `VirtualMachinePool`.
#[rustfmt::skip]
pub const POOL: &[Rule] = &[
    rule("", "selector",
        "has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0",
        "matchLabels is empty"),
    rule("", "selector",
        "self.selector == oldSelf.selector",
        "cannot be changed"),
    rule("", "virtualMachineTemplate.metadata.labels",
        "!has(self.selector.matchLabels) || self.selector.matchLabels.all(k, \
         has(self.virtualMachineTemplate.metadata.labels) && \
         k in self.virtualMachineTemplate.metadata.labels && \
         self.virtualMachineTemplate.metadata.labels[k] == self.selector.matchLabels[k])",
        "must have the labels of selector"),
    rule("updateStrategy.rollingUpdate", "maxUnavailable",
        "!(has(self.maxSurge) && has(self.maxUnavailable) && \
         (self.maxSurge == 0 || self.maxSurge == '0%') && \
         (self.maxUnavailable == 0 || self.maxUnavailable == '0%'))",
        "not both it and maxSurge are 0"),
];
