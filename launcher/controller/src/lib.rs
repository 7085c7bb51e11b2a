//! Virtual machines in Kubernetes: the API and what becomes of it.
//!
//! [`api`] holds the custom resources, in the shape of KubeVirt's, and makes
//! their definitions; [`fields`] knows the fields of that shape which are
//! accepted without effect or refused. [`convert`](mod@convert) makes our
//! manifests of KubeVirt's. [`pod`](mod@pod) makes a machine's pod, with the
//! [`machine`] that the pod's launcher starts, and [`lifecycle`] decides what
//! happens to a machine next, [`rollout`] which machines of a pool come and go, [`fence`] that no two write one volume. With the feature `manager`, [`manager`] is the
//! loop around these that talks to a cluster.

pub mod api;
#[cfg(test)]
#[path = "../tests/argocd/mod.rs"]
mod argocd;
pub mod convert;
pub mod fence;
pub mod fields;
pub mod lifecycle;
#[cfg(feature = "manager")]
pub mod manager;
pub mod pod;
pub mod quantity;
pub mod rollout;

#[doc(inline)]
pub use bootwright_machine as machine;
