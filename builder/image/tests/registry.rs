//! Against a real registry: log-in, certificates, and what it answers when
//! something is wrong.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bootwright_image::pull::PullOptions;
use bootwright_image::registry::{Credentials, RegistryOptions};
use common::image::{Layout, layers};
use common::proxy::{Fault, Proxy};
use common::registry::{Registry, Setup};
use common::tls::Certificates;
use common::token::{Admits, TokenServer};
use common::{load_error, load_fresh, plain, quick, run, skopeo_copy, text};

/// Pushes the test image with these options of skopeo.
fn push(host: &str, args: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    layout.tag("v1", layout.image("linux/amd64", &layers(1)));
    let from = format!("oci:{}:v1", text(dir.path()));
    let to = format!("docker://{host}/test/image:v1");
    skopeo_copy(&[args, &[&from, &to]].concat());
}

fn with(registry: RegistryOptions) -> PullOptions {
    PullOptions {
        registry,
        ..plain()
    }
}

fn htpasswd(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("htpasswd");
    fs::write(&path, run("htpasswd", &["-nbB", "user", "secret"])).unwrap();
    path
}

fn auth_file(dir: &Path, json: &serde_json::Value) -> Option<std::path::PathBuf> {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("{number}-auth.json"));
    fs::write(&path, json.to_string()).unwrap();
    Some(path)
}

fn encoded(user: &str, password: &str) -> serde_json::Value {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    serde_json::json!({ "auth": text })
}

#[test]
fn a_private_authority_is_trusted_when_given() {
    let certificates = Certificates::make();
    let registry = Registry::start(&Setup {
        tls: Some(&certificates),
        ..Setup::default()
    });
    push(&registry.host(), &["--dest-tls-verify=false"]);
    let ca = certificates.cert_dir(&["ca.crt"]);
    let given = RegistryOptions {
        cert_dir: Some(ca.path().to_owned()),
        ..quick()
    };
    for host in [registry.host(), format!("localhost:{}", registry.port)] {
        let image = format!("{host}/test/image:v1");
        load_fresh(&image, &with(given.clone())).unwrap();
        load_fresh(&image, &plain()).unwrap();
        let error = load_error(&image, &with(quick()));
        assert!(
            error.contains("UnknownIssuer") && error.contains("--cert-dir"),
            "{error}"
        );
    }
    // The name has to be right too.
    let error = load_error(
        &format!("127.0.0.2:{}/test/image:v1", registry.port),
        &with(given),
    );
    assert!(
        error.contains("cannot reach") || error.contains("127.0.0.2"),
        "{error}"
    );
}

#[test]
fn a_certificate_that_is_its_own_authority_is_trusted_when_given() {
    let certificates = Certificates::make();
    let (key, crt) = (
        certificates.path("server.key"),
        certificates.path("server.crt"),
    );
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=self",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &crt,
        ],
    );
    let registry = Registry::start(&Setup {
        tls: Some(&certificates),
        ..Setup::default()
    });
    push(&registry.host(), &["--dest-tls-verify=false"]);
    let trusted = certificates.cert_dir(&["server.crt"]);
    let given = with(RegistryOptions {
        cert_dir: Some(trusted.path().to_owned()),
        ..quick()
    });
    load_fresh(&format!("{}/test/image:v1", registry.host()), &given).unwrap();
    // It is not for this name.
    let error = load_error(
        &format!("localhost:{}/test/image:v1", registry.port),
        &given,
    );
    assert!(error.contains("no secure connection"), "{error}");
}

#[test]
fn a_client_certificate_is_shown_when_given() {
    let certificates = Certificates::make();
    let registry = Registry::start(&Setup {
        tls: Some(&certificates),
        client_certificates: true,
        ..Setup::default()
    });
    let all = certificates.cert_dir(&["ca.crt", "client.cert", "client.key"]);
    push(&registry.host(), &["--dest-cert-dir", text(all.path())]);
    let image = format!("{}/test/image:v1", registry.host());
    let options = |dir: &tempfile::TempDir| {
        with(RegistryOptions {
            cert_dir: Some(dir.path().to_owned()),
            ..quick()
        })
    };
    load_fresh(&image, &options(&all)).unwrap();
    let none = certificates.cert_dir(&["ca.crt"]);
    for options in [options(&none), plain()] {
        let error = load_error(&image, &options);
        assert!(error.contains("client certificate"), "{error}");
    }
    let error = load_error(
        &image,
        &options(&certificates.cert_dir(&["ca.crt", "client.cert"])),
    );
    assert!(error.contains("client.key"), "{error}");
    let junk = tempfile::tempdir().unwrap();
    fs::write(junk.path().join("x.crt"), "no certificate").unwrap();
    let error = load_error(&image, &options(&junk));
    assert!(
        error.contains("x.crt: there is no PEM certificate"),
        "{error}"
    );
}

