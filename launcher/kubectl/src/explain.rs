//! What went wrong in words, and what to do about it.

use kube::core::Status;

use crate::output::printable;
use crate::target::Kind;

/// What the API server said, if it said no.
fn refusal(error: &anyhow::Error) -> Option<&Status> {
    error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => Some(status.as_ref()),
            _ => None,
        })
}

/// Whether the API server refused a change since the object had changed.
pub(crate) fn is_conflict(error: &anyhow::Error) -> bool {
    refusal(error).is_some_and(|status| status.code == 409)
}

/// Says of an object that is not there where to look for it.
pub(crate) fn missing(
    error: anyhow::Error,
    kind: Kind,
    name: &str,
    namespace: &str,
) -> anyhow::Error {
    let Some(status) = refusal(&error).filter(|status| status.code == 404) else {
        return error;
    };
    let details = status.details.as_ref();
    if details.is_none_or(|details| details.name.is_empty()) {
        return error.context(
            "the cluster has no resources of bootwright.dev/v1alpha1: \
             install them (`kubectl apply -k templates/cluster`)",
        );
    }
    let (words, short) = (kind.words(), kind.short());
    error.context(format!(
        "there is no {words} {name:?} in namespace {namespace}: \
         `kubectl get {short} -n {namespace}` lists those there are"
    ))
}

/// The most that is said of an error, in characters.
const MOST: usize = 4000;

/// An error and its causes in one line, without the words that are said
/// already and what would change the terminal.
pub(crate) fn error(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let ours = cause.downcast_ref::<kube::Error>();
        let said = match ours {
            Some(cause) => of_kube(cause, text.is_empty()),
            None => cause.to_string(),
        };
        if text.is_empty() {
            text = said;
        } else if !said.is_empty() && !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        if ours.is_some() {
            // What caused it is said by now.
            break;
        }
    }
    let text = printable(&text);
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}

fn of_kube(error: &kube::Error, first: bool) -> String {
    match error {
        kube::Error::Api(status) if !first && status.code == 404 => String::new(),
        kube::Error::Api(status) => of_status(status),
        kube::Error::Service(cause) => {
            format!("cannot reach the API server: {}", innermost(cause.as_ref()))
        }
        kube::Error::HyperError(cause) => {
            format!(
                "the connection to the API server broke: {}",
                innermost(cause)
            )
        }
        kube::Error::Auth(cause) => format!(
            "cannot log in: {} (the user of the kubeconfig's context says how)",
            innermost(cause)
        ),
        other => other.to_string(),
    }
}

/// The cause that nothing else caused; those around it say less.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn of_status(status: &Status) -> String {
    let said = match status.message.is_empty() {
        true => &status.reason,
        false => &status.message,
    };
    match status.code {
        401 => format!(
            "the API server does not know you ({said}) - log in again, or choose \
             another --context or --user"
        ),
        403 => format!(
            "you may not do that: {said} - an administrator of the namespace can give \
             you the role edit (or view, to read)"
        ),
        _ => said.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str, name: &str) -> anyhow::Error {
        let mut status = Status::failure(message, "Reason").with_code(code);
        status.details = Some(kube::core::response::StatusDetails {
            name: name.to_owned(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        });
        kube::Error::Api(Box::new(status)).into()
    }

    #[test]
    fn errors_say_what_to_do() {
        let cases = [
            (
                missing(
                    refused(404, "not found", "web"),
                    Kind::Machine,
                    "web",
                    "shop",
                ),
                "there is no virtual machine \"web\" in namespace shop: \
                 `kubectl get bvm -n shop` lists those there are",
            ),
            (
                missing(refused(404, "404 page", ""), Kind::Machine, "web", "shop"),
                "the cluster has no resources of bootwright.dev/v1alpha1: install them \
                 (`kubectl apply -k templates/cluster`)",
            ),
            (
                refused(403, "user x cannot patch", ""),
                "you may not do that: user x cannot patch - an administrator of the namespace \
                 can give you the role edit (or view, to read)",
            ),
            (
                refused(422, "spec: wrong", "web").context("cannot change web"),
                "cannot change web: spec: wrong",
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(error(&given), expected);
        }
        let long = error(&refused(422, &"\u{1b}x".repeat(MOST), ""));
        assert!(long.len() < MOST + 9 && long.ends_with(" x..."), "{long}");
        assert!(is_conflict(&refused(409, "changed", "web")));
    }
}
