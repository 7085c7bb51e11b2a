//! The steps of `templates/tekton` run as an ordinary user, with a real
//! registry: what a Task says is run, word for word.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../../builder/image/tests/common/mod.rs"]
mod servers;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::images::base;
use common::layout::{Compression, Layout};
use common::{command, ok, root, run};
use serde_json::{Value, json};
use servers::registry::{Registry, Setup};
use servers::tls::Certificates;

/// Whom Debian calls nobody.
const NOBODY: u32 = 65534;

/// A Task's step, and what its variables stand for.
struct Step {
    step: Value,
    /// `$(…)` without its parentheses.
    variables: BTreeMap<String, String>,
    /// Folders of the pod, and where they are here.
    mounts: Vec<(&'static str, PathBuf)>,
    /// Secrets, as folders.
    secrets: Vec<(&'static str, PathBuf)>,
}

impl Step {
    /// The only step of a Task.
    fn of(file: &str, params: &[(&str, &str)], dir: &Path) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/tekton");
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let task: Value = serde_saphyr::from_str(&text).unwrap();
        let mut variables = BTreeMap::new();
        for param in task["spec"]["params"].as_array().unwrap() {
            if let Some(default) = param["default"].as_str() {
                let name = param["name"].as_str().unwrap();
                variables.insert(format!("params.{name}"), default.to_owned());
            }
        }
        for (name, value) in params {
            variables.insert(format!("params.{name}"), (*value).to_owned());
        }
        for result in task["spec"]["results"].as_array().into_iter().flatten() {
            let name = result["name"].as_str().unwrap();
            let path = dir.join(name).display().to_string();
            variables.insert(format!("results.{name}.path"), path);
        }
        let steps = task["spec"]["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 1, "{file}");
        Self {
            step: steps[0].clone(),
            variables,
            mounts: Vec::new(),
            secrets: Vec::new(),
        }
    }

    fn resolved(&self, text: &Value) -> String {
        let mut text = text.as_str().unwrap().to_owned();
        for (name, value) in &self.variables {
            text = text.replace(&format!("$({name})"), value);
        }
        for (folder, here) in &self.mounts {
            if text.starts_with(folder) || text.contains(&format!("={folder}")) {
                text = text.replace(folder, &here.display().to_string());
            }
        }
        assert!(
            !text.contains("$("),
            "{text} has a variable that nobody set"
        );
        text
    }

    /// The command line, and the environment.
    fn command(&self, script: &Path, arguments: &[&str]) -> (Vec<String>, Vec<(String, String)>) {
        let mut line = match self.step["script"].as_str() {
            Some(text) => {
                assert!(text.starts_with("#!/bin/sh\n"), "{text}");
                fs::write(script, text).unwrap();
                fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
                vec![script.display().to_string()]
            }
            None => vec![env!("CARGO_BIN_EXE_bootwright").to_owned()],
        };
        if self.step["script"].is_null() {
            assert_eq!(self.step["command"][0], "/usr/bin/bootwright");
            let args = self.step["args"].as_array().unwrap();
            line.extend(args.iter().map(|text| self.resolved(text)));
        }
        line.extend(arguments.iter().map(|text| (*text).to_owned()));
        (line, self.environment())
    }

    fn environment(&self) -> Vec<(String, String)> {
        let variables = self.step["env"].as_array().unwrap().iter();
        let value = |variable: &Value| match &variable["valueFrom"]["secretKeyRef"] {
            Value::Null => self.resolved(&variable["value"]),
            secret => {
                let name = self.resolved(&secret["name"]);
                let (_, folder) = self.secrets.iter().find(|(n, _)| *n == name).unwrap();
                fs::read_to_string(folder.join(secret["key"].as_str().unwrap())).unwrap()
            }
        };
        let name = |variable: &Value| variable["name"].as_str().unwrap().to_owned();
        variables.map(|v| (name(v), value(v))).collect()
    }
}

/// Makes a folder of its own for the ordinary user.
fn folder(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    if root() {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    path
}

/// What becomes an ordinary user with no more than the capabilities that a
/// container's security context adds. Where root runs the tests, the user's
/// subordinate ids and the programs that hand them out are as they are in
/// buildah's image, and nobody else sees that.
fn unprivileged(dir: &Path, capabilities: &Value) -> Command {
    if !root() {
        return Command::new("env");
    }
    let ids = dir.join("ids");
    fs::write(&ids, "nobody:100000:65536\n").unwrap();
    let mut mounts = vec![
        (ids.clone(), "/etc/subuid".to_owned()),
        (ids, "/etc/subgid".to_owned()),
    ];
    for (name, capability) in [("newuidmap", "cap_setuid"), ("newgidmap", "cap_setgid")] {
        let program = format!("/usr/bin/{name}");
        let copy = dir.join(name);
        fs::copy(&program, &copy).expect("uidmap is missing: cargo xtask setup");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = copy.display().to_string();
        ok(&mut command(&[
            "setcap",
            &format!("{capability}+ep"),
            &copy,
        ]));
        mounts.push((copy.into(), program));
    }
    let mounts = mounts
        .iter()
        .map(|(from, to)| format!("mount --bind {} {to}", from.display()));
    let mounts: Vec<_> = mounts.collect();
    let added = capabilities["add"].as_array().into_iter().flatten();
    let added = added.map(|name| format!(",+{}", name.as_str().unwrap().to_ascii_lowercase()));
    let bounding = format!("--bounding-set=-all{}", added.collect::<String>());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(format!("{} && exec \"$@\"", mounts.join(" && ")));
    command.args([
        "sh",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]);
    command.args(["--inh-caps=-all", &bounding]);
    if capabilities["add"].is_null() {
        command.arg("--no-new-privs");
    }
    command.arg("env");
    command
}

fn execute(step: &Step, dir: &Path, at: &Path, arguments: &[&str]) {
    let (line, environment) = step.command(&dir.join("script"), arguments);
    let context = &step.step["securityContext"];
    let mut command = unprivileged(dir, &context["capabilities"]);
    command
        .current_dir(at)
        .args(line)
        .env("HOME", dir.join("home"))
        .envs(environment);
    ok(&mut command);
}

#[test]
fn the_steps_build_push_and_make_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    // Others must get to the folders that are theirs.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let users = dir.path().join("users");
    let file = users.display().to_string();
    ok(&mut command(&["htpasswd", "-Bbc", &file, "ci", "secret"]));
    let registry = Registry::start(&Setup {
        htpasswd: Some(&users),
        ..Setup::default()
    });
    let (source, work) = (dir.path().join("source"), folder(dir.path().join("work")));
    folder(work.join("home"));
    Layout::new(&source.join("base"))
        .layer(&base().finish(), Compression::Gzip)
        .tag("v1");
    fs::write(source.join("motd"), "built by a pipeline\n").unwrap();
    let from = format!("oci:{}:v1", source.join("base").display());
    let to = format!("docker://{}/base:v1", registry.host());
    ok(&mut command(&[
        "skopeo",
        "copy",
        "--dest-creds=ci:secret",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]));
    let containerfile = format!(
        "FROM {}/base:v1\nARG VERSION=1\nLABEL version=$VERSION\nCOPY --chown=33:44 motd /etc/motd\n",
        registry.host()
    );
    fs::write(source.join("Containerfile"), containerfile).unwrap();
    let image = format!("{}/shop/web:7", registry.host());
    let params = [("image", image.as_str()), ("tls-verify", "false")];
    let config = folder(work.join("config"));
    // base64 of ci:secret
    let credentials = json!({ "auths": { registry.host(): { "auth": "Y2k6c2VjcmV0" } } });
    fs::write(config.join("config.json"), credentials.to_string()).unwrap();
    let mut build = Step::of("image.yaml", &params, &work);
    build.mounts = vec![
        ("/var/lib/containers", folder(work.join("containers"))),
        ("/workspace/dockerconfig", config.clone()),
    ];
    execute(&build, &work, &source, &["VERSION=7", "UNUSED=a b"]);
    let result = |name: &str| fs::read_to_string(work.join(name)).unwrap();
    let digest = result("IMAGE_DIGEST");
    assert_eq!(result("IMAGE_URL"), image);
    let reference = format!("{}/shop/web@{digest}", registry.host());
    assert_eq!(result("IMAGE_REFERENCE"), reference);
    let from = format!("docker://{reference}");
    let built = ok(&mut command(&[
        "skopeo",
        "inspect",
        "--creds=ci:secret",
        "--tls-verify=false",
        "--config",
        &from,
    ]));
    let built: Value = serde_json::from_str(&built).unwrap();
    assert_eq!(built["config"]["Labels"]["version"], "7");

    // Files have the owners that the Containerfile gives them: the build had
    // more than one user to give.
    let layout = dir.path().join("pulled");
    let to = format!("oci:{}:v1", layout.display());
    ok(&mut command(&[
        "skopeo",
        "copy",
        "--src-creds=ci:secret",
        "--src-tls-verify=false",
        &from,
        &to,
    ]));
    let owner = owner_of(&layout, "etc/motd");
    assert_eq!(owner, (33, 44));

    let disk = format!("{}/shop/web-disk:7", registry.host());
    let params = [
        ("image", reference.as_str()),
        ("disk", disk.as_str()),
        ("tls-verify", "false"),
        ("bootwright-image", "bootwright:1"),
    ];
    let mut push = Step::of("disk.yaml", &params, &work);
    push.mounts = vec![
        ("/store", folder(work.join("store"))),
        ("/workspace/dockerconfig", config.clone()),
    ];
    execute(&push, &work, &work, &[]);
    let pushed = format!("docker://{disk}");
    let manifest = ok(&mut command(&[
        "skopeo",
        "inspect",
        "--creds=ci:secret",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &pushed,
    ]));
    assert_eq!(manifest.trim(), result("DISK_DIGEST").trim());
}

/// The owner of a file in the last layer that has it.
fn owner_of(layout: &Path, name: &str) -> (u64, u64) {
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &Value| {
        layout
            .join("blobs")
            .join(digest.as_str().unwrap().replace(':', "/"))
    };
    let index = read(layout.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]["digest"]));
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let path = blob(&layer["digest"]).display().to_string();
    let output = run(&mut command(&[
        "bsdtar",
        "--numeric-owner",
        "-tvf",
        &path,
        name,
    ]));
    let line = String::from_utf8(output.stdout).unwrap();
    let fields: Vec<_> = line.split_whitespace().collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// The image of cosign: a root of its own, with a program and no shell.
struct Cosign {
    dir: tempfile::TempDir,
}

impl Cosign {
    /// That of `gcr.io/distroless/static`, with the program in ko's folder.
    fn new(program: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["etc", "ko-app", "workspace/dockerconfig"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::copy(program, dir.path().join("ko-app/cosign")).unwrap();
        // A name that says nothing of who is behind it, as loopback's does.
        fs::write(dir.path().join("etc/hosts"), "127.0.0.1 registry.test\n").unwrap();
        Self { dir }
    }

    /// A file that is in it while it runs.
    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.dir.path().join(name), content).unwrap();
    }

