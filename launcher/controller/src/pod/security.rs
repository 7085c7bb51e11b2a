//! What a pod may do on its node.
//!
//! A machine without bootableContainer is admitted by Pod Security's level
//! `restricted`, any other by `baseline`:
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.

use k8s_openapi::api::core::v1::{
    Capabilities, PodSecurityContext, SeccompProfile, SecurityContext, Sysctl,
};

use super::Launcher;

/// The user and group of launchers that need not be root.
const USER: i64 = 65532;

/// What a pod may do.
#[derive(Debug)]
pub(super) struct Security {
    pub(super) host_users: Option<bool>,
    pub(super) pod: PodSecurityContext,
    pub(super) container: SecurityContext,
}

/// What the pod of a machine may do; `root`: it reads an image's root file
/// system, whose files belong to root and others.
pub(super) fn security(root: bool, launcher: &Launcher) -> Security {
    let user = if root { 0 } else { USER };
    // Within baseline, and all that is needed: the volume is read-only, and
    // with user namespaces there is no other file of another owner in reach.
    let add = root.then(|| vec!["DAC_OVERRIDE".into()]);
    let sysctl = |name: &str, value: &str| Sysctl {
        name: name.into(),
        value: value.into(),
    };
    Security {
        host_users: (root && launcher.user_namespaces).then_some(false),
        pod: PodSecurityContext {
            fs_group: Some(user),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            run_as_group: Some(user),
            run_as_non_root: Some(!root),
            run_as_user: Some(user),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                localhost_profile: None,
            }),
            // So that passt serves low ports and answers pings. Both are
            // namespaced and on Kubernetes' list of safe ones.
            sysctls: Some(vec![
                sysctl("net.ipv4.ip_unprivileged_port_start", "0"),
                sysctl("net.ipv4.ping_group_range", "0 65535"),
            ]),
            ..PodSecurityContext::default()
        },
        container: SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add,
                drop: Some(vec!["ALL".into()]),
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        },
    }
}
