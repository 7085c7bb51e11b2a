//! Volumes: what the pod mounts, and the disks that are made of it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile,
    DownwardAPIVolumeSource, EmptyDirVolumeSource, ImageVolumeSource, KeyToPath,
    ObjectFieldSelector, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeDevice, VolumeMount,
    VolumeProjection,
};

use super::{Launcher, PodError, VolumeMode};
use crate::api::devices::Disk as ApiDisk;
use crate::api::instance::InstanceSpec;
use crate::api::volumes::{self as api, CloudInit, PullPolicy};
use crate::machine::{self, CloudInitKind, Data, Disk, Holds, Kernel, Keys, Source};
use crate::quantity;

/// Below it, a folder for each volume of the machine.
const VOLUMES: &str = "/run/bootwright/volumes";

/// Below it, a device for each claim that is one.
const DEVICES: &str = "/run/bootwright/devices";

/// How the names of volumes begin that are not the machine's.
const OWN: &str = "bootwright-";

/// Where the huge pages are.
const HUGEPAGES: &str = "/dev/hugepages";

/// The file of a claim's file system that is the disk, as in KubeVirt.
const DISK_FILE: &str = "disk.img";

/// The key of a pull secret (`kubernetes.io/dockerconfigjson`), and the file
/// that the launcher finds.
const PULL_SECRET: &str = ".dockerconfigjson";
const AUTH_FILE: &str = "config.json";

/// How long a service account's token is good, in seconds.
const TOKEN_SECONDS: i64 = 3607;

/// What is made of a machine's volumes.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) devices: Vec<VolumeDevice>,
    pub(super) disks: Vec<Disk>,
    pub(super) kernel: Option<Kernel>,
    pub(super) keys: Vec<Keys>,
    pub(super) pull_secrets: BTreeSet<String>,
    pub(super) service_account: Option<String>,
}

impl Volumes {
    /// Whether a disk is made of an image's root file system.
    pub(super) fn has_root(&self) -> bool {
        let root = |disk: &Disk| matches!(disk.source, Source::Root { .. });
        self.disks.iter().any(root)
    }

    /// Adds a volume of the pod, mounted in a folder of its own; says which.
    fn mount(&mut self, name: String, read_only: bool, mut volume: Volume) -> String {
        let folder = format!("{VOLUMES}/{name}");
        self.mount_at(folder.clone(), name.clone(), read_only);
        volume.name = name;
        self.volumes.push(volume);
        folder
    }

