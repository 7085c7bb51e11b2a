//! `image set`, `history` and `undo`.
//!
//! A pool's templates are kept by the controller as `ControllerRevision`s; to
//! go back is to write one of them into the pool.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use bootwright_controller::api::pool::MachineTemplate;
use bootwright_controller::api::{VirtualMachine, VirtualMachinePool};
use bootwright_controller::rollout::{POOL, REVISION};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::args::{HistoryArgs, ImageSetArgs, Output, UndoArgs};
use crate::cluster::{Changed, Cluster};
use crate::explain;
use crate::output;
use crate::target::{Kind, Target};

/// `image set`.
pub(crate) async fn set(cluster: &Cluster, args: &ImageSetArgs) -> Result<()> {
    let kind = kind(cluster, &args.target).await?;
    let (volume, image) = match args.image.split_once('=') {
        Some((volume, image)) => (Some(volume), image),
        None => (None, args.image.as_str()),
    };
    let mut told = String::new();
    let change = |object: &mut Value| {
        let (name, changes) = set_image(object, kind, volume, image)?;
        told = name;
        Ok(changes)
    };
    let changed = cluster
        .change(kind, &args.target, args.dry_run, change)
        .await?;
    let (object, mut what) = match changed {
        Changed::Yes(object) => (object, format!("image of {told} set")),
        Changed::No(object) => (object, format!("image of {told} is that already")),
    };
    let runs = object.data.pointer("/status/created") == Some(&json!(true));
    if args.dry_run {
        what.push_str(" (dry run)");
    } else if kind == Kind::Machine && runs && what.ends_with("set") {
        let name = &args.target.name;
        what = format!("{what}; `kubectl bootwright restart {name}` boots it");
    }
    output::done(
        args.output.output,
        (kind, &args.target.name),
        &what,
        &object,
    )
}

/// The kind of what is named, which the cluster knows if the name does not say
/// it.
async fn kind(cluster: &Cluster, target: &Target) -> Result<Kind> {
    if let Some(kind) = target.kind {
        return Ok(kind);
    }
    let namespace = cluster.namespace_of(target);
    let pools = cluster.pools(namespace);
    let pool = cluster.call(pools.get_opt(&target.name)).await;
    let pool =
        pool.map_err(|error| explain::missing(error, Kind::Pool, &target.name, namespace))?;
    let machines = cluster.machines(namespace);
    let machine = cluster.call(machines.get_opt(&target.name)).await?;
    let name = &target.name;
    match (pool, machine) {
        (Some(_), None) => Ok(Kind::Pool),
        (None, Some(_)) => Ok(Kind::Machine),
        (Some(_), Some(_)) => {
            bail!("there are a pool and a machine {name}: write pool/{name} or bvm/{name}")
        }
        (None, None) => bail!(
            "there is no virtual machine or pool {name:?} in namespace {namespace}: \
             `kubectl get bvm,bvmpool -n {namespace}` lists those there are"
        ),
    }
}

/// Where an object has its volumes.
fn volumes(kind: Kind) -> &'static str {
    match kind {
        Kind::Machine => "/spec/template/spec/volumes",
        Kind::Pool => "/spec/virtualMachineTemplate/spec/template/spec/volumes",
    }
}

/// The image of a volume that is made of one, and whether it boots as it is.
fn image_of(volume: &Value) -> Option<(&Value, bool)> {
    let bootable = volume.pointer("/bootableContainer/image");
    let disk = volume.pointer("/containerDisk/image");
    bootable
        .map(|image| (image, true))
        .or(disk.map(|image| (image, false)))
}

