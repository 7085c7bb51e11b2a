//! Real registries of two makers and the programs that people use with them.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bootwright_delivery::artifact::{self, ARTIFACT_TYPE};
use bootwright_delivery::container_disk;
use bootwright_delivery::oci::Descriptor;
use bootwright_delivery::{Codec, DeliveryError};
use bootwright_disk::PlanReader;
use bootwright_disk::sink::{Compression, Format};
use bootwright_image::registry::{Credentials, RegistryOptions, Uploaded};
use common::servers::registry::{Registry, Setup};
use common::servers::tls::Certificates;
use common::servers::token::{Admits, TokenServer};
use common::servers::{quick, run, text};
use common::{Sample, fetch, info, plain, push_sample, with_sink, with_work};

/// A program that `cargo xtask test` builds, named by a variable; without it
/// there is nothing to test with.
fn program(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("{variable} is not set; `cargo xtask test unit` sets it: not tested");
    }
    path
}

fn htpasswd(dir: &std::path::Path) -> PathBuf {
    let path = dir.join("htpasswd");
    fs::write(&path, run("htpasswd", &["-nbB", "user", "secret"])).unwrap();
    path
}

fn error<T>(result: Result<T, DeliveryError>) -> String {
    match result {
        Ok(_) => panic!("it should fail"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn distribution_takes_and_gives_the_disk() {
    let Some(program) = program("BOOTWRIGHT_TEST_DISTRIBUTION") else {
        return;
    };
    let registry = Registry::start(&Setup {
        program: Some(&program),
        ..Setup::default()
    });
    let sample = Sample::new(21);
    let reference = format!("{}/a/b:1", registry.host());
    let (result, _) = push_sample(&sample, &reference, &plain());
    result.unwrap();
    let (result, told) = push_sample(&sample, &reference, &plain());
    result.unwrap();
    assert_eq!(told.count(Uploaded::Sent), 0);
    assert!(fetch(&reference, &["--src-tls-verify=false"]) == sample.bytes());
}

#[test]
fn a_private_authority_is_trusted_when_given() {
    let certificates = Certificates::make();
    let registry = Registry::start(&Setup {
        tls: Some(&certificates),
        ..Setup::default()
    });
    let sample = Sample::new(22);
    let reference = format!("{}/a/b:1", registry.host());
    let said = error(push_sample(&sample, &reference, &quick()).0);
    assert!(said.contains("--cert-dir"), "{said}");
    let ca = certificates.cert_dir(&["ca.crt"]);
    let given = RegistryOptions {
        cert_dir: Some(ca.path().to_owned()),
        ..quick()
    };
    push_sample(&sample, &reference, &given).0.unwrap();
    let directory = format!("--src-cert-dir={}", text(ca.path()));
    assert!(fetch(&reference, &[&directory]) == sample.bytes());
}

#[test]
fn a_push_without_the_right_password_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = htpasswd(dir.path());
    let registry = Registry::start(&Setup {
        htpasswd: Some(&path),
        ..Setup::default()
    });
    let sample = Sample::new(23);
    let reference = format!("{}/a/b:1", registry.host());
    let empty = dir.path().join("auth.json");
    fs::write(&empty, "{}").unwrap();
    let with = |credentials: Option<&str>| RegistryOptions {
        credentials: credentials.map(Credentials::parse),
        authfile: Some(empty.clone()),
        ..plain()
    };
    for wrong in [None, Some("user:wrong")] {
        let said = error(push_sample(&sample, &reference, &with(wrong)).0);
        assert!(said.contains("401") || said.contains("log"), "{said}");
    }
    let right = with(Some("user:secret"));
    push_sample(&sample, &reference, &right).0.unwrap();
    let arguments = ["--src-tls-verify=false", "--src-creds=user:secret"];
    assert!(fetch(&reference, &arguments) == sample.bytes());
}

#[test]
fn a_registry_that_is_read_only_is_named() {
    let registry = Registry::start(&Setup {
        read_only: true,
        ..Setup::default()
    });
    let sample = Sample::new(24);
    let reference = format!("{}/a/b:1", registry.host());
    let said = error(push_sample(&sample, &reference, &plain()).0);
    assert!(said.contains(&registry.host()), "{said}");
    assert!(
        said.contains("405") || said.contains("unsupported"),
        "{said}"
    );
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed() {
    let certificates = Certificates::make();
    // Good for a moment.
    let life = Duration::from_secs(3);
    let server = TokenServer::start(&certificates, Admits::Password, life);
    let registry = Registry::start(&Setup {
        token_realm: Some(&server.realm()),
        token_certificates: Some(&certificates),
        ..Setup::default()
    });
    let sample = Sample::new(25);
    let options = RegistryOptions {
        credentials: Some(Credentials::parse("user:secret")),
        ..plain()
    };
    let reference = format!("{}/test/image:1", registry.host());
    let (result, _) = with_sink(&reference, &options, &[], |sink| {
        with_work(|work| {
            // One blob, then a pause in which the token expires.
            let early = Descriptor::of("application/octet-stream", b"early");
            sink.put(Some(&early), &mut |out| {
                bootwright_delivery::frames::plain("early", b"early", out)
            })?;
            while sink.uploaded(&early.digest).is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_secs(5));
            bootwright_delivery::disk_image::push(&sample.disk(), 3, sink, true, work)
        })
    });
    result.unwrap();
    assert!(server.count() >= 2, "{} tokens", server.count());
    // skopeo asks for no other token when the first expires.
    *server.life.lock().unwrap() = Duration::from_secs(3600);
    let arguments = ["--src-tls-verify=false", "--src-creds=user:secret"];
    assert!(fetch(&reference, &arguments) == sample.bytes());
}

#[test]
fn podman_and_buildah_take_disk_images_as_images() {
    let registry = Registry::start(&Setup::default());
    let sample = Sample::new(26);
    let reference = format!("{}/a/b:1", registry.host());
    push_sample(&sample, &reference, &plain()).0.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (root, runroot) = (dir.path().join("root"), dir.path().join("run"));
    let storage = [
        "--root",
        text(&root),
        "--runroot",
        text(&runroot),
        "--storage-driver",
        "vfs",
    ];
    let pull = ["pull", "--quiet", "--tls-verify=false", &reference];
    run("podman", &[&storage[..], &pull].concat());
    let show = ["image", "inspect", &reference];
    let shown = run("podman", &[&storage[..], &show].concat());
    assert!(shown.contains("dev.bootwright.disk.version"), "{shown}");
    let from = [
        "from",
        "--pull-never",
        "--quiet",
        "--isolation",
        "chroot",
        &reference,
    ];
    let container = run("buildah", &[&storage[..], &from].concat());
    let mount = [&storage[..], &["mount", container.trim()]].concat();
    let mounted = PathBuf::from(run("buildah", &mount).trim());
    assert!(mounted.join("usr/app").is_file());
    assert!(mounted.join("bootwright/plan").is_file());
    run(
        "buildah",
        &[&storage[..], &["umount", container.trim()]].concat(),
    );
}

#[test]
fn buildah_takes_container_disks() {
    let registry = Registry::start(&Setup::default());
    let sample = Sample::new(27);
    let reader = PlanReader::new(sample.plan.clone());
    let reference = format!("{}/a/vm:1", registry.host());
    let options = container_disk::Options {
        format: Format::Raw,
        compression: Compression::None,
        codec: Codec::default(),
        spool: sample.dir.path().to_owned(),
        platform: "linux/amd64".parse().unwrap(),
        created: None,
        env: Default::default(),
        labels: Default::default(),
    };
    let (result, _) = with_sink(&reference, &plain(), &[], |sink| {
        with_work(|work| container_disk::push(&reader, &info(), &options, sink, true, work))
    });
    result.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (root, runroot) = (dir.path().join("root"), dir.path().join("run"));
    let storage = [
        "--root",
        text(&root),
        "--runroot",
        text(&runroot),
        "--storage-driver",
        "vfs",
    ];
    let from = ["from", "--quiet", "--tls-verify=false", &reference];
    let container = run("buildah", &[&storage[..], &from].concat());
    let mount = [&storage[..], &["mount", container.trim()]].concat();
    let mounted = PathBuf::from(run("buildah", &mount).trim());
    assert!(fs::read(mounted.join("disk/disk.img")).unwrap() == sample.bytes());
    run(
        "buildah",
        &[&storage[..], &["umount", container.trim()]].concat(),
    );
}

/// Pushes a sample as an artifact.
fn push_artifact(sample: &Sample, reference: &str, subject: Option<Descriptor>) -> Descriptor {
    let reader = PlanReader::new(sample.plan.clone());
    let options = artifact::Options {
        level: 3,
        name: "web".to_owned(),
        platform: "linux/amd64".parse().unwrap(),
        efi: true,
        created: Some("2026-01-02T03:04:05Z".to_owned()),
        instancetype: None,
        preference: Some("debian".to_owned()),
        subject,
    };
    let (result, _) = with_sink(reference, &plain(), &[], |sink| {
        with_work(|work| artifact::push(&reader, &info(), &options, sink, true, work))
    });
    result.unwrap().manifest
}

#[test]
fn an_artifact_is_a_virtual_machine_and_its_raw_disk() {
    let registry = Registry::start(&Setup::default());
    let sample = Sample::new(28);
    let reference = format!("{}/a/web:1", registry.host());
    push_artifact(&sample, &reference, None);
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    // As KubeVirt's import script fetches it.
    common::servers::skopeo_copy(&[
        "--src-tls-verify=false",
        &format!("docker://{reference}"),
        &format!("oci:{}", layout.display()),
    ]);
    let json = |digest: &serde_json::Value| -> serde_json::Value {
        let name = digest.as_str().unwrap().replace(':', "/");
        serde_json::from_slice(&fs::read(layout.join("blobs").join(name)).unwrap()).unwrap()
    };
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifest = json(&index["manifests"][0]["digest"]);
    assert_eq!(manifest["artifactType"], ARTIFACT_TYPE);
    assert_eq!(manifest["config"]["mediaType"], artifact::CONFIG);
    let machine = json(&manifest["config"]["digest"]);
    assert_eq!(machine["kind"], "VirtualMachine");
    assert_eq!(machine["metadata"]["name"], "web");
    let volumes = &machine["spec"]["template"]["spec"]["volumes"];
    let layer = &manifest["layers"][0];
    assert_eq!(
        volumes[0]["name"],
        layer["annotations"]["io.kubevirt.disk.name"]
    );
    assert_eq!(
        volumes[0]["name"],
        layer["annotations"]["io.kubevirt.disk.names"]
    );
    assert_eq!(layer["mediaType"], artifact::DISK);
    let size = layer["annotations"]["io.kubevirt.disk.size"]
        .as_str()
        .unwrap();
    assert_eq!(size.parse(), Ok(sample.plan.size()));
    let name = layer["digest"].as_str().unwrap().replace(':', "/");
    let disk = zstd::decode_all(fs::File::open(layout.join("blobs").join(name)).unwrap());
    assert!(disk.unwrap() == sample.bytes());
}

#[test]
fn an_artifact_can_be_a_referrer_of_its_image() {
    let registry = Registry::start(&Setup::default());
    let sample = Sample::new(29);
    let host = registry.host();
    let (result, _) = push_sample(&sample, &format!("{host}/a/web:image"), &plain());
    let subject = result.unwrap().manifest;
    let subject = Descriptor {
        platform: None,
        ..subject
    };
    let tag = subject.digest.to_string().replace(':', "-");
    let listed = || -> serde_json::Value {
        let url = format!("http://{host}/v2/a/web/manifests/{tag}");
        let accept = "Accept: application/vnd.oci.image.index.v1+json";
        serde_json::from_str(&run("curl", &["--silent", "-H", accept, &url])).unwrap()
    };
    let pushed = push_artifact(&sample, &format!("{host}/a/web:vm"), Some(subject.clone()));
    // Twice, and it is listed once.
    push_artifact(&sample, &format!("{host}/a/web:vm"), Some(subject.clone()));
    let index = listed();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index:#}");
    assert_eq!(index["manifests"][0]["digest"], pushed.digest.to_string());
    assert_eq!(index["manifests"][0]["artifactType"], ARTIFACT_TYPE);
}

#[test]
fn oras_pulls_artifacts_and_discovers_referrers() {
    let Some(oras) = program("BOOTWRIGHT_TEST_ORAS") else {
        return;
    };
    let oras = text(&oras);
    let registry = Registry::start(&Setup::default());
    let sample = Sample::new(30);
    let host = registry.host();
    let (result, _) = push_sample(&sample, &format!("{host}/a/web:image"), &plain());
    let subject = Descriptor {
        platform: None,
        ..result.unwrap().manifest
    };
    let reference = format!("{host}/a/web:vm");
    push_artifact(&sample, &reference, Some(subject));
    let dir = tempfile::tempdir().unwrap();
    let output = text(dir.path());
    run(
        oras,
        &["pull", "--plain-http", "--output", output, &reference],
    );
    let file = dir.path().join("rootdisk.raw.zst");
    let disk = zstd::decode_all(fs::File::open(file).unwrap()).unwrap();
    assert!(disk == sample.bytes());
    let image = format!("{host}/a/web:image");
    let found = run(
        oras,
        &["discover", "--plain-http", "--format", "json", &image],
    );
    assert!(found.contains(ARTIFACT_TYPE), "{found}");
}