    /// Runs in it as an ordinary user who may write nothing.
    fn command(&self, line: &[String], environment: &[(String, String)]) -> Command {
        let at = self.dir.path().display().to_string();
        let mut command = match root() {
            true => command(&["setpriv", "--no-new-privs", "chroot", "--groups="]),
            false => command(&["unshare", "--map-user=65532", "--map-group=65532"]),
        };
        match root() {
            true => command.args(["--userspec=65532:65532", &at]),
            false => command.arg(format!("--root={at}")),
        };
        command
            .args(line)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/ko-app")
            .envs(environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Asks whether an image is signed with the key of which this is the public
    /// half.
    fn verify(&self, key: &Path, image: &str) -> Command {
        self.put("workspace/cosign.pub", &fs::read(key).unwrap());
        let line = [
            "cosign",
            "verify",
            "--insecure-ignore-tlog=true",
            "--allow-http-registry",
            "--allow-insecure-registry",
            "--key=/workspace/cosign.pub",
            image,
        ];
        let nobody = ("DOCKER_CONFIG".into(), "/workspace/dockerconfig".into());
        self.command(&line.map(str::to_owned), &[nobody])
    }

    /// Runs the step of a Task.
    fn step(&self, step: &Step) -> Command {
        let words = |field: &str| step.step[field].as_array().unwrap().iter();
        let line = words("command").chain(words("args"));
        let line: Vec<_> = line.map(|text| step.resolved(text)).collect();
        self.command(&line, &step.environment())
    }
}

/// cosign, which is no Debian package and takes minutes to build.
fn cosign() -> Option<PathBuf> {
    let named = env::var_os("BOOTWRIGHT_TEST_COSIGN").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&path).map(|dir| dir.join("cosign"));
    named.or_else(|| found.find(|program| program.is_file()))
}

#[test]
fn the_step_signs_a_digest_and_no_other() {
    let Some(program) = cosign() else {
        // Not captured, as what is printed would be.
        let _ = writeln!(
            std::io::stderr(),
            "templates/tekton/sign.yaml is not run: there is no cosign in PATH, \
             nor does BOOTWRIGHT_TEST_COSIGN lead to one"
        );
        return;
    };
    let program = program.as_path();
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    let file = users.display().to_string();
    ok(&mut command(&["htpasswd", "-Bbc", &file, "ci", "secret"]));
    let certificates = Certificates::make();
    let plain = Registry::start(&Setup {
        htpasswd: Some(&users),
        ..Setup::default()
    });
    let encrypted = Registry::start(&Setup {
        tls: Some(&certificates),
        ..Setup::default()
    });
    let mut known = Command::new(program);
    let known = ok(known.arg("version"));
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("cosign.password"), "open sesame").unwrap();
    let mut made = Command::new(program);
    let made = made.arg("generate-key-pair").current_dir(&keys);
    ok(made.env("COSIGN_PASSWORD", "open sesame"));
    let key = keys.join("cosign.pub");
    for (registry, credentials) in [(&plain, "ci:secret"), (&encrypted, "")] {
        let cosign = Cosign::new(program);
        let [signed, other] = ["1", "2"].map(|tag| pushed(dir.path(), registry, credentials, tag));
        let at = |digest: &str| format!("registry.test:{}/web@{digest}", registry.port);
        let image = at(&signed);
        let sign = |changed: &[(&str, &str)]| {
            let params = [&[("image", &*image)], changed].concat();
            let mut step = Step::of("sign.yaml", &params, dir.path());
            step.secrets = vec![("cosign", keys.clone())];
            step
        };
        if !credentials.is_empty() {
            let host = format!("registry.test:{}", registry.port);
            // base64 of ci:secret
            let config = json!({ "auths": { host: { "auth": "Y2k6c2VjcmV0" } } }).to_string();
            cosign.put("workspace/dockerconfig/config.json", config.as_bytes());
        }
        let step = sign(&[]);
        let version = step.resolved(&step.step["image"]);
        let (_, version) = version.rsplit_once(':').unwrap();
        assert!(known.contains(version), "not {version}: {known}");
        // Who is not told to trust such a registry does not.
        let said = refused(&mut cosign.step(&step));
        let untrusted = said.contains("gave HTTP response") || said.contains("x509");
        assert!(untrusted, "{said}");
        refused(&mut cosign.verify(&key, &image));
        ok(&mut cosign.step(&sign(&[("allow-insecure", "true")])));
        ok(&mut cosign.verify(&key, &image));
        let said = refused(&mut cosign.verify(&key, &at(&other)));
        assert!(said.contains("no signatures found"), "{said}");
        // Nor is the other's signature this one's.
        let named = |digest: &str| {
            let tag = digest.replace(':', "-");
            format!("docker://{}/web:{tag}.sig", registry.host())
        };
        skopeo(credentials, &named(&signed), &named(&other));
        let said = refused(&mut cosign.verify(&key, &at(&other)));
        assert!(said.contains("no matching signatures"), "{said}");
    }
}