    fn mount_at(&mut self, path: String, name: String, read_only: bool) {
        self.mounts.push(VolumeMount {
            mount_path: path,
            name,
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
    }

    fn image(
        &mut self,
        name: String,
        image: &str,
        policy: Option<PullPolicy>,
        secret: Option<&String>,
    ) -> String {
        self.pull_secrets.extend(secret.cloned());
        let volume = Volume {
            image: Some(ImageVolumeSource {
                pull_policy: policy.map(|policy| policy.word().into()),
                reference: Some(image.into()),
            }),
            ..Volume::default()
        };
        self.mount(name, true, volume)
    }

    fn secret(&mut self, name: String, secret: SecretVolumeSource) -> String {
        let volume = Volume {
            secret: Some(secret),
            ..Volume::default()
        };
        self.mount(name, true, volume)
    }
}

/// Makes the pod's volumes and the machine's disks.
pub(super) fn volumes(
    spec: &InstanceSpec,
    launcher: &Launcher,
    claims: &BTreeMap<String, VolumeMode>,
) -> Result<Volumes, PodError> {
    let mut all = Volumes::default();
    own(&mut all, spec);
    for disk in in_boot_order(spec)? {
        let volume = (spec.volumes.iter().find(|volume| volume.name == disk.name))
            .ok_or_else(|| PodError::NoSuchVolume(disk.name.clone()))?;
        let read_only = disk.cdrom.is_some()
            || (disk.disk.as_ref()).is_some_and(|target| target.readonly.unwrap_or(false));
        let (source, fixed) = source(&mut all, volume, launcher, claims)?;
        all.disks.push(Disk {
            name: disk.name,
            serial: disk.serial,
            read_only: read_only || fixed,
            source,
        });
    }
    if all.disks.len() > machine::MAX_DISKS {
        let count = all.disks.len();
        let text = format!("volumes: {count} of at most {}", machine::MAX_DISKS);
        return Err(PodError::Contradiction(text));
    }
    kernel(&mut all, spec);
    if all.kernel.is_some() && !launcher.image_volumes {
        let text = "domain.firmware.kernelBoot: this cluster has no image volumes";
        return Err(PodError::Contradiction(text.into()));
    }
    match all.disks.first() {
        _ if all.kernel.is_some() => {}
        None => return Err(PodError::NothingToBoot("there are no volumes".into())),
        Some(disk) if !boots(&disk.source) => {
            let text = format!("the first disk, {:?}, holds no system", disk.name);
            return Err(PodError::NothingToBoot(text));
        }
        Some(_) => {}
    }
    keys(&mut all, spec);
    Ok(all)
}

/// Volumes that every pod has.
fn own(all: &mut Volumes, spec: &InstanceSpec) {
    let annotation = |name: &str, path: &str| DownwardAPIVolumeFile {
        field_ref: Some(ObjectFieldSelector {
            api_version: None,
            field_path: format!("metadata.annotations['{name}']"),
        }),
        path: path.into(),
        ..DownwardAPIVolumeFile::default()
    };
    let (folder, file) = machine::PATH
        .rsplit_once('/')
        .unwrap_or(("", machine::PATH));
    all.mount_at(folder.into(), "bootwright-machine".into(), true);
    all.volumes.push(Volume {
        name: "bootwright-machine".into(),
        downward_api: Some(DownwardAPIVolumeSource {
            default_mode: None,
            items: Some(vec![
                annotation(machine::ANNOTATION, file),
                annotation(machine::PAUSED_ANNOTATION, machine::PAUSED_FILE),
            ]),
        }),
        ..Volume::default()
    });
    let empty = |name: &str, medium: Option<String>| Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium,
            size_limit: None,
        }),
        ..Volume::default()
    };
    all.mount_at(machine::SCRATCH.into(), "bootwright-scratch".into(), false);
    all.volumes.push(empty("bootwright-scratch", None));
    let memory = spec.domain.memory.as_ref();
    if let Some(pages) = memory.and_then(|memory| memory.hugepages.as_ref()) {
        let medium = format!("HugePages-{}", pages.page_size.word());
        all.mount_at(HUGEPAGES.into(), "bootwright-hugepages".into(), false);
        all.volumes
            .push(empty("bootwright-hugepages", Some(medium)));
    }
}

/// The disks, the one to boot first: those with an order by it, then the
/// others as they are written, then volumes that no disk names.
fn in_boot_order(spec: &InstanceSpec) -> Result<Vec<ApiDisk>, PodError> {
    let mut disks = spec.domain.devices.disks.clone();
    for volume in &spec.volumes {
        if !disks.iter().any(|disk| disk.name == volume.name) {
            disks.push(ApiDisk {
                name: volume.name.clone(),
                ..ApiDisk::default()
            });
        }
    }
    let names: BTreeSet<_> = disks.iter().map(|disk| &disk.name).collect();
    if names.len() < disks.len() {
        let text = "domain.devices.disks: two have the same name";
        return Err(PodError::Contradiction(text.into()));
    }
    if let Some(disk) = disks.iter().find(|disk| disk.name.starts_with(OWN)) {
        let text = format!(
            "volumes: {:?} begins with {OWN}, which is reserved",
            disk.name
        );
        return Err(PodError::Contradiction(text));
    }
    // The sort is stable.
    disks.sort_by_key(|disk| disk.boot_order.unwrap_or(u32::MAX));
    Ok(disks)
}

fn boots(source: &Source) -> bool {
    match source {
        Source::Root { .. }
        | Source::ContainerDisk { .. }
        | Source::Image { .. }
        | Source::Device { .. } => true,
        Source::Empty { .. } | Source::CloudInit { .. } | Source::Files { .. } => false,
    }
}

