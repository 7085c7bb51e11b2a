//! Logging in: answering a registry's challenge.
//!
//! A registry that wants a log-in answers 401 with a challenge (RFC 9110,
//! 11.6.1): Basic, or Bearer with a token server to ask (distribution
//! specification, "Token Authentication"). The result is one Authorization
//! header that all requests share until the registry challenges it again,
//! as it does when a token expires in the middle of a pull.

use std::path::PathBuf;

use http_auth::{ChallengeRef, parse_challenges};
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::client::{Client, detail, environment};
use super::credentials::{self, Credentials, Found, Secret};
use super::error::Failure;
use super::{RegistryError, RegistryOptions};
use crate::source::Note;

/// Longest answer of a token server in bytes.
const MAX_TOKEN: u64 = 1 << 20;

/// What a client is to be let do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// Read the repository.
    Pull,
    /// Write to it, with blobs of other repositories.
    Push {
        /// Those repositories.
        mount_from: Vec<String>,
    },
}

/// The log-in of a client.
#[derive(Debug)]
pub(super) struct Auth {
    registry: String,
    repository: String,
    scopes: Vec<String>,
    given: Option<Credentials>,
    authfile: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ticket: Ticket,
    found: Option<Found>,
}

/// The header to send, and how many log-ins led to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ticket {
    pub(super) header: Option<HeaderValue>,
    generation: u64,
}

/// What a token server answers.
#[derive(Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Auth {
    pub(super) fn new(
        registry: &str,
        repository: &str,
        options: &RegistryOptions,
        access: &Access,
    ) -> Self {
        let scopes = match access {
            Access::Pull => vec![format!("repository:{repository}:pull")],
            Access::Push { mount_from } => {
                let others = mount_from.iter().filter(|other| *other != repository);
                std::iter::once(format!("repository:{repository}:pull,push"))
                    .chain(others.map(|other| format!("repository:{other}:pull")))
                    .collect()
            }
        };
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            scopes,
            given: options.credentials.clone(),
            authfile: options.authfile.clone(),
            state: Mutex::default(),
        }
    }

    pub(super) async fn ticket(&self) -> Ticket {
        self.state.lock().await.ticket.clone()
    }

    /// Answers the challenge of `response`, which `used` did not satisfy.
    pub(super) async fn log_in(
        &self,
        client: &Client,
        response: &Response,
        used: &Ticket,
        what: &str,
        note: Note<'_>,
    ) -> Result<(), Failure> {
        // Held to the end: parallel layers log in once.
        let mut state = self.state.lock().await;
        if state.ticket.generation != used.generation {
            return Ok(());
        }
        let found = self.found(&mut state)?.clone();
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let header = match challenge(headers.iter().filter_map(|v| v.to_str().ok())) {
            None => return Err(self.error("its 401 has no challenge that is known").into()),
            Some(Challenge::Basic) => {
                let header = match &found.credentials {
                    Some(Credentials::Password { user, password }) => basic(user, password),
                    Some(Credentials::IdentityToken(_)) => {
                        return Err(self
                            .error("it asks for a password, but the credentials are a token")
                            .into());
                    }
                    None => return Err(self.refusal(what, &found, String::new()).into()),
                };
                let header = header.ok_or_else(|| self.error("the password is no header text"))?;
                if used.header.as_ref() == Some(&header) {
                    return Err(self.refusal(what, &found, String::new()).into());
                }
                header
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let request = TokenRequest {
                    realm: self.realm(client, &realm, response.url())?,
                    service,
                    scopes: self.scopes(scope),
                };
                let token = self.fetch(client, &request, &found, what, note).await?;
                let header = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
                header.map_err(|_| self.error("the token is no header text"))?
            }
        };
        let mut header = header;
        header.set_sensitive(true);
        state.ticket = Ticket {
            header: Some(header),
            generation: used.generation + 1,
        };
        Ok(())
    }

    /// The error for a request that was denied in spite of all.
    pub(super) async fn denied(&self, what: &str, detail: String) -> RegistryError {
        let mut state = self.state.lock().await;
        match self.found(&mut state) {
            Ok(found) => self.refusal(what, &found.clone(), detail),
            Err(error) => error,
        }
    }

    /// The credentials, looked for when they are first needed.
    fn found<'a>(&self, state: &'a mut State) -> Result<&'a Found, RegistryError> {
        if state.found.is_none() {
            state.found = Some(match &self.given {
                Some(given) => Found {
                    credentials: Some(given.clone()),
                    origin: "--creds".to_owned(),
                },
                None => credentials::find(
                    &self.registry,
                    &self.repository,
                    self.authfile.as_deref(),
                    &environment,
                )?,
            });
        }
        Ok(state.found.get_or_insert_default())
    }

    fn refusal(&self, what: &str, found: &Found, detail: String) -> RegistryError {
        let registry = &self.registry;
        let (reason, hint) = match &found.credentials {
            None => (
                format!(
                    "there are no credentials for {registry} in {}",
                    found.origin
                ),
                format!(
                    "log in with `podman login {registry}`, or give --creds or --authfile \
                     (some registries answer so for what does not exist)"
                ),
            ),
            Some(_) => (
                format!("the credentials from {} do not permit it", found.origin),
                format!(
                    "log in again with `podman login {registry}`, or check that the \
                     repository exists"
                ),
            ),
        };
        RegistryError::Denied {
            what: what.to_owned(),
            reason,
            detail,
            hint,
        }
    }

    fn error(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Login {
            registry: self.registry.clone(),
            reason: reason.into(),
        }
    }

    /// The token server's address. A registry that is verified must not send
    /// our password over plain HTTP.
    fn realm(&self, client: &Client, realm: &str, registry: &Url) -> Result<Url, RegistryError> {
        let url = Url::parse(realm).ok().filter(Url::has_host);
        let url = url.filter(|u| matches!(u.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            self.error(format!(
                "its token server {:?} is no URL",
                realm.escape_debug().to_string()
            ))
        })?;
        if client.tls_verify() && registry.scheme() == "https" && url.scheme() != "https" {
            return Err(self.error(format!(
                "its token server {url} is plain HTTP; --tls-verify=false allows it"
            )));
        }
        Ok(url)
    }

    /// What the token has to permit: what is needed, and what the registry
    /// says is needed.
    fn scopes(&self, asked: Option<String>) -> Vec<String> {
        let mut scopes = self.scopes.clone();
        let asked = asked.filter(|asked| !asked.is_empty() && !scopes.contains(asked));
        scopes.extend(asked);
        scopes
    }

    async fn fetch(
        &self,
        client: &Client,
        request: &TokenRequest,
        found: &Found,
        what: &str,
        note: Note<'_>,
    ) -> Result<Secret, Failure> {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        if let Some(service) = &request.service {
            fields.push(("service", service));
        }
        let scopes = request.scopes.join(" ");
        let http = client.http();
        let built = match &found.credentials {
            // docker's OAuth2 flow wants a form.
            Some(Credentials::IdentityToken(token)) => {
                fields.push(("scope", &scopes));
                fields.push(("grant_type", "refresh_token"));
                fields.push(("client_id", "bootwright"));
                fields.push(("refresh_token", token.reveal()));
                http.post(request.realm.clone()).form(&fields)
            }
            credentials => {
                fields.extend(request.scopes.iter().map(|scope| ("scope", scope.as_str())));
                match credentials {
                    Some(Credentials::Password { user, password }) => {
                        fields.push(("account", user));
                        let request = http.get(request.realm.clone()).query(&fields);
                        request.basic_auth(user, Some(password.reveal()))
                    }
                    _ => http.get(request.realm.clone()).query(&fields),
                }
            }
        };
        let response = client.send(built, note).await?;
        let server = format!("the token for {what}");
        let response = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let detail = detail(response).await;
                return Err(self.refusal(what, found, detail).into());
            }
            _ => client.check(&server, response, true).await?,
        };
        let body = client.body(&server, response, MAX_TOKEN, note).await?;
        let answer: Token = serde_json::from_slice(&body)
            // Not the error itself: it may quote what it could not read.
            .map_err(|_| self.error("the token server's answer is not valid"))?;
        let token = answer.token.or(answer.access_token);
        let token = token.filter(|t| !t.reveal().is_empty());
        token.ok_or_else(|| self.error("the token server's answer has no token").into())
    }
}