/// Runs what must fail, with a status that says why: what it said.
fn refused(command: &mut Command) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?}: {said}");
    said
}

/// Pushes an image that has no second of its kind: its digest.
fn pushed(dir: &Path, registry: &Registry, credentials: &str, tag: &str) -> String {
    let layout = dir.join(format!("{}-{tag}", registry.port));
    let image = base().file("etc/motd", tag).finish();
    Layout::new(&layout)
        .layer(&image, Compression::Gzip)
        .tag("v1");
    let from = format!("oci:{}:v1", layout.display());
    let to = format!("docker://{}/web:{tag}", registry.host());
    skopeo(credentials, &from, &to)
}

/// Copies an image; its digest.
fn skopeo(credentials: &str, from: &str, to: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let digest = format!("--digestfile={}", file.path().display());
    let mut command = command(&["skopeo", "copy", "--insecure-policy", &digest]);
    for (end, image) in [("src", from), ("dest", to)] {
        if image.starts_with("docker:") {
            command.arg(format!("--{end}-tls-verify=false"));
            if !credentials.is_empty() {
                command.arg(format!("--{end}-creds={credentials}"));
            }
        }
    }
    ok(command.args([from, to]));
    fs::read_to_string(file.path()).unwrap()
}

#[test]
fn the_pipeline_names_tasks_params_and_results_that_there_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/tekton");
    let read = |file: &str| -> Value {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        serde_saphyr::from_str(&text).unwrap()
    };
    let mut tasks = BTreeMap::new();
    for file in ["image.yaml", "sign.yaml", "disk.yaml", "rollout.yaml"] {
        let task = read(file);
        tasks.insert(task["metadata"]["name"].as_str().unwrap().to_owned(), task);
    }
    let pipeline = read("pipeline.yaml");
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let steps = pipeline["spec"]["tasks"].as_array().unwrap();
    let mut used = Vec::new();
    for step in steps {
        let task = &tasks[step["taskRef"]["name"].as_str().unwrap()];
        used.push((step["name"].as_str().unwrap(), task));
        let (given, known) = (names(&step["params"]), names(&task["spec"]["params"]));
        assert!(given.iter().all(|name| known.contains(name)), "{given:?}");
        for param in task["spec"]["params"].as_array().unwrap() {
            let name = param["name"].as_str().unwrap();
            let set = !param["default"].is_null() || given.iter().any(|given| given == name);
            assert!(set, "nobody sets {name} of {}", step["name"]);
        }
    }
    let text = pipeline.to_string();
    for part in text.split("$(").skip(1) {
        let (variable, _) = part.split_once(')').unwrap();
        let words: Vec<_> = variable.trim_end_matches("[*]").split('.').collect();
        let known = match words.as_slice() {
            ["params", name] => names(&pipeline["spec"]["params"]).contains(&(*name).to_owned()),
            ["tasks", step, "results", name] => {
                let (_, task) = used.iter().find(|(used, _)| used == step).unwrap();
                names(&task["spec"]["results"]).contains(&(*name).to_owned())
            }
            _ => false,
        };
        assert!(known, "$({variable})");
    }
    for task in tasks.values() {
        let text = task.to_string();
        assert!(
            !text.contains("\"privileged\""),
            "{}",
            task["metadata"]["name"]
        );
    }
}
