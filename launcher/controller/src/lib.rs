//! Virtual machines in Kubernetes: the API and what becomes of it.
//!
//! [`api`] holds the custom resources, in the shape of KubeVirt's, and makes
//! their definitions. [`fields`] knows the fields of that shape which are
//! accepted without effect or refused.

pub mod api;
pub mod fields;