/// What a disk holds, and whether that can only be read.
fn source(
    all: &mut Volumes,
    volume: &api::Volume,
    launcher: &Launcher,
    claims: &BTreeMap<String, VolumeMode>,
) -> Result<(Source, bool), PodError> {
    let name = volume.name.clone();
    if let Some(image) = &volume.bootable_container {
        let secret = image.image_pull_secret.as_ref();
        if !launcher.image_volumes {
            let source = fetched(all, &image.image, secret, Holds::Root);
            return Ok((source, false));
        }
        let folder = all.image(name, &image.image, image.image_pull_policy, secret);
        return Ok((Source::Root { folder }, false));
    }
    if let Some(disk) = &volume.container_disk {
        let secret = disk.image_pull_secret.as_ref();
        if !launcher.image_volumes {
            if let Some(path) = &disk.path {
                let text = format!(
                    "volumes[].containerDisk.path: {path:?} needs image volumes, which this \
                     cluster has not"
                );
                return Err(PodError::Contradiction(text));
            }
            let source = fetched(all, &disk.image, secret, Holds::Disk);
            return Ok((source, false));
        }
        let folder = all.image(name, &disk.image, disk.image_pull_policy, secret);
        let path = disk.path.clone();
        return Ok((Source::ContainerDisk { folder, path }, false));
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let read_only = claim.read_only.unwrap_or(false);
        let path = claim_path(all, name, &claim.claim_name, read_only, claims)?;
        let ephemeral = false;
        return Ok((Source::Device { path, ephemeral }, read_only));
    }
    if let Some(data) = &volume.data_volume {
        let path = claim_path(all, name, &data.name, false, claims)?;
        let ephemeral = false;
        return Ok((Source::Device { path, ephemeral }, false));
    }
    if let Some(source) = &volume.ephemeral {
        let claim = &source.persistent_volume_claim.claim_name;
        let path = claim_path(all, name, claim, true, claims)?;
        let ephemeral = true;
        return Ok((Source::Device { path, ephemeral }, false));
    }
    if let Some(empty) = &volume.empty_disk {
        let bytes = quantity::whole(&empty.capacity).map_err(|source| PodError::Quantity {
            field: "volumes[].emptyDisk.capacity",
            source,
        })?;
        return Ok((Source::Empty { bytes }, false));
    }
    if let Some(data) = &volume.cloud_init_no_cloud {
        return Ok((cloud_init(all, CloudInitKind::NoCloud, data), true));
    }
    if let Some(data) = &volume.cloud_init_config_drive {
        let kind = CloudInitKind::ConfigDrive;
        return Ok((cloud_init(all, kind, data), true));
    }
    files(all, volume).map(|source| (source, true))
}

/// An image that the launcher fetches itself, with the credentials of a pull
/// secret.
fn fetched(all: &mut Volumes, image: &str, secret: Option<&String>, holds: Holds) -> Source {
    let number = all.disks.len();
    let auth_file = secret.map(|name| {
        let source = SecretVolumeSource {
            secret_name: Some(name.clone()),
            items: Some(vec![KeyToPath {
                key: PULL_SECRET.into(),
                path: AUTH_FILE.into(),
                mode: None,
            }]),
            ..SecretVolumeSource::default()
        };
        let folder = all.secret(format!("{OWN}pull-{number}"), source);
        format!("{folder}/{AUTH_FILE}")
    });
    Source::Image {
        reference: image.to_owned(),
        holds,
        auth_file,
    }
}

fn claim_path(
    all: &mut Volumes,
    name: String,
    claim: &str,
    read_only: bool,
    claims: &BTreeMap<String, VolumeMode>,
) -> Result<String, PodError> {
    let mode = (claims.get(claim)).ok_or_else(|| PodError::NoClaim(claim.to_owned()))?;
    let volume = Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: read_only.then_some(true),
        }),
        ..Volume::default()
    };
    Ok(match mode {
        VolumeMode::Filesystem => {
            let folder = all.mount(name, read_only, volume);
            format!("{folder}/{DISK_FILE}")
        }
        VolumeMode::Block => {
            let path = format!("{DEVICES}/{name}");
            all.volumes.push(volume);
            all.devices.push(VolumeDevice {
                device_path: path.clone(),
                name,
            });
            path
        }
    })
}