#[test]
fn plain_http_needs_to_be_allowed() {
    let registry = Registry::start(&Setup::default());
    push(&registry.host(), &["--dest-tls-verify=false"]);
    let image = format!("{}/test/image:v1", registry.host());
    let error = load_error(&image, &with(quick()));
    assert!(
        error.contains("plain HTTP") && error.contains("--tls-verify=false"),
        "{error}"
    );
    load_fresh(&image, &plain()).unwrap();
}

#[test]
fn passwords_come_from_files_options_and_helpers() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(&Setup {
        htpasswd: Some(&htpasswd(dir.path())),
        ..Setup::default()
    });
    let host = registry.host();
    push(
        &host,
        &["--dest-tls-verify=false", "--dest-creds=user:secret"],
    );
    let image = format!("{host}/test/image:v1");
    let options = |registry: RegistryOptions| {
        with(RegistryOptions {
            tls_verify: false,
            ..registry
        })
    };
    let file = |auths: serde_json::Value| {
        options(RegistryOptions {
            authfile: auth_file(dir.path(), &serde_json::json!({ "auths": auths })),
            ..quick()
        })
    };
    let creds = |text: &str| {
        options(RegistryOptions {
            credentials: Some(Credentials::parse(text)),
            ..quick()
        })
    };
    let good = encoded("user", "secret");
    let bad = encoded("user", "wrong");
    load_fresh(&image, &creds("user:secret")).unwrap();
    load_fresh(&image, &file(serde_json::json!({ &host: good }))).unwrap();
    // The most specific entry counts, as with podman.
    let nested =
        serde_json::json!({ &host: bad, format!("{host}/test"): good, format!("{host}/tes"): bad });
    load_fresh(&image, &file(nested)).unwrap();
    let old = serde_json::json!({ format!("https://{host}/v1/"): good });
    load_fresh(&image, &file(old)).unwrap();

    for (options, parts) in [
        (creds("user:wrong"), ["--creds", "podman login"]),
        (
            file(serde_json::json!({})),
            ["there are no credentials", "auth.json"],
        ),
        (
            file(serde_json::json!({ "elsewhere": good })),
            ["there are no credentials", "auth.json"],
        ),
        (
            file(serde_json::json!({ &host: bad })),
            ["credentials from", "auth.json"],
        ),
        (
            file(serde_json::json!({ &host: {"auth": "%%%"} })),
            ["base64", "auth.json"],
        ),
    ] {
        let error = load_error(&image, &options);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(
            !error.contains("secret") && !error.contains("wrong"),
            "{error}"
        );
    }
    let missing = options(RegistryOptions {
        authfile: Some(dir.path().join("none.json")),
        ..quick()
    });
    assert!(load_error(&image, &missing).contains("none.json"));
}

/// Runs with the environment that the test below makes.
#[test]
#[ignore = "part of the tests below"]
fn load_with_the_environment() {
    let image = std::env::var("TEST_IMAGE").unwrap();
    let options = with(RegistryOptions {
        tls_verify: std::env::var_os("TEST_VERIFY").is_some(),
        ..quick()
    });
    match load_fresh(&image, &options) {
        Ok(_) => println!("LOADED"),
        Err(error) => println!("ERROR {error}"),
    }
}

