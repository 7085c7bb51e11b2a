//! `kubectl bootwright` and a machine that runs, as its users meet them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bootwright_controller::quantity;
use serde_json::json;

use crate::cluster::{Cluster, eventually, get, get_at, image, run, template};
use crate::machine::until_other_pod;
use crate::terminal::Terminal;

/// What is copied to the machine and back, in bytes: more than any buffer.
const LARGE: usize = 3 << 20;

/// The memory that the machine can have while it runs; it begins with 512 MiB.
const MOST: &str = "768Mi";

/// What the command of the liveness probe touches in the guest.
const PROBED: &str = "/run/probed";

/// The user's side: the plugin, and a home with a key in it.
pub(crate) struct Plugin {
    home: tempfile::TempDir,
    namespace: String,
}

/// A program that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plugin {
    /// One that finds its machines in the cluster's namespace.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            namespace: cluster.namespace.clone(),
        }
    }

    /// Makes a key, and a machine that lets it in: `web`, which boots an image.
    pub(crate) fn with_machine(cluster: &Cluster, image: &str) -> Self {
        let plugin = Self::new(cluster);
        let key = plugin.key().display().to_string();
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", &key];
        let (said, well) = run("ssh-keygen", &words);
        assert!(well, "{said}");
        let from = format!("--from-file=key={key}.pub");
        let words = ["create", "secret", "generic", "keys", &from];
        let (said, well) = cluster.kubectl(&words);
        assert!(well, "{said}");
        let mut template = template("web", image);
        let spec = &mut template["spec"];
        spec["domain"]["cpu"] = json!({ "sockets": 1, "maxSockets": 2 });
        spec["domain"]["memory"]["maxGuest"] = json!(MOST);
        let ports = json!([{ "port": 80 }, { "port": 22 }]);
        spec["domain"]["devices"]["interfaces"][0]["ports"] = ports;
        spec["livenessProbe"] = json!({
            "exec": { "command": ["/usr/bin/touch", PROBED] },
            // It may miss many while it boots.
            "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 100,
        });
        spec["accessCredentials"] = json!([{ "sshPublicKey": {
            "source": { "secret": { "secretName": "keys" } },
            "propagationMethod": { "noCloud": {} },
        } }]);
        let object = json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": "web" },
            "spec": { "runStrategy": "Always", "template": template },
        });
        let (said, well) = cluster.apply(&object);
        assert!(well, "{said}");
        plugin
    }

    fn key(&self) -> PathBuf {
        self.home.path().join("key")
    }

    /// The plugin with these arguments.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(image("PLUGIN"));
        command.args(["-n", &self.namespace]).args(words);
        command.env("HOME", self.home.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs it.
    fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs it: what it printed, if it succeeded, else what it complained of.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = self.output(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// Runs a command in the machine: what it printed.
    fn ssh(&self, command: &str) -> Result<String, String> {
        let key = self.key().display().to_string();
        self.run(&["ssh", "root@web", "-i", &key, "-t=-q", "--", command])
    }

    /// All of it while the machine runs, which goes on doing so.
    pub(crate) async fn used(&self, cluster: &Cluster, address: &str) {
        let mut last = Instant::now();
        let mut done = |what: &str| {
            eprintln!("{what}: {:?}", last.elapsed());
            last = Instant::now();
        };
        self.logged_in(cluster).await;
        done("ssh");
        self.probed().await;
        done("liveness probe");
        self.copied();
        done("scp");
        self.forwarded().await;
        done("port-forward");
        self.typed();
        done("console");
        self.looked_at(cluster).await;
        done("view");
        self.paused(cluster, address).await;
        done("pause, resume");
        self.resized(cluster).await;
        done("resize");
    }

    /// A command's output and exit status are those of `ssh`.
    async fn logged_in(&self, cluster: &Cluster) {
        let hello = || async { self.ssh("echo $((6 * 7))") };
        assert_eq!(eventually("ssh", hello).await, "42");
        let key = self.key().display().to_string();
        let output = self.output(&["ssh", "-l", "root", "web", "-i", &key, "--", "exit 7"]);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let known = self.home.path().join(".ssh/bootwright_known_hosts");
        let pod = cluster.pod("web").await.unwrap();
        let host = format!("vm.web.{}.{pod}", self.namespace);
        let file = known.display().to_string();
        // Names may be hashed in it.
        let (said, well) = run("ssh-keygen", &["-F", &host, "-f", &file]);
        assert!(well, "{host}: {said}");
        // Nobody else's key lets in.
        let output = self.output(&["ssh", "root@web", "-t=-o IdentitiesOnly=yes", "--", "true"]);
        assert_eq!(output.status.code(), Some(255));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("Permission denied"), "{error}");
    }

    /// The kubelet has the guest run the command of a probe, again and again.
    async fn probed(&self) {
        let probed = || async { self.ssh(&format!("stat -c %y {PROBED}")) };
        let first = eventually("a probe", probed).await;
        eventually("another probe", || async {
            let last = probed().await?;
            (last != first).then_some(()).ok_or(last)
        })
        .await;
    }

    /// A file comes back as it went.
    fn copied(&self) {
        let path = |name: &str| self.home.path().join(name).display().to_string();
        let (there, back, key) = (path("there"), path("back"), path("key"));
        let mut content = vec![0; LARGE];
        let mut state = 1_u32;
        for byte in &mut content {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_be_bytes()[0];
        }
        fs::write(&there, &content).unwrap();
        for (from, to) in [
            (&*there, "root@web:/var/tmp/it"),
            ("root@vm/web:/var/tmp/it", &*back),
        ] {
            self.run(&["scp", "-i", &key, from, to]).unwrap();
        }
        assert!(fs::read(&back).unwrap() == content, "not the same bytes");
        let size = self.ssh("stat -c %s /var/tmp/it").unwrap();
        assert_eq!(size, LARGE.to_string());
        let error = self.run(&["scp", "-i", &key, "root@web:/nothing", &back]);
        assert!(error.unwrap_err().contains("No such file"));
    }

    /// The guest's web server answers at a local port, and over standard
    /// streams.
    async fn forwarded(&self) {
        let mut command = self.command(&["port-forward", "web", ":80", ":81"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Ended(child.spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut port = |to: u16| {
            let line = lines.next().unwrap().unwrap();
            let port = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap();
            let port = port.strip_suffix(&format!(" -> {to}")).unwrap();
            port.parse().unwrap()
        };
        let (web, none) = (port(80), port(81));
        for _ in 0..2 {
            let body = get_at("127.0.0.1", web).await;
            assert_eq!(body.as_deref(), Ok(crate::machine::HELLO));
        }
        let refused = get_at("127.0.0.1", none).await;
        assert!(refused.is_err(), "{refused:?}");
        let mut error = String::new();
        let mut errors = BufReader::new(child.0.stderr.take().unwrap());
        errors.read_line(&mut error).unwrap();
        assert!(error.starts_with("error: port 81"), "{error}");
        assert!(error.contains("refused"), "{error}");
        // Whose input ends before the answer is there hears it nevertheless.
        let mut command = self.command(&["port-forward", "web", "80", "--stdio"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        child.stdin.take().unwrap().write_all(request).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{answer}");
        assert!(answer.contains(crate::machine::HELLO), "{answer}");
        let error = self.run(&["port-forward", "web", "81", "--stdio"]);
        let error = error.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    /// Who sits at the console logs in, has a command run, and leaves.
    fn typed(&self) {
        self.ssh("echo root:open | chpasswd").unwrap();
        let mut terminal = self.console();
        terminal.write(b"\r");
        terminal.until("login: ");
        terminal.assert_raw("a console");
        terminal.write(b"root\r");
        terminal.until("Password: ");
        terminal.write(b"open\r");
        terminal.until("# ");
        terminal.write(b"echo $((6 * 7)) it is\r");
        terminal.until("42 it is");
        terminal.write(b"exit\r\x1d");
        let (well, shown) = terminal.end("a console");
        assert!(well, "{shown}");
        terminal.assert_as_before("a console");
    }

    /// The machine's console in a terminal.
    pub(crate) fn console(&self) -> Terminal {
        let terminal = Terminal::run(self.command(&["console", "web"]));
        terminal.until("Ctrl-] leaves it");
        terminal
    }

    /// Who may view sees how the machine is, and comes no further.
    async fn looked_at(&self, cluster: &Cluster) {
        let role = ["create", "rolebinding", "view", "--clusterrole=view"];
        let (said, well) = cluster.kubectl(&[&role[..], &["--user=viewer"]].concat());
        assert!(well, "{said}");
        // Its readiness probe may miss an answer while it is busy.
        eventually("the machine in the table", || async {
            let status = self.run(&["--as=viewer", "status"])?;
            let row = status.lines().nth(1).unwrap_or_default();
            let words: Vec<_> = row.split_whitespace().take(4).collect();
            match words == ["web", "Running", "yes", "1"] {
                true => Ok(()),
                false => Err(status),
            }
        })
        .await;
        let status = self.run(&["--as=viewer", "status", "web"]).unwrap();
        assert!(status.contains("Status:       Running"), "{status}");
        for (words, resource) in [
            (&["console", "web"][..], "pods/exec"),
            (&["ssh", "root@web", "--", "true"], "pods/exec"),
            (&["scp", "root@web:/etc/hostname", "."], "pods/exec"),
            (&["port-forward", "web", ":80"], "pods/portforward"),
            (
                &["port-forward", "web", "80", "--stdio"],
                "pods/portforward",
            ),
            (&["pause", "web"], "cannot patch"),
            (&["resize", "web", "--cpus=2"], "cannot update"),
        ] {
            let error = self.run(&[&["--as=viewer"], words].concat()).unwrap_err();
            let said = error.contains("you may not do that") && error.contains(resource);
            assert!(said, "{words:?}: {error}");
        }
    }

    /// The guest stands still and goes on, and whoever watches sees both.
    async fn paused(&self, cluster: &Cluster, address: &str) {
        let shown = self.home.path().join("watch");
        let mut watch = self.command(&["status", "--watch"]);
        let watch = watch.stdout(fs::File::create(&shown).unwrap());
        let _watch = Ended(watch.spawn().unwrap());
        until_shown(&shown, &["Running"]).await;
        let said = self.run(&["pause", "web"]).unwrap();
        assert_eq!(said, "virtualmachine.bootwright.dev/web paused");
        cluster.until("web", "Paused").await;
        eventually("the guest to stand still", || async {
            let pod = cluster.pods().get("web-vm").await.unwrap();
            let ip = pod.status.unwrap().pod_ip.unwrap();
            match tokio::time::timeout(Duration::from_secs(3), get(&ip)).await {
                Err(_) => Ok(()),
                Ok(answer) => Err(format!("{answer:?}")),
            }
        })
        .await;
        let said = self.run(&["resume", "web"]).unwrap();
        assert_eq!(said, "virtualmachine.bootwright.dev/web resumed");
        cluster.until_ready("web").await;
        eventually("the guest to go on", || get(address)).await;
        until_shown(&shown, &["Running", "Paused", "Running"]).await;
    }

    /// The guest has more memory once the node has set it aside for its pod.
    /// What it cannot have while it runs waits for its next start, and who asks
    /// is told why.
    async fn resized(&self, cluster: &Cluster) {
        let (pod, before) = (cluster.pod("web").await, self.memory().unwrap());
        let least = granted(cluster).await;
        let said = self.run(&["resize", "web", "--memory", MOST]).unwrap();
        assert_eq!(said, "virtualmachine.bootwright.dev/web resized");
        eventually("more memory", || async {
            let memory = self.memory()?;
            let status = cluster.status("web").await;
            match memory == before + (256 << 10) {
                true => Ok(()),
                false => Err(format!("{memory} KiB after {before}: {status:?}")),
            }
        })
        .await;
        assert_eq!(granted(cluster).await, least + (256 << 20));
        assert_eq!(cluster.pod("web").await, pod);
        let later = |why: &str| {
            format!(
                "virtualmachine.bootwright.dev/web resized from its next start on ({why}): \
                 `kubectl bootwright restart web`"
            )
        };
        let said = self.run(&["resize", "web", "--cpus=2"]).unwrap();
        let why = "an emulated machine keeps the processors that it has";
        assert_eq!(said, later(why));
        assert_eq!(self.ssh("nproc").as_deref(), Ok("1"));
        let conditions = cluster.status("web").await.conditions;
        let mut conditions = conditions.iter();
        let required = conditions.find(|c| c.type_ == "RestartRequired").unwrap();
        assert_eq!(required.reason, "SizeChanged");
        let said = self.run(&["resize", "web", "--memory=1Gi"]).unwrap();
        let why = format!("spec.template.spec.domain.memory.maxGuest is {MOST}");
        assert_eq!(said, later(&why));
    }

    /// What the guest has, in KiB.
    fn memory(&self) -> Result<u64, String> {
        let said = self.ssh("sed -n 's/^MemTotal: *//p' /proc/meminfo")?;
        let number = said.strip_suffix(" kB").ok_or(&said)?;
        number.parse().map_err(|_| said.clone())
    }

    /// Who restarts a machine has it back in another pod.
    pub(crate) async fn restarted(&self, cluster: &Cluster) {
        let old = cluster.pod("web").await;
        let said = self.run(&["restart", "web"]).unwrap();
        assert_eq!(said, "virtualmachine.bootwright.dev/web restarted");
        until_other_pod(cluster, old).await;
        cluster.until_ready("web").await;
    }

    /// A machine that was started anew has the size that waited for that.
    pub(crate) async fn has_its_size(&self, cluster: &Cluster) {
        let processors = || async { self.ssh("nproc") };
        assert_eq!(eventually("ssh", processors).await, "2");
        assert!(self.memory().unwrap() > 768 << 10);
        let conditions = cluster.status("web").await.conditions;
        let mut conditions = conditions.iter();
        assert!(!conditions.any(|c| c.type_ == "RestartRequired" && c.status == "True"));
    }

    /// Who wants into a machine that is stopped is told so, and what to do;
    /// that starts it.
    pub(crate) async fn started(&self, cluster: &Cluster) {
        for words in [
            &["console", "web"][..],
            &["ssh", "root@web", "--", "true"],
            &["port-forward", "web", "80", "--stdio"],
        ] {
            let error = self.run(words).unwrap_err();
            let said = error.contains("does not run, it is Stopped")
                && error.contains("`kubectl bootwright start web` starts it");
            assert!(said, "{words:?}: {error}");
        }
        let said = self.run(&["start", "web"]).unwrap();
        let started = "virtualmachine.bootwright.dev/web started (run strategy Always)";
        assert_eq!(said, started);
        cluster.until("web", "Running").await;
    }
}

/// What the node has limited the launcher's memory to, in bytes.
async fn granted(cluster: &Cluster) -> u64 {
    let status = cluster.pods().get("web-vm").await.unwrap().status.unwrap();
    let resources = status.container_statuses.unwrap()[0].resources.clone();
    quantity::whole(&resources.unwrap().limits.unwrap()["memory"]).unwrap()
}

/// Waits until what is watched has shown `web` with these statuses, in this
/// order.
async fn until_shown(shown: &Path, statuses: &[&str]) {
    eventually(&format!("{statuses:?} to be shown"), || async {
        let text = fs::read_to_string(shown).unwrap();
        let mut words = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1));
        let all = statuses
            .iter()
            .all(|status| words.any(|word| word == *status));
        all.then_some(()).ok_or(text)
    })
    .await;
}