/// Sets the image of a volume. The volume's name, and whether that changes
/// anything.
fn set_image(
    object: &mut Value,
    kind: Kind,
    wanted: Option<&str>,
    image: &str,
) -> Result<(String, bool)> {
    if image.is_empty() || image.contains(char::is_whitespace) {
        bail!("{image:?} is no image");
    }
    let volumes = object
        .pointer_mut(volumes(kind))
        .and_then(Value::as_array_mut);
    let volumes = volumes.map_or(&mut [][..], Vec::as_mut_slice);
    let name = |volume: &Value| volume["name"].as_str().unwrap_or_default().to_owned();
    let of_images: Vec<_> = (volumes.iter())
        .filter_map(|volume| Some((name(volume), image_of(volume)?.1)))
        .collect();
    let names = || {
        let names: Vec<_> = of_images.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    };
    let bootable = || of_images.iter().find(|(_, bootable)| *bootable);
    let chosen = match (wanted, &of_images[..]) {
        (Some(wanted), _) => {
            let found = of_images.iter().any(|(name, _)| name == wanted);
            if !found {
                bail!(
                    "no volume {wanted:?} is made of an image: those are {}",
                    names()
                );
            }
            wanted.to_owned()
        }
        (None, []) => bail!("no volume is made of an image"),
        (None, [(only, _)]) => only.clone(),
        (None, _) => match bootable() {
            Some((name, _)) => name.clone(),
            None => bail!(
                "which volume's? Write VOLUME=IMAGE, with one of {}",
                names()
            ),
        },
    };
    for volume in volumes.iter_mut().filter(|volume| name(volume) == chosen) {
        let old = ["/bootableContainer/image", "/containerDisk/image"]
            .into_iter()
            .find(|path| volume.pointer(path).is_some());
        let old = old.and_then(|path| volume.pointer_mut(path));
        let Some(old) = old else { continue };
        let changes = *old != json!(image);
        *old = json!(image);
        return Ok((chosen, changes));
    }
    bail!("volume {chosen:?} has no image")
}

/// A template that was kept.
struct Kept {
    revision: i64,
    name: String,
    template: Value,
    /// Whether it is the pool's now.
    current: bool,
}

/// The templates of a pool that were kept, the oldest first.
async fn kept(cluster: &Cluster, target: &Target) -> Result<(VirtualMachinePool, Vec<Kept>)> {
    if target.kind == Some(Kind::Machine) {
        bail!("{target} is a virtual machine: only pools keep what they were");
    }
    let pool = cluster.pool(target).await?;
    let namespace = cluster.namespace_of(target);
    let revisions: Api<ControllerRevision> = Api::namespaced(cluster.client(), namespace);
    let which = ListParams::default().labels(&format!("{POOL}={}", target.name));
    let found = cluster.call(revisions.list(&which)).await?;
    let uid = pool.metadata.uid.clone().unwrap_or_default();
    let mut kept: Vec<_> = (found.items.into_iter())
        .filter(|revision| {
            let mut owners = revision.metadata.owner_references.iter().flatten();
            owners.any(|owner| owner.uid == uid)
        })
        .map(|revision| {
            let name = revision.name_any();
            let template = revision.data.map_or(Value::Null, |data| data.0);
            let read: Option<MachineTemplate> = serde_json::from_value(template.clone()).ok();
            Kept {
                revision: revision.revision,
                current: read.as_ref() == Some(&pool.spec.virtual_machine_template),
                name,
                template,
            }
        })
        .collect();
    kept.sort_by_key(|kept| kept.revision);
    Ok((pool, kept))
}

impl Kept {
    /// The images of its volumes.
    fn images(&self) -> Vec<String> {
        let volumes = self.template.pointer("/spec/template/spec/volumes");
        let volumes = volumes.and_then(Value::as_array).into_iter().flatten();
        let images = volumes.filter_map(|volume| image_of(volume)?.0.as_str());
        images.map(output::printable).collect()
    }

    fn digest(&self) -> &str {
        let digest = self.name.rsplit_once('-');
        digest.map_or("", |(_, digest)| digest)
    }
}