/// Runs the test above with these variables and nothing of the user's own.
fn load_in(home: &Path, image: &str, variables: &[(&str, String)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "load_with_the_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("TEST_IMAGE", image)
        .env("HOME", home);
    for name in [
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "DOCKER_CONFIG",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
    ] {
        command.env_remove(name);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn proxies_of_the_environment_are_used() {
    let registry = Registry::start(&Setup::default());
    push(&registry.host(), &["--dest-tls-verify=false"]);
    let proxy = Proxy::start(registry.port, |_, _| Fault::None);
    let home = tempfile::tempdir().unwrap();
    let address = format!("http://{}", proxy.host());
    let set = |names: &[&'static str], value: &str| -> Vec<(&'static str, String)> {
        names.iter().map(|name| (*name, value.to_owned())).collect()
    };
    let image = "registry.invalid/test/image:v1";
    for names in [
        &["HTTP_PROXY", "HTTPS_PROXY"],
        &["http_proxy", "https_proxy"],
    ] {
        let said = load_in(home.path(), image, &set(names, &address));
        assert!(said.contains("LOADED"), "{said}");
    }
    assert!(
        proxy
            .seen()
            .iter()
            .any(|r| r.line.contains("http://registry.invalid/v2/"))
    );
    let mut without = set(&["HTTP_PROXY", "HTTPS_PROXY"], &address);
    without.push(("NO_PROXY", ".invalid".to_owned()));
    let said = load_in(home.path(), image, &without);
    assert!(
        said.contains("cannot reach the registry registry.invalid"),
        "{said}"
    );
    // What is on this machine is not asked for elsewhere.
    let nowhere = set(&["HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:1");
    let said = load_in(
        home.path(),
        &format!("{}/test/image:v1", registry.host()),
        &nowhere,
    );
    assert!(said.contains("LOADED"), "{said}");
}

#[test]
fn the_systems_authorities_are_those_of_the_environment() {
    let certificates = Certificates::make();
    let registry = Registry::start(&Setup {
        tls: Some(&certificates),
        ..Setup::default()
    });
    push(&registry.host(), &["--dest-tls-verify=false"]);
    let home = tempfile::tempdir().unwrap();
    let image = format!("{}/test/image:v1", registry.host());
    let verify = ("TEST_VERIFY", "1".to_owned());
    let file = ("SSL_CERT_FILE", certificates.path("ca.crt"));
    let said = load_in(home.path(), &image, &[verify.clone(), file]);
    assert!(said.contains("LOADED"), "{said}");
    let said = load_in(home.path(), &image, std::slice::from_ref(&verify));
    assert!(said.contains("UnknownIssuer"), "{said}");
    // And podman's directory in the user's configuration.
    let certs = home
        .path()
        .join(".config/containers/certs.d")
        .join(registry.host());
    fs::create_dir_all(&certs).unwrap();
    fs::copy(certificates.path("ca.crt"), certs.join("any.crt")).unwrap();
    let said = load_in(home.path(), &image, &[verify]);
    assert!(said.contains("LOADED"), "{said}");
}

#[test]
fn the_users_files_and_helpers_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(&Setup {
        htpasswd: Some(&htpasswd(dir.path())),
        ..Setup::default()
    });
    let host = registry.host();
    push(
        &host,
        &["--dest-tls-verify=false", "--dest-creds=user:secret"],
    );
    let image = format!("{host}/test/image:v1");

    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = |name: &str, body: &str| {
        let path = bin.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "test",
        &format!(
            "[ \"$1\" = get ] && [ \"$(cat)\" = {host} ] || exit 1\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"user\",\"Secret\":\"secret\"}}'"
        ),
    );
    script(
        "none",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    script("broken", "echo 'the keychain is locked' >&2; exit 3");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());

    let load = |file: &str, json: serde_json::Value, variables: &[(&'static str, &str)]| {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, json.to_string()).unwrap();
        let in_home = |value: &str| text(&home.path().join(value)).to_owned();
        let mut all = vec![("PATH", path.clone())];
        all.extend(
            variables
                .iter()
                .map(|(name, value)| (*name, in_home(value))),
        );
        load_in(home.path(), &image, &all)
    };
    let auths = serde_json::json!({"auths": { &host: encoded("user", "secret") }});
    let helper = |name: &str| serde_json::json!({"credHelpers": { &host: name }});
    let store = |name: &str| serde_json::json!({"auths": { &host: {} }, "credsStore": name});
    let docker = ".docker/config.json";
    for (file, json, variables) in [
        (".config/containers/auth.json", auths.clone(), &[][..]),
        (
            "c/containers/auth.json",
            auths.clone(),
            &[("XDG_CONFIG_HOME", "c")][..],
        ),
        (
            "run/containers/auth.json",
            auths.clone(),
            &[("XDG_RUNTIME_DIR", "run")][..],
        ),
        (
            "any.json",
            auths.clone(),
            &[("REGISTRY_AUTH_FILE", "any.json")][..],
        ),
        (docker, auths.clone(), &[][..]),
        ("d/config.json", auths, &[("DOCKER_CONFIG", "d")][..]),
        (docker, helper("test"), &[][..]),
        (docker, store("test"), &[][..]),
    ] {
        let said = load(file, json.clone(), variables);
        assert!(said.contains("LOADED"), "{file} {json}: {said}");
    }
    for (json, part) in [
        (helper("none"), "there are no credentials"),
        (store("none"), "there are no credentials"),
        (helper("broken"), "the keychain is locked"),
        (helper("missing"), "docker-credential-missing"),
        (helper("../bin/x"), "slash"),
        (serde_json::json!([1]), "no credentials file"),
    ] {
        let said = load(docker, json.clone(), &[]);
        assert!(
            said.contains("ERROR") && said.contains(part),
            "{json}: {said}"
        );
    }
}

#[test]
fn tokens_are_asked_for_and_renewed_when_they_expire() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let certificates = Certificates::make();
    let start = |server: &TokenServer| {
        Registry::start(&Setup {
            data: Some(&data),
            token_realm: Some(&server.realm()),
            token_certificates: Some(&certificates),
            ..Setup::default()
        })
    };
    let options = |credentials: Option<Credentials>| {
        with(RegistryOptions {
            credentials,
            authfile: auth_file(dir.path(), &serde_json::json!({})),
            tls_verify: false,
            ..quick()
        })
    };
    let password = Some(Credentials::parse("user:secret"));

    let long = Duration::from_secs(300);
    let server = TokenServer::start(&certificates, Admits::Password, long);
    let registry = start(&server);
    let host = registry.host();
    push(
        &host,
        &["--dest-tls-verify=false", "--dest-creds=user:secret"],
    );
    let image = format!("{host}/test/image:v1");
    let before = server.count();
    load_fresh(&image, &options(password.clone())).unwrap();
    // One token serves all requests.
    assert_eq!(server.count(), before + 1);
    let line = server.seen.lock().unwrap().last().unwrap().clone();
    for part in ["service=test", "scope=repository%3Atest%2Fimage%3Apull"] {
        assert!(line.contains(part), "{line}");
    }
    let error = load_error(&image, &options(None));
    assert!(
        error.contains("who are you") && error.contains("podman login"),
        "{error}"
    );
    let error = load_error(&image, &options(Some(Credentials::parse("user:no"))));
    assert!(error.contains("--creds"), "{error}");
    // The token permits nothing here.
    let error = load_error(&format!("{host}/test/other:v1"), &options(password.clone()));
    assert!(
        error.contains("access to") && error.contains("denied"),
        "{error}"
    );
    drop(registry);

    // Now they expire while layers wait for one another.
    let server = TokenServer::start(&certificates, Admits::Password, Duration::from_secs(1));
    let registry = start(&server);
    let slow = Proxy::start(registry.port, |request, seen| {
        let first = !seen.iter().any(|r| r.line == request.line);
        match request.is_blob() && first {
            true => Fault::Late(Duration::from_millis(1500)),
            false => Fault::None,
        }
    });
    let mut one_by_one = options(password);
    one_by_one.parallel = std::num::NonZeroUsize::MIN;
    let slow_image = format!("{}/test/image:v1", slow.host());
    load_fresh(&slow_image, &one_by_one).unwrap();
    assert!(server.count() >= 3, "{} tokens", server.count());
}

#[test]
fn identity_tokens_are_exchanged() {
    let certificates = Certificates::make();
    let life = Duration::from_secs(300);
    let server = TokenServer::start(&certificates, Admits::RefreshToken, life);
    let registry = Registry::start(&Setup {
        token_realm: Some(&server.realm()),
        token_certificates: Some(&certificates),
        ..Setup::default()
    });
    let host = registry.host();
    push(
        &host,
        &["--dest-tls-verify=false", "--dest-creds=user:secret"],
    );
    let dir = tempfile::tempdir().unwrap();
    let json = serde_json::json!({"auths": { &host: {"identitytoken": "refresh-me"} }});
    let options = with(RegistryOptions {
        authfile: auth_file(dir.path(), &json),
        tls_verify: false,
        ..quick()
    });
    load_fresh(&format!("{host}/test/image:v1"), &options).unwrap();
    let line = server.seen.lock().unwrap().last().unwrap().clone();
    assert!(
        line.starts_with("POST") && line.contains("grant_type=refresh_token"),
        "{line}"
    );
}

#[test]
fn what_is_not_there_is_said() {
    let registry = Registry::start(&Setup::default());
    push(&registry.host(), &["--dest-tls-verify=false"]);
    let host = registry.host();
    for (image, part) in [
        (format!("{host}/test/image:v2"), "test/image:v2 not found"),
        (format!("{host}/test/none:v1"), "test/none:v1 not found"),
        (
            format!("{host}/test/image@sha256:{}", "0".repeat(64)),
            "not found",
        ),
    ] {
        let error = load_error(&image, &plain());
        assert!(error.contains(part), "{error}");
    }
    drop(registry);
    let error = load_error(&format!("{host}/test/image:v1"), &plain());
    assert!(
        error.contains(&format!("cannot reach the registry {host}")),
        "{error}"
    );
    assert!(error.contains("refused"), "{error}");
    let error = load_error("no-such-host.invalid/test/image:v1", &with(quick()));
    assert!(
        error.contains("cannot reach the registry no-such-host.invalid"),
        "{error}"
    );
}