fn cloud_init(all: &mut Volumes, kind: CloudInitKind, data: &CloudInit) -> Source {
    let number = all.disks.len();
    let mut file = |secret: Option<&api::LocalReference>, key: &str| {
        let secret = SecretVolumeSource {
            secret_name: Some(secret?.name.clone()),
            items: Some(vec![KeyToPath {
                key: key.into(),
                path: key.into(),
                mode: None,
            }]),
            ..SecretVolumeSource::default()
        };
        let folder = all.secret(format!("{OWN}{key}-{number}"), secret);
        Some(Data::File(format!("{folder}/{key}")))
    };
    let from_secret = file(data.secret_ref.as_ref(), "userdata");
    let user_data = from_secret
        .or_else(|| data.user_data.clone().map(Data::Text))
        .or_else(|| data.user_data_base64.clone().map(Data::Base64));
    let secret = data.network_data_secret_ref.as_ref();
    let network_data = file(secret, "networkdata")
        .or_else(|| data.network_data.clone().map(Data::Text))
        .or_else(|| data.network_data_base64.clone().map(Data::Base64));
    Source::CloudInit {
        kind,
        user_data,
        network_data,
    }
}

/// A disk with the files of a folder.
fn files(all: &mut Volumes, volume: &api::Volume) -> Result<Source, PodError> {
    let name = volume.name.clone();
    let (source, label) = if let Some(map) = &volume.config_map {
        let source = Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: map.name.clone(),
                optional: map.optional,
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        };
        (source, map.volume_label.clone())
    } else if let Some(secret) = &volume.secret {
        let source = Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.secret_name.clone()),
                optional: secret.optional,
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        };
        (source, secret.volume_label.clone())
    } else if let Some(downward) = &volume.downward_api {
        let source = Volume {
            downward_api: Some(DownwardAPIVolumeSource {
                default_mode: None,
                items: Some(downward.fields.clone()),
            }),
            ..Volume::default()
        };
        (source, downward.volume_label.clone())
    } else if let Some(account) = &volume.service_account {
        all.service_account = Some(account.service_account_name.clone());
        (token(), None)
    } else {
        return Err(PodError::NoSource(name));
    };
    let folder = all.mount(name, true, source);
    Ok(Source::Files { folder, label })
}

/// What a container finds in /var/run/secrets/kubernetes.io/serviceaccount.
fn token() -> Volume {
    let namespace = DownwardAPIVolumeFile {
        field_ref: Some(ObjectFieldSelector {
            api_version: None,
            field_path: "metadata.namespace".into(),
        }),
        path: "namespace".into(),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                audience: None,
                expiration_seconds: Some(TOKEN_SECONDS),
                path: "token".into(),
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "kube-root-ca.crt".into(),
                items: Some(vec![KeyToPath {
                    key: "ca.crt".into(),
                    path: "ca.crt".into(),
                    mode: None,
                }]),
                optional: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection {
                items: Some(vec![namespace]),
            }),
            ..VolumeProjection::default()
        },
    ];
    Volume {
        projected: Some(ProjectedVolumeSource {
            default_mode: None,
            sources: Some(sources),
        }),
        ..Volume::default()
    }
}

fn kernel(all: &mut Volumes, spec: &InstanceSpec) {
    let firmware = spec.domain.firmware.as_ref();
    let boot = firmware.and_then(|firmware| firmware.kernel_boot.as_ref());
    let container = boot.and_then(|boot| boot.container.as_ref());
    let (Some(boot), Some(container)) = (boot, container) else {
        return;
    };
    let Some(path) = container.kernel_path.clone() else {
        return;
    };
    let folder = all.image(
        "bootwright-kernel".into(),
        &container.image,
        container.image_pull_policy,
        container.image_pull_secret.as_ref(),
    );
    all.kernel = Some(Kernel {
        folder,
        path,
        initramfs: container.initrd_path.clone(),
        command_line: boot.kernel_args.clone().unwrap_or_default(),
    });
}

fn keys(all: &mut Volumes, spec: &InstanceSpec) {
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let Some(ssh) = &credential.ssh_public_key else {
            continue;
        };
        let kind = match ssh.propagation_method.config_drive {
            Some(_) => CloudInitKind::ConfigDrive,
            None => CloudInitKind::NoCloud,
        };
        let secret = SecretVolumeSource {
            secret_name: Some(ssh.source.secret.secret_name.clone()),
            ..SecretVolumeSource::default()
        };
        let folder = all.secret(format!("bootwright-keys-{index}"), secret);
        all.keys.push(Keys { folder, kind });
    }
}