struct TokenRequest {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
}

fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    use base64::Engine as _;
    let text = format!("{user}:{}", password.reveal());
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    HeaderValue::from_str(&format!("Basic {text}")).ok()
}

/// The challenge to answer: a token where there is a choice.
fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let parameter = |challenge: &ChallengeRef<'_>, name: &str| {
        let found = challenge
            .params
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let mut basic = None;
    for header in headers {
        for challenge in parse_challenges(header).unwrap_or_default() {
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter(&challenge, "realm")
            {
                return Some(Challenge::Bearer {
                    realm,
                    service: parameter(&challenge, "service"),
                    scope: parameter(&challenge, "scope"),
                });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_among_challenges() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        let table: [(&[&str], _); 8] = [
            (&["Basic realm=\"x\""], Some(Challenge::Basic)),
            (&["basic realm=x"], Some(Challenge::Basic)),
            (
                &[
                    "Bearer realm=\"https://auth.example/token\",service=\"s\",scope=\"repository:a:pull,push\"",
                ],
                bearer(Some("s"), Some("repository:a:pull,push")),
            ),
            (
                &[
                    "Basic realm=\"x\"",
                    "bearer realm=\"https://auth.example/token\"",
                ],
                bearer(None, None),
            ),
            (
                &["Basic realm=\"x\", Bearer realm=\"https://auth.example/token\""],
                bearer(None, None),
            ),
            (&["Bearer service=\"no realm\""], None),
            (&["Negotiate"], None),
            (&["\u{1}=,,\"", ""], None),
        ];
        for (headers, expected) in table {
            assert_eq!(challenge(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
