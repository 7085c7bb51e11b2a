//! The cluster: found as kubectl finds it, and asked with a time limit.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bootwright_controller::api::{VirtualMachine, VirtualMachinePool};
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::args::ConnectionArgs;
use crate::explain;
use crate::target::{Kind, Target};

/// Under which name fields are written.
pub(crate) const NAME: &str = "kubectl-bootwright";

/// How many times a change is tried that others get in the way of.
const TRIES: u32 = 5;

/// A cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
    patience: Option<Duration>,
}

/// What became of a change.
pub(crate) enum Changed {
    /// It was made; the object is so now.
    Yes(DynamicObject),
    /// The object was so already.
    No(DynamicObject),
}

impl Cluster {
    /// Finds the cluster by the options, `KUBECONFIG`, `~/.kube/config` or the
    /// pod that this runs in.
    pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Self> {
        let mut config = config(args).await?;
        if args.as_user.is_some() {
            config.auth_info.impersonate.clone_from(&args.as_user);
            config.auth_info.impersonate_groups =
                (!args.as_groups.is_empty()).then(|| args.as_groups.clone());
        }
        let agent = concat!("kubectl-bootwright/", env!("CARGO_PKG_VERSION"));
        config
            .headers
            .push((USER_AGENT, HeaderValue::from_static(agent)));
        let patience = args.request_timeout.filter(|time| !time.is_zero());
        if patience.is_some() {
            config.connect_timeout = patience;
        }
        let server = config.cluster_url.to_string();
        let namespace = args.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)
            .with_context(|| format!("cannot talk to the API server at {server}"))?;
        Ok(Self {
            client,
            namespace,
            patience,
        })
    }

    /// The client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of what is named.
    pub(crate) fn namespace_of<'a>(&'a self, target: &'a Target) -> &'a str {
        target.namespace.as_deref().unwrap_or(&self.namespace)
    }

    /// The namespace where none is said.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Machines.
    pub(crate) fn machines(&self, namespace: &str) -> Api<VirtualMachine> {
        Api::namespaced(self.client(), namespace)
    }

    /// Pools.
    pub(crate) fn pools(&self, namespace: &str) -> Api<VirtualMachinePool> {
        Api::namespaced(self.client(), namespace)
    }

    /// Objects of a kind as they are stored, so that fields which this program
    /// does not know are kept.
    fn stored(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = match kind {
            Kind::Machine => ApiResource::erase::<VirtualMachine>(&()),
            Kind::Pool => ApiResource::erase::<VirtualMachinePool>(&()),
        };
        Api::namespaced_with(self.client(), namespace, &resource)
    }

    /// Waits for an answer, though not forever.
    pub(crate) async fn call<T>(
        &self,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T> {
        let answer = match self.patience {
            None => answer.await,
            Some(patience) => tokio::time::timeout(patience, answer).await.map_err(|_| {
                let seconds = patience.as_secs_f64();
                anyhow::anyhow!("the API server did not answer within {seconds} s")
            })?,
        };
        Ok(answer?)
    }

    /// The same for an object that is there, or else the error says where to
    /// look for it.
    pub(crate) async fn call_about<T>(
        &self,
        kind: Kind,
        target: &Target,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T> {
        let namespace = self.namespace_of(target);
        let answer = self.call(answer).await;
        answer.map_err(|error| explain::missing(error, kind, &target.name, namespace))
    }

    /// A machine, or the error that there is none.
    pub(crate) async fn machine(&self, target: &Target) -> Result<VirtualMachine> {
        self.only_machine(target)?;
        let machines = self.machines(self.namespace_of(target));
        let found = machines.get(&target.name);
        self.call_about(Kind::Machine, target, found).await
    }

    /// A pool, or the error that there is none.
    pub(crate) async fn pool(&self, target: &Target) -> Result<VirtualMachinePool> {
        let pools = self.pools(self.namespace_of(target));
        let found = pools.get(&target.name);
        self.call_about(Kind::Pool, target, found).await
    }

    /// Refuses pools where machines are meant.
    pub(crate) fn only_machine(&self, target: &Target) -> Result<()> {
        match target.kind {
            Some(Kind::Pool) => anyhow::bail!(
                "{target} is a pool: name one of its machines, which \
                 `kubectl bootwright status -l bootwright.dev/pool={}` lists",
                target.name
            ),
            _ => Ok(()),
        }
    }

    /// Sets annotations of a machine; what the machine is then.
    pub(crate) async fn annotate(
        &self,
        target: &Target,
        annotations: &[(&str, &str)],
        dry_run: bool,
    ) -> Result<DynamicObject> {
        let machines = self.stored(Kind::Machine, self.namespace_of(target));
        let annotations: serde_json::Map<_, _> = (annotations.iter())
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let how = PatchParams {
            dry_run,
            field_manager: Some(NAME.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
        let patched = machines.patch(&target.name, &how, &patch);
        self.call_about(Kind::Machine, target, patched).await
    }

    /// Changes an object, and again if somebody else has changed it meanwhile.
    /// `change` says whether there is anything to change.
    pub(crate) async fn change(
        &self,
        kind: Kind,
        target: &Target,
        dry_run: bool,
        mut change: impl FnMut(&mut Value) -> Result<bool>,
    ) -> Result<Changed> {
        let objects = self.stored(kind, self.namespace_of(target));
        let how = PostParams {
            dry_run,
            field_manager: Some(NAME.to_owned()),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let found = objects.get(&target.name);
            let mut object = self.call_about(kind, target, found).await?;
            if !change(&mut object.data)? {
                return Ok(Changed::No(object));
            }
            let replaced = objects.replace(&target.name, &how, &object);
            match self.call_about(kind, target, replaced).await {
                Err(error) if explain::is_conflict(&error) && tries < TRIES => {}
                other => return Ok(Changed::Yes(other?)),
            }
        }
    }
}

async fn config(args: &ConnectionArgs) -> Result<Config> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        cluster: args.cluster.clone(),
        user: args.user.clone(),
    };
    if let Some(path) = &args.kubeconfig {
        let file = Kubeconfig::read_from(path)?;
        return Ok(Config::from_custom_kubeconfig(file, &options).await?);
    }
    let said = args.context.is_some() || args.cluster.is_some() || args.user.is_some();
    let found = Config::from_kubeconfig(&options).await;
    match found {
        Ok(config) => Ok(config),
        Err(error) => match Config::incluster() {
            // In a pod there is a cluster around.
            Ok(config) if !said => Ok(config),
            _ => Err(error).context(
                "cannot find a cluster: set KUBECONFIG, or give --kubeconfig and --context",
            ),
        },
    }
}