/// `image history`.
pub(crate) async fn history(cluster: &Cluster, args: &HistoryArgs) -> Result<()> {
    let (pool, kept) = kept(cluster, &args.target).await?;
    let machines = cluster.machines(cluster.namespace_of(&args.target));
    let which = ListParams::default().labels(&format!("{POOL}={}", args.target.name));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let found = cluster.call(machines.list(&which)).await?;
    // Those on their way out are none of the pool's any more.
    let stays = |machine: &&VirtualMachine| machine.metadata.deletion_timestamp.is_none();
    for machine in found.iter().filter(stays) {
        if let Some(revision) = machine.labels().get(REVISION) {
            *counts.entry(revision.clone()).or_default() += 1;
        }
    }
    let count = |kept: &Kept| counts.get(kept.digest()).copied().unwrap_or(0);
    match args.output.output {
        Some(Output::Json) => {
            let items = kept.iter().map(|kept| {
                json!({
                    "revision": kept.revision,
                    "name": kept.name,
                    "current": kept.current,
                    "machines": count(kept),
                    "images": kept.images(),
                    "template": kept.template,
                })
            });
            output::json(&json!({ "pool": pool.name_any(), "items": items.collect::<Vec<_>>() }))
        }
        Some(Output::Name) => {
            for kept in &kept {
                output::line(&format!("controllerrevision.apps/{}", kept.name))?;
            }
            Ok(())
        }
        None => {
            let head = ["REVISION", "TEMPLATE", "MACHINES", "CURRENT", "IMAGES"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(kept.iter().map(|kept| {
                vec![
                    kept.revision.to_string(),
                    kept.digest().to_owned(),
                    count(kept).to_string(),
                    if kept.current { "yes" } else { "" }.to_owned(),
                    kept.images().join(", "),
                ]
            }));
            Ok(output::print(output::table(&rows).as_bytes())?)
        }
    }
}

/// `image undo`.
pub(crate) async fn undo(cluster: &Cluster, args: &UndoArgs) -> Result<()> {
    let (_, kept) = kept(cluster, &args.target).await?;
    let name = &args.target.name;
    let back = match args.to_revision {
        Some(number) => {
            let found = kept.iter().find(|kept| kept.revision == number);
            found.with_context(|| {
                format!(
                    "{name} has no revision {number}: \
                     `kubectl bootwright image history {name}` lists those there are"
                )
            })?
        }
        None => {
            let before = kept.iter().rfind(|kept| !kept.current);
            before.with_context(|| format!("{name} has never been anything else"))?
        }
    };
    // What is no template is not written, whoever has put it there.
    serde_json::from_value::<MachineTemplate>(back.template.clone())
        .with_context(|| format!("the kept template {} cannot be read", back.name))?;
    let change = |object: &mut Value| {
        let place = &mut object["spec"]["virtualMachineTemplate"];
        let changes = !back.current && *place != back.template;
        if changes {
            *place = back.template.clone();
        }
        Ok(changes)
    };
    let changed = cluster
        .change(Kind::Pool, &args.target, args.dry_run, change)
        .await?;
    let (number, images) = (back.revision, back.images().join(", "));
    let (object, mut what) = match changed {
        Changed::Yes(object) => (object, format!("goes back to revision {number} ({images})")),
        Changed::No(object) => (
            object,
            format!("is at revision {number} already ({images})"),
        ),
    };
    if args.dry_run {
        what.push_str(" (dry run)");
    }
    output::done(args.output.output, (Kind::Pool, name), &what, &object)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn machine(volumes: &Value) -> Value {
        json!({ "spec": { "template": { "spec": { "volumes": volumes } } } })
    }

    #[test]
    fn the_volume_is_named_or_clear() {
        let root = json!({ "name": "root", "bootableContainer": { "image": "a" } });
        let disk = json!({ "name": "disk", "containerDisk": { "image": "b" } });
        let data = json!({ "name": "data", "containerDisk": { "image": "c" } });
        let empty = json!({ "name": "empty", "emptyDisk": { "capacity": "1Gi" } });
        let set = |volumes: &Value, wanted: Option<&str>| {
            let mut object = machine(volumes);
            set_image(&mut object, Kind::Machine, wanted, "new").map(|done| (object, done))
        };
        for (volumes, wanted, changed, index) in [
            (json!([&empty, &disk]), None, "disk", 1),
            (json!([&disk, &root]), None, "root", 1),
            (json!([&disk, &root]), Some("disk"), "disk", 0),
        ] {
            let (object, done) = set(&volumes, wanted).unwrap();
            assert_eq!(done, (changed.to_owned(), true));
            let place = format!("/spec/template/spec/volumes/{index}");
            let image = image_of(object.pointer(&place).unwrap()).unwrap().0;
            assert_eq!(image, "new");
        }
        for (volumes, wanted, words) in [
            (
                json!([&disk, &data]),
                None,
                "VOLUME=IMAGE, with one of disk, data",
            ),
            (json!([&disk]), Some("root"), "those are disk"),
            (json!([&empty]), None, "no volume is made of an image"),
        ] {
            let error = set(&volumes, wanted).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let mut same = machine(&json!([root]));
        assert!(!set_image(&mut same, Kind::Machine, None, "a").unwrap().1);
        assert!(set_image(&mut same, Kind::Machine, None, "").is_err());
    }
}
