//! What the programs of a node are told, in files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use xshell::{Shell, cmd};

use super::super::access;
use super::super::pause;
use super::super::tools::Tools;
use crate::proc;

/// The node's address, in a network that nobody else is in.
pub(super) const ADDRESS: &str = "192.168.57.1";

/// Where pods get their addresses.
const PODS: &str = "10.244.0.0/24";

/// Where services get theirs.
pub(super) const SERVICES: &str = "10.96.0.0/16";

/// The node's name.
pub(super) const NAME: &str = "node-1";

/// The port of the API server.
pub(super) const API_PORT: u16 = 6443;

/// The name under which images are pushed and pulled.
pub(super) const REGISTRY: &str = "registry.test:5000";

/// Those who talk to the API server: user, and its group.
const USERS: [(&str, &str); 5] = [
    (ADMIN, "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:node-1", "system:nodes"),
];

const ADMIN: &str = "admin";

/// A node's folder.
#[derive(Debug, Clone)]
pub(super) struct Files(pub(super) PathBuf);

impl Files {
    /// A file in it, as an argument.
    pub(super) fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// With what a user finds the API server.
    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        match user {
            ADMIN => self.0.join("kubeconfig"),
            user => self.0.join(format!("{}.kubeconfig", last(user))),
        }
    }

    /// Writes them all.
    pub(super) fn write(&self, tools: &Tools) -> Result<()> {
        for folder in [
            "bin",
            "cni",
            "containerd",
            "etcd",
            "held",
            "kubelet",
            "log",
            "pods",
            "registry",
        ] {
            fs::create_dir_all(self.0.join(folder))?;
        }
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))?;
        self.users()?;
        self.keys()?;
        let put = |name: &str, text: String| {
            let path = self.0.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        put("containerd.toml", self.containerd(tools))?;
        put("cni/10-pods.conflist", network().to_string())?;
        put("kubelet.yaml", self.kubelet().to_string())?;
        put("kube-proxy.yaml", self.kube_proxy().to_string())?;
        put("registry.yaml", self.registry().to_string())?;
        put(
            "hosts",
            format!("127.0.0.1 localhost\n{ADDRESS} {NAME} registry.test\n"),
        )?;
        // There is no server of names: what asks for one is told so at once.
        put("resolv.conf", format!("nameserver {ADDRESS}\n"))?;
        fs::create_dir_all(self.0.join("hosts.d").join(REGISTRY))?;
        put(&format!("hosts.d/{REGISTRY}/hosts.toml"), mirror())
    }

    fn users(&self) -> Result<()> {
        let mut tokens = String::new();
        for (user, group) in USERS {
            let token = access::token()?;
            tokens += &format!("{token},{user},{user},\"{group}\"\n");
            let config = access::Client {
                server: &format!("https://{ADDRESS}:{API_PORT}"),
                authority: &self.0.join("certificates/apiserver.crt"),
                user,
                token: &token,
            };
            access::secret(&self.kubeconfig(user), &config.to_string())?;
        }
        access::secret(&self.0.join("tokens"), &tokens)
    }

    /// The key for the tokens of service accounts, and the certificate with
    /// which the API server comes to the kubelet.
    fn keys(&self) -> Result<()> {
        let sh = Shell::new()?;
        sh.change_dir(&self.0);
        let curve = "ec_paramgen_curve:P-256";
        proc::read(cmd!(sh, "openssl genrsa -out service-account.key 2048"))?;
        proc::read(cmd!(
            sh,
            "openssl req -x509 -newkey ec -pkeyopt {curve} -nodes -days 3650
             -subj /CN=cluster -keyout clients.key -out clients.crt"
        ))?;
        proc::read(cmd!(
            sh,
            "openssl req -x509 -newkey ec -pkeyopt {curve} -nodes -days 3650
             -CA clients.crt -CAkey clients.key
             -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=clientAuth
             -subj /O=system:masters/CN=kube-apiserver
             -keyout kubelet-client.key -out kubelet-client.crt"
        ))?;
        Ok(())
    }

    fn containerd(&self, tools: &Tools) -> String {
        let runc = tools.runc.join("runc");
        format!(
            "version = 3\n\
             root = '{root}'\n\
             state = '/run/containerd'\n\
             # It would make a folder in /opt.\n\
             disabled_plugins = ['io.containerd.internal.v1.opt']\n\
             [plugins.'io.containerd.cri.v1.images']\n\
             snapshotter = 'overlayfs'\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
             sandbox = '{pause}'\n\
             [plugins.'io.containerd.cri.v1.images'.registry]\n\
             config_path = '{hosts}'\n\
             [plugins.'io.containerd.cri.v1.runtime']\n\
             # Not everywhere may root lower a process's oom_score_adj.\n\
             restrict_oom_score_adj = true\n\
             device_ownership_from_security_context = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
             bin_dirs = ['{plugins}']\n\
             conf_dir = '{networks}'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd]\n\
             default_runtime_name = 'runc'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
             runtime_type = 'io.containerd.runc.v2'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
             BinaryName = '{runc}'\n\
             SystemdCgroup = false\n",
            root = self.at("containerd"),
            hosts = self.at("hosts.d"),
            plugins = tools.plugins.display(),
            networks = self.at("cni"),
            runc = runc.display(),
            pause = pause::NAME,
        )
    }

    fn kubelet(&self) -> serde_json::Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.at("clients.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": self.at("resolv.conf"),
            "failSwapOn": false,
            // Where the hierarchies are of version 1.
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": true,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": false,
            // The disk is not the node's own: how full it is says nothing.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
            },
            "volumePluginDir": self.at("plugins"),
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        })
    }

    fn kube_proxy(&self) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": { "kubeconfig": self.kubeconfig("system:kube-proxy") },
            "hostnameOverride": NAME,
            "mode": "iptables",
            "clusterCIDR": PODS,
            // The limits are the whole machine's, not to be set from here.
            "conntrack": { "maxPerCore": 0, "min": 0 },
        })
    }

    fn registry(&self) -> serde_json::Value {
        json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": {
                "filesystem": { "rootdirectory": self.at("registry") },
                "delete": { "enabled": true },
            },
            "http": { "addr": ":5000" },
        })
    }
}

/// The last word of a user's name.
fn last(user: &str) -> &str {
    user.rsplit(':').next().unwrap_or(user)
}

/// The pods' network: a cable from the node to each, so that all that they say
/// to each other goes through the node's rules.
fn network() -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{ "subnet": PODS }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// How containerd comes to the registry.
fn mirror() -> String {
    let server = format!("http://{ADDRESS}:5000");
    format!("server = '{server}'\n[host.'{server}']\ncapabilities = ['pull', 'resolve']\n")
}

/// Whether a folder is hidden by what the node mounts for itself.
pub(super) fn is_hidden(dir: &Path) -> bool {
    HIDDEN.iter().any(|hidden| dir.starts_with(hidden))
}

/// Folders of the machine that a node has its own of.
pub(super) const HIDDEN: [&str; 3] = ["/run", "/var/lib", "/var/log"];
