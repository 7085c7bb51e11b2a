//! Events, as `kubectl describe` shows them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::events::{Event, EventType};

use super::Context;
use crate::lifecycle::Notice;

/// How long publishing may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest note that the API server takes, less some bytes.
const NOTE: usize = 1000;

/// What an event is about.
pub(crate) fn about<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into()),
        kind: Some(K::kind(&()).into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Something that went as it should.
pub(crate) fn normal(reason: &str, note: String) -> Notice {
    Notice {
        warning: false,
        reason: reason.into(),
        note,
    }
}

/// Something that somebody should do something about.
pub(crate) fn warning(reason: &str, note: String) -> Notice {
    Notice {
        warning: true,
        ..normal(reason, note)
    }
}

/// Publishes an event; that it cannot be is no reason to fail.
pub(crate) async fn tell(context: &Context, about: &ObjectReference, notice: &Notice) {
    let mut note = notice.note.clone();
    while note.len() > NOTE {
        note.pop();
    }
    let event = Event {
        type_: match notice.warning {
            true => EventType::Warning,
            false => EventType::Normal,
        },
        reason: notice.reason.chars().take(128).collect(),
        note: Some(note),
        action: "Reconcile".into(),
        secondary: None,
    };
    context.shared.metrics.called("publish", "events");
    let published = context.recorder.publish(&event, about);
    match tokio::time::timeout(PATIENCE, published).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot publish an event"),
        Err(_) => tracing::warn!("cannot publish an event: no answer"),
    }
}
